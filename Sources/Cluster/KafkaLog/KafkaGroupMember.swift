import CRdKafka
import ClusterLog
import Logging
import Synchronization

/// A member of a Kafka group: a consumer with a thread of its own, and a writer of steps.
///
/// The group's consumer subscribes to the first of the selected topics alone. Whoever is assigned a partition of it
/// reads those of the same number of the other topics with a second consumer, which is in no group (ADR 0015).
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
        /// When what follows was last looked for, and its progress last marked to be committed again; milliseconds.
        var lookedAt = BrokerClock.monotonic
        var refreshedAt = BrokerClock.monotonic
        /// When it was last asked whether others have what this member has not.
        var insistedAt = BrokerClock.monotonic
        var leaving: [CheckedContinuation<Void, Never>] = []
        var failure: RecordLogError?
    }

    private struct Followed {
        /// Counts the group's assignments.
        var version = 0
        /// With which of them each partition came.
        var partitions: [TopicPartition: Int] = [:]
    }

    /// What a failed question to the group's coordinator waits before it is asked again, milliseconds.
    private static let committedTimeout: Int32 = 5_000
    /// Before the brokers are asked again where a log ends, milliseconds; and how long they get to answer.
    private static let suspectPause: Int32 = 1_000
    private static let suspectTimeout: Int32 = 1_000
    /// What a commit outside a step may take, milliseconds.
    private static let commitTimeout: Int32 = 1_000
    /// How long the brokers get to say which topics there are, milliseconds.
    private static let topicsTimeout: Int32 = 1_000
    /// How often the progress of what follows is committed again, milliseconds: far below the days that brokers keep what
    /// a group commits for a topic that it does not subscribe to.
    private static let refreshInterval: Int64 = 3_600_000

    let group: GroupID
    private let topics: TopicSelection
    private let names: TopicNames
    private let client: KafkaClient
    /// Reads what follows; `nil` when one topic is all that is consumed.
    private let follower: KafkaClient?
    /// What the follower is assigned. Held while that changes, by either thread.
    private let followed = Mutex(Followed())
    /// How often what follows is looked for, milliseconds.
    private let followInterval: Int64
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
        guard let leader = topics.topics.first else {
            throw KafkaError(RD_KAFKA_RESP_ERR__INVALID_ARG, "A group needs a topic to lead.")
        }
        let names = TopicNames(prefix: configuration.prefix)
        let groupName = names.name(of: Topic(group.name))
        let client = try KafkaClient(.consumer, settings: configuration.consuming(group: groupName), names: names)
        let isAlone = topics.topics.count == 1 && topics.prefixes.isEmpty
        self.group = group
        self.topics = topics
        self.names = names
        self.client = client
        self.follower =
            isAlone
            ? nil : try KafkaClient(.consumer, settings: configuration.following(group: groupName), names: names)
        self.followInterval = configuration.followInterval
        self.logger = logger
        self.didLeave = didLeave
        self.state = Mutex(State(member: MemberState(leader: leader, readAheadSize: configuration.readAheadSize)))
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
        try client.subscribe([names.name(of: leader)])
        OwnThread.start(name: "kafka-\(group.name)") { self.run(client, .leading) }
        if let follower { OwnThread.start(name: "kafka-follow") { self.run(follower, .following) } }
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
        let (decision, failure) = self.state.withLock { state in
            state.isWoken = false
            let decision = state.member.next()
            return (decision, state.failure)
        }
        self.wakeThreads()
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

    /// Lets the threads do what there is to do.
    private func wakeThreads() {
        let (isLeading, isFollowing) = self.state.withLock { state in
            (state.member.hasCommands(.leading), state.member.hasCommands(.following))
        }
        if isLeading { self.client.wake() }
        if isFollowing { self.follower?.wake() }
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
            self.state.withLock { $0.member.endStep(step.progress, epochs, isCommitted: isCommitted) }
            self.wakeThreads()
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
        self.wakeThreads()
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
        self.follower?.wake()
        await withCheckedContinuation { continuation in
            let hasEnded = self.state.withLock { state in
                if !state.hasEnded { state.leaving.append(continuation) }
                return state.hasEnded
            }
            if hasEnded { continuation.resume() } else { self.client.wake() }
        }
        self.didLeave(self)
    }

    // MARK: The consumers' threads

    /// A thread of one of the consumers; that of the group's ends last.
    private func run(_ client: KafkaClient, _ role: MemberState.Role) {
        while true {
            let (isClosing, isAsking) = self.state.withLock { state in
                (state.isClosing, state.suspects.contains { state.member.role(of: $0) == role })
            }
            if isClosing, role == .following { return }
            let version = self.followed.withLock { $0.version }
            // Blocks until something comes or somebody wakes it; a close only shows in its state.
            let events = client.poll(timeout: isClosing ? 50 : isAsking ? Self.suspectPause : self.pollTimeout(role))
            if role == .following {
                self.receive(events, since: version)
            } else {
                for event in events { self.handle(event) }
            }
            if !isClosing { self.askForEnds(role) }
            self.performCommands(role)
            if role == .leading {
                self.giveUp()
                if !isClosing {
                    self.follow()
                    self.insist()
                }
            }
            if events.contains(where: { if case .end = $0 { false } else { true } }) {
                self.wakeThreads()
                self.wakeCaller()
            }
            if isClosing, client.isClosed { break }
        }
        let leaving = self.state.withLock { state in
            state.hasEnded = true
            return exchange(&state.leaving, with: [])
        }
        for continuation in leaving { continuation.resume() }
    }

    /// What the follower's thread has polled. Records are taken while no assignment changes. What was polled while the
    /// group's thread assigned a partition may be from an assignment before it, and would hide what lies below it: such a
    /// partition is read again from where it stands.
    private func receive(_ events: [KafkaEvent], since version: Int) {
        self.followed.withLock { followed in
            let changed =
                followed.version == version ? [] : followed.partitions.filter { $0.value > version }.map(\.key)
            self.state.withLock { state in
                for partition in changed { state.member.reread(partition) }
                for case .record(let record) in events { state.member.received(record) }
            }
        }
        for event in events {
            if case .record = event { continue }
            self.handle(event)
        }
    }

    private func pollTimeout(_ role: MemberState.Role) -> Int32 {
        role == .following ? -1 : Int32(clamping: self.followInterval)
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
    private func askForEnds(_ role: MemberState.Role) {
        let suspects = self.state.withLock { state in
            state.suspects = state.suspects.filter { state.member.nextOffset($0) != nil }
            return state.suspects.filter { state.member.role(of: $0) == role }
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

    /// The group gives partitions of the topic that leads.
    private func assign(_ partitions: [TopicPartition]) {
        let topics = partitions.isEmpty ? [:] : self.followable(patiently: true)
        let followers = partitions.flatMap { led in
            topics.filter { Int(led.partition) < $0.value }.map { TopicPartition($0.key, led.partition) }
        }
        guard let assignments = self.committed(partitions + followers)?.map(self.assignment) else {
            // Leaving: the rebalance only has to go on.
            self.client.unassignAll()
            return
        }
        do throws(KafkaError) {
            try self.assignLeading(Array(assignments.prefix(partitions.count)))
            try self.begin(assignments, followers: Array(assignments.dropFirst(partitions.count)))
        } catch {
            // The group counts them as this member's, and nobody would read them: the owner has to leave and join again.
            self.logger.error("Kafka: partitions were not assigned", metadata: ["error": "\(error)"])
            self.fail(error, while: "assign partitions")
            return
        }
        self.logger.info(
            "Partitions were assigned",
            metadata: ["group": "\(self.group)", "count": "\(partitions.count)", "followers": "\(followers.count)"]
        )
    }

    private func assignLeading(_ assignments: [Assignment]) throws(KafkaError) {
        let starts = assignments.map { ($0.partition, $0.progress.watermark) }
        do throws(KafkaError) {
            try self.client.assign(starts)
        } catch {
            self.logger.warning("Kafka: partitions are assigned again", metadata: ["error": "\(error)"])
            try self.client.unassign(assignments.map(\.partition))
            try self.client.assign(starts)
        }
    }

    /// Makes partitions known, and has those that follow read: at one moment for the follower's thread, which takes no
    /// record for one that is not known, and none from before.
    private func begin(_ assignments: [Assignment], followers: [Assignment]) throws(KafkaError) {
        guard let follower, !followers.isEmpty else {
            return self.state.withLock { $0.member.assigned(assignments) }
        }
        try self.followed.withLock { followed throws(KafkaError) in
            let held = followers.map(\.partition).filter { followed.partitions[$0] != nil }
            if !held.isEmpty { try follower.unassign(held) }
            followed.version += 1
            for assignment in followers { followed.partitions[assignment.partition] = followed.version }
            self.state.withLock { $0.member.assigned(assignments) }
            try follower.assign(followers.map { ($0.partition, $0.progress.watermark) })
        }
        // So that its thread polls anew, and need not distrust what comes.
        follower.wake()
    }

    private func assignment(_ committed: CommittedOffset) -> Assignment {
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

    /// The topics that are selected and do not lead, and how many partitions each has.
    ///
    /// - Parameter patiently: asks until the brokers answer, or the member is leaving.
    private func followable(patiently: Bool) -> [Topic: Int] {
        guard self.follower != nil else { return [:] }
        repeat {
            self.state.withLock { $0.lookedAt = BrokerClock.monotonic }
            do throws(KafkaError) {
                let metadata = try self.client.metadata(timeout: Self.topicsTimeout)
                var counts: [Topic: Int] = [:]
                for topic in metadata.topics where topic.name.hasPrefix(self.names.prefix + ".") && topic.error == nil {
                    counts[self.names.topic(named: topic.name)] = topic.partitions.count
                }
                return counts.filter { self.topics.contains($0.key) && $0.key != self.topics.topics.first }
            } catch {
                self.logger.warning("Kafka: the topics cannot be read yet", metadata: ["error": "\(error)"])
                if patiently { OwnThread.pause(milliseconds: 100) }
            }
        } while patiently && !self.state.withLock({ $0.isClosing })
        return [:]
    }

    /// Now and then: takes up topics that are new, and has the progress of what follows committed again.
    private func follow() {
        guard self.follower != nil else { return }
        let now = BrokerClock.monotonic
        let (isDue, needsStep) = self.state.withLock { state in
            if now - state.refreshedAt >= Self.refreshInterval {
                state.refreshedAt = now
                state.member.becomeStale()
            }
            let isDue = now - state.lookedAt >= self.followInterval && !state.member.isRevoking
            return (isDue, isDue && state.member.needsStep)
        }
        guard isDue else { return }
        self.takeUp(self.followable(patiently: false))
        guard needsStep else { return }
        self.step(Step()) { result in
            guard case .failure(let error) = result else { return }
            self.logger.warning("Kafka: the progress was not committed again", metadata: ["error": "\(error)"])
        }
    }

    /// Joins again when nobody has what the topic has. The leader of a group assigns what its broker says there is, and
    /// librdkafka does not look again: from a broker that knows the topic too late everybody gets nothing, for good.
    private func insist() {
        let now = BrokerClock.monotonic
        let isDue = self.state.withLock { state in
            guard state.member.isIdle, now - state.insistedAt >= self.followInterval else { return false }
            state.insistedAt = now
            return true
        }
        guard isDue else { return }
        do throws(KafkaError) {
            let leader = self.names.name(of: self.topics.topics[0])
            let topic = try self.client.metadata(timeout: Self.topicsTimeout).topics.first { $0.name == leader }
            let group = self.names.name(of: Topic(self.group.name))
            guard let topic, topic.error == nil, !topic.partitions.isEmpty,
                try self.client.assignedCount(of: group, timeout: Self.topicsTimeout) == 0
            else { return }
            self.logger.notice(
                "Nobody in the group was assigned anything: joining again",
                metadata: ["group": "\(group)"]
            )
            try self.client.unsubscribe()
            try self.client.subscribe([leader])
        } catch {
            self.logger.debug("Kafka: the group's assignment cannot be read", metadata: ["error": "\(error)"])
        }
    }

    private func takeUp(_ topics: [Topic: Int]) {
        let partitions = self.state.withLock { $0.member.unfollowed(topics) }
        guard !partitions.isEmpty else { return }
        do throws(KafkaError) {
            let committed = try self.client.committed(partitions, timeout: Self.committedTimeout)
            let assignments = committed.map(self.assignment)
            do throws(KafkaError) {
                try self.begin(assignments, followers: assignments)
            } catch {
                self.fail(error, while: "assign partitions of new topics")
            }
            self.wakeCaller()
            let names = Set(partitions.map(\.topic.name)).sorted().joined(separator: ", ")
            self.logger.info("New topics are consumed", metadata: ["group": "\(self.group)", "topics": "\(names)"])
        } catch {
            // Looked for again soon.
            self.logger.warning("Kafka: new topics are not read yet", metadata: ["error": "\(error)"])
        }
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
                    state.member.reread(partition)
                }
                return nil
            }
            if let left { self.takeBack(partition, to: left) }
        } catch {
            self.state.withLock { $0.member.reread(partition) }
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

    private func performCommands(_ role: MemberState.Role) {
        guard let client = role == .leading ? self.client : self.follower else { return }
        for command in self.state.withLock({ $0.member.takeCommands(role) }) {
            switch command {
            case .pause(let partition): client.pause([partition])
            case .resume(let partition): client.resume([partition])
            case .seek(let partition, let offset): self.seek(partition, offset, client)
            }
        }
        self.restart(client, role)
    }

    /// Gives up what the group waits for, and what follows it first.
    private func giveUp() {
        guard let partitions = self.state.withLock({ $0.member.takeRelease() }) else { return }
        if let follower {
            self.followed.withLock { followed in
                let held = partitions.filter { followed.partitions[$0] != nil }
                guard !held.isEmpty else { return }
                self.unassign(held, follower)
                for partition in held { followed.partitions[partition] = nil }
            }
        }
        self.unassign(
            self.state.withLock { state in
                partitions.filter { state.member.role(of: $0) == .leading }
            },
            self.client
        )
    }

    private func unassign(_ partitions: [TopicPartition], _ client: KafkaClient) {
        do throws(KafkaError) {
            try client.unassign(partitions)
        } catch {
            self.logger.debug("Kafka: unassign", metadata: ["error": "\(error)"])
        }
    }

    private func seek(_ partition: TopicPartition, _ offset: Offset, _ client: KafkaClient) {
        do throws(KafkaError) {
            try client.seek(partition, to: offset, timeout: Self.committedTimeout)
        } catch {
            // What was out of range is not fetched any more, and librdkafka seeks only in what it fetches. Whatever it is,
            // what is fetched now may lie above where we go on.
            if !error.is(RD_KAFKA_RESP_ERR__STATE) {
                self.logger.warning("Kafka: seek", metadata: ["error": "\(error)", "partition": "\(partition)"])
            }
            _ = self.state.withLock { $0.restarts.insert(partition) }
            return
        }
        self.state.withLock { $0.member.seekEnded(partition) }
    }

    /// What librdkafka itself refuses of an assignment it refuses again, whatever kind of error it says: the group counts the
    /// partitions as this member's and nobody reads them, so only a new member can read on.
    private func fail(_ error: KafkaError, while action: String) {
        let failure = RecordLogError(.fenced, isRetriable: false, reason: "\(action): \(error)")
        self.state.withLock { $0.failure = failure }
    }

    /// Assigns partitions anew. Not while a revocation waits: librdkafka would take that for the answer to it.
    private func restart(_ client: KafkaClient, _ role: MemberState.Role) {
        let restarts = self.state.withLock { state in
            let isHeld = role == .leading && state.member.isRevoking
            let restarts = isHeld ? [] : state.restarts.filter { state.member.role(of: $0) == role }
            state.restarts.subtract(restarts)
            return restarts
        }
        for partition in restarts {
            do throws(KafkaError) {
                switch role {
                case .leading: try self.restart(partition, client)
                case .following:
                    try self.followed.withLock { followed throws(KafkaError) in
                        if followed.partitions[partition] != nil { try self.restart(partition, client) }
                    }
                }
            } catch {
                self.logger.error("Kafka: not read on", metadata: ["error": "\(error)", "partition": "\(partition)"])
                self.fail(error, while: "read on \(partition)")
            }
            self.state.withLock { $0.member.seekEnded(partition) }
        }
    }

    private func restart(_ partition: TopicPartition, _ client: KafkaClient) throws(KafkaError) {
        guard let offset = self.state.withLock({ $0.member.nextOffset(partition) }) else { return }
        try client.unassign([partition])
        try client.assign([(partition, offset)])
    }
}
