import Admin
import Bounce
import ClusterLog
import DNS
import Delivery
import EmbeddedLog
import Foundation
import Ingress
import KafkaLog
import Logging
import MetricsRole
import NIOCore
import NIOPosix
import NodeSupport
import Records
import Resolver
import ServiceLifecycle
import UnixSignals

/// A node: its roles in one process, over the embedded log or over Kafka. The one place where the log is chosen.
struct Node {
    let configuration: NodeConfiguration

    /// Octets that a record has besides its content.
    private static let recordOverheadMax = 1 << 20

    /// Runs until SIGTERM or SIGINT, then ends in order: ingress, delivery, bounce, admin, log.
    ///
    /// - Throws: an error that names what to change.
    func run() async throws {
        Self.raiseDescriptorLimit()
        LoggingSystem.bootstrap(self.makeLogHandler)
        let logger = Logger(label: "posthorn")
        let metrics = MetricsRegistry()
        metrics.addProcessMetrics()
        let readiness = Readiness()
        metrics.gauge("posthorn_ready", help: "1 while the node should be sent work, as /health/ready says.") {
            readiness.isReady ? 1 : 0
        }

        let log = try await self.openLog(logger)
        let keys = KeySpreading.Configuration(
            self.configuration,
            partitionCount: log.partitionCount,
            isShared: log.isShared
        )
        let clock = LogClock(log: log)
        let roles = self.configuration.roles
        let resolver = try self.makeResolver(logger)
        let credentials = try self.configuration.credentialsFile.map { path in try CredentialStore(path: path) }
        let loops = MultiThreadedEventLoopGroup(numberOfThreads: System.coreCount)
        let deliveryLoop = MultiThreadedEventLoopGroup(numberOfThreads: 1)

        let passwords = try RoutePasswords(
            files: Set(self.configuration.routes.compactMap { $0.authentication?.passwordFile }),
            read: { try ConfiguredFiles.password(inFile: $0) }
        )
        let outbound = try OutboundConfiguration(self.configuration)
        let delivery =
            roles.contains(.delivery)
            ? DeliveryEngine(
                configuration: self.configuration,
                log: log,
                keys: keys,
                routing: MailRouter(
                    configuration: self.configuration,
                    passwords: passwords,
                    resolver: resolver
                ),
                outbound: outbound,
                on: deliveryLoop.next(),
                clock: clock,
                metrics: metrics,
                readiness: readiness,
                logger: logger
            ) : nil
        let token = self.configuration.admin.address == nil ? nil : try AdminToken.prepare(self.configuration)
        // On one machine the delivery role answers for the queue, from the log itself.
        let index =
            roles.contains(.metrics) && log.isShared
            ? MetricsService(
                settings: MetricsSettings(self.configuration, nodeID: self.makeNodeID(), token: token),
                log: log,
                clock: clock,
                metrics: metrics,
                logger: logger
            ) : nil
        var services: [any Service] = []
        if let address = self.configuration.admin.address {
            if let index {
                index.announce(OwnAddress.reachable(at: address, name: ProcessInfo.processInfo.hostName))
            }
            services.append(
                AdminServer(
                    address: address,
                    token: token,
                    ownNames: [self.configuration.hostname, ProcessInfo.processInfo.hostName],
                    metrics: metrics,
                    readiness: readiness,
                    queue: index.map { ClusterAdministration(views: $0, commands: delivery) } ?? delivery,
                    tracing: index ?? (log.isShared ? nil : LogTracing(log: log, clock: clock)),
                    index: index?.index,
                    dead: DeadRecords(log: log, clock: clock, metrics: metrics),
                    logger: logger
                )
            )
        }
        // Shut down from the last to the first, each awaited before the next.
        if let index { services.append(index) }
        if roles.contains(.bounce) {
            var settings = BounceSettings(self.configuration)
            settings.valueSizeMax = log.valueSizeMax
            services.append(
                BounceService(log: log, settings: settings, clock: clock, metrics: metrics, logger: logger)
            )
        }
        if let delivery { services.append(delivery) }
        let ingress =
            roles.contains(.ingress)
            ? IngressServer(
                configuration: self.configuration,
                log: log,
                keys: keys,
                credentials: credentials,
                group: loops,
                clock: clock,
                metrics: metrics,
                readiness: readiness,
                logger: logger
            ) : nil
        if let ingress {
            services.append(ingress)
        } else {
            services.append(LogReadiness(log: log, condition: readiness.condition("log")))
        }
        services.append(
            ReloadService(
                parts: [
                    { ingress?.reload() ?? [] },
                    { problem { try outbound.verifier.reload() } },
                    { problem { try passwords.reload() } },
                    {
                        await delivery?.forgetRoutes()
                        return []
                    },
                ],
                logger: logger
            )
        )
        let group = ServiceGroup(
            configuration: ServiceGroupConfiguration(
                services: services,
                gracefulShutdownSignals: [.sigterm, .sigint],
                logger: Logger(label: "lifecycle")
            )
        )
        logger.notice(
            "Starting",
            metadata: [
                "version": "\(Version.text)", LogKeys.host: "\(self.configuration.hostname)",
                LogKeys.path: "\(self.configuration.dataDirectory)",
            ]
        )
        if ingress != nil, !self.configuration.hasPostmaster {
            logger.notice(
                "Strangers cannot reach the postmaster: set postmaster in the configuration, or route the host name",
                metadata: [LogKeys.host: "\(self.configuration.hostname)"]
            )
        }
        let result: Result<Void, any Error>
        do {
            try await group.run()
            result = .success(())
        } catch {
            result = .failure(error)
        }
        await log.close()
        await resolver.shutdown()
        try await loops.shutdownGracefully()
        try await deliveryLoop.shutdownGracefully()
        LogOutput.standardError.flush()
        try result.get()
        logger.notice("Stopped")
        LogOutput.standardError.flush()
    }

    // MARK: Parts

    /// Unique in the cluster, and readable.
    private func makeNodeID() -> String {
        "\(self.configuration.hostname)-\(String(UInt32.random(in: .min ... .max), radix: 36))"
    }

    private func openLog(_ logger: Logger) async throws -> any RecordLog {
        guard self.configuration.kafka.isUsed else { return try self.openEmbeddedLog(logger) }
        return try await KafkaLog.open(
            configuration: KafkaConfiguration(self.configuration),
            plan: TopicPlan(self.configuration),
            timeout: self.configuration.kafka.startTimeout,
            logger: logger
        )
    }

    private func openEmbeddedLog(_ logger: Logger) throws -> EmbeddedLog {
        let settings = self.configuration.log
        var log = EmbeddedLogConfiguration(directory: self.configuration.dataDirectory + "/log")
        log.partitionCount = settings.partitionCount
        log.segmentSize = Int64(settings.segmentSizeMax)
        log.reserveSize = Int64(settings.diskReserve)
        log.historyRetention = settings.outcomeRetention
        log.contentRetention = self.configuration.retry.lifetime + .seconds(3 * 86_400)
        log.recordSizeMax = self.configuration.limits.messageSizeMax + Self.recordOverheadMax
        log.queueSizeMax = max(log.queueSizeMax, 2 * log.recordSizeMax)
        return try EmbeddedLog(configuration: log, logger: logger)
    }

    private func makeResolver(_ logger: Logger) throws -> UnboundResolver {
        let dns = self.configuration.dns
        var options = UnboundOptions()
        if !dns.forwarders.isEmpty {
            options.upstream = .forwarders(
                dns.forwarders.map { forwarder in
                    switch forwarder {
                    case .host(let host, let port): "\(host)@\(port)"
                    case .unixSocket(let path): path
                    }
                }
            )
            // A resolver on this machine is one like any other.
            options.extra.append(("do-not-query-localhost", "no"))
        } else if let resolvConf = dns.resolvConf {
            options.upstream = .resolvConf(file: resolvConf)
            options.extra.append(("do-not-query-localhost", "no"))
        } else {
            options.upstream = .recursion(rootHintsFile: nil)
        }
        options.trustAnchorFile = dns.trustAnchorFile
        options.queryTimeout = dns.timeout
        var rules = MailExchangerRules()
        rules.ownNames = Set([DNSName(self.configuration.hostname)].compactMap { $0 })
        rules.addressPreference =
            switch self.configuration.delivery.addressPreference {
            case .any, .ipv6: .ipv6First
            case .ipv4: .ipv4First
            case .ipv6Only: .ipv6Only
            case .ipv4Only: .ipv4Only
            }
        return try UnboundResolver(options: options, rules: rules, logger: logger)
    }

    private func makeLogHandler(_ label: String) -> any LogHandler {
        let settings = self.configuration.logging
        let format: LineLogHandler.Format =
            switch settings.format {
            case .json: .json
            case .text: .text
            }
        var handler = LineLogHandler(label: label, format: format, redactsAddresses: settings.redactsAddresses)
        handler.logLevel = Logger.Level(rawValue: settings.level.rawValue) ?? .info
        return handler
    }

    /// As many open files as the system lets us have: connections are files.
    private static func raiseDescriptorLimit() {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
        limit.rlim_cur = limit.rlim_max
        _ = setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }
}
