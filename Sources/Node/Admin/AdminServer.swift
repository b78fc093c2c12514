import Hummingbird
public import Logging
import NIOCore
public import NodeSupport
public import ServiceLifecycle

/// The node's administration over HTTP: metrics, health, and the queue (``AdminAPI``).
///
/// - `GET /metrics`: Prometheus text. `GET /health/live`: 200 while the process answers. `GET /health/ready`: 200, or
///   503 with the reasons. These need no token: they tell nothing about mail.
/// - `/queue/...`, `/trace`, `/index/...` and `/dead/...`: the queue, behind the token when there is one, and never for a web page in
///   the browser of somebody who reaches this listener.
///
/// Bounded: connections, request bodies, headers, and how long a connection may be idle.
public struct AdminServer: Service {
    /// Connections at once; more wait in the listen queue.
    static let connectionCountMax = 64
    static let idleTimeout: TimeAmount = .seconds(60)

    private let address: Endpoint
    private let responder: AdminResponder
    private let logger: Logger
    private let onListening: @Sendable (Int?) async -> Void

    /// - Parameters:
    ///   - address: where to listen; port 0 lets the system choose.
    ///   - token: what callers of the queue API must present as a bearer token; `nil` asks for none.
    ///   - ownNames: host names under which the queue API may be asked for without a token, besides `localhost`, the
    ///     address's own and every IP address.
    ///   - queue: `nil` on a node that knows no queue.
    ///   - tracing: `nil` on a node that cannot tell what became of messages.
    ///   - index: what this node alone knows, for the other nodes of a cluster; `nil` without the metrics role.
    ///   - dead: what could not be used; `nil` serves no `/dead`.
    ///   - onListening: called once requests are taken, with the port (`nil` for a Unix socket).
    public init(
        address: Endpoint,
        token: String?,
        ownNames: Set<String> = [],
        metrics: MetricsRegistry,
        readiness: Readiness,
        queue: (any QueueAdministration)?,
        tracing: (any MessageTracing)? = nil,
        index: (any QueueViews & MessageTracing)? = nil,
        dead: DeadRecords? = nil,
        logger: Logger,
        onListening: @escaping @Sendable (Int?) async -> Void = { _ in }
    ) {
        self.address = address
        var names: Set<String> = ["localhost"]
        names.formUnion(ownNames.map { $0.lowercased() })
        if case .host(let host, _) = address { names.insert(host.lowercased()) }
        self.responder = AdminResponder(
            metrics: metrics,
            readiness: readiness,
            queue: queue,
            tracing: tracing,
            index: index,
            dead: dead,
            token: token.map { Array($0.utf8) },
            ownNames: names
        )
        self.logger = logger
        self.onListening = onListening
    }

    /// Serves until graceful shutdown; requests in hand are answered first.
    public func run() async throws {
        let bindAddress: BindAddress =
            switch self.address {
            case .host("::", let port): .hostname(Self.everyAddress(port: port), port: port)
            case .host(let host, let port): .hostname(host, port: port)
            case .unixSocket(let path): .unixDomainSocket(path: path)
            }
        // The server's own lines about every connection are for its developers.
        var serverLogger = self.logger
        serverLogger.logLevel = max(.warning, self.logger.logLevel)
        let application = Application(
            responder: self.responder,
            server: .http1(
                configuration: .init(
                    idleTimeout: Self.idleTimeout,
                    httpDecoderConfiguration: .init(
                        maxHeaderFieldSize: 16 << 10,
                        maxHeaderListSize: 32 << 10,
                        maxHeaderFieldCount: 100
                    )
                )
            ),
            configuration: ApplicationConfiguration(
                address: bindAddress,
                availableConnectionsDelegate: .maximum(Self.connectionCountMax, logger: serverLogger)
            ),
            onServerRunning: { channel in
                let port = channel.localAddress?.port
                self.logger.info(
                    "Administration listens",
                    metadata: [LogKeys.listener: "\(self.address)", LogKeys.port: "\(port ?? 0)"]
                )
                await self.onListening(port)
            },
            logger: serverLogger
        )
        try await application.run()
    }

    /// The server binds by name, and the resolver knows no "::" where no interface has IPv6, as in most containers.
    private static func everyAddress(port: Int) -> String {
        (try? SocketAddress.makeAddressResolvingHost("::", port: port)) == nil ? "0.0.0.0" : "::"
    }
}
