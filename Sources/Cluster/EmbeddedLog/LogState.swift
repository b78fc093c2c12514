import ClusterLog

/// What waits for the writer.
struct WriteItem: Sendable {
    enum Kind: Sendable {
        case append
        case step(LocalGroups.MemberID, GroupID, [TopicPartition: Progress])
        /// Partitions that a group was assigned before it made progress there.
        case starts([(group: GroupID, partition: TopicPartition, offset: Offset)])
        case release([(key: PartitionKey, offset: Int64)])
        /// Refused already; it only waits for its turn to be told.
        case refused(RecordLogError)
        /// Start a new segment.
        case roll
    }

    var kind: Kind
    var records: [Record] = []
    var keys: [PartitionKey] = []
    var size = 0
    var completion: RecordLog.AppendCompletion?

    var isStep: Bool {
        if case .step = self.kind { return true }
        return false
    }

    /// Whether a client waits for it; a step does not, and shares the next append's fsync.
    var isUrgent: Bool {
        switch self.kind {
        case .append, .refused, .roll: true
        case .step, .starts, .release: false
        }
    }
}

/// What the log's threads and callers share, under one lock that is held for short, synchronous work only.
struct LogState {
    var groups: LocalGroups
    var topics: [Topic] = []
    var topicIDs: [Topic: PartitionKey] = [:]

    // Files.
    var sealed: [SealedSegment] = []
    var history: [HistoryFile] = []
    /// Up to where each partition of a history or compacted topic was moved there.
    var historyEnds: [PartitionKey: Int64] = [:]
    var activePath = ""
    var activeNumber: Int64 = 0
    var activeRanges: [PartitionKey: PartitionRange] = [:]
    var activeSize: Int64 = 0
    var activeSince = ContinuousClock.now
    var released: [PartitionKey: OffsetRanges] = [:]
    /// Cleared WALs of finished segments, for the next segments.
    var spares: [String] = []
    /// Spares, and those about to be.
    var spareCount = 0
    /// Grows whenever the set of files changes.
    var fileEpoch = 0

    // The writer.
    var queue: [WriteItem] = []
    var queueSize = 0
    var isWriterIdle = false
    var isRollRequested = false
    var cache: TailCache

    // Space.
    var condition = LogCondition.writable
    var freeSize: Int64?
    var lastFailure: String?

    // Callers.
    var waiters: [LocalGroups.MemberID: CheckedContinuation<Void, Never>] = [:]
    var leaving: [LocalGroups.MemberID: CheckedContinuation<Void, Never>] = [:]
    /// No new calls.
    var isClosed = false
    /// The writer is to end once its queue is empty.
    var isStopping = false
    /// A fault plan ended the instance, or it could not be saved: nothing more is written.
    var isAbandoned = false

    init(partitionCount: Int, tailCacheSize: Int) {
        self.groups = LocalGroups(partitionCount: partitionCount)
        self.cache = TailCache(sizeMax: tailCacheSize)
    }

    /// The number of a topic, given on first sight.
    mutating func id(of topic: Topic) -> PartitionKey {
        if let id = self.topicIDs[topic] { return id }
        let id = PartitionKey(self.topics.count)
        self.topics.append(topic)
        self.topicIDs[topic] = id
        self.groups.create(topic)
        return id
    }

    mutating func key(of partition: TopicPartition) -> PartitionKey {
        self.id(of: partition.topic) << 16 | PartitionKey(partition.partition)
    }

    func existingKey(of partition: TopicPartition) -> PartitionKey? {
        self.topicIDs[partition.topic].map { $0 << 16 | PartitionKey(partition.partition) }
    }

    func partition(of key: PartitionKey) -> TopicPartition? {
        let id = Int(key >> 16)
        guard self.topics.indices.contains(id) else { return nil }
        return TopicPartition(self.topics[id], Int32(truncatingIfNeeded: key & 0xffff))
    }

    /// Octets of all files.
    var totalSize: Int64 {
        self.sealed.reduce(self.activeSize) { $0 + $1.file.size } + self.history.reduce(0) { $0 + $1.file.size }
    }

    // MARK: Where the records of a partition are

    /// A file and the offsets of one partition that are read from it.
    struct Extent: Sendable {
        var path: String
        var offsets: Range<Int64>
    }

    /// The files that hold a partition, oldest records first. Together they cover each offset at most once.
    func extents(of key: PartitionKey) -> [Extent] {
        var result: [Extent] = []
        for file in self.history {
            guard let range = file.file.ranges[key] else { continue }
            result.append(Extent(path: file.file.path, offsets: range.first..<range.end))
        }
        let moved = self.historyEnds[key] ?? 0
        for segment in self.sealed {
            guard let range = segment.file.ranges[key], range.end > moved else { continue }
            result.append(Extent(path: segment.file.path, offsets: max(moved, range.first)..<range.end))
        }
        if let range = self.activeRanges[key], range.end > moved {
            result.append(Extent(path: self.activePath, offsets: max(moved, range.first)..<range.end))
        }
        return result
    }

    /// Tells the groups where partitions begin now.
    mutating func refreshBounds(_ keys: some Sequence<PartitionKey>) {
        for key in keys {
            guard let partition = self.partition(of: key) else { continue }
            let end = self.groups.bounds(partition).upperBound
            let start = self.extents(of: key).first.map { Offset($0.offsets.lowerBound) } ?? end
            self.groups.setBounds(partition, min(start, end)..<end)
        }
    }

    // MARK: Space

    /// Decides what may be appended from how much space is left.
    mutating func updateCondition(_ configuration: EmbeddedLogConfiguration) {
        if self.isClosed || self.isAbandoned {
            self.condition = .unavailable(reason: "The log is closed.")
            return
        }
        if let failure = self.lastFailure {
            self.condition = .unavailable(reason: failure)
            return
        }
        var left = self.freeSize ?? Int64.max
        var limit = "the disk"
        if let sizeMax = configuration.sizeMax, sizeMax - self.totalSize < left {
            left = sizeMax - self.totalSize
            limit = "the log's size limit"
        }
        if left <= configuration.reserveSize / 16 {
            self.condition = .unavailable(reason: "Nothing is left of \(limit), not even the reserve.")
        } else if left <= configuration.reserveSize {
            self.condition = .reserveOnly(reason: "Only the reserve is left of \(limit).")
        } else {
            self.condition = .writable
        }
    }

    /// Whether there is so much space that a segment's may be taken beforehand.
    static func canReserve(_ configuration: EmbeddedLogConfiguration, freeSize: Int64?, totalSize: Int64) -> Bool {
        guard let freeSize else { return false }
        let left = min(freeSize, (configuration.sizeMax ?? Int64.max) - totalSize)
        return left - configuration.segmentSize > 2 * configuration.reserveSize
    }

    /// Where the next segment's WAL comes from.
    mutating func takeWAL(_ configuration: EmbeddedLogConfiguration) -> ActiveSegment.WALSource {
        guard Self.canReserve(configuration, freeSize: self.freeSize, totalSize: self.totalSize) else { return .none }
        guard let spare = self.spares.popLast() else { return .reserved(size: configuration.segmentSize) }
        self.spareCount -= 1
        return .spare(spare)
    }

    /// Why records cannot be appended now; `nil` when they can.
    func refusal(of records: [Record], isStep: Bool) -> RecordLogError? {
        if self.isClosed { return RecordLogError(.closed, isRetriable: false) }
        if self.isAbandoned { return RecordLogError(.unavailable, isRetriable: false, reason: "The log stopped.") }
        if records.isEmpty { return nil }
        switch self.condition {
        case .writable: return nil
        case .reserveOnly(let reason):
            if isStep || records.allSatisfy({ $0.topic == .content }) { return nil }
            return RecordLogError(.noSpace, isRetriable: true, reason: reason)
        case .unavailable(let reason):
            return RecordLogError(.noSpace, isRetriable: true, reason: reason)
        }
    }

    /// The callers that have something to do now, to be resumed once the lock is not held any more.
    mutating func takeWakeups() -> [CheckedContinuation<Void, Never>] {
        let starts = self.groups.takeNewStarts()
        if !starts.isEmpty, !self.isStopping, !self.isAbandoned {
            self.queue.append(WriteItem(kind: .starts(starts)))
        }
        return self.groups.takeWakeups().compactMap { self.waiters.removeValue(forKey: $0) }
    }
}

/// A file of history, or the one of compacted topics.
struct HistoryFile: Sendable {
    /// Days since 1970; `nil` for compacted topics, which have no age.
    var day: Int64?
    var file: RecordFile
}
