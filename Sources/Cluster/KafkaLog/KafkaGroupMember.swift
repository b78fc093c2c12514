import CRdKafka
import ClusterLog
import Logging
import Synchronization

/// A member of a Kafka group: one consumer with a thread of its own, and a writer of steps.
final class KafkaGroupMember: GroupMember {
    private struct State {
        var member: MemberState
        var waiter: CheckedContinuation<Void, Never>?
        var isWoken = false
        /// The consumer has left the group, and its thread is over.
        var hasEnded = false
        var isClosing = false
        /// Partitions whose log seems to end before what the group has done; the brokers are asked.
        var suspects: Set<TopicPartition> = []
        /// Partitions that librdkafka does not seek in: assigned anew once no rebalance waits for us.
        var restarts: Set<TopicPartition> = []
        var leaving: [CheckedContinuation<Void, Never>] = []
        var failure: RecordLogError?
    }

    /// What a failed question to the group's coordinator waits before it is asked again, milliseconds.
    private static let committedTimeout: Int32 = 5_000
    /// Before the brokers are asked again where a log ends, milliseconds; and how long they get to answer.
    private static let suspectPause: Int32 = 1_000
    private static let suspectTimeout: Int32 = 1_000
    /// What a commit outside a step may take, milliseconds.
    private static let commitTimeout: Int32 = 1_000

    let group: GroupID
    private let client: KafkaClient
    private let writer: StepWriter
    private let logger: Logger
    private let state: Mutex<State>
    private let didLeave: @Sendable (KafkaGroupMember) -> Void

    /// - Parameters:
    ///   - committed: tells whether what a step wrote is there.
    ///   - didLeave: called once the member holds nothing any more.
    init(
        group: GroupID,
        topics: TopicSelection,
        configuration: KafkaConfiguration,
        transactionalID: String,
        clock: BrokerClock,
        committed: RecordReader,
        logger: Logger,
        didLeave: @escaping @Sendable (KafkaGroupMember) -> Void
    ) throws(KafkaError) {
        let names = TopicNames(prefix: configuration.prefix)
        let groupName = names.name(of: Topic(group.name))
        let client = try KafkaClient(.consumer, settings: configuration.consuming(group: groupName), names: names)
        self.group = group
        self.client = client
        self.logger = logger
        self.didLeave = didLeave
        self.state = Mutex(State(member: MemberState(readAheadSize: configuration.readAheadSize)))
        let owner = Owner()
        self.writer = StepWriter(
            configuration: configuration,
            transactionalID: transactionalID,
            membership: StepWriter.Membership(
                metadata: { client.groupMetadata },
                vouched: { owner.vouched($0, $1) },
                isStored: { position throws(KafkaError) in try committed.holds(position) },
                commit: { progress throws(KafkaError) in
                    try client.commit(progress, timeout: Self.commitTimeout)
                }
            ),
            clock: clock,
            logger: logger
        )
        owner.set(self)
        // A prefix is a regular expression to librdkafka, which finds new topics at each refresh of its metadata.
        let prefixes = topics.prefixes.map { prefix in
            "^" + names.name(of: Topic(prefix)).replacing(".", with: "\\.") + ".*"
        }
        try client.subscribe(topics.topics.map { names.name(of: $0) } + prefixes)
        OwnThread.start(name: "kafka-\(group.name)") { self.run() }
    }

    /// Lets the writer ask a member that is still being made.
    private final class Owner: Sendable {
        private struct Weak: Sendable { weak var member: KafkaGroupMember? }
        private let member = Mutex(Weak())

        func set(_ member: KafkaGroupMember) { self.member.withLock { $0.member = member } }

        func vouched(
            _ progress: [TopicPartition: Progress],
            _ epochs: MemberState.Epochs
        ) -> [TopicPartition: Progress]? {
            self.member.withLock { $0.member }?.vouched(progress, epochs)
        }
    }

    private func vouched(
        _ progress: [TopicPartition: Progress],
        _ epochs: MemberState.Epochs
    ) -> [TopicPartition: Progress]? {
        self.state.withLock { $0.member.vouched(progress, epochs) }
    }

    // MARK: GroupMember

    func next() async throws(RecordLogError) -> GroupEvent? {
        while true {
            let decision = try self.decide()
            switch decision {
            case .deliver(let event): return event
            case .end: return nil
            case .wait: break
            }
            if Task.isCancelled { return nil }
            await self.wait()
            if Task.isCancelled { return nil }
        }
    }

    private func decide() throws(RecordLogError) -> MemberState.Decision {
        let (decision, failure, hasCommands) = self.state.withLock { state in
            state.isWoken = false
            let decision = state.member.next()
            return (decision, state.failure, state.member.hasCommands)
        }
        if hasCommands { self.client.wake() }
        if case .wait = decision, let failure { throw failure }
        return decision
    }

    private func wait() async {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let isReady = self.state.withLock { state in
                    if state.isWoken || Task.isCancelled { return true }
                    state.waiter = continuation
                    return false
                }
                if isReady { continuation.resume() }
            }
        } onCancel: {
            self.wakeCaller()
        }
    }

    private func wakeCaller() {
        let waiter = self.state.withLock { state in
            state.isWoken = true
            return exchange(&state.waiter, with: nil)
        }
        waiter?.resume()
    }

    func step(_ step: Step, completion: @escaping StepCompletion) {
        guard let epochs = self.state.withLock({ $0.member.beginStep(step.progress) }) else {
            let reason = "The member does not own the partition."
            return completion(.failure(RecordLogError(.fenced, isRetriable: false, reason: reason)))
        }
        self.writer.write(step, epochs) { result in
            let isCommitted = (try? result.get()) != nil
            let hasCommands = self.state.withLock { state in
                state.member.endStep(step.progress, epochs, isCommitted: isCommitted)
                return state.member.hasCommands
            }
            if hasCommands { self.client.wake() }
            completion(result)
        }
    }

    func pause(_ partitions: [TopicPartition]) {
        self.state.withLock { $0.member.setPaused(partitions, true) }
    }

    func resume(_ partitions: [TopicPartition]) {
        self.state.withLock { $0.member.setPaused(partitions, false) }
        self.wakeCaller()
    }

    func seek(_ partition: TopicPartition, to offset: Offset) {
        self.state.withLock { $0.member.seek(partition, to: offset) }
        self.client.wake()
    }

    func leave() async {
        self.state.withLock { $0.member.beginLeaving() }
        self.wakeCaller()
        await self.writer.close()
        let isFirst = self.state.withLock { state in
            defer { state.isClosing = true }
            return !state.isClosing
        }
        if isFirst { self.client.beginClose() }
        await withCheckedContinuation { continuation in
            let hasEnded = self.state.withLock { state in
                if !state.hasEnded { state.leaving.append(continuation) }
                return state.hasEnded
            }
            if hasEnded { continuation.resume() } else { self.client.wake() }
        }
        self.didLeave(self)
    }

    // MARK: The consumer's thread

    private func run() {
        while true {
            let (isClosing, isAsking) = self.state.withLock { ($0.isClosing, !$0.suspects.isEmpty) }
            // Blocks until something comes or somebody wakes it; a close only shows in its state.
            let events = self.client.poll(timeout: isClosing ? 50 : isAsking ? Self.suspectPause : -1)
            for event in events { self.handle(event) }
            if !isClosing { self.askForEnds() }
            self.performCommands()
            if events.contains(where: { if case .end = $0 { false } else { true } }) { self.wakeCaller() }
            if isClosing, self.client.isClosed { break }
        }
        let leaving = self.state.withLock { state in
            state.hasEnded = true
            return exchange(&state.leaving, with: [])
        }
        for continuation in leaving { continuation.resume() }
    }

    private func handle(_ event: KafkaEvent) {
        switch event {
        case .record(let record):
            self.state.withLock { $0.member.received(record) }
        case .assigned(let partitions):
            self.assign(partitions)
        case .revoked(let partitions, let isLost):
            let isClosing = self.state.withLock { state in
                if isLost || state.isClosing {
                    state.member.lost(partitions)
                } else {
                    state.member.revoked(partitions)
                }
                return state.isClosing
            }
            self.logger.info(
                isLost && !isClosing ? "Partitions were lost" : "Partitions were revoked",
                metadata: ["group": "\(self.group)", "count": "\(partitions.count)"]
            )
        case .partitionError(let partition, let error):
            self.handle(error, of: partition)
        case .error(let error):
            self.logger.warning("Kafka", metadata: ["error": "\(error)", "group": "\(self.group)"])
            guard error.isFatal else { return }
            // For good: only a new member can read on.
            let failure = RecordLogError(.fenced, isRetriable: false, reason: "consume: \(error)")
            self.state.withLock { $0.failure = failure }
        case .log(let level, let facility, let text):
            self.logger.kafka(level: level, facility: facility, text: text)
        case .end(let partition, let offset):
            self.state.withLock { state in
                if state.member.isBeyond(partition, offset) { state.suspects.insert(partition) }
            }
        case .reports:
            break
        }
    }

    /// A new leader may say for a moment that a log ends earlier than it does; asked for its offsets it answers when it
    /// knows them (KIP-207).
    private func askForEnds() {
        let suspects = self.state.withLock { state in
            state.suspects = state.suspects.filter { state.member.nextOffset($0) != nil }
            return state.suspects
        }
        for partition in suspects {
            do throws(KafkaError) {
                let bounds = try self.client.bounds(partition, timeout: Self.suspectTimeout)
                let left = self.state.withLock { state -> Progress? in
                    state.suspects.remove(partition)
                    guard state.member.isBeyond(partition, bounds.upperBound) else { return nil }
                    return state.member.cut(partition, found: bounds.upperBound)
                }
                if let left { self.takeBack(partition, to: left) }
                self.wakeCaller()
            } catch {
                self.logger.warning("Kafka", metadata: ["error": "\(error)", "partition": "\(partition)"])
            }
        }
    }

    private func assign(_ partitions: [TopicPartition]) {
        guard let committed = self.committed(partitions) else {
            // Leaving: the rebalance only has to go on.
            self.client.unassignAll()
            return
        }
        let assignments = committed.map { committed in
            let watermark = committed.offset ?? Offset(0)
            let progress = Progress(watermark: watermark, metadata: committed.metadata)
            if progress == nil {
                self.logger.error(
                    "Commit metadata that is not ours: records above the watermark may be handled again",
                    metadata: ["partition": "\(committed.partition)", "metadata": "\(committed.metadata)"]
                )
            }
            return Assignment(partition: committed.partition, progress: progress ?? Progress(watermark: watermark))
        }
        let starts = assignments.map { ($0.partition, $0.progress.watermark) }
        do throws(KafkaError) {
            do throws(KafkaError) {
                try self.client.assign(starts)
            } catch {
                self.logger.warning("Kafka: partitions are assigned again", metadata: ["error": "\(error)"])
                try self.client.unassign(partitions)
                try self.client.assign(starts)
            }
        } catch {
            // The group counts them as this member's, and nobody would read them: the owner has to leave and join again.
            self.logger.error("Kafka: partitions were not assigned", metadata: ["error": "\(error)"])
            self.state.withLock { $0.failure = RecordLogError(error, while: "assign partitions") }
            return
        }
        self.state.withLock { $0.member.assigned(assignments) }
        self.logger.info(
            "Partitions were assigned",
            metadata: ["group": "\(self.group)", "count": "\(partitions.count)"]
        )
    }

    /// The group's commits; asks until the coordinator answers. `nil` when the member is leaving.
    private func committed(_ partitions: [TopicPartition]) -> [CommittedOffset]? {
        if partitions.isEmpty { return [] }
        while !self.state.withLock({ $0.isClosing }) {
            do throws(KafkaError) {
                return try self.client.committed(partitions, timeout: Self.committedTimeout)
            } catch {
                self.logger.warning(
                    "Kafka: the group's progress cannot be read yet",
                    metadata: ["error": "\(error)", "group": "\(self.group)"]
                )
                // An error that comes at once would come again at once.
                OwnThread.pause(milliseconds: 100)
            }
        }
        return nil
    }

    private func handle(_ error: KafkaError, of partition: TopicPartition) {
        guard error.is(RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET, RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE) else {
            self.logger.warning("Kafka", metadata: ["error": "\(error)", "partition": "\(partition)"])
            return
        }
        do throws(KafkaError) {
            let bounds = try self.client.bounds(partition, timeout: Self.committedTimeout)
            let left = self.state.withLock { state -> Progress? in
                guard let next = state.member.nextOffset(partition) else { return nil }
                if next < bounds.lowerBound {
                    state.member.truncated(partition, found: bounds.lowerBound)
                } else if next > bounds.upperBound {
                    return state.member.cut(partition, found: bounds.upperBound)
                } else {
                    state.member.seek(partition, to: next)
                }
                return nil
            }
            if let left { self.takeBack(partition, to: left) }
        } catch {
            self.state.withLock { state in
                guard let next = state.member.nextOffset(partition) else { return }
                state.member.seek(partition, to: next)
            }
        }
    }

    /// The group's commit must not stand above the end of a log that was cut: what is appended there is new, and whoever
    /// is assigned the partition next would take it for done.
    private func takeBack(_ partition: TopicPartition, to progress: Progress) {
        do throws(KafkaError) {
            try self.client.commit([partition: progress], timeout: Self.commitTimeout)
        } catch {
            // The first step past the new records does it too.
            self.logger.error("Kafka: the progress was not taken back", metadata: ["error": "\(error)"])
        }
    }

    private func performCommands() {
        for command in self.state.withLock({ $0.member.takeCommands() }) {
            switch command {
            case .pause(let partitions):
                self.client.pause(partitions)
            case .resume(let partitions):
                self.client.resume(partitions)
            case .unassign(let partitions):
                do throws(KafkaError) {
                    try self.client.unassign(partitions)
                } catch {
                    self.logger.debug("Kafka: unassign", metadata: ["error": "\(error)"])
                }
            case .seek(let partition, let offset):
                self.seek(partition, offset)
            }
        }
        self.restart()
    }

    private func seek(_ partition: TopicPartition, _ offset: Offset) {
        do throws(KafkaError) {
            try self.client.seek(partition, to: offset, timeout: Self.committedTimeout)
        } catch {
            // What was out of range is not fetched any more, and librdkafka seeks only in what it fetches.
            if error.is(RD_KAFKA_RESP_ERR__STATE) {
                _ = self.state.withLock { $0.restarts.insert(partition) }
                return
            }
            self.logger.warning("Kafka: seek", metadata: ["error": "\(error)", "partition": "\(partition)"])
        }
        self.state.withLock { $0.member.seekEnded(partition) }
    }

    /// Assigns partitions anew. Not while a revocation waits: librdkafka would take that for the answer to it.
    private func restart() {
        let restarts = self.state.withLock { state in
            state.member.isRevoking ? [] : exchange(&state.restarts, with: [])
        }
        for partition in restarts {
            guard let offset = self.state.withLock({ $0.member.nextOffset(partition) }) else { continue }
            do throws(KafkaError) {
                try self.client.unassign([partition])
                try self.client.assign([(partition, offset)])
            } catch {
                self.logger.error("Kafka: not read on", metadata: ["error": "\(error)", "partition": "\(partition)"])
                self.state.withLock { $0.failure = RecordLogError(error, while: "read on \(partition)") }
            }
            self.state.withLock { $0.member.seekEnded(partition) }
        }
    }
}
