import Mail
import NIOCore
import NIOPosix
import NIOSSL
import NIOTLS
import NodeSupport
import SMTP

/// What a session tells the connection it belongs to.
protocol OutboundSessionOwner: AnyObject {
    func sessionBecameReady(_ handler: OutboundSessionHandler)
    func session(_ handler: OutboundSessionHandler, finished outcome: ClientTransactionOutcome, isReusable: Bool)
    func sessionNeedsConnectionWithoutTLS()
    func sessionFailed(_ failure: ClientFailure)
    /// It ended between transactions.
    func sessionClosed()
}

/// Performs what one ``ClientSession`` decides, over one channel and on its event loop.
///
/// It feeds octets, writes commands and content, keeps one timer, and decides nothing. The owner hears nothing more
/// once it was told of an end.
final class OutboundSessionHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    /// Octets handed to the channel in one write, so that a large content does not pile up in it.
    private static let chunkSizeMax = 64 << 10

    /// How long a server may take to close after QUIT.
    private static let leaveTimeout: Duration = .seconds(1)

    /// Content on its way.
    private struct Sending {
        var content: ByteBuffer
        var layout: ClientContent
        var segment = 0
        /// Octets of the segment that are written.
        var writtenCount = 0
    }

    private(set) var session: ClientSession
    private let configuration: ClientConfiguration
    private let makeTLSHandler: (_ refused: @escaping (String) -> Void) throws -> NIOSSLClientHandler
    private weak var owner: (any OutboundSessionOwner)?

    private var context: ChannelHandlerContext?
    private var commands = ByteBuffer()
    private var content: ByteBuffer?
    private var sending: Sending?
    private var isPumping = false
    private var isHandshaking = false
    private var cipherObserver: CipherObserver?
    /// Why the server's certificate was not accepted.
    private var refusal: String?
    /// QUIT when the transaction is over.
    private var isClosing = false
    /// The session is at its end, and the server closes first.
    private var isLeaving = false
    /// The owner knows of the end.
    private var isOver = false

    /// When the peer has been silent for too long; `nil` while nothing is awaited.
    private var deadline: NIODeadline?
    /// Fires at or before `deadline`, and is set anew only when it fires: replies do not touch it.
    private var timer: Scheduled<Void>?
    private var timerDeadline = NIODeadline.distantFuture

    init(
        configuration: ClientConfiguration,
        isImplicitTLS: Bool,
        owner: any OutboundSessionOwner,
        makeTLSHandler: @escaping (_ refused: @escaping (String) -> Void) throws -> NIOSSLClientHandler
    ) {
        self.session = ClientSession(configuration: configuration, isSecured: isImplicitTLS)
        self.configuration = configuration
        self.owner = owner
        self.makeTLSHandler = makeTLSHandler
        self.isHandshaking = isImplicitTLS
    }

    var tlsVersion: TLSVersion? {
        guard let context = self.context else { return nil }
        return (try? context.pipeline.syncOperations.nioSSL_tlsVersion()) ?? nil
    }

    var tlsCipherSuite: String? { self.cipherObserver?.cipherSuite }

    // MARK: From the owner

    /// The handler is in the pipeline of an active channel.
    func start() {
        if self.isHandshaking {
            self.addTLS()
            self.arm(self.configuration.timeouts.tlsHandshake)
        } else {
            self.perform(self.session.connected())
            self.arm(self.session.timeout)
        }
    }

    /// Only when the session is ready. An answer given at once is one of the session's own, for which no octet left.
    func begin(_ transaction: ClientTransaction, content: ByteBuffer) -> ClientTransactionOutcome? {
        let action = self.session.begin(transaction)
        if case .finished(let outcome) = action { return outcome }
        self.content = content
        self.perform(action)
        self.arm(self.session.timeout)
        return nil
    }

    func close() {
        guard !self.isOver else { return }
        self.isClosing = true
        if self.session.isInTransaction { return }
        self.perform(self.session.quit())
        self.arm(self.session.timeout)
    }

    func abortBeforeFinalDot() {
        guard !self.isOver, let action = self.session.abortBeforeFinalDot() else { return }
        self.perform(action)
    }

    // MARK: From the channel

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.context = nil
        self.end(.connectionLost)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let buffer = Self.unwrapInboundIn(data)
        var hasReply = false
        buffer.withUnsafeReadableBytes { octets in
            var position = 0
            while !self.isOver {
                let isQuitting = self.session.isQuitting
                guard let action = self.session.received(octets, at: &position) else { break }
                hasReply = true
                if isQuitting, case .close = action { self.leave() } else { self.perform(action) }
            }
        }
        // A reply has its time as a whole: octets that trickle buy none.
        if hasReply { self.arm(self.session.timeout) }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { self.pump() }
        context.fireChannelWritabilityChanged()
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.lost(nil)
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        self.lost(error)
        context.close(promise: nil)
    }

    private func lost(_ error: (any Error)?) {
        guard self.isHandshaking else { return self.end(.connectionLost) }
        self.end(.tlsFailed(reason: self.refusal ?? HandshakeFailure.text(error)))
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if case .handshakeCompleted? = event as? TLSUserEvent, self.isHandshaking, !self.isOver {
            self.isHandshaking = false
            // With TLS from the first octet the banner follows; after STARTTLS another EHLO does.
            self.perform(self.session.isSecured ? self.session.connected() : self.session.tlsEstablished())
            self.arm(self.session.timeout)
        }
        context.fireUserInboundEventTriggered(event)
    }

    // MARK: Actions

    private func perform(_ action: ClientSession.Action) {
        self.flushCommands()
        switch action {
        case .wait:
            break
        case .startTLS:
            self.isHandshaking = true
            self.addTLS()
        case .deriveKey(let derivation):
            self.derive(derivation)
        case .becameReady:
            self.owner?.sessionBecameReady(self)
        case .sendContent:
            self.startContent()
        case .finished(let outcome):
            self.content = nil
            self.sending = nil
            let isReusable = outcome.isReusable && !self.isClosing
            let next = isReusable ? nil : self.session.quit()
            self.owner?.session(self, finished: outcome, isReusable: isReusable)
            if let next { self.perform(next) }
        case .reconnectWithoutTLS:
            self.finish { $0.sessionNeedsConnectionWithoutTLS() }
        case .failed(let failure):
            self.finish { $0.sessionFailed(failure) }
        case .close:
            self.finish { $0.sessionClosed() }
        }
    }

    private func flushCommands() {
        guard !self.session.outbound.isEmpty else { return }
        self.commands.clear()
        self.commands.writeBytes(self.session.outbound)
        self.session.clearOutbound()
        self.context?.writeAndFlush(Self.wrapOutboundOut(self.commands), promise: nil)
    }

    /// On a thread, since it would hold up every other connection of the loop.
    private func derive(_ derivation: KeyDerivation) {
        guard let context = self.context else { return }
        NIOThreadPool.singleton.runIfActive(eventLoop: context.eventLoop) { derivation.key() }
            .assumeIsolated()
            .whenSuccess { key in
                guard !self.isOver else { return }
                self.perform(self.session.derived(key))
                self.arm(self.session.timeout)
            }
    }

    private func addTLS() {
        guard let context = self.context else { return }
        do {
            let handler = try self.makeTLSHandler { [weak self] refusal in self?.refusal = refusal }
            let observer = CipherObserver(.client)
            try context.pipeline.syncOperations.addHandlers([observer, handler], position: .before(self))
            self.cipherObserver = observer
        } catch {
            self.end(.tlsFailed(reason: "the server's name cannot be used for it"))
        }
    }

    private func end(_ end: ClientSession.End) {
        guard !self.isOver else { return }
        self.perform(self.session.ended(end))
    }

    /// The server has answered QUIT and closes (RFC 5321 §4.1.1.10). Until it has, the connection is one of those that it
    /// bears: a new one in its place would be one too many. It is given a moment, no more.
    private func leave() {
        self.isLeaving = true
        self.arm(Self.leaveTimeout)
    }

    private func finish(_ tell: (any OutboundSessionOwner) -> Void) {
        guard !self.isOver else { return }
        self.isOver = true
        self.deadline = nil
        self.timer?.cancel()
        self.timer = nil
        self.sending = nil
        self.context?.close(promise: nil)
        if let owner = self.owner { tell(owner) }
    }

    // MARK: Content

    private func startContent() {
        guard let content = self.content else { preconditionFailure("Content was asked for twice.") }
        self.content = nil
        let layout = content.withUnsafeReadableBytes { ClientContent($0) }
        self.sending = Sending(content: content, layout: layout)
        self.pump()
    }

    /// Writes as much as the channel takes. Flushing may call back before it returns, hence the flag.
    private func pump() {
        guard !self.isPumping, !self.isOver, let context = self.context else { return }
        self.isPumping = true
        defer { self.isPumping = false }
        while self.sending != nil, context.channel.isWritable {
            self.writeChunks(context)
            context.flush()
        }
        if self.sending != nil { self.arm(self.configuration.timeouts.contentBlock) }
    }

    private func writeChunks(_ context: ChannelHandlerContext) {
        guard var sending = self.sending else { return }
        let size = sending.content.readableBytes
        while sending.segment < sending.layout.segmentCount {
            guard context.channel.isWritable else {
                self.sending = sending
                return
            }
            let segment = sending.layout.segment(at: sending.segment, contentSize: size)
            let count = min(segment.count - sending.writtenCount, Self.chunkSizeMax)
            let start = sending.content.readerIndex + segment.lowerBound + sending.writtenCount
            if count > 0, let chunk = sending.content.getSlice(at: start, length: count) {
                context.write(Self.wrapOutboundOut(chunk), promise: nil)
            }
            sending.writtenCount += count
            if sending.writtenCount >= segment.count {
                sending.segment += 1
                sending.writtenCount = 0
            }
        }
        self.sending = nil
        let promise = context.eventLoop.makePromise(of: Void.self)
        promise.futureResult.assumeIsolated().whenSuccess { self.contentWritten() }
        let terminator = sending.layout.endsWithinLine ? Self.terminatorAfterOpenLine : Self.terminator
        context.write(Self.wrapOutboundOut(terminator), promise: promise)
    }

    private static let terminator = ByteBuffer(staticString: ClientContent.terminator)
    private static let terminatorAfterOpenLine = ByteBuffer(staticString: ClientContent.terminatorAfterOpenLine)

    private func contentWritten() {
        guard !self.isOver else { return }
        self.perform(self.session.contentWritten())
        self.arm(self.session.timeout)
    }

    // MARK: Time

    private func arm(_ timeout: Duration?) {
        // Nothing that the server still says buys it time.
        if self.isLeaving, self.deadline != nil, timeout != Self.leaveTimeout { return }
        guard let timeout, !self.isOver, let context = self.context else {
            self.deadline = nil
            return
        }
        let deadline = NIODeadline.now() + TimeAmount(timeout)
        self.deadline = deadline
        if self.timer == nil || deadline < self.timerDeadline { self.schedule(deadline, context.eventLoop) }
    }

    private func schedule(_ deadline: NIODeadline, _ loop: any EventLoop) {
        self.timer?.cancel()
        self.timerDeadline = deadline
        self.timer = loop.assumeIsolated().scheduleTask(deadline: deadline) { self.timerFired() }
    }

    private func timerFired() {
        self.timer = nil
        guard !self.isOver, let deadline = self.deadline, let context = self.context else { return }
        guard deadline <= NIODeadline.now() else {
            self.schedule(deadline, context.eventLoop)
            return
        }
        self.end(.timedOut)
    }
}
