import ClusterLog
import Logging
import NodeSupport
import ServiceLifecycle

/// One membership of the group: reads outcomes and steps their notifications with the progress.
struct OutcomeConsumer {
    /// How long records are gathered before a step: outcomes of one message at several destinations meet in it.
    static let window: Duration = .milliseconds(100)
    static let recordCountMax = 1_000
    /// The part of the window in which nothing is read, so that what comes meanwhile is read at once: each wait that ends
    /// with a few records costs two tasks.
    static let gatheringTime: Duration = .milliseconds(80)

    /// What the wait for the next event came to.
    private enum Wake: Sendable {
        case event(GroupEvent)
        case windowPassed
        /// Shutting down, or the log is closed.
        case ended
    }

    private let member: any GroupMember
    private let makeBatch: @Sendable () -> NotificationBatch
    private let clock: any NodeClock
    private let metrics: BounceMetrics
    private let logger: Logger

    private var batch: NotificationBatch
    /// As last stepped, of the partitions that are ours.
    private var committed: [TopicPartition: Progress] = [:]
    /// What the batch in hand covers.
    private var pending: [TopicPartition: Progress] = [:]
    private var pendingRecordCount = 0
    /// The window's first part is over.
    private var hasGathered = false
    private var windowStart: Int64 = 0
    private(set) var committedStepCount = 0

    init(
        member: any GroupMember,
        clock: any NodeClock,
        metrics: BounceMetrics,
        logger: Logger,
        makeBatch: @escaping @Sendable () -> NotificationBatch
    ) {
        self.member = member
        self.clock = clock
        self.metrics = metrics
        self.logger = logger
        self.makeBatch = makeBatch
        self.batch = makeBatch()
    }

    /// Returns when the wait ended: on graceful shutdown, cancellation, or because the log was closed.
    mutating func run() async throws {
        while true {
            switch try await self.wait() {
            case .event(let event):
                try await self.received(event)
            case .windowPassed:
                try await self.step()
            case .ended:
                try await self.step()
                return
            }
        }
    }

    private mutating func received(_ event: GroupEvent) async throws(RecordLogError) {
        switch event {
        case .assigned(let assignments):
            for assignment in assignments { self.committed[assignment.partition] = assignment.progress }
        case .revoked(let partitions):
            try await self.step()
            for partition in partitions { self.committed[partition] = nil }
        case .lost(let partitions):
            self.lost(partitions)
        case .records(let partition, let records):
            try await self.received(records, of: partition)
        case .truncated(let partition, let expected, let found):
            self.metrics.truncations.increment()
            self.logger.error(
                "Outcomes were lost before they were read",
                metadata: [
                    LogKeys.topic: "\(partition.topic)", LogKeys.partition: "\(partition.partition)",
                    LogKeys.offset: "\(found)", "expected_offset": "\(expected)",
                ]
            )
        }
    }

    private mutating func received(_ records: [StoredRecord], of partition: TopicPartition) async throws(RecordLogError)
    {
        for record in records {
            if self.pending.isEmpty {
                self.windowStart = self.clock.monotonicNanoseconds
                self.hasGathered = false
            }
            self.batch.add(record)
            self.pending[partition] = Progress(watermark: record.position.offset.advanced(by: 1))
            self.pendingRecordCount += 1
            if self.batch.isFull || self.pendingRecordCount >= Self.recordCountMax { try await self.step() }
        }
        if !self.pending.isEmpty, self.windowRest <= .zero { try await self.step() }
    }

    /// Another member has these already. The batch mixes partitions, so all of it is dropped, and what is still ours
    /// is read again.
    private mutating func lost(_ partitions: [TopicPartition]) {
        for partition in partitions { self.committed[partition] = nil }
        for partition in self.pending.keys {
            if let progress = self.committed[partition] { self.member.seek(partition, to: progress.watermark) }
        }
        self.dropBatch()
    }

    private mutating func dropBatch() {
        self.batch = self.makeBatch()
        self.pending = [:]
        self.pendingRecordCount = 0
    }

    /// Makes the batch in hand durable together with the progress past it.
    private mutating func step() async throws(RecordLogError) {
        guard !self.pending.isEmpty else { return }
        let batch = self.batch
        let pending = self.pending
        self.metrics.records.increment(by: self.pendingRecordCount)
        self.dropBatch()
        let start = self.clock.monotonicNanoseconds
        do {
            try await self.member.step(
                Step(outputs: try batch.outputs(now: self.clock.milliseconds), progress: pending)
            )
        } catch {
            self.metrics.stepFailures.increment()
            throw error
        }
        self.metrics.stepDuration.observe(nanoseconds: self.clock.monotonicNanoseconds - start)
        self.metrics.count(batch)
        self.committed.merge(pending) { $1 }
        self.committedStepCount += 1
        if !batch.deadRecords.isEmpty {
            self.logger.error(
                "Outcomes could not be read and went to posthorn.dead",
                metadata: [LogKeys.count: "\(batch.deadRecords.count)"]
            )
        }
    }

    private var windowRest: Duration {
        Self.window - .nanoseconds(self.clock.monotonicNanoseconds - self.windowStart)
    }

    /// Waits for the next event, but no longer than the window while records wait for their step.
    private mutating func wait() async throws -> Wake {
        let member = self.member
        if !self.pending.isEmpty, !self.hasGathered {
            self.hasGathered = true
            let time = min(Self.gatheringTime, self.windowRest)
            // Cut short by shutdown or cancellation, which the wait below sees.
            try? await cancelWhenGracefulShutdown { try await Task.sleep(for: time) }
        }
        guard !self.pending.isEmpty else {
            // Only the wait is cancelled on graceful shutdown: the batch in hand is stepped.
            let event = try await cancelWhenGracefulShutdown { try await member.next() }
            return event.map(Wake.event) ?? .ended
        }
        let rest = self.windowRest
        return try await cancelWhenGracefulShutdown {
            try await withThrowingTaskGroup(of: Wake.self) { group in
                group.addTask { try await member.next().map(Wake.event) ?? .ended }
                group.addTask {
                    // Woken early by cancellation is as good as woken in time.
                    try? await Task.sleep(for: rest)
                    return .windowPassed
                }
                let first = try await group.next() ?? .ended
                group.cancelAll()
                let second = try await group.next() ?? .ended
                // An event that came as the window passed is not lost; a wait cut short by it is not the end.
                switch (first, second) {
                case (.event, _), (.ended, _): return first
                case (.windowPassed, .event): return second
                case (.windowPassed, _): return .windowPassed
                }
            }
        }
    }
}
