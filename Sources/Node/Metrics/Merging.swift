import NodeSupport

/// Answers of several nodes about their partitions, made one: of a message each node knows the recipients whose
/// destination domains lie in its partitions.
extension AdminAPI.QueueSummary {
    /// A message with recipients in the partitions of several nodes counts once a node.
    static func merged(_ answers: [AdminAPI.QueueSummary], missing: [String]) -> AdminAPI.QueueSummary {
        var result = AdminAPI.QueueSummary(messages: 0, recipients: 0, octets: 0, sites: [])
        var sites: [String: Site] = [:]
        var tiers: [String: Int]?
        for answer in answers {
            result.messages += answer.messages
            result.recipients += answer.recipients
            result.octets += answer.octets
            result.oldest = Self.earliest(result.oldest, answer.oldest)
            result.nextDue = Self.earliest(result.nextDue, answer.nextDue)
            if let count = answer.notAttempted { result.notAttempted = (result.notAttempted ?? 0) + count }
            if let backlogs = answer.tiers {
                tiers = backlogs.reduce(into: tiers ?? [:]) { $0[$1.topic, default: 0] += $1.records }
            }
            for site in answer.sites { sites[site.site, default: Site(site: site.site)].merge(site) }
        }
        result.sites = sites.values.sorted()
        result.tiers = tiers?.map { Backlog(topic: $0.key, records: $0.value) }.sorted { $0.topic < $1.topic }
        result.missing = answers.flatMap { $0.missing ?? [] }.joined(with: missing)
        return result
    }

    fileprivate static func earliest(_ one: AdminAPI.Instant?, _ other: AdminAPI.Instant?) -> AdminAPI.Instant? {
        [one, other].compactMap { $0 }.min()
    }
}

extension AdminAPI.QueueSummary.Site {
    fileprivate mutating func merge(_ other: Self) {
        self.active += other.active
        self.deferred += other.deferred
        self.held += other.held
        self.oldest = AdminAPI.QueueSummary.earliest(self.oldest, other.oldest)
        self.nextDue = AdminAPI.QueueSummary.earliest(self.nextDue, other.nextDue)
        self.connections += other.connections
        self.connectionMax += other.connectionMax
        self.suspendedUntil = [self.suspendedUntil, other.suspendedUntil].compactMap { $0 }.max()
        self.lastError = self.lastError ?? other.lastError
    }
}

extension Collection<AdminAPI.QueueSummary.Site> {
    /// The fullest first.
    func sorted() -> [AdminAPI.QueueSummary.Site] {
        self.sorted { ($0.active + $0.deferred + $0.held, $1.site) > ($1.active + $1.deferred + $1.held, $0.site) }
    }
}

extension AdminAPI.QueueList {
    /// The oldest messages of all, at most `limit`.
    static func merged(_ answers: [AdminAPI.QueueList], limit: Int, missing: [String]) -> AdminAPI.QueueList {
        let messages = Dictionary(grouping: answers.flatMap(\.messages), by: \.id).values
            .compactMap { AdminAPI.QueuedMessage.merged($0, missing: []) }
            .sorted { $0.id < $1.id }
        var result = AdminAPI.QueueList(
            messages: Array(messages.prefix(limit)),
            isTruncated: messages.count > limit || answers.contains { $0.isTruncated }
        )
        result.missing = answers.flatMap { $0.missing ?? [] }.joined(with: missing)
        return result
    }
}

extension AdminAPI.QueuedMessage {
    /// `nil` without any answer.
    static func merged(_ answers: [AdminAPI.QueuedMessage], missing: [String]) -> AdminAPI.QueuedMessage? {
        guard var result = answers.first else { return nil }
        for answer in answers.dropFirst() { result.recipients += answer.recipients }
        result.recipients.sort { ($0.site, $0.address) < ($1.site, $1.address) }
        result.missing = answers.flatMap { $0.missing ?? [] }.joined(with: missing)
        return result
    }
}

extension AdminAPI.Trace {
    /// The newest events of all, at most `limit`.
    static func merged(_ answers: [AdminAPI.Trace], limit: Int, missing: [String]) -> AdminAPI.Trace {
        let events = answers.flatMap(\.events).sorted { $0.time < $1.time }
        return AdminAPI.Trace(
            events: Array(events.suffix(limit)),
            isTruncated: events.count > limit || answers.contains { $0.isTruncated },
            missing: answers.flatMap { $0.missing ?? [] }.joined(with: missing)
        )
    }
}

extension [String] {
    /// `nil` when nothing is missing.
    fileprivate func joined(with other: [String]) -> [String]? {
        let all = self + other
        return all.isEmpty ? nil : all
    }
}

/// Partition numbers for people: `0-3, 7`.
struct PartitionText: CustomStringConvertible {
    let description: String

    /// - Parameter partitions: ascending.
    init(_ partitions: [Int32]) {
        var ranges: [ClosedRange<Int32>] = []
        for partition in partitions {
            if let last = ranges.last, last.upperBound + 1 == partition {
                ranges[ranges.count - 1] = last.lowerBound...partition
            } else {
                ranges.append(partition...partition)
            }
        }
        self.description =
            ranges.map { $0.count == 1 ? "\($0.lowerBound)" : "\($0.lowerBound)-\($0.upperBound)" }
            .joined(separator: ", ")
    }
}
