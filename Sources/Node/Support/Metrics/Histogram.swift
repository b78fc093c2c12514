import Synchronization

/// Counts of durations by size; see ``MetricsRegistry/histogram(_:help:labels:buckets:)``. Safe from any thread.
public final class Histogram: Sendable {
    /// From a millisecond to five minutes: what SMTP phases and log appends take.
    public static let defaultBuckets: [Double] = [
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
    ]

    /// Atomics cannot be elements of an array; one object each can.
    private final class Bucket: Sendable {
        let count = Atomic<UInt64>(0)
    }

    /// Upper bounds in seconds, as given.
    let bounds: [Double]
    private let boundsInNanoseconds: [Int64]
    /// One more than bounds: the last has none.
    private let buckets: [Bucket]
    private let sumInNanoseconds = Atomic<UInt64>(0)

    init(bounds: [Double]) {
        precondition(
            zip(bounds, bounds.dropFirst()).allSatisfy { $0 < $1 } && bounds.allSatisfy { $0 > 0 && $0 < 1e9 },
            "Buckets ascend and are above 0."
        )
        self.bounds = bounds
        self.boundsInNanoseconds = bounds.map { Int64(($0 * 1e9).rounded()) }
        self.buckets = (0...bounds.count).map { _ in Bucket() }
    }

    public func observe(_ duration: Duration) {
        let (seconds, attoseconds) = duration.components
        let (nanoseconds, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        self.observe(nanoseconds: overflow ? .max : nanoseconds &+ attoseconds / 1_000_000_000)
    }

    /// Negative durations, which a clock set back may give, count as 0.
    public func observe(nanoseconds: Int64) {
        let nanoseconds = max(0, nanoseconds)
        var index = 0
        while index < self.boundsInNanoseconds.count, self.boundsInNanoseconds[index] < nanoseconds { index += 1 }
        self.buckets[index].count.wrappingAdd(1, ordering: .relaxed)
        self.sumInNanoseconds.wrappingAdd(UInt64(nanoseconds), ordering: .relaxed)
    }

    /// For each bound, then for none: observations up to it. The last one is the count of all.
    var cumulativeCounts: [UInt64] {
        var total: UInt64 = 0
        return self.buckets.map { bucket in
            total &+= bucket.count.load(ordering: .relaxed)
            return total
        }
    }

    /// Seconds.
    var sum: Double { Double(self.sumInNanoseconds.load(ordering: .relaxed)) / 1e9 }

    public var count: UInt64 { self.cumulativeCounts.last ?? 0 }
}
