import ClusterLog
import Logging
import NodeSupport
import Synchronization

/// Keeps the index: a member of the metrics group that reads each partition it is assigned from the log's start.
///
/// The group's progress says what was looked at before, by an index that is gone: what lies below it the log leaves
/// out of a member's records, so it is read by ``RecordLog/scan(_:from:recordCountMax:)`` first, while the partition is
/// paused. A few partitions are rebuilt at a time; the others wait, and what is rebuilt is kept up to date meanwhile.
final class IndexConsumer: Sendable {
    static let scanCount = 500
    /// Partitions that are read at once: each holds a scan's records.
    static let rebuildCountMax = 4

    private struct Rebuild: Sendable {
        var partition: Int32
        var generation: Int
        /// What lies below is read by scanning.
        var end: Offset
    }

    private struct Rebuilds {
        var waiting: [Rebuild] = []
        var workerCount = 0
    }

    private let log: any RecordLog
    private let index: LocalIndex
    private let settings: MetricsSettings
    private let clock: any NodeClock
    private let metrics: IndexMetrics
    private let logger: Logger
    /// After a failure: the first pause, doubled each time up to the longest.
    private let pauses: ClosedRange<Duration>
    private let rebuilds = Mutex(Rebuilds())

    init(
        log: any RecordLog,
        index: LocalIndex,
        settings: MetricsSettings,
        clock: any NodeClock,
        metrics: IndexMetrics,
        logger: Logger,
        pauses: ClosedRange<Duration>
    ) {
        self.log = log
        self.index = index
        self.settings = settings
        self.clock = clock
        self.metrics = metrics
        self.logger = logger
        self.pauses = pauses
    }

    /// Runs until the task is cancelled or the log is closed.
    func run() async throws {
        var pause = self.pauses.lowerBound
        while !Task.isCancelled {
            do {
                try await self.consume()
                return
            } catch let error as RecordLogError {
                // Who is no member any more joins again.
                guard error.isRetriable || error.code == .fenced else { throw error }
                self.logger.warning(
                    "The index is built again",
                    metadata: [LogKeys.error: "\(error)", LogKeys.group: "\(MetricsService.group)"]
                )
            }
            // Cut short by cancellation, which the loop's condition sees.
            try? await Task.sleep(for: pause)
            pause = min(pause * 2, self.pauses.upperBound)
        }
    }

    /// One membership of the group.
    private func consume() async throws {
        let member = try await self.log.join(MetricsService.group, topics: TopicSelection(topics: [.outcomes]))
        self.rebuilds.withLock { $0 = Rebuilds() }
        let result: Result<Void, any Error>
        do {
            try await withThrowingDiscardingTaskGroup { group in
                group.addTask { await self.commitNowAndThen(member) }
                while let event = try await member.next() {
                    for _ in 0..<self.received(event, member) {
                        group.addTask { await self.rebuild(member) }
                    }
                }
                group.cancelAll()
            }
            result = .success(())
        } catch {
            result = .failure(error)
        }
        await self.commit(member, besides: [:])
        self.index.with { $0.droppedAll() }
        await member.leave()
        try result.get()
    }

    /// - Returns: how many tasks to start that rebuild.
    private func received(_ event: GroupEvent, _ member: any GroupMember) -> Int {
        switch event {
        case .assigned(let assignments):
            member.pause(assignments.map(\.partition))
            let new = assignments.map { assignment in
                let number = assignment.partition.partition
                let generation = self.index.with { $0.assigned(number, start: Offset(0)) }
                return Rebuild(partition: number, generation: generation, end: assignment.progress.end)
            }
            return self.rebuilds.withLock { rebuilds in
                rebuilds.waiting += new
                let count = min(new.count, Self.rebuildCountMax - rebuilds.workerCount)
                rebuilds.workerCount += count
                return count
            }
        case .revoked(let partitions), .lost(let partitions):
            self.index.with { index in
                for partition in partitions { index.dropped(partition.partition) }
            }
        case .records(let partition, let records):
            guard let generation = self.index.with({ $0.generation(of: partition.partition) }) else { break }
            _ = self.index.apply(records, to: partition.partition, generation: generation)
        case .truncated(let partition, let expected, let found):
            self.metrics.truncations.increment()
            self.logger.warning(
                "Outcomes were deleted before they were read",
                metadata: [
                    LogKeys.topic: "\(partition.topic)", LogKeys.partition: "\(partition.partition)",
                    LogKeys.offset: "\(found)", "expected_offset": "\(expected)",
                ]
            )
        }
        return 0
    }

    // MARK: Rebuilding

    /// Rebuilds one partition after the other until none waits.
    private func rebuild(_ member: any GroupMember) async {
        while let next = self.takeRebuild() {
            let start = self.clock.monotonicNanoseconds
            guard await self.rebuild(next) else { continue }
            self.index.with { $0.rebuilt(next.partition, generation: next.generation) }
            member.resume([TopicPartition(.outcomes, next.partition)])
            self.metrics.rebuildDuration.observe(nanoseconds: self.clock.monotonicNanoseconds - start)
        }
    }

    private func takeRebuild() -> Rebuild? {
        self.rebuilds.withLock { rebuilds in
            guard !rebuilds.waiting.isEmpty, !Task.isCancelled else {
                rebuilds.workerCount -= 1
                return nil
            }
            return rebuilds.waiting.removeFirst()
        }
    }

    /// - Returns: whether the partition has been read to where the member's records begin, and is still assigned so.
    private func rebuild(_ rebuild: Rebuild) async -> Bool {
        let partition = TopicPartition(.outcomes, rebuild.partition)
        var offset = Offset(0)
        var pause = self.pauses.lowerBound
        while !Task.isCancelled {
            do throws(RecordLogError) {
                offset = max(offset, try await self.log.bounds(partition).lowerBound)
                while offset < rebuild.end {
                    if Task.isCancelled { return false }
                    let records = try await self.log.scan(partition, from: offset, recordCountMax: Self.scanCount)
                    guard let last = records.last else { break }
                    let wanted = records.filter { $0.position.offset < rebuild.end }
                    let isOurs = self.index.apply(wanted, to: rebuild.partition, generation: rebuild.generation)
                    guard isOurs else { return false }
                    offset = last.position.offset.advanced(by: 1)
                    pause = self.pauses.lowerBound
                }
                return self.index.with { $0.generation(of: rebuild.partition) } == rebuild.generation
            } catch {
                if error.code == .closed { return false }
                self.logger.warning(
                    "Outcomes cannot be read now",
                    metadata: [LogKeys.error: "\(error)", LogKeys.partition: "\(rebuild.partition)"]
                )
            }
            // Cut short by cancellation, which the loop's condition sees.
            try? await Task.sleep(for: pause)
            pause = min(pause * 2, self.pauses.upperBound)
        }
        return false
    }

    // MARK: Progress

    /// Tells monitoring how far the service is. The index does not depend on it.
    private func commitNowAndThen(_ member: any GroupMember) async {
        var committed: [Int32: Offset] = [:]
        while !Task.isCancelled {
            // Cut short by cancellation, which the loop's condition sees.
            try? await Task.sleep(for: self.settings.commitInterval)
            let now = self.clock.milliseconds
            self.index.with { $0.forget(now: now) }
            committed = await self.commit(member, besides: committed)
        }
    }

    /// - Returns: what is committed now.
    @discardableResult
    private func commit(_ member: any GroupMember, besides committed: [Int32: Offset]) async -> [Int32: Offset] {
        let positions = self.index.with { $0.positions }
        let moved = positions.filter { $0.value > committed[$0.key] ?? Offset(0) }
        guard !moved.isEmpty else { return committed }
        let progress = moved.map { (TopicPartition(.outcomes, $0.key), Progress(watermark: $0.value)) }
        do throws(RecordLogError) {
            try await member.step(Step(progress: Dictionary(uniqueKeysWithValues: progress)))
            return positions
        } catch {
            self.metrics.commitFailures.increment()
            self.logger.debug("Progress was not committed", metadata: [LogKeys.error: "\(error)"])
            return committed
        }
    }
}
