import ClusterLog
import NodeSupport
import Records

/// What one metrics node knows: the partitions it has, each with its own index, and the bounds for all together.
/// Sans-IO.
struct OutcomeIndex: Sendable {
    /// The label of the sites that have none of their own.
    static let otherSites = "other"

    private let settings: MetricsSettings
    private(set) var partitions: [Int32: PartitionIndex] = [:]
    private(set) var sizes = PartitionIndex.Sizes()
    private var generation = 0
    /// The sites that have a label: to lose it, one must be half as busy as another one that has none.
    private var labelled: Set<String> = []

    init(settings: MetricsSettings) {
        self.settings = settings
    }

    // MARK: Partitions

    /// The partition is this node's from now on: its index begins empty.
    ///
    /// - Returns: what ``apply(_:to:generation:now:)`` and ``rebuilt(_:generation:)`` are given, so that work for an
    ///   earlier assignment has no effect.
    mutating func assigned(_ partition: Int32, start: Offset) -> Int {
        self.dropped(partition)
        self.generation += 1
        self.partitions[partition] = PartitionIndex(
            generation: self.generation,
            start: start,
            siteCountMax: self.settings.siteCountMax
        )
        return self.generation
    }

    mutating func dropped(_ partition: Int32) {
        guard let index = self.partitions.removeValue(forKey: partition) else { return }
        self.sizes.live -= index.sizes.live
        self.sizes.recent -= index.sizes.recent
    }

    mutating func droppedAll() {
        self.partitions = [:]
        self.sizes = PartitionIndex.Sizes()
    }

    func generation(of partition: Int32) -> Int? { self.partitions[partition]?.generation }

    /// Where each partition that has been rebuilt stands.
    var positions: [Int32: Offset] { self.partitions.filter { !$0.value.isRebuilding }.mapValues(\.next) }

    var rebuilding: [Int32] { self.partitions.filter { $0.value.isRebuilding }.keys.sorted() }

    // MARK: Events

    /// - Parameter now: milliseconds since 1970.
    /// - Returns: whether the partition is still assigned as it was.
    mutating func apply(_ records: [IndexRecord], to partition: Int32, generation: Int, now: Int64) -> Bool {
        guard self.partitions[partition]?.generation == generation else { return false }
        let recentSince = now.subtractingClamped(self.settings.recentAge.milliseconds)
        for record in records {
            let before = self.partitions[partition]?.sizes ?? PartitionIndex.Sizes()
            let hasRoom = self.sizes.live < self.settings.liveCountMax
            _ = self.partitions[partition]?.apply(record, hasRoom: hasRoom, recentSince: recentSince)
            let after = self.partitions[partition]?.sizes ?? PartitionIndex.Sizes()
            self.sizes.live += after.live - before.live
            self.sizes.recent += after.recent - before.recent
            if self.sizes.recent > self.settings.recentCountMax { self.removeOldestFinished() }
        }
        return true
    }

    mutating func rebuilt(_ partition: Int32, generation: Int) {
        guard self.partitions[partition]?.generation == generation else { return }
        self.partitions[partition]?.isRebuilding = false
    }

    /// Forgets what is too old to be kept. To be called now and then.
    mutating func forget(now: Int64) {
        let recentSince = now.subtractingClamped(self.settings.recentAge.milliseconds)
        // A day for the last attempt to come to its end and for clocks to differ.
        let longest = max(self.settings.lifetime, self.settings.notificationLifetime) + .seconds(86_400)
        let liveSince = now.subtractingClamped(longest.milliseconds)
        for partition in Array(self.partitions.keys) {
            self.change(partition) { index in
                while let oldest = index.oldestFinished, oldest < recentSince { index.removeOldestFinished() }
                index.removeStale(before: liveSince)
            }
        }
    }

    private mutating func removeOldestFinished() {
        let oldest = self.partitions.min { ($0.value.oldestFinished ?? .max) < ($1.value.oldestFinished ?? .max) }
        guard let oldest else { return }
        self.change(oldest.key) { $0.removeOldestFinished() }
    }

    private mutating func change(_ partition: Int32, _ body: (inout PartitionIndex) -> Void) {
        guard let before = self.partitions[partition]?.sizes else { return }
        self.partitions[partition].mutate(body)
        let after = self.partitions[partition]?.sizes ?? before
        self.sizes.live += after.live - before.live
        self.sizes.recent += after.recent - before.recent
    }

    // MARK: Totals

    func sum(_ count: (PartitionIndex) -> UInt64) -> UInt64 {
        self.partitions.values.reduce(0) { $0 &+ count($1) }
    }

    func durations(_ counts: (PartitionIndex) -> DurationCounts) -> HistogramReading {
        var sum = DurationCounts()
        for index in self.partitions.values { sum.add(counts(index)) }
        return sum.reading
    }

    /// The outcomes of the busiest sites, and of all others together under `other`.
    mutating func sites() -> [(site: String, counts: OutcomeCounts)] {
        var sums: [String: OutcomeCounts] = [:]
        var other = OutcomeCounts()
        for index in self.partitions.values {
            other.add(index.otherSites)
            for (site, aggregate) in index.sites { sums[site, default: OutcomeCounts()].add(aggregate.counts) }
        }
        if let namesake = sums.removeValue(forKey: Self.otherSites) { other.add(namesake) }
        let labelled = self.labelled
        let order = sums.sorted {
            let left = $0.value.total &* (labelled.contains($0.key) ? 2 : 1)
            let right = $1.value.total &* (labelled.contains($1.key) ? 2 : 1)
            return (left, $1.key) > (right, $0.key)
        }
        var result = order.prefix(self.settings.siteLabelCountMax).map { (site: $0.key, counts: $0.value) }
        self.labelled = Set(result.map(\.site))
        for (_, counts) in order.dropFirst(self.settings.siteLabelCountMax) { other.add(counts) }
        result.append((Self.otherSites, other))
        return result
    }
}

extension Optional {
    fileprivate mutating func mutate(_ body: (inout Wrapped) -> Void) {
        guard var value = exchange(&self, with: nil) else { return }
        body(&value)
        self = value
    }
}
