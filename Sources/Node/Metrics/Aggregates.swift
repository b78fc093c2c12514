import NodeSupport
import Records

/// How many outcomes of each kind.
struct OutcomeCounts: Hashable, Sendable {
    private var counts = SIMD8<UInt64>()

    subscript(kind: Outcome.Kind) -> UInt64 { self.counts[kind.ordinal] }

    var total: UInt64 { self.counts.wrappedSum() }

    mutating func add(_ kind: Outcome.Kind) { self.counts[kind.ordinal] &+= 1 }

    mutating func add(_ other: OutcomeCounts) { self.counts &+= other.counts }
}

extension Outcome.Kind {
    fileprivate var ordinal: Int {
        switch self {
        case .delivered: 0
        case .deferred: 1
        case .bounced: 2
        case .expired: 3
        case .suppressed: 4
        case .removed: 5
        case .held: 6
        }
    }
}

/// Counts of durations by size: a histogram that can be added to another one.
struct DurationCounts: Hashable, Sendable {
    /// From what a fast site takes to the lifetime of a message, seconds.
    static let bounds: [Double] = [
        0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3_600, 4 * 3_600, 12 * 3_600, 86_400,
        2 * 86_400, 5 * 86_400,
    ]
    private static let boundsInMilliseconds = Self.bounds.map { Int64(($0 * 1_000).rounded()) }

    /// One more than bounds: the last has none.
    private var counts = [UInt64](repeating: 0, count: DurationCounts.bounds.count + 1)
    private var sum: UInt64 = 0

    /// Negative durations, which nodes that disagree on the time give, count as 0.
    mutating func add(milliseconds: Int64) {
        let milliseconds = max(0, milliseconds)
        let index = Self.boundsInMilliseconds.firstIndex { milliseconds <= $0 } ?? Self.bounds.count
        self.counts[index] &+= 1
        self.sum &+= UInt64(milliseconds)
    }

    mutating func add(_ other: DurationCounts) {
        for index in self.counts.indices { self.counts[index] &+= other.counts[index] }
        self.sum &+= other.sum
    }

    var reading: HistogramReading {
        var total: UInt64 = 0
        let cumulative = self.counts.map { count in
            total &+= count
            return total
        }
        return HistogramReading(bounds: Self.bounds, cumulativeCounts: cumulative, sum: Double(self.sum) / 1_000)
    }
}

/// What is counted of one site, and the last thing it said that was not a success.
struct SiteAggregate: Hashable, Sendable {
    var counts = OutcomeCounts()
    var lastFailure: String?
    var lastFailureAt: Int64 = 0
}
