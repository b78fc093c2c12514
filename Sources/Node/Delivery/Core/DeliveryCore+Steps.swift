import ClusterLog

/// What the next step will carry, and what became of the last.
struct StepBuilder: Sendable {
    /// An output or a release with the partition whose record it comes from.
    fileprivate struct Owned<Value: Sendable>: Sendable {
        var partition: TopicPartition
        var value: Value
    }

    private var outputs: [Owned<Record>] = []
    /// Released once the step is durable.
    private var releases: [Owned<Reference>] = []
    /// Jobs whose content could not be appended.
    var retryAppends: [UInt64] = []
    private var hasProgress = false
    struct InFlight: Sendable {
        fileprivate var outputs: [Owned<Record>]
        fileprivate var owned: [Owned<Reference>]
        var progress: [TopicPartition: Progress]
        var step: Step { Step(outputs: self.outputs.map(\.value), progress: self.progress) }
        var releases: [Reference] { self.owned.map(\.value) }
        /// As they are once the step is durable.
        var commands: [OperatorCommand]
    }

    /// The step that is being written, kept until it is.
    private(set) var inFlight: InFlight?
    private(set) var isWriting = false
    private var retryAt: Int64 = 0
    private(set) var failureCount = 0
    /// Steps that are durable.
    private(set) var durableCount = 0
    private var startedAt: Int64 = 0
    /// The step that is being written has taken too long; as of the last tick.
    private(set) var isLate = false

    /// Content could not be written a moment ago; as of the last tick.
    private(set) var isContentStuck = false
    private var contentStuckUntil: Int64 = .min

    static let retryDelay: Int64 = 500
    /// What content that could not be written says of the log (milliseconds); the next try may take as long to fail.
    private static let contentPatience: Int64 = 15_000

    /// Something is to be written or being written.
    var isBusy: Bool { self.inFlight != nil || self.hasProgress || !self.retryAppends.isEmpty }
    /// The log does not take steps now: no new work begins.
    var isStuck: Bool { self.failureCount > 0 }
    /// What ``durableCount`` is once all that was decided so far is durable.
    var settledCount: Int {
        self.durableCount + (self.inFlight == nil ? 0 : 1) + (self.hasProgress ? 1 : 0)
    }
    /// Outputs for the step after the one that is being written.
    var waitingCount: Int { self.outputs.count }
    /// Their octets: a step has to fit into a transaction's time.
    private(set) var waitingOctets = 0

    mutating func noteTime(_ now: Int64, patience: Int64) {
        self.isLate = self.isWriting && now - self.startedAt > patience
        self.isContentStuck = self.isContentStuck && now < self.contentStuckUntil
    }

    /// The time of day was set back.
    mutating func endPauses() {
        self.retryAt = .min
        self.contentStuckUntil = .min
        self.startedAt = .min / 2
    }

    mutating func add(_ outputs: [Record], of partition: TopicPartition) {
        for output in outputs {
            self.waitingOctets += output.size
            self.outputs.append(Owned(partition: partition, value: output))
        }
        self.hasProgress = true
    }

    mutating func release(_ reference: Reference, of partition: TopicPartition) {
        self.releases.append(Owned(partition: partition, value: reference))
    }

    /// Whether something of these partitions waits to be written or is being written.
    func concerns(_ partitions: Set<TopicPartition>) -> Bool {
        if let inFlight, inFlight.progress.keys.contains(where: partitions.contains) { return true }
        return self.outputs.contains { partitions.contains($0.partition) }
    }

    /// Another member owns these partitions: what was not written of them is not ours to write. A step that is being
    /// written is decided by the log; when it comes again, it comes without them.
    mutating func drop(_ partitions: Set<TopicPartition>) {
        self.outputs.removeAll { partitions.contains($0.partition) }
        self.waitingOctets = self.outputs.reduce(0) { $0 + $1.value.size }
        self.releases.removeAll { partitions.contains($0.partition) }
        self.inFlight?.outputs.removeAll { partitions.contains($0.partition) }
        self.inFlight?.owned.removeAll { partitions.contains($0.partition) }
        for partition in partitions { self.inFlight?.progress[partition] = nil }
        if !self.isWriting { self.forgetEmpty() }
    }

    /// A step that failed and that nothing is left of does not come again: it says nothing of the log any more. (The log may
    /// refuse one without content, as long as it does not know what became of the one before.)
    private mutating func forgetEmpty() {
        guard let inFlight, inFlight.outputs.isEmpty, inFlight.progress.isEmpty else { return }
        self.inFlight = nil
        self.failureCount = 0
    }

    /// Whether a step may be written now; a failed one comes again after a pause.
    func isDue(now: Int64) -> Bool {
        guard !self.isWriting else { return false }
        return self.inFlight == nil ? self.hasProgress : now >= self.retryAt
    }

    /// The step to write. `progress` belongs to the outputs that are waiting; a step that comes again keeps its own.
    mutating func next(
        progress: [TopicPartition: Progress],
        commands: [OperatorCommand],
        now: Int64
    ) -> Step {
        self.isWriting = true
        self.startedAt = now
        if let inFlight = self.inFlight { return inFlight.step }
        let inFlight = InFlight(
            outputs: self.outputs,
            owned: self.releases,
            progress: progress,
            commands: commands
        )
        self.inFlight = inFlight
        self.outputs = []
        self.waitingOctets = 0
        self.releases = []
        self.hasProgress = false
        return inFlight.step
    }

    /// The step is durable. Returns what it was.
    mutating func succeeded() -> InFlight? {
        let inFlight = self.inFlight
        self.inFlight = nil
        self.isWriting = false
        self.isLate = false
        self.failureCount = 0
        self.durableCount += 1
        return inFlight
    }

    mutating func failed(now: Int64) {
        self.isWriting = false
        self.failureCount += 1
        self.retryAt = now + Self.retryDelay
        self.forgetEmpty()
    }

    mutating func contentWritten() {
        self.isContentStuck = false
    }

    mutating func contentFailed(now: Int64, isLogStuck: Bool) {
        if isLogStuck {
            self.isContentStuck = true
            self.contentStuckUntil = now + Self.contentPatience
        }
        self.retryAt = max(self.retryAt, now + Self.retryDelay)
    }

    /// Jobs whose content is appended again now.
    mutating func appendsToRetry(now: Int64) -> [UInt64] {
        guard now >= self.retryAt, !self.retryAppends.isEmpty else { return [] }
        let jobs = self.retryAppends
        self.retryAppends = []
        return jobs
    }
}

extension DeliveryCore {
    /// Writes what has finished, unless a step is being written already: that one's end writes the next, so that steps
    /// grow with the load.
    mutating func flush(now: Int64) {
        for jobID in self.builder.appendsToRetry(now: now) {
            if let record = self.contentRecord(jobID) { self.act(.append(record, job: jobID)) }
        }
        guard self.builder.isDue(now: now) else { return }
        if self.builder.inFlight == nil {
            var progress: [TopicPartition: Progress] = [:]
            for id in self.dirtyPartitions {
                if let partition = self.partitions[id] { progress[id] = partition.window.progress }
            }
            self.dirtyPartitions.removeAll(keepingCapacity: true)
            self.act(.step(self.builder.next(progress: progress, commands: self.commands, now: now)))
        } else {
            self.act(.step(self.builder.next(progress: [:], commands: [], now: now)))
        }
    }

    mutating func stepped(_ result: Result<Void, RecordLogError>, now: Int64) {
        switch result {
        case .success:
            let wasHeldUp = !self.mayBegin
            if let step = self.builder.succeeded() { self.becameDurable(step) }
            self.flush(now: now)
            for id in Array(self.partitions.keys) { self.advance(id, now: now) }
            self.wakeMore(now: now)
            self.readMore()
            if wasHeldUp { for number in Array(self.sites.keys) { self.dispatch(number, now: now) } }
            self.dispatchStarved(now: now)
        case .failure:
            // Fenced: the partitions that were lost are dropped when the log says which; the rest comes again.
            self.builder.failed(now: now)
        }
    }

    private mutating func becameDurable(_ written: StepBuilder.InFlight) {
        for (id, progress) in written.progress { self.partitions[id]?.durable = progress }
        self.durableCommands = written.commands
        if !written.releases.isEmpty { self.act(.release(written.releases)) }
    }
}
