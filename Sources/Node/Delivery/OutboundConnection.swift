import Mail
public import NIOCore
import NIOSSL
import NodeSupport
import SMTP

/// One connection to a site, over which transactions are sent one after the other.
///
/// It tries the target's endpoints in their order until a session is ready, then belongs to its owner until either
/// side closes it. Confined to its event loop. The delegate is never called from within a call to this type.
public final class OutboundConnection {
    private enum State {
        case connecting(OutboundConnector)
        case session(OutboundSessionHandler)
        /// ``OutboundConnectionDelegate/connectionClosed(_:failure:)`` was called, or is about to be.
        case closed
    }

    /// The transaction under way.
    private struct Current {
        var transaction: UInt64
        var recipientCount: Int
        var beganAt: NIODeadline
    }

    private let id: UInt64
    private let target: OutboundTarget
    private let loop: NIOIsolatedEventLoop
    private let configuration: OutboundConfiguration
    private let delegate: any OutboundConnectionDelegate

    private var state = State.closed
    private var endpointIndex = 0
    /// TLS failed on the endpoint at hand and is not required.
    private var isTLSAvoided = false
    private var address: SocketAddress?
    /// Why the endpoints before were of no use.
    private var failures: [DeliveryFailure] = []
    private var current: Current?

    /// Starts connecting.
    ///
    /// - Parameter loop: the caller is on it.
    public static func open(
        id: UInt64,
        target: OutboundTarget,
        on loop: any EventLoop,
        configuration: OutboundConfiguration,
        delegate: any OutboundConnectionDelegate
    ) -> OutboundConnection {
        let connection = OutboundConnection(
            id: id,
            target: target,
            loop: loop.assumeIsolated(),
            configuration: configuration,
            delegate: delegate
        )
        connection.connectToEndpoint()
        return connection
    }

    private init(
        id: UInt64,
        target: OutboundTarget,
        loop: NIOIsolatedEventLoop,
        configuration: OutboundConfiguration,
        delegate: any OutboundConnectionDelegate
    ) {
        self.id = id
        self.target = target
        self.loop = loop
        self.configuration = configuration
        self.delegate = delegate
    }

    // MARK: For the owner

    /// Sends a transaction: only between `connectionBecameReady`, or a reusable `finished`, and the next call.
    ///
    /// One `finished` follows, whatever happens.
    public func send(_ transaction: OutboundTransaction) {
        precondition(self.current == nil, "A transaction is under way.")
        let now = NIODeadline.now()
        self.current = Current(
            transaction: transaction.id,
            recipientCount: transaction.recipients.count,
            beganAt: now
        )
        guard case .session(let handler) = self.state, handler.session.isReady, !transaction.recipients.isEmpty else {
            // The connection ended a moment ago, and its owner is about to be told.
            let failure = ClientFailure(.idle, .connectionLost)
            self.reportLater(
                ClientTransactionOutcome(
                    recipients: transaction.recipients.map { _ in .failed(failure) },
                    isDSNPassedOn: false,
                    isInDoubt: false,
                    isReusable: false
                )
            )
            return
        }
        let (request, content) = OutboundContent.prepare(transaction, for: handler.session.capabilities)
        if let outcome = handler.begin(request, content: content) { self.reportLater(outcome) }
    }

    /// Ends the session with QUIT once no transaction is under way, then reports that it is closed.
    public func close() {
        self.loop.execute {
            switch self.state {
            case .connecting(let connector):
                connector.cancel()
                self.reportClosed(nil)
            case .session(let handler):
                handler.close()
            case .closed:
                break
            }
        }
    }

    /// Ends the transaction under way as a temporary failure and closes, unless the final dot has left: then the
    /// reply is awaited as usual. Between transactions it does nothing.
    public func abortBeforeFinalDot() {
        self.loop.execute {
            if case .session(let handler) = self.state { handler.abortBeforeFinalDot() }
        }
    }

    // MARK: Connecting

    private func connectToEndpoint() {
        guard self.endpointIndex < self.target.endpoints.count else {
            self.state = .closed
            let failure = FailurePolicy.conclusion(self.failures)
            self.loop.execute { self.delegate.connectionClosed(self.id, failure: failure) }
            return
        }
        let addresses = self.target.endpoints[self.endpointIndex].addresses
        let connector = OutboundConnector(addresses: addresses, on: self.loop, configuration: self.configuration) {
            self.connected($0)
        }
        self.state = .connecting(connector)
        connector.start()
    }

    private func connected(_ result: Result<any Channel, OutboundConnector.Failure>) {
        switch result {
        case .success(let channel):
            self.startSession(channel)
        case .failure(.refused):
            self.endpointFailed(ClientFailure(.connect, .connectionLost))
        case .failure(.timedOut):
            self.endpointFailed(ClientFailure(.connect, .timedOut))
        }
    }

    private func endpointFailed(_ failure: ClientFailure) {
        self.failures.append(FailurePolicy.failure(failure))
        self.endpointIndex += 1
        self.isTLSAvoided = false
        self.connectToEndpoint()
    }

    private func startSession(_ channel: any Channel) {
        let endpoint = self.target.endpoints[self.endpointIndex]
        self.address = channel.remoteAddress ?? endpoint.addresses.first
        let context =
            self.target.tls == .verified ? self.configuration.verifiedTLS : self.configuration.unverifiedTLS
        let isVerified = self.target.tls == .verified
        let verifier = self.configuration.verifier
        let handler = OutboundSessionHandler(
            configuration: self.sessionConfiguration(),
            isImplicitTLS: self.target.isImplicitTLS,
            owner: self
        ) { refused in
            // An address is no SNI (RFC 6066 §3).
            let isAddress = (try? SocketAddress(ipAddress: endpoint.host, port: 0)) != nil
            let name = isAddress ? nil : endpoint.host
            guard isVerified else {
                // Nor is an odd name; the certificate is not looked at anyway.
                return try (try? NIOSSLClientHandler(context: context, serverHostname: name))
                    ?? NIOSSLClientHandler(context: context, serverHostname: nil)
            }
            return try NIOSSLClientHandler(context: context, serverHostname: name) { chain, promise in
                let refusal = verifier.refusal(of: chain, host: endpoint.host)
                if let refusal { refused(refusal) }
                promise.succeed(refusal == nil ? .certificateVerified : .failed)
            }
        }
        do {
            try channel.pipeline.syncOperations.addHandler(handler)
        } catch {
            channel.close(promise: nil)
            self.endpointFailed(ClientFailure(.connect, .connectionLost))
            return
        }
        self.state = .session(handler)
        handler.start()
    }

    private func sessionConfiguration() -> ClientConfiguration {
        var random = SystemRandomNumberGenerator()
        let tls: ClientConfiguration.TLS =
            switch self.target.tls {
            case .none: .never
            case .opportunistic: self.isTLSAvoided ? .never : .opportunistic
            case .required, .verified: .required
            }
        let credentials = self.target.credentials
        return ClientConfiguration(
            wire: self.target.wire == .lmtp ? .lmtp : .smtp,
            name: self.configuration.name,
            tls: tls,
            credentials: credentials.map { ClientConfiguration.Credentials(user: $0.user, password: $0.password) },
            isLoopback: self.address?.isLoopback ?? false,
            nonce: credentials == nil ? "" : (0..<3).map { _ in String(random.next(), radix: 36) }.joined(),
            timeouts: self.configuration.timeouts
        )
    }

    // MARK: Reporting

    /// Not now: the owner is in the middle of a call to us.
    private func reportLater(_ outcome: ClientTransactionOutcome) {
        self.loop.execute { self.report(outcome, isReusable: outcome.isReusable) }
    }

    private func report(_ outcome: ClientTransactionOutcome, isReusable: Bool) {
        guard let current = self.current else { return }
        self.current = nil
        let results = outcome.recipients.map { recipient -> RecipientResult in
            switch recipient {
            case .accepted(let reply): .delivered(reply, isDSNPassedOn: outcome.isDSNPassedOn)
            case .failed(let failure): .failed(FailurePolicy.failure(failure))
            }
        }
        let duration = (NIODeadline.now() - current.beganAt).nanoseconds / 1000
        self.delegate.connection(
            self.id,
            finished: TransactionResult(
                transactionID: current.transaction,
                results: results,
                duration: duration,
                isInDoubt: outcome.isInDoubt
            ),
            isReusable: isReusable
        )
    }

    private func reportClosed(_ failure: DeliveryFailure?) {
        if case .closed = self.state { return }
        self.state = .closed
        self.delegate.connectionClosed(self.id, failure: failure)
    }
}

extension OutboundConnection: OutboundSessionOwner {
    func sessionBecameReady(_ handler: OutboundSessionHandler) {
        let isSecured = handler.session.isSecured
        self.failures = []
        self.delegate.connectionBecameReady(
            self.id,
            facts: OutboundSessionFacts(
                host: self.target.endpoints[self.endpointIndex].host,
                address: self.address?.text ?? "",
                tlsVersion: isSecured ? handler.tlsVersion?.text : nil,
                tlsCipherSuite: isSecured ? handler.tlsCipherSuite : nil,
                isTLSVerified: isSecured && self.target.tls == .verified,
                isTLSAvoided: self.isTLSAvoided,
                recipientCountMax: handler.session.recipientCountMax,
                contentSizeMax: handler.session.capabilities.contentSizeMax
            )
        )
    }

    func session(_ handler: OutboundSessionHandler, finished outcome: ClientTransactionOutcome, isReusable: Bool) {
        self.report(outcome, isReusable: isReusable)
    }

    func sessionNeedsConnectionWithoutTLS() {
        self.isTLSAvoided = true
        self.connectToEndpoint()
    }

    func sessionFailed(_ failure: ClientFailure) {
        self.endpointFailed(failure)
    }

    func sessionClosed() {
        self.reportClosed(nil)
    }
}

extension SocketAddress {
    /// Octets sent there do not leave the machine.
    fileprivate var isLoopback: Bool {
        switch self {
        case .v4: self.ipAddress?.hasPrefix("127.") ?? false
        case .v6: self.ipAddress == "::1"
        case .unixDomainSocket: true
        }
    }
}

extension TLSVersion {
    fileprivate var text: String {
        switch self {
        case .tlsv1: "TLSv1"
        case .tlsv11: "TLSv1.1"
        case .tlsv12: "TLSv1.2"
        case .tlsv13: "TLSv1.3"
        }
    }
}
