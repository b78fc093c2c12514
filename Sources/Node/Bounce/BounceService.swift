public import ClusterLog
public import Logging
public import NodeSupport
public import ServiceLifecycle

/// Tells senders what became of their mail: turns outcomes into delivery status notifications (RFC 3461, RFC 3464).
///
/// Each notification is appended to `posthorn.accepted`, where it is a message like any other, in the same step that
/// moves the group's progress past the outcomes it tells of: none is lost, and none is repeated by a crash. Its id is
/// derived from the message, the recipients and the kind.
///
/// Not on the path of a message: when it stops, senders are told later.
public struct BounceService: Service {
    public static let group = GroupID("posthorn.bounce")

    private let log: any RecordLog
    private let settings: BounceSettings
    private let clock: any NodeClock
    private let metrics: BounceMetrics
    private let logger: Logger
    /// Before joining again after a failure: the first pause, doubled each time up to the longest.
    private let pauses: ClosedRange<Duration>

    public init(
        log: any RecordLog,
        settings: BounceSettings,
        clock: any NodeClock = SystemClock(),
        metrics: MetricsRegistry,
        logger: Logger,
        pauses: ClosedRange<Duration> = .milliseconds(100)...(.seconds(10))
    ) {
        self.log = log
        self.settings = settings
        self.clock = clock
        self.metrics = BounceMetrics(metrics)
        self.logger = logger
        self.pauses = pauses
    }

    /// Runs until graceful shutdown, which finishes the batch in hand.
    ///
    /// - Throws: `RecordLogError` when the log refuses for good.
    public func run() async throws {
        var pause = self.pauses.lowerBound
        var returnsNothing = false
        while !Task.isShuttingDownGracefully, !Task.isCancelled {
            var stepCount = 0
            do {
                try await self.consume(returnsNothing: returnsNothing, stepCount: &stepCount)
                return
            } catch let error as RecordLogError {
                if stepCount > 0 { pause = self.pauses.lowerBound }
                switch error.code {
                case .recordTooLarge where !returnsNothing:
                    // Better told without their content than not told.
                    returnsNothing = true
                case .fenced:
                    // Others have our partitions; what was in hand is theirs to tell.
                    break
                default:
                    guard error.isRetriable else { throw error }
                }
                self.logger.warning(
                    "Outcomes are read again from the last step",
                    metadata: [LogKeys.error: "\(error)", LogKeys.group: "\(Self.group)"]
                )
            }
            let length = pause
            pause = min(pause * 2, self.pauses.upperBound)
            // Cut short by shutdown or cancellation, which the loop's condition sees.
            try? await cancelWhenGracefulShutdown { try await Task.sleep(for: length) }
        }
    }

    private func consume(returnsNothing: Bool, stepCount: inout Int) async throws {
        let settings = self.settings
        let member = try await self.log.join(Self.group, topics: TopicSelection(topics: [.outcomes]))
        var consumer = OutcomeConsumer(
            member: member,
            clock: self.clock,
            metrics: self.metrics,
            logger: self.logger
        ) {
            NotificationBatch(settings: settings, returnsNothing: returnsNothing)
        }
        defer { stepCount = consumer.committedStepCount }
        do {
            try await consumer.run()
        } catch {
            await member.leave()
            throw error
        }
        await member.leave()
    }
}
