import ClusterLog
import Logging
import Mail
import NIOCore
import NIOSSL
import NIOTLS
import NodeSupport
import SMTP

/// One connection of a client: feeds a ``ServerSession`` with what the socket gives, and does what it says.
///
/// Everything happens on the connection's event loop, and nothing per command leaves it. Replies are gathered and
/// flushed once at the end of a read (RFC 2920 §3.2), always before waiting. While the client does not take its replies,
/// while the node's budget is used up, or while the session waits for the log or for a password check and the client
/// has sent much ahead, the socket is not read: TCP tells the client.
final class SessionHandler: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    enum Phase {
        /// Not active yet. Next: `proxyHeader`, `handshaking`, `session`, `closed`.
        case starting
        /// The load balancer has to say who the client is. Next: `handshaking`, `session`, `closed`.
        case proxyHeader
        /// TLS is being agreed on, first thing or after STARTTLS. Next: `session`, `closed`.
        case handshaking
        /// Next: `handshaking`, `closed`.
        case session
        case closed
    }

    /// Replies gathered before some are written.
    private static let replyCountMax = 16 * 1024
    /// Octets that a client may send ahead while its session waits. Most send nothing then, and to stop reading and begin
    /// again would cost two system calls a message.
    private static let aheadCountMax = 16 * 1024

    let role: ListenerRole
    let loop: IngressLoop
    private(set) var phase: Phase = .starting
    var session: ServerSession
    var address: IPAddress?
    private(set) var id: UInt64 = 0
    private(set) var context: ChannelHandlerContext?
    /// When the client's time is up, monotonic nanoseconds.
    private(set) var deadline: Int64 = .max
    /// When the content that is being received, or thrown away, must have come to its end.
    private var contentDeadline: Int64?
    /// When the next message must have been accepted.
    private var transactionDeadline: Int64 = .max
    var intake: ContentIntake?
    var published: PublishedMessage?
    /// Received and not yet taken by the session.
    private var pending = ByteBuffer()
    private var replies = ByteBuffer()
    private var isAdmitted = false
    private var isReadWanted = false
    private var isInRead = false
    private var isInputClosed = false
    private var isPauseExcused = false
    private var isDraining = false
    private var hasHandshaken = false
    /// Failures of AUTH that were counted and logged.
    private var notedFailureCount = 0
    private var cipherObserver: CipherObserver?

    init(role: ListenerRole, loop: IngressLoop, address: IPAddress?) {
        self.role = role
        self.loop = loop
        self.address = address
        self.session = Self.makeSession(role, address)
    }

    var shared: IngressShared { self.loop.shared }

    private static func makeSession(_ role: ListenerRole, _ address: IPAddress?) -> ServerSession {
        ServerSession(
            configuration: role.server,
            policy: RelayPolicy(rules: role.rules, isTrustedClient: role.rules.isTrusted(address)),
            clientAddress: address?.description ?? ""
        )
    }

    // MARK: The channel's life

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        if context.channel.isActive { self.begin() }
    }

    func channelActive(context: ChannelHandlerContext) {
        context.fireChannelActive()
        self.begin()
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.end()
        context.fireChannelInactive()
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.end()
        self.context = nil
    }

    private func begin() {
        guard case .starting = self.phase else { return }
        self.id = self.loop.add(self)
        self.shared.metrics.sessionsTotal.increment()
        let proxies = self.role.listener.proxyProtocolNetworks
        if let address = self.address, proxies.contains(where: { $0.contains(address) }) {
            self.phase = .proxyHeader
            self.setDeadline(after: self.shared.configuration.timeouts.server.tlsHandshake)
        } else {
            self.admit()
        }
    }

    private func end() {
        guard self.phase != .closed || self.id != 0 else { return }
        self.phase = .closed
        self.deadline = .max
        self.dropIntake()
        if self.isAdmitted { self.shared.gate.leave(self.address) }
        self.isAdmitted = false
        if self.id != 0 { self.loop.remove(self.id) }
        self.id = 0
    }

    /// The client is known: lets it in, if there is room.
    private func admit() {
        if self.loop.isDraining { return self.refuse(.shuttingDown) }
        guard self.shared.gate.admit(self.address, isExempt: self.role.rules.isTrusted(self.address)) else {
            return self.refuse(.tooManySessions)
        }
        self.isAdmitted = true
        self.beginTransactionTime()
        if self.role.isTLSImplicit {
            self.beginHandshake()
        } else {
            self.phase = .session
            self.perform(self.session.connected())
            self.process()
        }
    }

    private func refuse(_ reply: Reply) {
        self.shared.metrics.reject(.init(reply))
        // Who expects TLS would not understand.
        if !self.role.isTLSImplicit { self.replies.writeBytes(reply.octets) }
        self.closeNow()
    }

    /// Writes what is gathered and closes.
    func closeNow() {
        guard let context = self.context, self.phase != .closed else { return }
        self.phase = .closed
        self.deadline = .max
        self.dropIntake()
        self.pending = ByteBuffer()
        self.writeReplies()
        context.flush()
        context.close(promise: nil)
    }

    // MARK: Reading

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        self.isInRead = true
        var octets = Self.unwrapInboundIn(data)
        if self.pending.readableBytes == 0 {
            self.pending = octets
        } else {
            self.pending.writeBuffer(&octets)
        }
        switch self.phase {
        case .session: self.process()
        case .proxyHeader: self.readProxyHeader()
        // What came in clear before the handshake is not for the session.
        case .handshaking, .closed, .starting: self.pending = ByteBuffer()
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        self.isInRead = false
        self.flush()
        context.fireChannelReadComplete()
    }

    func read(context: ChannelHandlerContext) {
        if self.isReadable {
            context.read()
        } else {
            self.isReadWanted = true
        }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable, case .session = self.phase {
            self.process()
            self.readIfWanted()
        }
        context.fireChannelWritabilityChanged()
    }

    private var isReadable: Bool {
        switch self.phase {
        // Closed: TLS waits for the client's end of it.
        case .starting, .proxyHeader, .handshaking, .closed: return true
        case .session: break
        }
        guard self.context?.channel.isWritable ?? false else { return false }
        // The end of TLS ends both directions: it is not looked for while there is an answer to give.
        if self.session.isWaiting { return !self.hasHandshaken && self.pending.readableBytes < Self.aheadCountMax }
        // Sessions that hold content are read on: only they can give room back.
        if self.shared.gate.isCrowded, self.intake == nil, !self.isPauseExcused {
            self.deadline = .max
            self.loop.pause(self.id)
            return false
        }
        return true
    }

    private func readIfWanted() {
        guard self.isReadWanted, self.isReadable else { return }
        self.isReadWanted = false
        self.context?.read()
    }

    /// There is room again, or the pause has been long enough.
    func resumed() {
        self.isPauseExcused = true
        self.setDeadline(after: self.shared.configuration.timeouts.server.command)
        self.readIfWanted()
    }

    // MARK: The session

    /// Feeds what waits to the session, up to where it must wait itself.
    func process() {
        var hasAnswered = false
        let waitingCount = self.pending.readableBytes
        while case .session = self.phase, !self.session.isWaiting, self.context?.channel.isWritable ?? false {
            if self.isDraining, !self.session.isReceivingContent {
                self.perform(self.session.interrupted(by: .shuttingDown))
                break
            }
            let action = self.nextAction()
            if case .needsMore = action { break }
            hasAnswered = true
            self.perform(action)
        }
        if self.pending.readableBytes == 0 {
            self.pending = ByteBuffer()
        } else if self.pending.readerIndex > Self.aheadCountMax {
            // A client whose every packet ends within a command would have all it ever sent kept.
            self.pending.discardReadBytes()
        }
        self.moveDeadline(hasAnswered: hasAnswered, hasRead: self.pending.readableBytes < waitingCount)
        if self.isInputClosed, case .session = self.phase, !self.session.isWaiting {
            // Everything it sent has been answered, and nothing more can come.
            self.closeNow()
            return
        }
        if !self.isInRead { self.flush() }
    }

    private func nextAction() -> ServerSession.Action {
        self.pending.readWithUnsafeReadableBytes { octets in
            let step = self.session.next(in: octets) { self.intake?.append($0, gate: self.loop.shared.gate) }
            return (step.consumedCount, step.action)
        }
    }

    func perform(_ action: ServerSession.Action) {
        // Not by the reply: the one that ends the session is another.
        if self.session.authenticationFailureCount > self.notedFailureCount {
            self.notedFailureCount = self.session.authenticationFailureCount
            self.noteAuthentication(isSuccess: false)
        }
        switch action {
        case .needsMore:
            break
        case .reply(let reply):
            self.send(reply)
        case .replyThenClose(let reply):
            self.send(reply)
            self.closeNow()
        case .replyThenHandshake(let reply):
            self.send(reply)
            self.beginHandshake()
        case .beginContent(let transaction, let reply):
            self.beginContent(transaction)
            if let reply { self.send(reply) }
        case .discardContent(let reply):
            self.dropIntake()
            self.send(reply)
        case .publish(let transaction):
            self.publish(transaction)
        case .lookUpCredential(let userName):
            self.lookUp(userName)
        case .checkPassword(let check):
            self.checkPassword(check)
        }
    }

    /// After an event that the session waited for: its answer, then whatever the client has sent meanwhile.
    func proceed(_ action: ServerSession.Action) {
        self.perform(action)
        self.process()
        self.readIfWanted()
    }

    // MARK: Replies

    private func send(_ reply: Reply) {
        self.replies.writeBytes(reply.octets)
        if reply.isNegative { self.noteRejection(reply) }
        if reply.code == 235 { self.noteAuthentication(isSuccess: true) }
        if self.intake != nil, reply.isNegative, !self.session.isReceivingContent { self.dropIntake() }
        if self.replies.readableBytes > Self.replyCountMax {
            self.writeReplies()
            self.context?.flush()
        }
    }

    private func writeReplies() {
        guard self.replies.readableBytes > 0, let context = self.context else { return }
        context.write(Self.wrapOutboundOut(self.replies), promise: nil)
        self.replies = ByteBuffer()
    }

    private func flush() {
        guard self.replies.readableBytes > 0 else { return }
        self.writeReplies()
        self.context?.flush()
    }

    // MARK: Deadlines

    private func setDeadline(after duration: Duration) {
        self.deadline = min(self.loop.now &+ duration.nanoseconds, self.transactionDeadline)
    }

    /// The client has got somewhere: it has as long again for its next message. What it says without one buys nothing.
    func beginTransactionTime() {
        self.transactionDeadline = self.loop.now &+ self.shared.configuration.timeouts.server.transaction.nanoseconds
    }

    func beginContentTime() {
        self.contentDeadline = self.loop.now &+ self.shared.configuration.timeouts.server.dataTotal.nanoseconds
    }

    /// A command buys time for the next one, content for more content until its own deadline; single octets of a
    /// command buy nothing.
    private func moveDeadline(hasAnswered: Bool, hasRead: Bool) {
        guard case .session = self.phase else { return }
        let timeouts = self.shared.configuration.timeouts.server
        if !self.session.isReceivingContent { self.contentDeadline = nil }
        if self.session.isWaiting {
            self.deadline = .max
        } else if self.session.isReceivingContent {
            guard hasAnswered || hasRead else { return }
            // A chunk that nobody wants has the time of one that is wanted.
            if self.contentDeadline == nil { self.beginContentTime() }
            self.setDeadline(after: timeouts.dataBlock)
            self.deadline = min(self.deadline, self.contentDeadline ?? .max)
        } else if hasAnswered || self.deadline == .max {
            self.isPauseExcused = false
            self.setDeadline(after: timeouts.command)
        }
    }

    func timedOut() {
        switch self.phase {
        case .session:
            self.perform(self.session.interrupted(by: .timedOut))
            self.closeNow()
        case .handshaking:
            self.shared.metrics.handshakesFailed.increment()
            self.closeNow()
        case .proxyHeader, .starting, .closed:
            self.closeNow()
        }
    }

    /// The node stops: at once for sessions with nothing under way, for the others after their answer.
    func drain() {
        self.isDraining = true
        switch self.phase {
        case .session:
            self.process()
            self.flush()
        case .handshaking, .proxyHeader, .starting, .closed:
            self.closeNow()
        }
    }

    // MARK: TLS and PROXY

    private func beginHandshake() {
        guard let context = self.context, let tls = self.role.certificate?.context else { return self.closeNow() }
        self.flush()
        self.pending = ByteBuffer()
        self.phase = .handshaking
        self.setDeadline(after: self.shared.configuration.timeouts.server.tlsHandshake)
        do {
            let observer = CipherObserver(.server)
            try context.pipeline.syncOperations.addHandlers(
                [observer, NIOSSLServerHandler(context: tls)],
                position: .first
            )
            self.cipherObserver = observer
        } catch {
            self.closeNow()
        }
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if let event = event as? TLSUserEvent, case .handshakeCompleted = event, case .handshaking = self.phase {
            self.handshakeCompleted(context)
        }
        if let event = event as? ChannelEvent, event == .inputClosed { self.inputClosed() }
        context.fireUserInboundEventTriggered(event)
    }

    /// The client sends no more. In clear it may still wait for replies, as `nc -N` does; TLS ends both directions.
    private func inputClosed() {
        self.isInputClosed = true
        switch self.phase {
        case .session where !self.hasHandshaken: self.process()
        case .session, .starting, .proxyHeader, .handshaking: self.closeNow()
        case .closed: break
        }
    }

    private func handshakeCompleted(_ context: ChannelHandlerContext) {
        let handler = try? context.pipeline.syncOperations.handler(type: NIOSSLServerHandler.self)
        let version =
            switch handler?.tlsVersion {
            case .tlsv13: "TLSv1.3"
            case .tlsv12: "TLSv1.2"
            case .tlsv11, .tlsv1, .none: "TLS"
            }
        let facts = TLSFacts(
            version: version,
            cipherSuite: self.cipherObserver?.cipherSuite,
            verifiedClientName: self.role.clientName(in: handler?.peerCertificate)
        )
        self.shared.metrics.handshakes.increment()
        self.phase = .session
        self.hasHandshaken = true
        self.deadline = .max
        self.proceed(
            self.role.isTLSImplicit ? self.session.connected(tls: facts) : self.session.handshakeCompleted(facts)
        )
    }

    private func readProxyHeader() {
        switch self.pending.withUnsafeReadableBytes({ ProxyHeader.parse($0) }) {
        case .needsMore:
            break
        case .malformed:
            self.closeNow()
        case .complete(let header, let consumedCount):
            self.pending.moveReaderIndex(forwardBy: consumedCount)
            let rest = self.pending
            self.pending = ByteBuffer()
            if let source = header.source {
                self.address = IPAddress(source.address)
                self.session = Self.makeSession(self.role, self.address)
            }
            self.admit()
            // Through the pipeline again: a TLS handler may have to read it first.
            if rest.readableBytes > 0, self.phase != .closed {
                self.context?.pipeline.fireChannelRead(rest)
                self.context?.pipeline.fireChannelReadComplete()
            }
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        if case .handshaking = self.phase { self.shared.metrics.handshakesFailed.increment() }
        self.shared.logger.debug("A client's connection failed", metadata: [LogKeys.error: "\(error)"])
        self.phase = .closed
        self.dropIntake()
        context.close(promise: nil)
    }
}

extension Duration {
    /// Saturating.
    var nanoseconds: Int64 {
        let (seconds, attoseconds) = self.components
        let (whole, isTooLarge) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        // Half of the range, so that adding to a clock's time cannot overflow.
        return isTooLarge ? .max / 2 : min(whole &+ attoseconds / 1_000_000_000, .max / 2)
    }
}
