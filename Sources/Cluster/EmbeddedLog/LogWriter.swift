import ClusterLog
import Dispatch
import Logging
import NIOCore
import Synchronization

/// The one thread that writes: everything queued becomes one transaction, one fsync, then one round of completions.
///
/// A class used by its own thread only.
final class LogWriter {
    private struct Outcome {
        var item: WriteItem
        var result: Result<[Position], RecordLogError>
        /// The segment was read again since: what it holds counts the item already.
        var isAdopted = false
    }

    /// A commit failed: the transaction may or may not have become durable, as a whole.
    private struct CommitFailure: Error {
        var cause: any Error
        /// What is told if it has.
        var outcomes: [Outcome]
        /// Where partitions stand if it has.
        var partitions: [PartitionKey: Snapshot.PartitionState]
    }

    private let core: LogCore
    private var segment: ActiveSegment?
    private var partitions: [PartitionKey: Snapshot.PartitionState]
    private var writtenTopicCount = 0
    private var topics: [Topic] = []
    /// The last commit that failed, until the segment can be read again.
    private var doubtful: CommitFailure?
    /// What a commit that failed turns out to have made durable.
    private var landed: [Outcome] = []
    /// Steps among that whose callers had been told by then that they failed, to be recognised when they come again.
    private var found: [Outcome] = []
    /// There are few members, and each repeats one step before it makes another.
    private static let foundCountMax = 64

    init(core: LogCore, segment: ActiveSegment, snapshot: Snapshot) {
        self.core = core
        self.segment = segment
        self.partitions = snapshot.partitions
        self.writtenTopicCount = snapshot.topics.count
        self.topics = snapshot.topics
    }

    func run() {
        while let items = self.take() {
            do {
                try self.process(items)
            } catch {
                self.core.abandon(error)
            }
        }
        self.close()
    }

    /// What there is to do.
    private enum Work {
        case items([WriteItem])
        /// Only work that may wait a little longer for an append to share its fsync.
        case waiting(Duration)
        case nothing
        case end
    }

    /// Waits for work; `nil` when there will be none.
    private func take() -> [WriteItem]? {
        var waitingSince: ContinuousClock.Instant?
        while true {
            let work = self.core.state.withLock { state -> Work in
                state.isWriterIdle = false
                if state.queue.isEmpty {
                    state.isWriterIdle = !state.isStopping
                    return state.isStopping ? .end : .nothing
                }
                if !state.isStopping, !state.queue.contains(where: { $0.isUrgent }) {
                    let now = ContinuousClock.now
                    let since = waitingSince ?? now
                    waitingSince = since
                    let rest = self.core.configuration.stepDelayMax - (now - since)
                    if rest > .zero {
                        state.isWriterIdle = true
                        return .waiting(rest)
                    }
                }
                self.topics = state.topics
                var count = 0
                var size = 0
                while count < state.queue.count, size < self.core.configuration.commitSizeMax {
                    size += state.queue[count].size
                    count += 1
                }
                if count == state.queue.count { return .items(exchange(&state.queue, with: [])) }
                let items = Array(state.queue.prefix(count))
                state.queue.removeFirst(count)
                return .items(items)
            }
            switch work {
            case .items(let items): return items
            case .end: return nil
            case .nothing: self.core.writerSemaphore.wait()
            case .waiting(let rest):
                _ = self.core.writerSemaphore.wait(timeout: .now() + .nanoseconds(Int(rest / .nanoseconds(1))))
            }
        }
    }

    private func process(_ items: [WriteItem]) throws {
        defer {
            for item in items where Self.isRoll(item) {
                item.completion?(.success([]))
            }
        }
        if self.core.state.withLock({ $0.isAbandoned }) {
            self.publish(
                items.map { item in
                    if case .refused(let error) = item.kind { return Outcome(item: item, result: .failure(error)) }
                    return Outcome(item: item, result: .failure(Self.stopped))
                }
            )
            return
        }
        do {
            self.publish(try self.commit(items))
        } catch let crash as FaultPlan.Crash {
            self.publish(items.map { Outcome(item: $0, result: .failure(Self.stopped)) })
            throw crash
        } catch let failure as CommitFailure {
            self.publish(self.lookUp(failure))
        } catch {
            self.recover(from: error)
            self.publish(try self.commitOneByOne(items, after: error))
        }
        let isRolling = items.contains { Self.isRoll($0) }
        let isFull = self.core.state.withLock { $0.activeSize >= self.core.configuration.segmentSize }
        if isRolling || isFull { try self.roll() }
    }

    private static func isRoll(_ item: WriteItem) -> Bool {
        if case .roll = item.kind { return true }
        return false
    }

    // MARK: Transactions

    private func commit(_ items: [WriteItem]) throws -> [Outcome] {
        let segment = try self.open()
        self.found += exchange(&self.landed, with: []).filter { $0.item.isStep }
        self.found.removeFirst(max(0, self.found.count - Self.foundCountMax))
        var taken: Set<Int> = []
        var partitions = self.partitions
        var outcomes: [Outcome] = []
        outcomes.reserveCapacity(items.count)
        let now = WallClock.milliseconds
        var isEmpty = true
        for item in items {
            if let index = self.indexOfFound(item, besides: taken) {
                taken.insert(index)
                outcomes.append(Outcome(item: item, result: self.found[index].result, isAdopted: true))
                continue
            }
            if isEmpty, Self.writes(item) {
                try segment.begin()
                isEmpty = false
                try self.writeTopics(segment)
            }
            outcomes.append(
                Outcome(item: item, result: try self.write(item, to: segment, at: now, &partitions))
            )
        }
        if !isEmpty {
            try self.core.configuration.faults.reach(.beforeCommit)
            do {
                try segment.commit()
                try self.core.configuration.faults.reach(.afterCommit)
            } catch let crash as FaultPlan.Crash {
                throw crash
            } catch {
                self.forgetFound(taken)
                throw CommitFailure(cause: error, outcomes: outcomes, partitions: partitions)
            }
            self.writtenTopicCount = max(self.writtenTopicCount, self.topics.count)
        }
        self.forgetFound(taken)
        self.partitions = partitions
        return outcomes
    }

    private static func writes(_ item: WriteItem) -> Bool {
        switch item.kind {
        case .append: !item.records.isEmpty
        case .step(_, _, let progress): !item.records.isEmpty || !progress.isEmpty
        case .starts, .release: true
        case .refused, .roll: false
        }
    }

    private func writeTopics(_ segment: ActiveSegment) throws {
        guard self.writtenTopicCount < self.topics.count else { return }
        for id in self.writtenTopicCount..<self.topics.count {
            try segment.insert(self.topics[id], id: Int64(id))
        }
    }

    private func write(
        _ item: WriteItem,
        to segment: ActiveSegment,
        at now: Int64,
        _ partitions: inout [PartitionKey: Snapshot.PartitionState]
    ) throws -> Result<[Position], RecordLogError> {
        switch item.kind {
        case .refused(let error): return .failure(error)
        case .roll: return .success([])
        case .release(let released):
            for (key, offset) in released {
                try segment.release(offset..<(offset + 1), key: key)
            }
            return .success([])
        case .starts(let starts):
            for start in starts {
                guard let key = self.key(of: start.partition) else { continue }
                try segment.set(Progress(watermark: start.offset), of: start.group, key: key, isStepped: false)
            }
            return .success([])
        case .step(_, let group, let progress):
            for (partition, progress) in progress {
                guard let key = self.key(of: partition) else { continue }
                try segment.set(progress, of: group, key: key, isStepped: true)
            }
        case .append: break
        }
        var positions: [Position] = []
        positions.reserveCapacity(item.records.count)
        for (record, key) in zip(item.records, item.keys) {
            let last = partitions[key] ?? Snapshot.PartitionState(next: 0, timestamp: 0)
            let timestamp = max(now, last.timestamp)
            try segment.insert(record, key: key, offset: last.next, timestamp: timestamp)
            partitions[key] = Snapshot.PartitionState(next: last.next + 1, timestamp: timestamp)
            positions.append(
                Position(
                    partition: TopicPartition(record.topic, Int32(truncatingIfNeeded: key & 0xffff)),
                    offset: Offset(last.next)
                )
            )
        }
        return .success(positions)
    }

    private func key(of partition: TopicPartition) -> PartitionKey? {
        self.topics.firstIndex(of: partition.topic).map { PartitionKey($0) << 16 | PartitionKey(partition.partition) }
    }

    /// After a failed transaction: each item on its own, so that what one cannot do does not fail the others.
    private func commitOneByOne(_ items: [WriteItem], after error: any Error) throws -> [Outcome] {
        guard items.count > 1 else {
            return items.map { Outcome(item: $0, result: .failure(self.failure(error))) }
        }
        var lastError = error
        var failureCount = 0
        for (index, item) in items.enumerated() {
            // When the disk is gone, not every item waits for it to say so again.
            if failureCount >= 3 {
                return items[index...].map { Outcome(item: $0, result: .failure(self.failure(lastError))) }
            }
            do {
                self.publish(try self.commit([item]))
                failureCount = 0
            } catch let crash as FaultPlan.Crash {
                self.publish(items[index...].map { Outcome(item: $0, result: .failure(Self.stopped)) })
                throw crash
            } catch let failure as CommitFailure {
                failureCount += 1
                lastError = failure.cause
                self.publish(self.lookUp(failure))
            } catch {
                failureCount += 1
                lastError = error
                self.recover(from: error)
                self.publish([Outcome(item: item, result: .failure(self.failure(error)))])
            }
        }
        return []
    }

    private static let stopped = RecordLogError(
        .notDurable,
        isRetriable: true,
        reason: "The log stopped; whether this was written is not known."
    )

    private func failure(_ error: any Error) -> RecordLogError {
        guard let error = error as? SQLiteError else {
            return RecordLogError(.notDurable, isRetriable: true, reason: "\(error)")
        }
        switch error.primaryCode {
        case 13: return RecordLogError(.noSpace, isRetriable: true, reason: error.description)
        case 18: return RecordLogError(.recordTooLarge, isRetriable: false, reason: error.description)
        default: return RecordLogError(.notDurable, isRetriable: true, reason: error.description)
        }
    }

    /// Rolls back. After anything but a full disk before the commit, the connection is not trusted any more: the next
    /// transaction opens another one and takes over what it finds.
    private func recover(from error: any Error, isCommit: Bool = false) {
        self.core.logger.error("The log could not write", metadata: ["error": "\(error)"])
        self.segment?.rollback()
        let isFull = (error as? SQLiteError)?.primaryCode == 13
        if isFull {
            self.core.state.withLock { state in
                state.lastFailure = "The disk is full."
                state.updateCondition(self.core.configuration)
            }
        }
        guard !isFull || isCommit else { return }
        do {
            try self.segment?.close()
        } catch {
            self.core.logger.error("The log could not close a segment", metadata: ["error": "\(error)"])
        }
        self.segment = nil
    }

    /// Finds out what a commit that failed has come to: what became durable all the same must not be written twice
    /// (ADR 0004).
    ///
    /// - Returns: what is told. While the segment cannot be read that is the failure: clients resend their appends, and a
    ///   step that is repeated is recognised by ``indexOfFound(_:besides:)``.
    private func lookUp(_ failure: CommitFailure) -> [Outcome] {
        self.recover(from: failure.cause, isCommit: true)
        self.doubtful = failure
        do {
            _ = try self.open()
        } catch {
            self.core.logger.error("The log could not read its segment again", metadata: ["error": "\(error)"])
        }
        let landed = exchange(&self.landed, with: [])
        guard landed.isEmpty else {
            self.core.state.withLock { state in
                state.lastFailure = nil
                state.updateCondition(self.core.configuration)
            }
            return landed
        }
        return failure.outcomes.map { outcome in
            // What was refused for its own sake still is, and what an earlier commit wrote is there.
            if case .failure = outcome.result { return outcome }
            if outcome.isAdopted { return outcome }
            return Outcome(item: outcome.item, result: .failure(self.failure(failure.cause)))
        }
    }

    /// Whether a transaction is in the segment, which was read since its commit failed.
    private func holds(_ failure: CommitFailure) -> Bool {
        var isTold = false
        var steps: [GroupID: [TopicPartition: Progress]] = [:]
        for outcome in failure.outcomes {
            guard case .success = outcome.result, !outcome.isAdopted else { continue }
            for key in outcome.item.keys {
                guard self.partitions[key]?.next == failure.partitions[key]?.next else { return false }
                isTold = true
            }
            if case .step(_, let group, let progress) = outcome.item.kind {
                steps[group, default: [:]].merge(progress) { $1 }
            }
        }
        for (group, progress) in steps {
            let isThere = self.core.state.withLock { state in
                progress.allSatisfy { state.groups.progress(group, $0.key) == $0.value }
            }
            guard isThere else { return false }
            isTold = isTold || !progress.isEmpty
        }
        return isTold
    }

    /// A step that is made again since its caller was told that it failed, and that is durable nevertheless.
    private func indexOfFound(_ item: WriteItem, besides taken: Set<Int>) -> Int? {
        guard !self.found.isEmpty, case .step(_, let group, let progress) = item.kind else { return nil }
        return self.found.indices.first { index in
            guard !taken.contains(index), case .step(_, group, progress) = self.found[index].item.kind else {
                return false
            }
            return self.found[index].item.records == item.records
        }
    }

    private func forgetFound(_ taken: Set<Int>) {
        guard !taken.isEmpty else { return }
        self.found = self.found.indices.filter { !taken.contains($0) }.map { self.found[$0] }
    }

    private func open() throws -> ActiveSegment {
        if let segment = self.segment { return segment }
        let (number, path) = self.core.state.withLock { ($0.activeNumber, $0.activePath) }
        try self.core.configuration.faults.reach(.reopen)
        // An fsync that failed may have left octets in memory alone, and the next one would not write them.
        try WriteAheadFile.rewrite(WriteAheadFile.path(of: path))
        guard let found = try Snapshot.read(path: path, partitionCount: self.core.configuration.partitionCount) else {
            throw SQLiteError(code: 11, message: "\(path) lost its snapshot.")
        }
        let segment = try ActiveSegment(number: number, path: path)
        self.adopt(found)
        self.segment = segment
        if let doubtful = exchange(&self.doubtful, with: nil), self.holds(doubtful) {
            self.landed = doubtful.outcomes.map { Outcome(item: $0.item, result: $0.result, isAdopted: true) }
        }
        return segment
    }

    /// Takes over what a failed commit made durable after all.
    private func adopt(_ found: Snapshot.Found) {
        for (key, partition) in found.snapshot.partitions {
            self.partitions[key] = partition
        }
        self.writtenTopicCount = found.snapshot.topics.count
        let wakeups = self.core.state.withLock { state in
            state.activeRanges = found.own
            for (key, range) in found.own {
                guard let partition = state.partition(of: key) else { continue }
                let bounds = state.groups.bounds(partition)
                let first = bounds.isEmpty ? Offset(range.first) : bounds.lowerBound
                state.groups.setBounds(partition, first..<Offset(range.end))
            }
            for entry in found.snapshot.progress where entry.isStepped {
                guard let partition = state.partition(of: entry.key) else { continue }
                state.groups.setProgress(entry.group, partition, entry.progress)
            }
            return state.takeWakeups()
        }
        for waiter in wakeups {
            waiter.resume()
        }
    }

    // MARK: Telling

    private func publish(_ outcomes: [Outcome]) {
        let size = self.segment?.filledSize
        let (wakeups, left) = self.core.state.withLock { state in
            var touched: [PartitionKey: TopicPartition] = [:]
            var left: [CheckedContinuation<Void, Never>] = []
            for outcome in outcomes {
                state.queueSize -= outcome.item.size
                if case .success(let positions) = outcome.result, !outcome.isAdopted {
                    self.publish(outcome.item, positions, &state, &touched)
                }
                if case .step(let member, _, let progress) = outcome.item.kind {
                    var isCommitted = false
                    if case .success = outcome.result { isCommitted = true }
                    state.groups.endStep(member, progress, isCommitted: isCommitted)
                    if state.groups.stepsInFlight(member) == 0, let waiter = state.leaving.removeValue(forKey: member) {
                        left.append(waiter)
                    }
                }
            }
            for (key, partition) in touched {
                guard let range = state.activeRanges[key] else { continue }
                let start = state.groups.bounds(partition)
                let first = start.isEmpty ? Offset(range.first) : start.lowerBound
                state.groups.setBounds(partition, first..<Offset(range.end))
            }
            if let size { state.activeSize = size }
            state.updateCondition(self.core.configuration)
            return (state.takeWakeups(), left)
        }
        for outcome in outcomes where !Self.isRoll(outcome.item) {
            outcome.item.completion?(outcome.result)
        }
        for waiter in wakeups + left {
            waiter.resume()
        }
    }

    private func publish(
        _ item: WriteItem,
        _ positions: [Position],
        _ state: inout LogState,
        _ touched: inout [PartitionKey: TopicPartition]
    ) {
        for (index, position) in positions.enumerated() {
            let key = item.keys[index]
            let offset = position.offset.rawValue
            let timestamp = self.partitions[key]?.timestamp ?? 0
            var range =
                state.activeRanges[key]
                ?? PartitionRange(first: offset, end: offset, count: 0, timestamp: timestamp)
            range.end = offset + 1
            range.count += 1
            range.timestamp = timestamp
            state.activeRanges[key] = range
            touched[key] = position.partition
            guard state.groups.isOwned(position.partition) else { continue }
            let record = item.records[index]
            state.cache.append(
                StoredRecord(
                    position: position,
                    timestamp: timestamp,
                    key: record.key,
                    headers: record.headers,
                    value: record.value
                ),
                to: key
            )
        }
    }

    // MARK: Segments

    /// Starts a new segment with a snapshot of everything that must be known, and seals the old one.
    private func roll() throws {
        let core = self.core
        let (snapshot, old, wal) = core.state.withLock { state in
            state.isRollRequested = false
            var snapshot = Snapshot()
            snapshot.topics = state.topics
            snapshot.partitions = self.partitions
            snapshot.progress = state.groups.allProgress()
                .compactMap { entry in
                    state.existingKey(of: entry.partition).map { (entry.group, $0, entry.progress, entry.isStepped) }
                }
            snapshot.released = state.released
            snapshot.sealed = state.sealed.filter { $0.name.generation == 0 }.map { ($0.name, $0.file.ranges) }
            snapshot.sealed.append((SegmentName(number: state.activeNumber), state.activeRanges))
            return (snapshot, (number: state.activeNumber, path: state.activePath), state.takeWAL(core.configuration))
        }
        let number = old.number + 1
        let path = core.directory.file(SegmentName(number: number).file)
        do {
            // A leftover of an attempt that failed.
            core.directory.remove(path)
            let keeper = try Keeper(path: old.path)
            let next = try ActiveSegment.create(
                number: number,
                path: path,
                snapshot: snapshot,
                wal: wal,
                faults: core.configuration.faults
            )
            try core.directory.sync()
            try core.configuration.faults.reach(.rollAfterSnapshot)
            try self.segment?.close()
            self.segment = next
            self.writtenTopicCount = snapshot.topics.count
            let size = LogDirectory.size(of: old.path)
            core.activePath.withLock { $0 = path }
            core.state.withLock { state in
                let file = RecordFile(path: old.path, ranges: state.activeRanges, size: size)
                state.sealed.append(
                    SealedSegment(
                        name: SegmentName(number: old.number),
                        file: file,
                        sealedAt: .now,
                        isCheckpointed: false,
                        keeper: keeper
                    )
                )
                state.activeNumber = number
                state.activePath = path
                state.activeRanges = [:]
                state.activeSize = next.filledSize
                state.activeSince = .now
                state.fileEpoch += 1
            }
            core.maintenance.submit { $0.pass() }
        } catch let crash as FaultPlan.Crash {
            throw crash
        } catch {
            // The old segment goes on; the next commit tries again.
            core.directory.remove(path)
            core.logger.error("The log could not start a segment", metadata: ["error": "\(error)"])
        }
    }

    /// Closes without a checkpoint: the next start replays the WAL.
    private func close() {
        let path = self.core.state.withLock { $0.activePath }
        do {
            let keeper = try Keeper(path: path)
            try self.segment?.close()
            withExtendedLifetime(keeper) {}
        } catch {
            self.core.logger.error("The log could not close a segment", metadata: ["error": "\(error)"])
        }
        self.segment = nil
    }
}
