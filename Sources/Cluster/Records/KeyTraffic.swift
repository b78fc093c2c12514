/// How much each of the busiest names carries, in bounded memory, and how many buckets that makes (DESIGN §2).
///
/// Counts are Misra and Gries's: a name that is new when the table is full takes one from every count instead of a
/// place, so that no name with more than 1/(places + 1) of the traffic is missed, and none is counted too high. They
/// halve every minute, so that what is past fades.
///
/// A name's buckets double as soon as one of them would carry more than ``bucketLoadMax`` of a partition's fair share,
/// and halve, a step a minute, once half as many would carry less than half of that: what lies between changes nothing.
struct KeyTraffic: Sendable {
    /// What the configuration says of a name.
    struct Fixed: Sendable {
        /// What it is keyed as.
        var name: String
        /// `nil` is learned.
        var bucketCount: Int?
    }

    private struct Slot: Sendable {
        let name: String
        var count = 0.0
        var bucketCount: Int
        let isFixed: Bool
    }

    /// The part of a partition's fair share of all traffic that one bucket may carry.
    static let bucketLoadMax = 0.5
    /// Records of a name before anything follows from them.
    static let sampleCountMin = 64.0
    /// Milliseconds.
    static let halfLife: Int64 = 60_000

    private let partitionCount: Int
    private let hotRate: Double
    private let slotCountMax: Int
    private var slots: [Slot] = []
    /// Names and aliases, by their slots.
    private var places: [String: Int] = [:]
    private var total = 0.0
    /// Seconds that the counts are about; fades as they do.
    private var time = 0.0
    private var lastAt: Int64?
    private var halvedAt: Int64 = 0

    init(_ configuration: KeySpreading.Configuration) {
        self.partitionCount = configuration.partitionCount
        self.hotRate = configuration.hotRate
        // A name that is spread has at least half a fair share: an error of an eighth is little.
        self.slotCountMax = max(256, 8 * configuration.partitionCount)
    }

    var trackedCount: Int { self.slots.count }

    func bucketCount(of name: String) -> Int? {
        self.places[name].map { self.slots[$0].bucketCount }
    }

    /// One more record for the name. Returns what it is keyed as, and over how many buckets.
    mutating func note(_ name: String, now: Int64, fixed: [String: Fixed]) -> (name: String, bucketCount: Int) {
        self.advance(to: now)
        self.total += 1
        guard let place = self.places[name] ?? self.place(of: name, fixed) else {
            // What is configured is so even when there is no room to count it.
            let canonical = fixed[name]?.name ?? name
            return (canonical, fixed[canonical]?.bucketCount ?? 1)
        }
        self.slots[place].count += 1
        self.grow(place)
        return (self.slots[place].name, self.slots[place].bucketCount)
    }

    private mutating func grow(_ place: Int) {
        let slot = self.slots[place]
        guard !slot.isFixed, slot.bucketCount < self.partitionCount, slot.count >= Self.sampleCountMin,
            slot.count >= self.hotRate * max(self.time, 1)
        else { return }
        var count = slot.bucketCount
        while count < self.partitionCount, self.load(slot.count, bucketCount: count) > Self.bucketLoadMax { count *= 2 }
        self.slots[place].bucketCount = min(count, self.partitionCount)
    }

    /// What one of so many buckets carries, in fair shares of a partition.
    private func load(_ count: Double, bucketCount: Int) -> Double {
        count / self.total * Double(self.partitionCount) / Double(bucketCount)
    }

    // MARK: Places

    /// A place for a name that has none; `nil` when there is no room.
    private mutating func place(of name: String, _ fixed: [String: Fixed]) -> Int? {
        let canonical = fixed[name]?.name ?? name
        if let place = self.places[canonical] {
            self.places[name] = place
            return place
        }
        guard self.slots.count < self.slotCountMax else {
            for index in self.slots.indices { self.slots[index].count -= 1 }
            self.sweep { $0.count > 0 }
            return nil
        }
        let bucketCount = fixed[canonical]?.bucketCount
        self.slots.append(Slot(name: canonical, bucketCount: bucketCount ?? 1, isFixed: bucketCount != nil))
        self.places[canonical] = self.slots.count - 1
        self.places[name] = self.slots.count - 1
        return self.slots.count - 1
    }

    private mutating func sweep(_ isKept: (Slot) -> Bool) {
        var kept: [Slot] = []
        kept.reserveCapacity(self.slots.count)
        let moved = self.slots.map { slot -> Int? in
            guard isKept(slot) else { return nil }
            kept.append(slot)
            return kept.count - 1
        }
        guard kept.count < self.slots.count else { return }
        self.slots = kept
        self.places = self.places.compactMapValues { moved[$0] }
    }

    // MARK: Time

    private mutating func advance(to now: Int64) {
        guard let last = self.lastAt else {
            self.lastAt = now
            self.halvedAt = now
            return
        }
        self.lastAt = now
        guard now > last else {
            self.halvedAt = min(self.halvedAt, now)
            return
        }
        self.time += Double(now - last) / 1_000
        if now - self.halvedAt >= Self.halfLife { self.halve(now: now) }
    }

    private mutating func halve(now: Int64) {
        let count = (now - self.halvedAt) / Self.halfLife
        self.halvedAt = now
        let part = count < 60 ? 1 / Double(Int64(1) << count) : 0
        self.total *= part
        self.time *= part
        for index in self.slots.indices {
            self.slots[index].count *= part
            self.shrink(index)
        }
        self.sweep { $0.count >= 0.5 || $0.bucketCount > 1 && !$0.isFixed }
    }

    private mutating func shrink(_ place: Int) {
        let slot = self.slots[place]
        guard !slot.isFixed, slot.bucketCount > 1 else { return }
        // The largest power of two below, so that a number that was cut off at the partition count comes back to one.
        let fewer = 1 << (Int.bitWidth - 1 - (slot.bucketCount - 1).leadingZeroBitCount)
        let isQuiet = slot.count < self.hotRate / 2 * max(self.time, 1)
        guard isQuiet || self.load(slot.count, bucketCount: fewer) < Self.bucketLoadMax / 2 else { return }
        self.slots[place].bucketCount = fewer
    }
}
