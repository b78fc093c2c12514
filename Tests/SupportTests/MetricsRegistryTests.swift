import NodeSupport
import Testing

@Suite("MetricsRegistry: handles and the Prometheus text format")
struct MetricsRegistryTests {
    @Test("The exposition is sorted, escaped and stable")
    func writesExposition() {
        let registry = MetricsRegistry()
        registry.counter("posthorn_deliveries_total", help: "Deliveries.", labels: ["outcome": "delivered"])
            .increment(by: 3)
        registry.counter("posthorn_deliveries_total", help: "Deliveries.", labels: ["outcome": "bounced", "a": "b"])
            .increment()
        registry.gauge("posthorn_a_size_bytes", help: "Line\nand \\.", labels: ["path": "C:\\\"x\"\n"]).set(-5)
        registry.gauge("posthorn_b_ratio", help: "Read when asked.") { 0.25 }
        let expected = """
            # HELP posthorn_a_size_bytes Line\\nand \\\\.
            # TYPE posthorn_a_size_bytes gauge
            posthorn_a_size_bytes{path="C:\\\\\\"x\\"\\n"} -5
            # HELP posthorn_b_ratio Read when asked.
            # TYPE posthorn_b_ratio gauge
            posthorn_b_ratio 0.25
            # HELP posthorn_deliveries_total Deliveries.
            # TYPE posthorn_deliveries_total counter
            posthorn_deliveries_total{a="b",outcome="bounced"} 1
            posthorn_deliveries_total{outcome="delivered"} 3
            # HELP posthorn_metrics_series_refused_total Label sets that were not exported because their metric had \
            too many.
            # TYPE posthorn_metrics_series_refused_total counter
            posthorn_metrics_series_refused_total 0

            """
        #expect(registry.exposition() == expected)
        #expect(registry.exposition() == expected)
    }

    @Test("A name and labels asked for again give the same handle")
    func sharesHandles() {
        let registry = MetricsRegistry()
        let first = registry.counter("c_total", help: "C.", labels: ["a": "1", "b": "2"])
        let second = registry.counter("c_total", help: "C.", labels: ["b": "2", "a": "1"])
        first.increment()
        second.increment(by: 2)
        second.increment(by: -7)
        #expect(first.value == 3)
        #expect(first === second)
    }

    @Test("What is kept elsewhere is read when asked: whole families and histograms, bounded like the others")
    func readsElsewhere() {
        let registry = MetricsRegistry()
        registry.counters("c_total", help: "C.") {
            [
                MetricSample(labels: ["site": "b\"", "kind": "x"], value: 3),
                MetricSample(labels: ["site": "a", "kind": "x"], value: 2),
            ]
        }
        registry.gauges("g", help: "G.") {
            (0..<1_002).map { MetricSample(labels: ["n": "\($0)"], value: 1) }
        }
        registry.histogram("h_seconds", help: "H.") {
            HistogramReading(bounds: [0.5, 1], cumulativeCounts: [1, 1, 4], sum: 9.5)
        }
        let text = registry.exposition()
        #expect(text.contains("# TYPE c_total counter\nc_total{kind=\"x\",site=\"a\"} 2\n"))
        #expect(text.contains("c_total{kind=\"x\",site=\"b\\\"\"} 3\n"))
        #expect(text.split(separator: "\n").count { $0.hasPrefix("g{") } == MetricsRegistry.seriesCountMax)
        #expect(text.contains("posthorn_metrics_series_refused_total 2\n"))
        #expect(text.contains("h_seconds_bucket{le=\"1\"} 1\nh_seconds_bucket{le=\"+Inf\"} 4\n"))
        #expect(text.contains("h_seconds_sum 9.5\nh_seconds_count 4\n"))
    }

    @Test("A histogram counts up to and with each bound, in seconds")
    func countsInBuckets() {
        let registry = MetricsRegistry()
        let histogram = registry.histogram(
            "posthorn_x_seconds",
            help: "X.",
            labels: ["phase": "connect"],
            buckets: [0.5, 1, 10]
        )
        histogram.observe(.milliseconds(500))
        histogram.observe(.milliseconds(501))
        histogram.observe(.seconds(20))
        histogram.observe(.seconds(-1))
        #expect(histogram.count == 4)
        let text = registry.exposition()
        for line in [
            "posthorn_x_seconds_bucket{phase=\"connect\",le=\"0.5\"} 2",
            "posthorn_x_seconds_bucket{phase=\"connect\",le=\"1\"} 3",
            "posthorn_x_seconds_bucket{phase=\"connect\",le=\"10\"} 3",
            "posthorn_x_seconds_bucket{phase=\"connect\",le=\"+Inf\"} 4",
            "posthorn_x_seconds_sum{phase=\"connect\"} 21.001",
            "posthorn_x_seconds_count{phase=\"connect\"} 4",
        ] {
            #expect(text.contains(line + "\n"))
        }
    }

    @Test("An extreme duration does not trap")
    func takesExtremes() {
        let histogram = MetricsRegistry().histogram("x_seconds", help: "X.")
        histogram.observe(.seconds(Int64.max))
        histogram.observe(nanoseconds: .min)
        #expect(histogram.count == 2)
    }

    @Test("Label sets beyond the bound work, are not exported and are counted")
    func boundsSeries() {
        let registry = MetricsRegistry()
        for index in 0..<(MetricsRegistry.seriesCountMax + 5) {
            registry.counter("many_total", help: "Many.", labels: ["n": "\(index)"]).increment()
        }
        let text = registry.exposition()
        #expect(text.split(separator: "\n").count { $0.hasPrefix("many_total{") } == MetricsRegistry.seriesCountMax)
        #expect(text.contains("posthorn_metrics_series_refused_total 5\n"))
    }

    @Test("Increments from many tasks all count")
    func countsConcurrently() async {
        let registry = MetricsRegistry()
        let counter = registry.counter("c_total", help: "C.")
        let gauge = registry.gauge("g", help: "G.")
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<8 {
                group.addTask {
                    for _ in 0..<1_000 {
                        counter.increment()
                        gauge.increment()
                        gauge.decrement()
                    }
                }
            }
        }
        #expect(counter.value == 8_000)
        #expect(gauge.value == 0)
    }

    @Test("A callback may ask the registry for metrics while it is read")
    func callbacksMayUseTheRegistry() {
        let registry = MetricsRegistry()
        registry.gauge("outer", help: "Outer.") { Double(registry.counter("inner_total", help: "Inner.").value) }
        #expect(registry.exposition().contains("outer 0\n"))
    }

    @Test("The process says what it uses")
    func describesProcess() throws {
        let registry = MetricsRegistry()
        registry.addProcessMetrics()
        let values = registry.exposition().split(separator: "\n").filter { !$0.hasPrefix("#") }
            .reduce(into: [Substring: Double]()) { values, line in
                let parts = line.split(separator: " ")
                values[parts[0]] = Double(parts[1])
            }
        #expect(try #require(values["process_resident_memory_bytes"]) > 1_000_000)
        #expect(try #require(values["process_open_fds"]) >= 3)
        #expect(try #require(values["process_max_fds"]) >= 3)
        #expect(try #require(values["process_cpu_seconds_total"]) > 0)
        let start = try #require(values["process_start_time_seconds"])
        let now = Double(SystemClock().milliseconds) / 1_000
        #expect(start <= now + 1 && start > now - 3_600)
    }
}
