import DequeModule

/// The jobs of one site that wait for a connection: mail that was parked and other mail, each oldest first.
///
/// While both wait they are taken in turns, so that parked mail gets at least half of the site (DESIGN §5).
struct SiteQueue: Sendable {
    private var parked: Deque<UInt64> = []
    private var fresh: Deque<UInt64> = []
    private var isFreshNext = false

    var count: Int { self.parked.count + self.fresh.count }
    var isEmpty: Bool { self.parked.isEmpty && self.fresh.isEmpty }
    var parkedCount: Int { self.parked.count }

    /// The oldest of its kind.
    func head(wasParked: Bool) -> UInt64? {
        wasParked ? self.parked.first : self.fresh.first
    }

    /// Jobs that are taken before one of this kind that comes now.
    func countAhead(wasParked: Bool) -> Int {
        min(self.count, 2 * (wasParked ? self.parked.count : self.fresh.count))
    }

    mutating func append(_ job: UInt64, wasParked: Bool) {
        if wasParked { self.parked.append(job) } else { self.fresh.append(job) }
    }

    /// It comes before all others of its kind.
    mutating func prepend(_ job: UInt64, wasParked: Bool) {
        if wasParked { self.parked.prepend(job) } else { self.fresh.prepend(job) }
    }

    mutating func popNext() -> UInt64? {
        let takesFresh = self.parked.isEmpty || (self.isFreshNext && !self.fresh.isEmpty)
        self.isFreshNext = !takesFresh
        return takesFresh ? self.fresh.popFirst() : self.parked.popFirst()
    }

    mutating func remove(_ job: UInt64) {
        self.parked.removeAll { $0 == job }
        self.fresh.removeAll { $0 == job }
    }

    /// Empties the queue. Returns what was in it: parked mail first.
    mutating func takeAll() -> [UInt64] {
        let all = Array(self.parked) + Array(self.fresh)
        self.parked.removeAll()
        self.fresh.removeAll()
        return all
    }
}
