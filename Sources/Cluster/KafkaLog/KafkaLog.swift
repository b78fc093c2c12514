import CRdKafka
public import ClusterLog
import Dispatch
public import Logging
import NIOCore
import Synchronization

/// The record log of a cluster: Kafka through librdkafka (DESIGN §2, §3).
///
/// An append completes once all in-sync replicas have it. A step is a transaction that carries its member's place in
/// the group, so that a node that lost its partitions writes nothing. Unlike the embedded log, an append of several
/// records is not one write: when it fails, some of them may be there, and whoever sends them again sends those twice.
/// Completions for one partition come in the order of the calls; those of different partitions overtake each other.
public final class KafkaLog: RecordLog {
    private struct State {
        /// Why mail cannot be accepted, as last seen in the cluster's metadata.
        var problem: String?
        var members: [KafkaGroupMember] = []
        var memberCount = 0
        var groupClients: [GroupID: KafkaClient] = [:]
        var isClosed = false
    }

    private static let watchInterval: Duration = .seconds(1)
    private static let callTimeout: Int32 = 5_000
    /// Half seconds that findings get to vanish when a node starts.
    private static let newTopicPatience = 10
    /// A report this old (milliseconds) no longer says what time it is on the brokers.
    private static let clockAgeMax: Int64 = 60_000
    /// Tenths of seconds that a node that starts waits to learn the brokers' time.
    private static let clockPatience = 50

    public let clusterID: ClusterID
    public var partitionCount: Int { self.configuration.partitionCount }
    private let configuration: KafkaConfiguration
    private let names: TopicNames
    private let appends: AppendProducer
    private let references: RecordReader
    private let committed: RecordReader
    private let clock = BrokerClock()
    /// Whether the brokers' time is asked for when no append tells it.
    private let asksForTime: Bool
    private let asking = WorkThread<Void>()
    /// Apart from `asking`: a trim waits for the replicas of every partition.
    private let trimming = WorkThread<Void>()
    private let watching = WorkThread<Void>()
    private let inSyncMin: Int
    private let logger: Logger
    private let state = Mutex(State())
    private let instance = String(UInt64.random(in: .min ... .max), radix: 36)

    /// Connects, and checks the topics against the plan.
    ///
    /// - Throws: `unavailable` when no broker answers within `timeout`, `configuration` when the settings or the topics
    ///   are wrong; the reason says what to change.
    public static func open(
        configuration: KafkaConfiguration,
        plan: TopicPlan,
        timeout: Duration = .seconds(60),
        logger: Logger
    ) async throws(RecordLogError) -> KafkaLog {
        let result: Result<KafkaLog, RecordLogError> = await withCheckedContinuation { continuation in
            OwnThread.start(name: "kafka-open") {
                do throws(RecordLogError) {
                    let log = try KafkaLog(configuration: configuration, plan: plan, timeout: timeout, logger: logger)
                    continuation.resume(returning: .success(log))
                } catch {
                    continuation.resume(returning: .failure(error))
                }
            }
        }
        return try result.get()
    }

    private init(
        configuration: KafkaConfiguration,
        plan: TopicPlan,
        timeout: Duration,
        logger: Logger
    ) throws(RecordLogError) {
        self.configuration = configuration
        self.names = TopicNames(prefix: configuration.prefix)
        self.logger = logger
        do throws(KafkaError) {
            self.appends = try AppendProducer(configuration: configuration, clock: self.clock, logger: logger)
            self.references = try RecordReader(configuration: configuration, isolation: .uncommitted, logger: logger)
            self.committed = try RecordReader(configuration: configuration, isolation: .committed, logger: logger)
        } catch {
            throw RecordLogError(.configuration, isRetriable: false, reason: error.text)
        }
        // The mock stamps with a number of its own.
        self.asksForTime = !configuration.commitsApart && plan.entries.contains { $0.topic == .control }
        self.inSyncMin = configuration.isTestCluster ? 1 : plan.inSyncMin
        do throws(RecordLogError) {
            self.clusterID = try Self.connect(self.appends, configuration, timeout)
            guard let client = self.appends.client else { throw RecordLogError(.closed, isRetriable: false) }
            try Self.check(client, plan, configuration, logger)
        } catch {
            self.appends.beginClosing()
            self.references.close()
            self.committed.close()
            throw error
        }
        self.learnTime()
        self.asking.start(name: "kafka-asking", interval: nil, make: {}, idle: { _ in }, end: { _ in })
        self.trimming.start(name: "kafka-trimming", interval: nil, make: {}, idle: { _ in }, end: { _ in })
        self.watching.start(
            name: "kafka-watch",
            interval: Self.watchInterval,
            make: {},
            idle: { [weak self] _ in self?.watch() },
            end: { _ in }
        )
    }

    private static func connect(
        _ appends: AppendProducer,
        _ configuration: KafkaConfiguration,
        _ timeout: Duration
    ) throws(RecordLogError) -> ClusterID {
        guard let client = appends.client else { throw RecordLogError(.closed, isRetriable: false) }
        guard let id = client.clusterID(timeout: Int32(clamping: timeout.components.seconds * 1_000)) else {
            let error = appends.lastError
            let last = error.map { " The last error was: \($0)." } ?? ""
            let reason = "No broker of kafka.bootstrap (\(configuration.bootstrap)) answered; \(error.advice).\(last)"
            throw RecordLogError(.unavailable, isRetriable: true, reason: reason)
        }
        return ClusterID(configuration.prefix == "posthorn" ? id : "\(id)/\(configuration.prefix)")
    }

    /// Waits a little for the brokers' time: without it delays would begin by this machine's clock.
    private func learnTime() {
        guard self.asksForTime else { return }
        self.askForTime()
        var patience = Self.clockPatience
        while self.clock.time() == nil, patience > 0 {
            patience -= 1
            OwnThread.pause(milliseconds: 100)
        }
        guard let time = self.clock.time() else {
            return self.logger.warning("The brokers' time is not known yet: delays follow this machine's clock")
        }
        let ahead = WallClock.milliseconds - time
        guard abs(ahead) > 1_000 else { return }
        self.logger.warning(
            "This machine's clock and the brokers' differ: delays and lifetimes follow the brokers'",
            metadata: ["ahead_ms": "\(ahead)"]
        )
    }

    /// The answer is in its report. A record without a value is nobody's state, and gone with the next compaction.
    private func askForTime() {
        self.appends.append([Record(topic: .control, key: "clock")]) { _ in }
    }

    private static func check(
        _ client: KafkaClient,
        _ plan: TopicPlan,
        _ configuration: KafkaConfiguration,
        _ logger: Logger
    ) throws(RecordLogError) {
        let topics = KafkaTopics(client: client, isTestCluster: configuration.isTestCluster)
        // Topics that were just made are not known to every broker at once: some say that they are missing.
        var patience = configuration.isTestCluster ? 0 : Self.newTopicPatience
        var findings: [TopicPlan.Finding] = []
        while true {
            do throws(RecordLogError) {
                findings = try topics.verify(plan)
                if patience == 0 || !findings.contains(where: { $0.severity == .error }) { break }
            } catch {
                guard error.code == .configuration, patience > 0 else { throw error }
            }
            patience -= 1
            OwnThread.pause(milliseconds: 500)
        }
        for finding in findings {
            logger.log(
                level: finding.severity == .error && !configuration.isTestCluster ? .error : .warning,
                "Topics",
                metadata: ["finding": "\(finding)"]
            )
        }
        guard !configuration.isTestCluster, let first = findings.first, first.severity == .error else { return }
        let others = findings.count(where: { $0.severity == .error }) - 1
        let more = others > 0 ? " (and \(others) more: `posthorn topics verify`)" : ""
        throw RecordLogError(.configuration, isRetriable: false, reason: "\(first)\(more)")
    }

    // MARK: RecordLog

    public var valueSizeMax: Int { self.configuration.valueSizeMax }
    public var preferredInlineSizeMax: Int { 256 << 10 }
    public var isShared: Bool { true }
    public var time: Int64? { self.clock.time() }

    public var condition: LogCondition {
        let (problem, isClosed) = self.state.withLock { ($0.problem, $0.isClosed) }
        if isClosed { return .unavailable(reason: "closed") }
        if self.appends.areBrokersDown {
            let last = self.appends.lastError.map { ": \($0)" } ?? ""
            return .unavailable(reason: "no broker can be reached\(last)")
        }
        if self.appends.isSuspect || self.appends.oldestAge > self.configuration.breakerAge {
            return .unavailable(reason: "the brokers do not acknowledge appends")
        }
        return problem.map { .unavailable(reason: $0) } ?? .writable
    }

    public func append(_ records: [Record], completion: @escaping AppendCompletion) {
        self.appends.append(records, completion: completion)
    }

    public func join(
        _ group: GroupID,
        topics: TopicSelection
    ) async throws(RecordLogError) -> any GroupMember {
        let number = self.state.withLock { state -> Int? in
            guard !state.isClosed else { return nil }
            state.memberCount += 1
            return state.memberCount
        }
        guard let number else { throw RecordLogError(.closed, isRetriable: false) }
        do throws(KafkaError) {
            let member = try KafkaGroupMember(
                group: group,
                topics: topics,
                configuration: self.configuration,
                transactionalID: "\(self.names.name(of: Topic(group.name)))-\(self.instance)-\(number)",
                clock: self.clock,
                committed: self.committed,
                logger: self.logger,
                didLeave: { [weak self] in self?.forget($0) }
            )
            let isClosed = self.state.withLock { state in
                state.members.append(member)
                return state.isClosed
            }
            if isClosed { await member.leave() }
            return member
        } catch {
            throw RecordLogError(error, while: "join \(group)")
        }
    }

    public func read(_ reference: Reference) async throws(RecordLogError) -> StoredRecord {
        try reference.check(cluster: self.clusterID)
        let positions = reference.positions
        guard positions.allSatisfy({ self.mayHold($0) }) else {
            throw RecordLogError(.notFound, isRetriable: false, reason: "No record can be at \(reference.position).")
        }
        // All at once: the parts lie one after the other, and what is wanted is read in one pass.
        typealias Answer = Result<StoredRecord?, RecordLogError>
        let answers: [Int: Answer] = await withTaskGroup(of: (Int, Answer).self) { group in
            for (index, position) in positions.enumerated() {
                group.addTask { (index, await self.record(at: position)) }
            }
            return await group.reduce(into: [:]) { $0[$1.0] = $1.1 }
        }
        var parts: [StoredRecord] = []
        for (index, position) in positions.enumerated() {
            guard let record = try answers[index]?.get() else {
                throw RecordLogError(.notFound, isRetriable: false, reason: "No record at \(position).")
            }
            parts.append(record)
        }
        return try reference.assemble(parts)
    }

    private func mayHold(_ position: Position) -> Bool {
        (0..<Int32(self.partitionCount)).contains(position.partition.partition) && position.offset >= Offset(0)
    }

    private func record(at position: Position) async -> Result<StoredRecord?, RecordLogError> {
        await withCheckedContinuation { continuation in
            self.references.read(position) { continuation.resume(returning: $0) }
        }
    }

    public func scan(
        _ partition: TopicPartition,
        from offset: Offset,
        recordCountMax: Int
    ) async throws(RecordLogError) -> [StoredRecord] {
        guard recordCountMax > 0, partition.partition >= 0, partition.partition < self.partitionCount else { return [] }
        let from = max(offset, Offset(0))
        let result: Result<[StoredRecord], RecordLogError> = await withCheckedContinuation { continuation in
            self.committed.scan(partition, from: from, countMax: recordCountMax) { continuation.resume(returning: $0) }
        }
        return try result.get()
    }

    public func bounds(_ partition: TopicPartition) async throws(RecordLogError) -> Range<Offset> {
        guard partition.partition >= 0, partition.partition < self.partitionCount else { return Offset(0)..<Offset(0) }
        // With what is in open transactions: a scan that goes to this end waits for them.
        let references = self.references
        return try await self.ask("read the offsets of \(partition)") { () throws(KafkaError) in
            try references.bounds(partition, timeout: Self.callTimeout)
        }
    }

    public func progress(
        _ group: GroupID,
        _ partition: TopicPartition
    ) async throws(RecordLogError) -> Progress? {
        let client = try self.groupClient(group)
        let committed = try await self.ask("read the progress of \(group)") { () throws(KafkaError) in
            // Nobody else takes what the client has to say.
            _ = client.poll(timeout: 0)
            return try client.committed([partition], timeout: Self.callTimeout)
        }
        guard let first = committed.first, let offset = first.offset else { return nil }
        return Progress(watermark: offset, metadata: first.metadata) ?? Progress(watermark: offset)
    }

    public func topics() async throws(RecordLogError) -> [Topic] {
        let appends = self.appends
        let names = self.names
        return try await self.ask("read the topics") { () throws(KafkaError) in
            guard let client = appends.client else { throw KafkaError(RD_KAFKA_RESP_ERR__DESTROY) }
            return try client.metadata(timeout: Self.callTimeout).topics
                .filter { $0.name.hasPrefix(names.prefix + ".") && $0.error == nil }
                .map { names.topic(named: $0.name) }
        }
    }

    /// Nothing: on Kafka records go when their retention is over, or when they are trimmed.
    public func release(_ references: [Reference]) {}

    public func trim(_ offsets: [TopicPartition: Offset]) async throws(RecordLogError) {
        guard !offsets.isEmpty else { return }
        let appends = self.appends
        let failures = try await self.ask("trim", on: self.trimming) { () throws(KafkaError) in
            guard let client = appends.client else { throw KafkaError(RD_KAFKA_RESP_ERR__DESTROY) }
            return try client.deleteRecords(below: offsets, timeout: Self.callTimeout)
        }
        let first = failures.min { ($0.key.topic.name, $0.key.partition) < ($1.key.topic.name, $1.key.partition) }
        if let first {
            throw RecordLogError(first.value, while: "trim \(first.key) and \(failures.count - 1) other partitions")
        }
    }

    public func close() async {
        let members = self.state.withLock { state in
            state.isClosed = true
            state.groupClients = [:]
            return exchange(&state.members, with: [])
        }
        await self.appends.close()
        for member in members { await member.leave() }
        self.references.close()
        self.committed.close()
        await self.watching.stop()
        await self.trimming.stop()
        await self.asking.stop()
    }

    private func forget(_ member: KafkaGroupMember) {
        self.state.withLock { state in state.members.removeAll { $0 === member } }
    }

    /// Members that have not left.
    var memberCount: Int { self.state.withLock { $0.members.count } }

    // MARK: Private

    /// Runs a call that blocks on a thread of the log's own.
    private func ask<Value: Sendable>(
        _ action: String,
        on thread: WorkThread<Void>? = nil,
        _ body: @escaping @Sendable () throws(KafkaError) -> Value
    ) async throws(RecordLogError) -> Value {
        let result: Result<Value, RecordLogError> = await withCheckedContinuation { continuation in
            let isTaken = (thread ?? self.asking)
                .submit { _ in
                    do throws(KafkaError) {
                        continuation.resume(returning: .success(try body()))
                    } catch {
                        continuation.resume(returning: .failure(RecordLogError(error, while: action)))
                    }
                }
            if !isTaken {
                continuation.resume(returning: .failure(RecordLogError(.closed, isRetriable: false)))
            }
        }
        return try result.get()
    }

    /// A consumer that is no member, to read what a group committed.
    private func groupClient(_ group: GroupID) throws(RecordLogError) -> KafkaClient {
        do throws(KafkaError) {
            if let client = self.state.withLock({ $0.groupClients[group] }) { return client }
            let name = self.names.name(of: Topic(group.name))
            let client = try KafkaClient(
                .consumer,
                settings: self.configuration.consuming(group: name),
                names: self.names
            )
            self.state.withLock { $0.groupClients[group] = client }
            return client
        } catch {
            throw RecordLogError(error, while: "read the progress of \(group)")
        }
    }

    /// Looks whether mail could be accepted: some broker answers, and every partition has a leader and enough replicas.
    private func watch() {
        guard let client = self.appends.client else { return }
        if self.asksForTime, self.clock.age() ?? .max > Self.clockAgeMax { self.askForTime() }
        var problem: String?
        do throws(KafkaError) {
            let metadata = try client.metadata(timeout: 2_000)
            self.appends.areBrokersDown = false
            let accepted = self.names.name(of: .accepted)
            for topic in metadata.topics where topic.name == accepted {
                for partition in topic.partitions {
                    if partition.leader < 0 {
                        problem = "\(topic.name)/\(partition.id) has no leader"
                    } else if partition.inSync.count < self.inSyncMin {
                        problem =
                            "\(topic.name)/\(partition.id) has \(partition.inSync.count) replicas in sync, "
                            + "fewer than \(self.inSyncMin)"
                    }
                }
            }
        } catch {
            problem = "the brokers do not answer: \(error)"
        }
        let old = self.state.withLock { exchange(&$0.problem, with: problem) }
        guard old != problem else { return }
        if let problem {
            self.logger.error("Kafka cannot take mail", metadata: ["reason": "\(problem)"])
        } else {
            self.logger.info("Kafka takes mail again")
        }
    }
}
