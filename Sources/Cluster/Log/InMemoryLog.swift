import Dispatch
import Synchronization

/// The reference implementation of ``RecordLog``: the whole contract, in memory, with failures on request.
///
/// For tests and simulation. Nothing is durable. Completions run on one serial queue, in the order of the calls.
public final class InMemoryLog: RecordLog {
    public struct Limits: Sendable {
        /// Octets of one record; what a Kafka broker takes by default.
        public var recordSizeMax = 1 << 20
        /// Octets of the appends and steps whose completions are held.
        public var queueSizeMax = 64 << 20
        /// Records that one ``GroupEvent/records(_:_:)`` holds.
        public var batchCountMax = 256

        public init() {}
    }

    private struct Partition {
        var records: [StoredRecord] = []
        var next = Offset(0)
    }

    private struct State {
        var groups: LocalGroups
        var partitions: [TopicPartition: Partition] = [:]
        var condition: LogCondition = .writable
        var waiters: [LocalGroups.MemberID: CheckedContinuation<Void, Never>] = [:]
        var leaving: [LocalGroups.MemberID: CheckedContinuation<Void, Never>] = [:]
        var appendFailures: [RecordLogError] = []
        var scanFailures: [RecordLogError] = []
        var stepFailures: [RecordLogError] = []
        var readFailure: RecordLogError?
        var isHolding = false
        var held: [@Sendable () -> Void] = []
        var heldSize = 0
        var isClosed = false
        var now: @Sendable () -> Int64
        var timestamp: Int64 = 0
    }

    /// Octets left for a record's key and headers.
    private static let recordOverheadMax = 70_000

    public let clusterID: ClusterID
    public let partitionCount: Int
    private let limits: Limits
    private let partitioner: Partitioner
    private let queue = DispatchQueue(label: "posthorn.in-memory-log")
    private let state: Mutex<State>

    /// A clock of its own, if it was given one.
    private let now: (@Sendable () -> Int64)?

    public var time: Int64? { self.now?() }

    /// - Parameter now: milliseconds since 1970; the machine's clock by default.
    public init(
        clusterID: ClusterID = ClusterID("in-memory"),
        partitionCount: Int = 8,
        limits: Limits = Limits(),
        now: (@Sendable () -> Int64)? = nil
    ) {
        self.now = now
        self.clusterID = clusterID
        self.partitionCount = partitionCount
        self.limits = limits
        self.partitioner = Partitioner(partitionCount: partitionCount)
        self.state = Mutex(
            State(groups: LocalGroups(partitionCount: partitionCount), now: now ?? { WallClock.milliseconds })
        )
    }

    public var valueSizeMax: Int { self.limits.recordSizeMax - Self.recordOverheadMax }

    public var condition: LogCondition {
        self.state.withLock { $0.condition }
    }

    public func append(_ records: [Record], completion: @escaping AppendCompletion) {
        let wakeups = self.state.withLock { state in
            let result = self.admit(records, isStep: false, &state)
                .flatMap { _ in
                    state.appendFailures.isEmpty ? .success(()) : .failure(state.appendFailures.removeFirst())
                }
                .map { self.store(records, &state) }
            self.complete(size: records.reduce(0) { $0 + $1.size }, &state) { completion(result) }
            return Self.wakeups(&state)
        }
        Self.wake(wakeups)
    }

    public func join(
        _ group: GroupID,
        topics: TopicSelection
    ) async throws(RecordLogError) -> any GroupMember {
        let joined = self.state.withLock { state -> (LocalGroups.MemberID?, [CheckedContinuation<Void, Never>]) in
            guard !state.isClosed else { return (nil, []) }
            let id = state.groups.join(group, topics: topics)
            return (id, Self.wakeups(&state))
        }
        Self.wake(joined.1)
        guard let id = joined.0 else { throw RecordLogError(.closed, isRetriable: false) }
        return InMemoryGroupMember(log: self, id: id)
    }

    public func read(_ reference: Reference) async throws(RecordLogError) -> StoredRecord {
        try reference.check(cluster: self.clusterID)
        var parts: [StoredRecord] = []
        for position in reference.positions {
            let found = self.state.withLock { Self.records($0, position.partition, from: position.offset, countMax: 1) }
            guard let record = found.first, record.position == position else {
                throw RecordLogError(.notFound, isRetriable: false, reason: "No record at \(position).")
            }
            parts.append(record)
        }
        return try reference.assemble(parts)
    }

    public func scan(
        _ partition: TopicPartition,
        from offset: Offset,
        recordCountMax: Int
    ) async throws(RecordLogError) -> [StoredRecord] {
        let result = self.state.withLock { state -> Result<[StoredRecord], RecordLogError> in
            if !state.scanFailures.isEmpty { return .failure(state.scanFailures.removeFirst()) }
            return .success(Self.records(state, partition, from: offset, countMax: max(0, recordCountMax)))
        }
        return try result.get()
    }

    public func bounds(_ partition: TopicPartition) async throws(RecordLogError) -> Range<Offset> {
        self.state.withLock { $0.groups.bounds(partition) }
    }

    public func progress(
        _ group: GroupID,
        _ partition: TopicPartition
    ) async throws(RecordLogError) -> Progress? {
        self.state.withLock { $0.groups.progress(group, partition) }
    }

    public func topics() async throws(RecordLogError) -> [Topic] {
        self.state.withLock { $0.groups.topics }
    }

    public func release(_ references: [Reference]) {
        self.state.withLock { state in
            let positions = references.filter { $0.clusterID == self.clusterID }.flatMap { $0.positions }
            for position in positions {
                guard var partition = state.partitions[position.partition] else { continue }
                partition.records.removeAll { $0.position.offset == position.offset }
                state.partitions[position.partition] = partition
                let first = partition.records.first?.position.offset ?? partition.next
                state.groups.setBounds(position.partition, first..<partition.next)
            }
        }
    }

    public func trim(_ offsets: [TopicPartition: Offset]) async throws(RecordLogError) {
        guard !self.state.withLock({ $0.isClosed }) else { throw RecordLogError(.closed, isRetriable: false) }
        for (partition, offset) in offsets { self.truncate(partition, before: offset) }
    }

    public func close() async {
        let waiters = self.state.withLock { state in
            state.isClosed = true
            state.condition = .unavailable(reason: "closed")
            let waiters = Array(state.waiters.values) + Array(state.leaving.values)
            state.waiters = [:]
            state.leaving = [:]
            state.isHolding = false
            self.flush(&state)
            return waiters
        }
        Self.wake(waiters)
        await withCheckedContinuation { continuation in
            self.queue.async { continuation.resume() }
        }
    }
}

// MARK: - Failures on request

extension InMemoryLog {
    /// Makes the next append fail with this, having appended nothing. Calls add up.
    public func failNextAppend(with error: RecordLogError) {
        self.state.withLock { $0.appendFailures.append(error) }
    }

    /// Makes the next scan fail with this. Calls add up.
    public func failNextScan(with error: RecordLogError) {
        self.state.withLock { $0.scanFailures.append(error) }
    }

    /// Makes the next step fail with this, having changed nothing. Calls add up.
    public func failNextStep(with error: RecordLogError) {
        self.state.withLock { $0.stepFailures.append(error) }
    }

    /// Makes every read of a member fail with this, until told otherwise by `nil`.
    public func failReads(with error: RecordLogError?) {
        let wakeups = self.state.withLock { state in
            state.readFailure = error
            return Self.wakeups(&state)
        }
        Self.wake(wakeups)
    }

    /// Keeps completions back: what is appended or stepped from now on has happened but nobody is told.
    public func holdCompletions() {
        self.state.withLock { $0.isHolding = true }
    }

    /// Runs the completions held back, in order, and holds back no more.
    public func resumeCompletions() {
        self.state.withLock { state in
            state.isHolding = false
            self.flush(&state)
        }
    }

    /// How many completions are held back.
    public var heldCompletionCount: Int {
        self.state.withLock { $0.held.count }
    }

    /// Takes all partitions from the members of a group at once. Each learns `lost`, and joins again with its next call.
    public func fence(_ group: GroupID) {
        let wakeups = self.state.withLock { state in
            for member in state.groups.members(of: group) {
                state.groups.fence(member)
            }
            return Self.wakeups(&state)
        }
        Self.wake(wakeups)
    }

    /// Loses everything below `offset`, as retention does.
    public func truncate(_ partition: TopicPartition, before offset: Offset) {
        self.state.withLock { state in
            guard var held = state.partitions[partition] else { return }
            held.records.removeAll { $0.position.offset < offset }
            state.partitions[partition] = held
            let start = max(min(offset, held.next), state.groups.bounds(partition).lowerBound)
            state.groups.setBounds(partition, start..<held.next)
        }
    }

    /// Makes the log say so, and act so.
    public func setCondition(_ condition: LogCondition) {
        self.state.withLock { $0.condition = condition }
    }

    /// Every record of a topic that is still there, by partition and offset.
    public func records(of topic: Topic) -> [StoredRecord] {
        self.state.withLock { state in
            (0..<self.partitionCount)
                .flatMap { number in
                    state.partitions[TopicPartition(topic, Int32(truncatingIfNeeded: number))]?.records ?? []
                }
        }
    }
}

// MARK: - Members

/// A member of a group of an ``InMemoryLog``.
private struct InMemoryGroupMember: GroupMember {
    let log: InMemoryLog
    let id: LocalGroups.MemberID

    func next() async throws(RecordLogError) -> GroupEvent? {
        while !Task.isCancelled {
            switch self.log.next(self.id) {
            case .deliver(let event): return event
            case .read(let read):
                if let event = try self.log.read(read) { return event }
            case .wait: await self.log.wait(self.id)
            case .end: return nil
            }
        }
        return nil
    }

    func step(_ step: Step, completion: @escaping StepCompletion) {
        self.log.step(self.id, step, completion: completion)
    }

    func pause(_ partitions: [TopicPartition]) {
        self.log.change { $0.setPaused(self.id, partitions, true) }
    }

    func resume(_ partitions: [TopicPartition]) {
        self.log.change { $0.setPaused(self.id, partitions, false) }
    }

    func seek(_ partition: TopicPartition, to offset: Offset) {
        self.log.change { $0.seek(self.id, partition, to: offset) }
    }

    func leave() async {
        await self.log.leave(self.id)
    }
}

extension InMemoryLog {
    fileprivate func change(_ body: (inout LocalGroups) -> Void) {
        let wakeups = self.state.withLock { state in
            body(&state.groups)
            return Self.wakeups(&state)
        }
        Self.wake(wakeups)
    }

    fileprivate func next(_ id: LocalGroups.MemberID) -> LocalGroups.Decision {
        let (decision, wakeups) = self.state.withLock { state in
            let decision: LocalGroups.Decision = state.isClosed ? .end : state.groups.next(id)
            return (decision, Self.wakeups(&state))
        }
        Self.wake(wakeups)
        return decision
    }

    fileprivate func read(_ read: LocalGroups.Read) throws(RecordLogError) -> GroupEvent? {
        try self.state.withLock { state throws(RecordLogError) in
            if let failure = state.readFailure { throw failure }
            let records = Self.records(
                state,
                read.partition,
                from: read.offset,
                countMax: self.limits.batchCountMax
            )
            let next =
                records.last.map { $0.position.offset.advanced(by: 1) }
                ?? state.groups.bounds(read.partition).upperBound
            return state.groups.finishRead(read, records: records, next: next)
        }
    }

    fileprivate func wait(_ id: LocalGroups.MemberID) async {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let isReady = self.state.withLock { state in
                    guard !state.isClosed, !Task.isCancelled, !state.groups.isReady(id) else { return true }
                    state.waiters[id] = continuation
                    return false
                }
                if isReady { continuation.resume() }
            }
        } onCancel: {
            let waiter = self.state.withLock { $0.waiters.removeValue(forKey: id) }
            waiter?.resume()
        }
    }

    fileprivate func step(
        _ id: LocalGroups.MemberID,
        _ step: Step,
        completion: @escaping GroupMember.StepCompletion
    ) {
        let wakeups = self.state.withLock { state in
            let result = self.admit(step.outputs, isStep: true, &state)
                .flatMap { _ -> Result<[Position], RecordLogError> in
                    do throws(RecordLogError) {
                        try state.groups.beginStep(id, step.progress)
                    } catch {
                        return .failure(error)
                    }
                    let failure = state.stepFailures.isEmpty ? nil : state.stepFailures.removeFirst()
                    let result = failure.map { Result.failure($0) } ?? .success(self.store(step.outputs, &state))
                    state.groups.endStep(id, step.progress, isCommitted: failure == nil)
                    return result
                }
            self.complete(size: step.outputs.reduce(0) { $0 + $1.size }, &state) { completion(result) }
            return Self.wakeups(&state)
        }
        Self.wake(wakeups)
    }

    fileprivate func leave(_ id: LocalGroups.MemberID) async {
        self.change { groups in
            _ = groups.beginLeaving(id)
            groups.leave(id)
        }
        // The completions of earlier steps come first.
        await withCheckedContinuation { continuation in
            self.state.withLock { state in
                self.complete(size: 0, &state) { continuation.resume() }
            }
        }
    }

    private static func records(
        _ state: State,
        _ partition: TopicPartition,
        from offset: Offset,
        countMax: Int
    ) -> [StoredRecord] {
        guard let records = state.partitions[partition]?.records else { return [] }
        var low = 0
        var high = records.count
        while low < high {
            let middle = (low + high) / 2
            if records[middle].position.offset < offset { low = middle + 1 } else { high = middle }
        }
        return Array(records[low...].prefix(countMax))
    }

    private func admit(_ records: [Record], isStep: Bool, _ state: inout State) -> Result<Void, RecordLogError> {
        if state.isClosed { return .failure(RecordLogError(.closed, isRetriable: false)) }
        switch state.condition {
        case .writable: break
        case .reserveOnly(let reason):
            guard isStep || records.allSatisfy({ $0.topic == .content }) else {
                return .failure(RecordLogError(.noSpace, isRetriable: true, reason: reason))
            }
        case .unavailable(let reason):
            return .failure(RecordLogError(.unavailable, isRetriable: true, reason: reason))
        }
        guard records.allSatisfy({ $0.size <= self.limits.recordSizeMax }) else {
            return .failure(RecordLogError(.recordTooLarge, isRetriable: false))
        }
        let size = records.reduce(0) { $0 + $1.size }
        guard state.heldSize + size <= self.limits.queueSizeMax else {
            return .failure(RecordLogError(.queueFull, isRetriable: true))
        }
        return .success(())
    }

    private func store(_ records: [Record], _ state: inout State) -> [Position] {
        state.timestamp = max(state.timestamp, state.now())
        return records.map { record in
            let name = TopicPartition(record.topic, self.partitioner.partition(for: record.key))
            if state.partitions[name] == nil { state.groups.create(record.topic) }
            var partition = state.partitions.removeValue(forKey: name) ?? Partition()
            let position = Position(partition: name, offset: partition.next)
            partition.records.append(
                StoredRecord(
                    position: position,
                    timestamp: state.timestamp,
                    key: record.key,
                    headers: record.headers,
                    value: record.value
                )
            )
            partition.next = partition.next.advanced(by: 1)
            let first = state.groups.bounds(name).lowerBound
            state.partitions[name] = partition
            state.groups.setBounds(name, first..<partition.next)
            return position
        }
    }

    /// Called under the lock, so that completions keep the order of the calls.
    private func complete(size: Int, _ state: inout State, _ completion: @escaping @Sendable () -> Void) {
        if state.isHolding {
            state.held.append(completion)
            state.heldSize += size
        } else {
            self.queue.async(execute: completion)
        }
    }

    private func flush(_ state: inout State) {
        for completion in exchange(&state.held, with: []) {
            self.queue.async(execute: completion)
        }
        state.heldSize = 0
    }

    private static func wakeups(_ state: inout State) -> [CheckedContinuation<Void, Never>] {
        _ = state.groups.takeNewStarts()
        return state.groups.takeWakeups().compactMap { state.waiters.removeValue(forKey: $0) }
    }

    private static func wake(_ waiters: [CheckedContinuation<Void, Never>]) {
        for waiter in waiters {
            waiter.resume()
        }
    }
}
