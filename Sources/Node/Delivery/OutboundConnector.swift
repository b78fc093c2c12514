import NIOCore
import NIOPosix
import SMTP

/// Connects to the first of some addresses that answers, in the manner of RFC 8305 §5.
///
/// One address is tried after the other; the next starts beside the last one when that has failed or has taken 250 ms.
/// Confined to its event loop. The completion is called once, never from within ``start()``, and not after
/// ``cancel()``.
final class OutboundConnector {
    enum Failure: Error, Hashable, Sendable {
        /// Every address refused, or is unreachable.
        case refused
        /// The last address to fail did not answer in time.
        case timedOut
    }

    /// Addresses of one host that are tried: more only make a dead host last longer.
    static let addressCountMax = 8

    private let loop: NIOIsolatedEventLoop
    private let configuration: OutboundConfiguration
    private var waiting: ArraySlice<SocketAddress>
    private var connectingCount = 0
    private var failure = Failure.refused
    private var nextStart: Scheduled<Void>?
    private var completion: ((Result<any Channel, Failure>) -> Void)?

    init(
        addresses: [SocketAddress],
        on loop: NIOIsolatedEventLoop,
        configuration: OutboundConfiguration,
        completion: @escaping (Result<any Channel, Failure>) -> Void
    ) {
        self.loop = loop
        self.configuration = configuration
        self.waiting = addresses.prefix(Self.addressCountMax)
        self.completion = completion
    }

    func start() {
        self.loop.execute { self.startNext() }
    }

    func cancel() {
        self.completion = nil
        self.nextStart?.cancel()
        self.nextStart = nil
    }

    private func startNext() {
        guard self.completion != nil else { return }
        self.nextStart?.cancel()
        self.nextStart = nil
        guard let address = self.waiting.popFirst() else {
            if self.connectingCount == 0 { self.complete(.failure(self.failure)) }
            return
        }
        self.connectingCount += 1
        self.connect(to: address).assumeIsolated()
            .whenComplete { result in
                self.connectingCount -= 1
                switch result {
                case .success(let channel): self.connected(channel)
                case .failure(let error): self.failed(error)
                }
            }
        if self.completion != nil, !self.waiting.isEmpty {
            self.nextStart = self.loop.scheduleTask(in: self.configuration.addressDelay) { self.startNext() }
        }
    }

    private func connect(to address: SocketAddress) -> EventLoopFuture<any Channel> {
        var bootstrap = ClientBootstrap(group: self.loop.nonisolated())
            .connectTimeout(TimeAmount(self.configuration.timeouts.connect))
        if address.port != nil {
            // Without it the last segment of every message waits for the peer's delayed acknowledgement.
            bootstrap = bootstrap.channelOption(.tcpOption(.tcp_nodelay), value: 1)
            if let source = self.configuration.sourceAddresses.first(where: { $0.protocol == address.protocol }) {
                bootstrap = bootstrap.bind(to: source)
            }
        }
        return bootstrap.connect(to: address)
    }

    private func connected(_ channel: any Channel) {
        guard self.completion != nil else {
            // Too late: another address was faster, or nobody waits any more.
            channel.close(promise: nil)
            return
        }
        self.complete(.success(channel))
    }

    private func failed(_ error: any Error) {
        if case .connectTimeout? = error as? ChannelError { self.failure = .timedOut } else { self.failure = .refused }
        self.startNext()
    }

    private func complete(_ result: Result<any Channel, Failure>) {
        let completion = self.completion
        self.cancel()
        completion?(result)
    }
}
