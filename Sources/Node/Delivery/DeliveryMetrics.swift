import NodeSupport
import Records

/// The counters of delivery, resolved once.
struct DeliveryMetrics: Sendable {
    let parked: Counter
    let dead: Counter
    let trimmed: Counter
    let trimFailures: Counter
    let handedOver: Counter
    /// Delivery nodes that share the limits; 0 while this one waits to be heard.
    let nodes: Gauge
    private let outcomes: [Outcome.Kind: Counter]
    private let deliveryTime: Histogram
    private let attemptTime: Histogram

    init(registry: MetricsRegistry) {
        self.parked = registry.counter(
            "posthorn_parked_total",
            help: "Records re-published without an attempt because their site was not available."
        )
        self.dead = registry.counter(
            "posthorn_dead_records_total",
            help: "Records that could not be used and went to posthorn.dead."
        )
        self.trimmed = registry.counter(
            "posthorn_trimmed_offsets_total",
            help: "Offsets of posthorn.accepted and of tiers that were given up behind the watermark."
        )
        self.trimFailures = registry.counter(
            "posthorn_trim_failures_total",
            help: "Times the log did not trim: records then stay for their retention."
        )
        self.handedOver = registry.counter(
            "posthorn_handed_over_total",
            help: "Records re-published to the owner of their site, whose limit is smaller than the number of nodes."
        )
        self.nodes = registry.gauge(
            "posthorn_delivery_nodes",
            help: "Delivery nodes that share limits of sites, as this one counts; 0 on one machine and while it waits."
        )
        self.outcomes = registry.counters(
            "posthorn_outcomes_total",
            help: "What attempts and decisions came to, by recipient.",
            label: "outcome"
        )
        self.deliveryTime = registry.histogram(
            "posthorn_delivery_seconds",
            help: "From acceptance to delivery, by recipient."
        )
        self.attemptTime = registry.histogram(
            "posthorn_attempt_seconds",
            help: "From handing a transaction to a connection to its last reply."
        )
    }

    func count(_ outcome: Outcome) {
        self.outcomes[outcome.kind]?.increment()
        if outcome.kind == .delivered {
            self.deliveryTime.observe(nanoseconds: (outcome.time - outcome.acceptedAt) * 1_000_000)
        }
        if let duration = outcome.duration { self.attemptTime.observe(nanoseconds: duration * 1_000) }
    }
}
