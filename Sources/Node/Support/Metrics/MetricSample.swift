/// A value with its labels; see ``MetricsRegistry/counters(_:help:reading:)``.
public struct MetricSample: Hashable, Sendable {
    public var labels: [String: String]
    public var value: Double

    public init(labels: [String: String], value: Double) {
        self.labels = labels
        self.value = value
    }
}

/// What a histogram holds at one moment; see ``MetricsRegistry/histogram(_:help:reading:)``.
public struct HistogramReading: Hashable, Sendable {
    /// Upper bounds in seconds, ascending.
    public var bounds: [Double]
    /// For each bound, then for none: observations up to it. The last one is the count of all.
    public var cumulativeCounts: [UInt64]
    /// Seconds.
    public var sum: Double

    public init(bounds: [Double], cumulativeCounts: [UInt64], sum: Double) {
        precondition(cumulativeCounts.count == bounds.count + 1, "One count more than bounds.")
        self.bounds = bounds
        self.cumulativeCounts = cumulativeCounts
        self.sum = sum
    }

    init(_ histogram: Histogram) {
        self.init(bounds: histogram.bounds, cumulativeCounts: histogram.cumulativeCounts, sum: histogram.sum)
    }
}
