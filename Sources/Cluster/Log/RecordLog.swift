/// The record log: what a node appends to, reads from and makes progress on (DESIGN §3).
///
/// Three implementations, one contract, one conformance suite: in memory (tests and simulation), embedded (one
/// machine), Kafka (a cluster). Every call is safe from any thread. Completions run on a thread of the log, for one
/// partition in the order of the calls, and must return at once: they hand the result to the caller's own event loop
/// or task. What is refused at once may complete before the call returns.
public protocol RecordLog: Sendable {
    typealias AppendCompletion = @Sendable (Result<[Position], RecordLogError>) -> Void

    /// Names this log in references, so that a reference never resolves in another one.
    var clusterID: ClusterID { get }

    /// Partitions of every partitioned topic; recorded at creation and equal across topics.
    var partitionCount: Int { get }

    /// Octets that one record's value may have; what is larger goes to `content` in parts.
    var valueSizeMax: Int { get }

    /// Octets of content above which a reference is better than a record of its own size.
    var preferredInlineSizeMax: Int { get }

    /// Whether other processes work on the same log.
    var isShared: Bool { get }

    /// The time by the clock that stamps the log's records, milliseconds since 1970; `nil` where that is this machine's,
    /// or while it is not known. What is compared with a record's timestamp is read from here: a node's own clock may be
    /// wrong.
    var time: Int64? { get }

    /// What the log can do now, for readiness and for refusing mail before it is read.
    var condition: LogCondition { get }

    /// Appends all records or none of them, each to its topic and to the partition that its key selects. (A Kafka that
    /// fails between two brokers may keep some: the caller is told that it failed, and what it does again is twice there.)
    ///
    /// Completes with one position per record, in order, once all of them are durable: acknowledged by all in-sync
    /// replicas (Kafka), fsynced (embedded). Never before.
    func append(_ records: [Record], completion: @escaping AppendCompletion)

    /// Joins a group as a new member.
    ///
    /// - Parameter topics: the topics to consume; see ``TopicSelection``.
    /// - Throws: `closed`, `unavailable`, `configuration`.
    func join(_ group: GroupID, topics: TopicSelection) async throws(RecordLogError) -> any GroupMember

    /// Reads the one record that the reference names and checks it (G7).
    ///
    /// - Throws: `notFound` when it is gone: the log begins after it, or has a later record and not this one; `mismatch`
    ///   when what is there is not what the reference names; `unavailable`, after some seconds, when the log is shared and
    ///   as this node knows it ends before: a partition's new leader learns only after a while how far it goes, and an
    ///   answer about the cluster may lack the topic. So on a shared log what never was is not `notFound`.
    func read(_ reference: Reference) async throws(RecordLogError) -> StoredRecord

    /// Reads forward from an offset: at most `recordCountMax` records, oldest first, and only of what is committed; an
    /// empty result means that the end was reached. Where steps are being written, the call waits until those are decided
    /// that were under way when it came to them: up to an end from ``bounds(_:)`` nothing that is committed is missed.
    ///
    /// - Throws: `unavailable` when a step stays undecided for longer than its writer may live.
    func scan(
        _ partition: TopicPartition,
        from offset: Offset,
        recordCountMax: Int
    ) async throws(RecordLogError) -> [StoredRecord]

    /// The offsets that a partition holds: the first one still there and the one the next record will get. What steps are
    /// writing counts.
    ///
    /// - Throws: `unavailable`; `configuration` when the topic is missing.
    func bounds(_ partition: TopicPartition) async throws(RecordLogError) -> Range<Offset>

    /// Where a group stands in a partition, as last stepped; `nil` when it never made progress there.
    func progress(_ group: GroupID, _ partition: TopicPartition) async throws(RecordLogError) -> Progress?

    /// The topics that exist.
    func topics() async throws(RecordLogError) -> [Topic]

    /// Says that nothing will read what these name any more. Frees space in the embedded log, nothing on Kafka.
    /// Losing a release loses no mail: the record then stays for its retention.
    func release(_ references: [Reference])

    /// Says that nobody will read these partitions below these offsets again, so that the log may give the space back.
    ///
    /// Each must be at or below the watermark of every group that matters: one that a step made durable. On Kafka the
    /// partitions begin there afterwards (DeleteRecords), and reading below says `notFound`; the embedded log does
    /// nothing, since it knows from the groups' progress what is still needed. Losing a trim loses no mail: the records
    /// then stay for their retention.
    ///
    /// - Throws: `configuration` when the log cannot or may not, `unavailable`, `closed`. Some of the partitions may have
    ///   been trimmed all the same.
    func trim(_ offsets: [TopicPartition: Offset]) async throws(RecordLogError)

    /// Completes what was appended, refuses what comes after, closes files or connections.
    func close() async
}

extension RecordLog {
    public var preferredInlineSizeMax: Int { .max }
    public var isShared: Bool { false }
    public var time: Int64? { nil }

    /// ``append(_:completion:)`` for callers that are tasks already.
    public func append(_ records: [Record]) async throws(RecordLogError) -> [Position] {
        let result: Result<[Position], RecordLogError> = await withCheckedContinuation { continuation in
            self.append(records) { continuation.resume(returning: $0) }
        }
        return try result.get()
    }
}

/// One member of a group: it is assigned partitions, reads them, and makes progress in steps.
///
/// ``next()`` has one caller at a time. Pulling is the back-pressure: nothing is read for a paused partition, and
/// nothing ahead of the bounds the log was configured with.
public protocol GroupMember: Sendable {
    typealias StepCompletion = @Sendable (Result<[Position], RecordLogError>) -> Void

    /// Waits for the next event. `nil` when the log is closed or the calling task is cancelled.
    func next() async throws(RecordLogError) -> GroupEvent?

    /// **Atomically** appends the outputs and moves the group's progress: both, or neither (DESIGN §3).
    ///
    /// Completes with one position per output once the whole step is durable. Fails with `fenced` when this member
    /// no longer owns one of the partitions, or owns one again; nothing was written then. A step without progress moves
    /// none and is fenced when the member owns no partition.
    ///
    /// `notDurable` says that it may have been written. The log finds out before it writes the next step, so the caller
    /// steps again: the same, or what is left of it without partitions that were lost.
    func step(_ step: Step, completion: @escaping StepCompletion)

    /// No ``GroupEvent/records(_:_:)`` for these until ``resume(_:)``. Records already returned stay the caller's.
    func pause(_ partitions: [TopicPartition])
    func resume(_ partitions: [TopicPartition])

    /// Reads the partition again from `offset` on; used to go back for records that were dropped from memory.
    func seek(_ partition: TopicPartition, to offset: Offset)

    /// Leaves the group. Steps in flight complete first.
    func leave() async
}

extension GroupMember {
    /// ``step(_:completion:)`` for callers that are tasks already.
    @discardableResult
    public func step(_ step: Step) async throws(RecordLogError) -> [Position] {
        let result: Result<[Position], RecordLogError> = await withCheckedContinuation { continuation in
            self.step(step) { continuation.resume(returning: $0) }
        }
        return try result.get()
    }
}

/// What a member learns from ``GroupMember/next()``.
public enum GroupEvent: Sendable {
    /// These partitions are now this member's, each with the progress it starts from. Reading starts at the
    /// watermark; the log leaves out what the progress says is done.
    case assigned([Assignment])
    /// These partitions go to another member once the call after this one is made: step first.
    case revoked([TopicPartition])
    /// These partitions are another member's already: nothing can be stepped for them.
    case lost([TopicPartition])
    /// Records of one partition, in log order, without those done before. May have gaps in its offsets.
    case records(TopicPartition, [StoredRecord])
    /// Records were lost (DESIGN §2): alarm. A committed offset is below the log's start, where reading goes on; or, when
    /// `found` is below `expected`, the log was cut and ends before what the group has done. Then the partition was
    /// ``lost(_:)`` before this event and is ``assigned(_:)`` after it, with the progress that is left, so that what comes
    /// at those offsets is read. What came there before the cut was found cannot be told from what was done.
    case truncated(TopicPartition, expected: Offset, found: Offset)
}

public struct Assignment: Hashable, Sendable {
    public var partition: TopicPartition
    public var progress: Progress

    public init(partition: TopicPartition, progress: Progress) {
        self.partition = partition
        self.progress = progress
    }
}

/// Outputs and progress that become durable together.
public struct Step: Sendable {
    public var outputs: [Record]
    public var progress: [TopicPartition: Progress]

    public init(outputs: [Record] = [], progress: [TopicPartition: Progress] = [:]) {
        self.outputs = outputs
        self.progress = progress
    }
}

/// Which topics a member consumes.
///
/// Members of a group select the same ones. Then whoever is assigned a partition of the first topic is assigned those of
/// the same number of the others too: the group is as even in each topic, and what has one key has one owner.
public struct TopicSelection: Hashable, Sendable {
    public var topics: [Topic]
    /// Also every existing topic whose name begins so, configured or not (`posthorn.deferred.`), new ones as they appear.
    public var prefixes: [String]

    public init(topics: [Topic], prefixes: [String] = []) {
        self.topics = topics
        self.prefixes = prefixes
    }

    public func contains(_ topic: Topic) -> Bool {
        self.topics.contains(topic) || self.prefixes.contains { topic.name.hasPrefix($0) }
    }
}

/// What the log can do now.
public enum LogCondition: Hashable, Sendable {
    case writable
    /// Space is short: steps and `content` of deferred mail go on from the reserve, new mail is refused (4xx).
    case reserveOnly(reason: String)
    /// Nothing can be appended now.
    case unavailable(reason: String)

    public var acceptsMail: Bool {
        switch self {
        case .writable: true
        case .reserveOnly, .unavailable: false
        }
    }
}

/// Why the log could not do what it was asked.
public struct RecordLogError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: Hashable, Sendable {
        /// More is in flight than the log's budget; nothing was appended.
        case queueFull
        /// Not enough space, or only the reserve is left; nothing was appended.
        case noSpace
        /// It could not be made durable, or it is not known whether it was.
        case notDurable
        /// The log cannot be reached.
        case unavailable
        /// Another member owns the partition.
        case fenced
        case notFound
        /// What is stored is not what was referenced.
        case mismatch
        case recordTooLarge
        case corruptRecord
        case configuration
        case closed
    }

    public var code: Code
    /// Whether the same call may succeed later without anyone acting.
    public var isRetriable: Bool
    /// For the logger: what happened and which setting to change. Not part of equality.
    public var reason: String

    public init(_ code: Code, isRetriable: Bool, reason: String = "") {
        self.code = code
        self.isRetriable = isRetriable
        self.reason = reason
    }

    public static func == (left: RecordLogError, right: RecordLogError) -> Bool {
        left.code == right.code && left.isRetriable == right.isRetriable
    }

    public func hash(into hasher: inout Hasher) {
        hasher.combine(self.code)
        hasher.combine(self.isRetriable)
    }

    public var description: String { self.reason.isEmpty ? "\(self.code)" : "\(self.code): \(self.reason)" }
}
