import ClusterLog

/// Chooses the keys of records: domains of one provider share one, and a name that carries too much for one partition
/// is spread over buckets (DESIGN §2, ADR 0011).
///
/// The buckets of a name take turns: a few milliseconds each. So what is appended together is mostly in one partition, and
/// a broker writes one batch of many records where it would write many of one. Over a second all buckets get as much.
///
/// Nodes do not agree on how many buckets a name has, and need not: a key decides which partition a record waits in and
/// nothing else. What must not move, the outcomes of one recipient, follows the bucket that the message was accepted
/// into (``QueueEntry/domainBucket``).
///
/// A value of its owner's, one for each kind of record; instants come in.
public struct KeySpreading: Sendable {
    public struct Configuration: Hashable, Sendable {
        /// No name has more buckets.
        public var partitionCount: Int
        /// Domains and the domain they are keyed as.
        public var aliases: [String: String] = [:]
        /// What names are spread over, whatever they carry; 1 is never spread.
        public var bucketCounts: [String: Int] = [:]
        /// Whether other names are spread when they carry much.
        public var learns = false
        /// Records a second below which a name is not spread by itself.
        public var hotRate = 2.0
        /// Turns that this owner is ahead of others, so that not all fill the same partition at a time.
        public var phase = 0

        public init(partitionCount: Int) {
            precondition(partitionCount > 0)
            self.partitionCount = min(partitionCount, SpreadKey.bucketCountMax)
        }
    }

    /// What a bucket's turn lasts, milliseconds.
    static let turn: Int64 = 5

    private let fixed: [String: KeyTraffic.Fixed]
    private let phase: Int
    private var traffic: KeyTraffic?

    public init(_ configuration: Configuration) {
        var fixed = configuration.aliases.mapValues { KeyTraffic.Fixed(name: $0) }
        for (name, count) in configuration.bucketCounts {
            fixed[name, default: KeyTraffic.Fixed(name: name)].bucketCount =
                min(max(count, 1), configuration.partitionCount)
        }
        self.fixed = fixed
        self.phase = configuration.phase
        self.traffic = configuration.learns && configuration.partitionCount > 1 ? KeyTraffic(configuration) : nil
    }

    /// The key of a record that goes to the partition of `name`, and notes that there is one more.
    ///
    /// - Parameters:
    ///   - name: a destination domain, or a site.
    ///   - now: milliseconds of any clock that goes forward; one that is set back costs accuracy only.
    public mutating func key(for name: String, now: Int64) -> SpreadKey {
        let place: (name: String, bucketCount: Int)
        if self.traffic != nil {
            place = self.traffic?.note(name, now: now, fixed: self.fixed) ?? (name, 1)
        } else {
            let fixed = self.fixed[name]
            let canonical = fixed?.name ?? name
            let count = canonical == name ? fixed?.bucketCount : self.fixed[canonical]?.bucketCount
            place = (canonical, count ?? 1)
        }
        guard place.bucketCount > 1 else { return SpreadKey(name: place.name) }
        let bucket = Self.bucket(at: now, phase: self.phase, bucketCount: place.bucketCount)
        return SpreadKey(name: place.name, bucket: bucket)
    }

    /// Whether the configuration says how many buckets the name has.
    public func isConfigured(_ name: String) -> Bool { self.fixed[name]?.bucketCount != nil }

    /// The bucket among so many whose turn it is.
    static func bucket(at now: Int64, phase: Int, bucketCount: Int) -> Int {
        let turn = UInt64(bitPattern: now / Self.turn) &+ UInt64(bitPattern: Int64(phase))
        return Int(turn % UInt64(bucketCount))
    }

    /// Buckets of a name as they are now.
    func bucketCount(of name: String) -> Int {
        self.fixed[name]?.bucketCount ?? self.traffic?.bucketCount(of: name) ?? 1
    }

    /// Names whose traffic is kept count of.
    var trackedCount: Int { self.traffic?.trackedCount ?? 0 }
}
