import NodeSupport

/// What the bounce service counts.
struct BounceMetrics {
    let records: Counter
    let deadRecords: Counter
    let truncations: Counter
    let steps: Counter
    let stepFailures: Counter
    let stepDuration: Histogram
    private let notifications: [WantedNotification.Kind: Counter]

    init(_ registry: MetricsRegistry) {
        self.records = registry.counter(
            "posthorn_bounce_outcomes_total",
            help: "Outcomes looked at for notifications."
        )
        self.deadRecords = registry.counter(
            "posthorn_bounce_dead_total",
            help: "Outcomes that could not be read and went to posthorn.dead."
        )
        self.truncations = registry.counter(
            "posthorn_bounce_truncations_total",
            help: "Times the log began after the committed progress: outcomes were lost before they were read."
        )
        self.steps = registry.counter("posthorn_bounce_steps_total", help: "Steps committed.")
        self.stepFailures = registry.counter("posthorn_bounce_step_failures_total", help: "Steps refused by the log.")
        self.stepDuration = registry.histogram(
            "posthorn_bounce_step_duration_seconds",
            help: "From handing a step to the log to its completion."
        )
        self.notifications = registry.counters(
            "posthorn_bounce_notifications_total",
            help: "Notifications appended to posthorn.accepted.",
            label: "kind"
        )
    }

    /// What a committed batch came to.
    func count(_ batch: NotificationBatch) {
        self.steps.increment()
        self.deadRecords.increment(by: batch.deadRecords.count)
        for (kind, counter) in self.notifications { counter.increment(by: batch.notificationCount(kind)) }
    }
}
