public import ClusterLog
public import Logging
public import NIOCore
import NIOPosix
public import NodeSupport
public import Records
public import ServiceLifecycle
import Synchronization

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// The SMTP server of a node: takes mail on all listeners and appends it to the log (DESIGN §4).
///
/// `250` after end-of-data is said when the log has acknowledged the message, never before (G1). Nothing is kept on
/// the node.
public final class IngressServer: Service {
    /// A listener and the address it really has.
    public struct BoundListener: Sendable {
        public let name: String
        public let address: SocketAddress
    }

    private struct State: Sendable {
        var channels: [any Channel] = []
        var bound: [BoundListener] = []
        var certificates: [ListenerCertificate] = []
        var isStopped = false
    }

    /// Connections the system holds for us.
    private static let backlog: Int32 = 1_024
    private static let passwordThreadCount = 2

    private let configuration: NodeConfiguration
    private let log: any RecordLog
    private let keys: KeySpreading.Configuration
    private let credentials: CredentialStore?
    private let group: any EventLoopGroup
    private let clock: any NodeClock
    private let gate: IntakeGate
    private let metrics: IngressMetrics
    private let logger: Logger
    private let threads = NIOThreadPool(numberOfThreads: IngressServer.passwordThreadCount)
    private let listening: Readiness.Condition
    private let logReadiness: Readiness.Condition
    private let state = Mutex(State())
    private let loops = Mutex<[ObjectIdentifier: NIOLoopBound<IngressLoop>]>([:])

    /// - Parameters:
    ///   - keys: how mail is spread over partitions; `nil` spreads nothing.
    ///   - credentials: who may authenticate; `nil` offers no AUTH.
    ///   - group: one or more event loops; they remain the caller's.
    public init(
        configuration: NodeConfiguration,
        log: any RecordLog,
        keys: KeySpreading.Configuration? = nil,
        credentials: CredentialStore? = nil,
        group: any EventLoopGroup,
        clock: any NodeClock = SystemClock(),
        metrics: MetricsRegistry,
        readiness: Readiness,
        logger: Logger
    ) {
        self.configuration = configuration
        self.log = log
        self.keys = keys ?? KeySpreading.Configuration(partitionCount: log.partitionCount)
        self.credentials = credentials
        self.group = group
        self.clock = clock
        self.gate = IntakeGate(limits: configuration.limits)
        self.metrics = IngressMetrics(metrics, gate: self.gate)
        self.listening = readiness.condition("ingress")
        self.logReadiness = readiness.condition("log")
        self.logger = logger
    }

    /// Where it listens, in the order of the configuration; empty before ``bind()``.
    public var boundListeners: [BoundListener] { self.state.withLock { $0.bound } }

    /// Octets received and not yet durable.
    var octetsInFlight: Int { self.gate.octetsInFlight }
    var sessionCount: Int { self.gate.sessionCount }

    /// Loads certificates and binds all listeners, or none. ``run()`` does so itself unless it was done before.
    ///
    /// - Throws: ``IngressError``.
    @discardableResult
    public func bind() async throws -> [BoundListener] {
        let roles = try self.configuration.listeners.map { listener in
            try ListenerRole(
                listener,
                configuration: self.configuration,
                credentials: self.credentials,
                gate: self.gate
            )
        }
        self.state.withLock { $0.certificates = roles.compactMap(\.certificate) }
        self.threads.start()
        try await self.makeLoops()
        for role in roles {
            let channel: any Channel
            do {
                channel = try await self.bind(role)
            } catch {
                await self.stopAccepting()
                let place = Endpoint(host: role.listener.address, port: role.listener.port)
                throw IngressError(reason: "listener \(role.listener.name): cannot listen on \(place): \(error)")
            }
            guard let address = channel.localAddress else { continue }
            self.state.withLock { state in
                state.channels.append(channel)
                state.bound.append(BoundListener(name: role.listener.name, address: address))
            }
            self.logger.info(
                "Listening",
                metadata: [LogKeys.listener: "\(role.listener.name)", LogKeys.localAddress: "\(address.text)"]
            )
        }
        self.listening.met()
        return self.boundListeners
    }

    /// Serves until graceful shutdown or cancellation, then lets sessions end within `timeouts.server.drain`.
    public func run() async throws {
        if self.boundListeners.isEmpty { try await self.bind() }
        do {
            try await gracefulShutdown()
        } catch {
            self.logger.debug("Ingress was cancelled")
        }
        await self.stop()
    }

    /// Reads certificates and credentials again, for what connects from now on. What cannot be used stays as it was.
    ///
    /// - Returns: what is wrong, one for each.
    public func reload() -> [String] {
        var problems: [String] = []
        for certificate in self.state.withLock({ $0.certificates }) {
            do throws(IngressError) {
                try certificate.reload()
            } catch {
                problems.append(error.reason)
            }
        }
        do throws(CredentialError) {
            try self.credentials?.reload()
        } catch {
            problems.append(error.reason)
        }
        return problems
    }

    /// Not ready, accepts no more, drains, closes. Does nothing the second time.
    func stop() async {
        guard self.state.withLock({ !exchangeTrue(&$0.isStopped) }) else { return }
        self.listening.unmet("shutting down")
        await self.stopAccepting()
        let loops = self.loops.withLock { Array($0.values) }
        let drained = loops.map { bound in
            let promise = bound.eventLoop.makePromise(of: Void.self)
            bound.eventLoop.execute { bound.value.drain(promise) }
            let late = bound.eventLoop.scheduleTask(in: TimeAmount(self.configuration.timeouts.server.drain)) {
                bound.value.closeAll()
            }
            return promise.futureResult.always { _ in
                late.cancel()
                bound.value.closeAll()
            }
        }
        for future in drained { try? await future.get() }
        self.loops.withLock { $0 = [:] }
        try? await self.threads.shutdownGracefully()
    }

    private func stopAccepting() async {
        let channels = self.state.withLock { exchangeEmpty(&$0.channels) }
        for channel in channels { try? await channel.close() }
    }

    private func makeLoops() async throws {
        let eventLoops = Array(self.group.makeIterator())
        // Each loop sees its part of the node's mail.
        var keys = self.keys
        keys.hotRate /= Double(max(1, eventLoops.count))
        let shared = IngressShared(
            configuration: self.configuration,
            log: self.log,
            gate: self.gate,
            metrics: self.metrics,
            clock: self.clock,
            logger: self.logger,
            credentials: self.credentials,
            passwords: PasswordChecker(threads: self.threads),
            keys: keys,
            logReadiness: self.logReadiness
        )
        for (index, eventLoop) in eventLoops.enumerated() {
            let bound =
                try await eventLoop.submit {
                    NIOLoopBound(IngressLoop(eventLoop: eventLoop, index: index, shared: shared), eventLoop: eventLoop)
                }
                .get()
            self.loops.withLock { $0[ObjectIdentifier(eventLoop)] = bound }
        }
    }

    private func bind(_ role: ListenerRole) async throws -> any Channel {
        let loops = self.loops.withLock { $0 }
        let bootstrap = ServerBootstrap(group: self.group)
            .serverChannelOption(.backlog, value: Self.backlog)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelOption(.allowRemoteHalfClosure, value: true)
            // A small message in one read; more at a time for what is larger.
            .childChannelOption(
                .recvAllocator,
                value: AdaptiveRecvByteBufferAllocator(minimum: 8_192, initial: 8_192, maximum: 65_536)
            )
            .childChannelOption(
                .writeBufferWaterMark,
                value: .init(low: 16 * 1024, high: 64 * 1024)
            )
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    guard let loop = loops[ObjectIdentifier(channel.eventLoop)] else {
                        throw IngressError(reason: "an event loop of another group")
                    }
                    let handler = SessionHandler(
                        role: role,
                        loop: loop.value,
                        address: channel.remoteAddress.flatMap { IPAddress($0) }
                    )
                    try channel.pipeline.syncOperations.addHandler(handler)
                }
            }
        let listener = role.listener
        do {
            // By address, never by name: the resolver knows no "::" where no interface has IPv6, as in most containers.
            let address = try SocketAddress(ipAddress: listener.address, port: listener.port)
            return try await bootstrap.bind(to: address).get()
        } catch let error as IOError where listener.address == "::" && error.errnoCode == EAFNOSUPPORT {
            // A machine without IPv6.
            return try await bootstrap.bind(host: "0.0.0.0", port: listener.port).get()
        }
    }
}

extension IPAddress {
    /// The address without its port; `nil` for sockets in the file system.
    init?(_ address: SocketAddress) {
        // By offset: `sin_addr` stands at 4 and `sin6_addr` at 8 everywhere.
        switch address {
        case .v4(let address):
            let bits = withUnsafeBytes(of: address.address) { $0.loadUnaligned(fromByteOffset: 4, as: UInt32.self) }
            self.init(ipv4: UInt32(bigEndian: bits))
        case .v6(let address):
            let (high, low) = withUnsafeBytes(of: address.address) { octets in
                (
                    UInt64(bigEndian: octets.loadUnaligned(fromByteOffset: 8, as: UInt64.self)),
                    UInt64(bigEndian: octets.loadUnaligned(fromByteOffset: 16, as: UInt64.self))
                )
            }
            self.init(high: high, low: low)
        case .unixDomainSocket:
            return nil
        }
    }
}

private func exchangeTrue(_ flag: inout Bool) -> Bool {
    let old = flag
    flag = true
    return old
}

private func exchangeEmpty<Element>(_ elements: inout [Element]) -> [Element] {
    let old = elements
    elements = []
    return old
}
