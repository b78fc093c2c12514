import ClusterLog
import NodeSupport
import Records

/// What the metrics service exports. Everything that is counted from outcomes is about the partitions this node has
/// now, and is counted from the log's start: sums over the cluster's metrics nodes are totals of what the log holds.
struct IndexMetrics: Sendable {
    let truncations: Counter
    let commitFailures: Counter
    let rebuildDuration: Histogram

    init(_ registry: MetricsRegistry, _ index: LocalIndex) {
        self.truncations = registry.counter(
            "posthorn_index_truncations_total",
            help: "Times outcomes were deleted from the log before they were read."
        )
        self.commitFailures = registry.counter(
            "posthorn_index_commit_failures_total",
            help: "Times the service's progress could not be committed; monitoring alone needs it."
        )
        self.rebuildDuration = registry.histogram(
            "posthorn_index_rebuild_seconds",
            help: "From being assigned a partition to having read what was there."
        )
        Self.registerTotals(registry, index)
        Self.registerSizes(registry, index)
    }

    private static func registerTotals(_ registry: MetricsRegistry, _ index: LocalIndex) {
        registry.counters(
            "posthorn_site_outcomes_total",
            help: "What attempts and decisions came to, by recipient and site; small sites are \"other\"."
        ) {
            index.with { $0.sites() }
                .flatMap { site, counts in
                    Outcome.Kind.allCases.map { kind in
                        MetricSample(labels: ["site": site, "outcome": kind.rawValue], value: Double(counts[kind]))
                    }
                }
        }
        registry.histogram(
            "posthorn_first_attempt_delay_seconds",
            help: "From acceptance to the beginning of the first attempt, by recipient."
        ) {
            index.with { $0.durations(\.firstAttempts) }
        }
        registry.histogram(
            "posthorn_delivery_delay_seconds",
            help: "From acceptance to delivery, by recipient."
        ) {
            index.with { $0.durations(\.deliveries) }
        }
        registry.counter("posthorn_index_records_total", help: "Outcomes looked at.") {
            Double(index.with { $0.sum(\.recordCount) })
        }
        registry.counter("posthorn_index_duplicates_total", help: "Outcomes whose event had been counted before.") {
            Double(index.with { $0.sum(\.duplicateCount) })
        }
        registry.counter("posthorn_index_unreadable_total", help: "Records of outcomes that are none.") {
            Double(index.with { $0.sum(\.unreadableCount) })
        }
        registry.counter(
            "posthorn_index_refused_total",
            help: "Outcomes of recipients that were counted and not indexed: too many wait."
        ) {
            Double(index.with { $0.sum(\.notIndexedCount) })
        }
    }

    private static func registerSizes(_ registry: MetricsRegistry, _ index: LocalIndex) {
        registry.gauges("posthorn_index_recipients", help: "Recipients in the index.") {
            let sizes = index.with { $0.sizes }
            return [
                MetricSample(labels: ["state": "live"], value: Double(sizes.live)),
                MetricSample(labels: ["state": "recent"], value: Double(sizes.recent)),
            ]
        }
        registry.gauges("posthorn_index_partitions", help: "Partitions of outcomes that this node has.") {
            let (all, rebuilding) = index.with { ($0.partitions.count, $0.rebuilding.count) }
            return [
                MetricSample(labels: ["state": "ready"], value: Double(all - rebuilding)),
                MetricSample(labels: ["state": "rebuilding"], value: Double(rebuilding)),
            ]
        }
        registry.gauges(
            "posthorn_queue_records",
            help: "Records that delivery is not done with, in this node's partitions; posthorn.accepted holds what was "
                + "not attempted yet."
        ) {
            (index.waitingRecords ?? [:])
                .map { MetricSample(labels: ["topic": $0.key.name], value: Double($0.value)) }
        }
    }
}
