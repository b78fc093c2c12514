import Synchronization

/// The node's metrics and their text form: a small Prometheus exporter.
///
/// Asking for a metric resolves its labels once and returns a handle; using a handle is an atomic add or two, without
/// a lock or a look-up. Asking again for the same name and labels returns the same handle. Safe from any thread.
///
/// Names follow Prometheus: `posthorn_<what>_<unit>`, counters end in `_total`, units are seconds and bytes. Label
/// values come from closed sets: never a recipient, and a domain only when allow-listed.
public final class MetricsRegistry: Sendable {
    /// Label sets one name may have. Beyond it a handle works but is not exported, and
    /// `posthorn_metrics_series_refused_total` counts it: a set that was not closed after all costs no memory.
    public static let seriesCountMax = 1_000

    enum Kind: String {
        case counter
        case gauge
        case histogram
    }

    private enum Series {
        case counter(Counter)
        case gauge(Gauge)
        case histogram(Histogram)
        case callback(@Sendable () -> Double)
        case collection(@Sendable () -> [MetricSample])
        case histogramReading(@Sendable () -> HistogramReading)
    }

    private struct Family {
        let kind: Kind
        let help: String
        /// By the labels' text, `a="b",c="d"`.
        var series: [String: Series] = [:]
    }

    private let families = Mutex<[String: Family]>([:])
    private let refused = Counter()

    public init() {
        self.insert(
            .counter(self.refused),
            kind: .counter,
            name: "posthorn_metrics_series_refused_total",
            help: "Label sets that were not exported because their metric had too many.",
            labels: ""
        )
    }

    /// A count that only grows; its name ends in `_total`.
    public func counter(_ name: String, help: String, labels: [String: String] = [:]) -> Counter {
        let series = self.findOrInsert(name, .counter, help, labels) { .counter(Counter()) }
        guard case .counter(let counter) = series else { preconditionFailure("A metric of this name is no counter.") }
        return counter
    }

    /// A count for each case, told apart by the case's raw value as `label`.
    public func counters<Kind: CaseIterable & Hashable & RawRepresentable<String>>(
        _ name: String,
        help: String,
        label: String
    ) -> [Kind: Counter] {
        Dictionary(
            uniqueKeysWithValues: Kind.allCases.map { kind in
                (kind, self.counter(name, help: help, labels: [label: kind.rawValue]))
            }
        )
    }

    /// A value that is set or moved up and down.
    public func gauge(_ name: String, help: String, labels: [String: String] = [:]) -> Gauge {
        let series = self.findOrInsert(name, .gauge, help, labels) { .gauge(Gauge()) }
        guard case .gauge(let gauge) = series else {
            preconditionFailure("A metric of this name is no settable gauge.")
        }
        return gauge
    }

    /// A value that is read when metrics are: `reading` may run on any thread, and must return at once. The latest
    /// one given for a name and labels counts.
    public func gauge(
        _ name: String,
        help: String,
        labels: [String: String] = [:],
        reading: @escaping @Sendable () -> Double
    ) {
        self.insert(.callback(reading), kind: .gauge, name: name, help: help, labels: Self.text(of: labels))
    }

    /// A count kept elsewhere, read when metrics are; see ``gauge(_:help:labels:reading:)``.
    public func counter(
        _ name: String,
        help: String,
        labels: [String: String] = [:],
        reading: @escaping @Sendable () -> Double
    ) {
        self.insert(.callback(reading), kind: .counter, name: name, help: help, labels: Self.text(of: labels))
    }

    /// Counts kept elsewhere, whose label sets come and go: all of the name's samples, read when metrics are. Beyond
    /// ``seriesCountMax`` samples are left out and counted as refused.
    public func counters(_ name: String, help: String, reading: @escaping @Sendable () -> [MetricSample]) {
        self.insert(.collection(reading), kind: .counter, name: name, help: help, labels: "")
    }

    /// Values kept elsewhere; see ``counters(_:help:reading:)``.
    public func gauges(_ name: String, help: String, reading: @escaping @Sendable () -> [MetricSample]) {
        self.insert(.collection(reading), kind: .gauge, name: name, help: help, labels: "")
    }

    /// A histogram kept elsewhere, read when metrics are; see ``gauge(_:help:labels:reading:)``.
    public func histogram(_ name: String, help: String, reading: @escaping @Sendable () -> HistogramReading) {
        self.insert(.histogramReading(reading), kind: .histogram, name: name, help: help, labels: "")
    }

    /// How long things took; its name ends in `_seconds`.
    ///
    /// - Parameter buckets: upper bounds in seconds, ascending; the bucket without a bound is added.
    public func histogram(
        _ name: String,
        help: String,
        labels: [String: String] = [:],
        buckets: [Double] = Histogram.defaultBuckets
    ) -> Histogram {
        let series = self.findOrInsert(name, .histogram, help, labels) { .histogram(Histogram(bounds: buckets)) }
        guard case .histogram(let histogram) = series else {
            preconditionFailure("A metric of this name is no histogram.")
        }
        return histogram
    }

    /// Everything there is, in the Prometheus text format 0.0.4, sorted by name and labels.
    public func exposition() -> String {
        // Callbacks run outside the lock: they may ask for metrics themselves.
        let families = self.families.withLock { $0 }
        var text = ExpositionText()
        for (name, family) in families.sorted(by: { $0.key < $1.key }) {
            text.writeHead(name: name, kind: family.kind, help: family.help)
            for (labels, series) in family.series.sorted(by: { $0.key < $1.key }) {
                switch series {
                case .counter(let counter): text.writeSample(name, labels, "\(counter.value)")
                case .gauge(let gauge): text.writeSample(name, labels, "\(gauge.value)")
                case .callback(let reading): text.writeSample(name, labels, ExpositionText.number(reading()))
                case .histogram(let histogram): text.writeHistogram(name, labels, HistogramReading(histogram))
                case .histogramReading(let reading): text.writeHistogram(name, labels, reading())
                case .collection(let reading): self.write(reading(), name: name, to: &text)
                }
            }
        }
        return text.text
    }

    private func write(_ samples: [MetricSample], name: String, to text: inout ExpositionText) {
        self.refused.increment(by: samples.count - Self.seriesCountMax)
        let lines = samples.prefix(Self.seriesCountMax).map { (labels: Self.text(of: $0.labels), value: $0.value) }
        for line in lines.sorted(by: { $0.labels < $1.labels }) {
            text.writeSample(name, line.labels, ExpositionText.number(line.value))
        }
    }

    private func findOrInsert(
        _ name: String,
        _ kind: Kind,
        _ help: String,
        _ labels: [String: String],
        make: () -> Series
    ) -> Series {
        let key = Self.text(of: labels)
        let made = make()
        return self.families.withLock { families in
            Self.insert(made, replaces: false, into: &families, kind: kind, name: name, help: help, labels: key)
        } ?? self.refuse(made)
    }

    private func insert(_ series: Series, kind: Kind, name: String, help: String, labels: String) {
        let inserted = self.families.withLock { families in
            Self.insert(series, replaces: true, into: &families, kind: kind, name: name, help: help, labels: labels)
        }
        if inserted == nil { _ = self.refuse(series) }
    }

    private func refuse(_ series: Series) -> Series {
        self.refused.increment()
        return series
    }

    /// Returns what is now there under the name and labels; `nil` when the family is full.
    private static func insert(
        _ series: Series,
        replaces: Bool,
        into families: inout [String: Family],
        kind: Kind,
        name: String,
        help: String,
        labels: String
    ) -> Series? {
        precondition(ExpositionText.isName(name), "A metric's name is letters, digits and underscores.")
        var family = families[name] ?? Family(kind: kind, help: help)
        precondition(family.kind == kind, "One metric name has one kind.")
        if let existing = family.series[labels], !replaces { return existing }
        guard family.series[labels] != nil || family.series.count < Self.seriesCountMax else { return nil }
        family.series[labels] = series
        families[name] = family
        return series
    }

    private static func text(of labels: [String: String]) -> String {
        labels.sorted { $0.key < $1.key }
            .map { label in
                precondition(
                    ExpositionText.isName(label.key) && label.key != "le",
                    "A label's name is letters, digits, underscores."
                )
                return "\(label.key)=\"\(ExpositionText.escapedValue(label.value))\""
            }
            .joined(separator: ",")
    }
}
