/// What the admin listener asks of whoever knows the queue: the delivery role on one machine, the metrics role in a
/// cluster.
///
/// Safe from any thread. Answers are views of a moment; every list is bounded by its query.
public protocol QueueViews: Sendable {
    func summary() async throws(QueueAdministrationError) -> AdminAPI.QueueSummary

    func messages(_ query: QueueQuery) async throws(QueueAdministrationError) -> AdminAPI.QueueList

    /// - Parameter id: 26 characters; see `MessageID`.
    /// - Returns: `nil` when the queue has no such message.
    func message(_ id: String) async throws(QueueAdministrationError) -> AdminAPI.QueuedMessage?
}

/// Views of the queue and commands on it.
public protocol QueueAdministration: QueueViews {
    /// - Parameter predicate: never empty.
    func perform(
        _ command: AdminAPI.Command,
        on predicate: AdminAPI.QueuePredicate
    ) async throws(QueueAdministrationError) -> AdminAPI.QueueCommandResult
}

/// Which messages to list: those that match everything that is given.
public struct QueueQuery: Hashable, Sendable {
    public static let limitDefault = 100
    public static let limitMax = 1_000

    public var site: String?
    public var domain: String?
    /// Empty is the null reverse-path.
    public var sender: String?
    /// Messages at most, in `1...limitMax`.
    public var limit: Int

    public init(
        site: String? = nil,
        domain: String? = nil,
        sender: String? = nil,
        limit: Int = QueueQuery.limitDefault
    ) {
        precondition((1...Self.limitMax).contains(limit))
        self.site = site
        self.domain = domain
        self.sender = sender
        self.limit = limit
    }
}

/// Why the queue could not answer.
public struct QueueAdministrationError: Error, Hashable, Sendable {
    public enum Code: Hashable, Sendable {
        /// What was asked makes no sense; asking again will not help.
        case invalidRequest
        /// Not now: starting, stopping, or the log is not there.
        case unavailable
    }

    public var code: Code
    /// For people: what to change.
    public var reason: String

    public init(_ code: Code, reason: String) {
        self.code = code
        self.reason = reason
    }
}
