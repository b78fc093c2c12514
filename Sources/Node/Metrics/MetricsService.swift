public import ClusterLog
public import Logging
public import NodeSupport
import Records
public import ServiceLifecycle

/// The metrics role: counts outcomes by site, and keeps an index of live and recent messages, from which it answers
/// views of the queue and traces for the whole cluster (DESIGN §6).
///
/// Guarantees: the index is built from the log alone and any number of instances share the partitions; each event
/// counts once, however often it is read or written; memory is bounded by ``MetricsSettings``; what an answer lacks is
/// named in it. Does not guarantee: answers of one moment (partitions are looked at one after the other), nor anything
/// about mail without an outcome but its number.
///
/// Not on the path of a message: when it stops, nothing is known, and mail moves on.
public final class MetricsService: Service {
    public static let group = GroupID("posthorn.metrics")

    private let log: any RecordLog
    private let settings: MetricsSettings
    private let logger: Logger
    private let local: LocalIndex
    private let directory: NodeDirectory
    private let consumer: IndexConsumer
    private let cluster: ClusterQueue

    /// - Parameter pauses: after a failure: the first pause, doubled each time up to the longest.
    public init(
        settings: MetricsSettings,
        log: any RecordLog,
        clock: any NodeClock = SystemClock(),
        metrics: MetricsRegistry,
        logger: Logger,
        pauses: ClosedRange<Duration> = .milliseconds(100)...(.seconds(10))
    ) {
        self.log = log
        self.settings = settings
        self.logger = logger
        self.local = LocalIndex(log: log, settings: settings, clock: clock)
        self.directory = NodeDirectory(log: log, settings: settings, clock: clock)
        self.consumer = IndexConsumer(
            log: log,
            index: self.local,
            settings: settings,
            clock: clock,
            metrics: IndexMetrics(metrics, self.local),
            logger: logger,
            pauses: pauses
        )
        self.cluster = ClusterQueue(
            local: self.local,
            directory: self.directory,
            client: PeerClient(token: settings.token, timeout: settings.peerTimeout),
            partitionCount: log.partitionCount
        )
    }

    /// What this node alone knows, for the admin listener's `/index`.
    public var index: any QueueViews & MessageTracing { self.local }

    /// Tells the other nodes where this node's admin listener is. Until then they do not ask it.
    ///
    /// - Parameter address: as others reach it: never `0.0.0.0`.
    public func announce(_ address: Endpoint) {
        self.directory.setAddress(address)
    }

    /// The other metrics nodes, as they announced themselves.
    var announcements: [NodeAnnouncement] { self.directory.peers }

    /// Runs until graceful shutdown.
    ///
    /// - Throws: `RecordLogError` when the log refuses for good.
    public func run() async throws {
        try await cancelWhenGracefulShutdown {
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask { try await self.consumer.run() }
                group.addTask { await self.keepDirectory() }
                group.addTask { await self.keepBacklog() }
                defer { group.cancelAll() }
                try await group.next()
            }
        }
        do throws(RecordLogError) {
            try await self.directory.withdraw()
        } catch {
            self.logger.debug("The node was not withdrawn", metadata: [LogKeys.error: "\(error)"])
        }
    }

    /// Announces this node and reads the announcements of others, until the task is cancelled.
    private func keepDirectory() async {
        // Changes of partitions are announced soon.
        let tick = min(.seconds(1), self.settings.directoryInterval, self.settings.announceInterval)
        let ticks = max(1, Int(self.settings.directoryInterval / tick))
        var count = 0
        while !Task.isCancelled {
            do throws(RecordLogError) {
                try await self.directory.announce(partitions: self.local.partitions)
                if count % ticks == 0 { try await self.directory.refresh() }
            } catch {
                self.logger.warning("Nodes cannot be announced or read", metadata: [LogKeys.error: "\(error)"])
            }
            count &+= 1
            // Cut short by cancellation, which the loop's condition sees.
            try? await Task.sleep(for: tick)
        }
    }

    private func keepBacklog() async {
        let reader = BacklogReader(log: self.log, group: self.settings.deliveryGroup)
        while !Task.isCancelled {
            do throws(RecordLogError) {
                self.local.setBacklog(try await reader.count(self.local.partitions))
            } catch {
                self.logger.warning("What waits cannot be counted", metadata: [LogKeys.error: "\(error)"])
            }
            // Cut short by cancellation, which the loop's condition sees.
            try? await Task.sleep(for: self.settings.backlogInterval)
        }
    }
}

extension MetricsService: QueueAdministration, MessageTracing {
    public func summary() async throws(QueueAdministrationError) -> AdminAPI.QueueSummary {
        try await self.cluster.summary()
    }

    public func messages(_ query: QueueQuery) async throws(QueueAdministrationError) -> AdminAPI.QueueList {
        try await self.cluster.messages(query)
    }

    public func message(_ id: String) async throws(QueueAdministrationError) -> AdminAPI.QueuedMessage? {
        try await self.cluster.message(id)
    }

    public func trace(_ query: TraceQuery) async throws(QueueAdministrationError) -> AdminAPI.Trace {
        try await self.cluster.trace(query)
    }

    /// Refuses: the queue is not this role's to change.
    public func perform(
        _ command: AdminAPI.Command,
        on predicate: AdminAPI.QueuePredicate
    ) async throws(QueueAdministrationError) -> AdminAPI.QueueCommandResult {
        throw QueueAdministrationError(
            .invalidRequest,
            reason: "this node only answers questions; give commands to a node with the delivery role"
        )
    }
}
