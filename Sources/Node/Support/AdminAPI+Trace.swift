extension AdminAPI {
    /// What became of messages: the events of `posthorn.outcomes` about them, oldest first.
    public struct Trace: Codable, Hashable, Sendable {
        public var events: [TraceEvent]
        /// More matched than `limit` lets through, or than is remembered.
        public var isTruncated: Bool
        /// See ``QueueSummary/missing``.
        public var missing: [String]?

        public init(events: [TraceEvent], isTruncated: Bool = false, missing: [String]? = nil) {
            self.events = events
            self.isTruncated = isTruncated
            self.missing = missing
        }
    }

    /// One event, with the keys of the event's own JSON: the value of a record of `posthorn.outcomes` decodes as this.
    public struct TraceEvent: Codable, Hashable, Sendable {
        public struct Remote: Codable, Hashable, Sendable {
            public var host: String
            public var address: String
            public var tlsVersion: String?
            public var tlsCipherSuite: String?
            public var tlsVerified: Bool
        }

        public struct Reply: Codable, Hashable, Sendable {
            public var code: Int
            public var enhanced: String?
            public var text: String
        }

        /// `delivered`, `bounced`, `expired`, `suppressed`, `removed`, `deferred` or `held`.
        public var kind: String
        public var messageID: String
        public var recipientIndex: UInt32
        public var recipient: String
        /// Empty is the null reverse-path.
        public var sender: String
        public var site: String
        public var time: Instant
        public var acceptedAt: Instant
        public var contentSize: Int
        /// 0 when nothing was tried.
        public var attempt: UInt32
        public var remote: Remote?
        public var reply: Reply?
        public var status: String
        public var phase: String?
        public var reason: String?
        /// Microseconds.
        public var duration: Int64?
        public var nextDueAt: Instant?
        public var inDoubt: Bool?
    }
}

/// Which messages to trace: those with this id, or those to or from this address.
public struct TraceQuery: Hashable, Sendable {
    public enum Subject: Hashable, Sendable {
        /// 26 characters; see `MessageID`.
        case message(String)
        /// A recipient or a sender, compared without regard to the case of ASCII letters.
        case address(String)
    }

    public static let limitDefault = 1_000
    public static let limitMax = 10_000

    public var subject: Subject
    /// Events at most, in `1...limitMax`; of more, the newest are answered.
    public var limit: Int

    public init(_ subject: Subject, limit: Int = TraceQuery.limitDefault) {
        precondition((1...Self.limitMax).contains(limit))
        self.subject = subject
        self.limit = limit
    }
}

/// Whoever can tell what became of messages. Safe from any thread.
public protocol MessageTracing: Sendable {
    func trace(_ query: TraceQuery) async throws(QueueAdministrationError) -> AdminAPI.Trace
}
