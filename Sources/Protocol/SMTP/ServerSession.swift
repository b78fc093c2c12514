import Mail

/// The server side of one SMTP session (RFC 5321 §3 and §4.1.4) with the extensions ServerConfiguration offers.
///
/// Sans-IO: it owns no socket, clock, task or random source. The driver
/// - calls ``connected(tls:)`` and performs its action,
/// - calls ``next(in:sink:)`` with all octets that wait, drops those consumed, performs the action, and repeats until
///   the action is `needsMore` (also with no octets left, since an action may be due without any);
/// - answers each action that asks for something with its event, performs that event's action, and goes on as before.
///
/// What the peer does wrong becomes a reply; an event that no action asked for is a programmer error and traps.
///
/// Durability: the reply to end-of-data leaves this type only through ``published(as:)``, that is, after the log has
/// acknowledged the message on stable storage.
public struct ServerSession: Sendable {
    /// What the driver does next.
    public enum Action: Hashable, Sendable {
        /// Read more.
        case needsMore
        case reply(Reply)
        /// Write the reply, then close the connection.
        case replyThenClose(Reply)
        /// Write the reply, drop whatever has been read (``next(in:sink:)`` has counted its share as consumed), do the
        /// TLS handshake, then call ``handshakeCompleted(_:)``.
        case replyThenHandshake(Reply)
        /// Content begins: start an empty buffer, with the trace fields if wanted, for what `sink` is given from now
        /// on, and write the reply if there is one (there is none for BDAT).
        case beginContent(AcceptedTransaction, reply: Reply?)
        /// Forget the content and write the reply.
        case discardContent(Reply)
        /// Append to the log, then call ``published(as:)`` or ``publishFailed(_:)``. Pipelined commands wait
        /// (RFC 2920 §3.1).
        case publish(AcceptedTransaction)
        /// Call ``foundCredential(_:nonce:)`` or ``lookUpFailed()``.
        case lookUpCredential(userName: String)
        /// Run the check away from the event loop, then call ``checkedPassword(isMatch:)``.
        case checkPassword(PasswordCheck)
    }

    /// What became of some octets.
    public struct Step: Hashable, Sendable {
        public var consumedCount: Int
        public var action: Action
    }

    enum State: Sendable {
        /// Before ``connected(tls:)``. Next: `greeted`, `refused`, `closed`.
        case unconnected
        /// Greeted with 554; waits for QUIT. Next: `closed`.
        case refused
        /// Before EHLO. Next: `ready`, `closed`.
        case greeted
        /// No transaction open. Next: `envelope`, `handshaking`, `authenticating`, `lookingUp`, `discardingChunk`.
        case ready
        /// After MAIL. Next: `content`, `chunk`, `ready`, `discardingChunk`.
        case envelope(AcceptedTransaction)
        /// Between 354 and end-of-data. Next: `publishing`, `ready`.
        case content(AcceptedTransaction, ContentDecoder)
        /// Between two BDAT commands of one message. Next: `chunk`, `ready`, `discardingChunk`.
        case betweenChunks(AcceptedTransaction, ChunkDecoder)
        /// Within a chunk. Next: `betweenChunks`, `publishing`, `ready`.
        case chunk(AcceptedTransaction, ChunkDecoder, size: Int, isLast: Bool)
        /// Within a chunk that nobody wants; `reply` is its answer. Next: `next`.
        indirect case discardingChunk(remainingCount: Int, reply: Reply, next: State)
        /// A line of SASL data is awaited. Next: `lookingUp`, `ready`.
        case authenticating(SASLExchange)
        /// The driver looks a user up. Next: `checking`, `authenticating`, `ready`.
        case lookingUp(SASLExchange)
        /// The driver checks a password. Next: `ready`.
        case checking(SASLExchange)
        /// The driver does a TLS handshake. Next: `greeted`.
        case handshaking
        /// The append is in flight; the peer waits. Next: `ready`.
        case publishing
        /// Whatever still comes is swallowed.
        case closed
    }

    var state: State = .unconnected
    let configuration: ServerConfiguration
    let policy: any SessionPolicy
    var lines: CommandLineDecoder
    /// Why to close as soon as the driver has answered.
    private var interruption: Reply?
    var errorCount = 0
    var junkCommandCount = 0
    /// Recipients beyond the bound since the last message.
    var overshootCount = 0
    var messageCount = 0
    /// Passwords that were wrong, and users that there are not.
    public internal(set) var authenticationFailureCount = 0

    public internal(set) var facts: SessionFacts

    public init(configuration: ServerConfiguration, policy: any SessionPolicy, clientAddress: String) {
        self.configuration = configuration
        self.policy = policy
        self.lines = CommandLineDecoder(isBareLineFeedAllowed: configuration.isBareLineFeedAllowedInCommands)
        self.facts = SessionFacts(clientAddress: clientAddress, listener: configuration.listener)
    }

    /// Whether the session waits for an event of the driver; nothing need be read meanwhile.
    public var isWaiting: Bool {
        switch self.state {
        case .unconnected, .lookingUp, .checking, .handshaking, .publishing: true
        case .refused, .greeted, .ready, .envelope, .content, .betweenChunks, .chunk, .discardingChunk,
            .authenticating, .closed:
            false
        }
    }

    /// Whether content is being received, so that the longer timeout of RFC 5321 §4.5.3.2 applies.
    public var isReceivingContent: Bool {
        switch self.state {
        case .content, .chunk, .betweenChunks, .discardingChunk: true
        case .unconnected, .refused, .greeted, .ready, .envelope, .authenticating, .lookingUp, .checking, .handshaking,
            .publishing, .closed:
            false
        }
    }

    // MARK: Events

    /// The connection is up; `tls` is set when its handshake came first (RFC 8314 §3).
    public mutating func connected(tls: TLSFacts? = nil) -> Action {
        guard case .unconnected = self.takeState() else { preconditionFailure("Connected twice.") }
        self.facts.tls = tls
        switch self.policy.evaluateConnection(self.facts) {
        case .accept:
            self.state = .greeted
            return .reply(self.configuration.banner)
        case .reject(let reply):
            self.state = .refused
            return .reply(reply)
        case .close(let reply):
            return .replyThenClose(reply)
        }
    }

    /// Takes the octets that wait, up to what makes one action. Content goes to `sink`.
    public mutating func next(in octets: UnsafeRawBufferPointer, sink: (UnsafeRawBufferPointer) -> Void) -> Step {
        if let interruption = self.interruption, !self.isWaiting {
            self.state = .closed
            self.interruption = nil
            return Step(consumedCount: octets.count, action: .replyThenClose(interruption))
        }
        var consumedCount = 0
        while true {
            let rest = UnsafeRawBufferPointer(rebasing: octets[consumedCount...])
            let (count, action) = self.advance(rest, sink)
            consumedCount += count
            guard let action else { continue }
            // What came before the handshake must not be taken for what came after (CVE-2011-0411, RFC 3207 §4.2).
            if case .replyThenHandshake = action { consumedCount = octets.count }
            if case .replyThenClose = action { consumedCount = octets.count }
            return Step(consumedCount: consumedCount, action: action)
        }
    }

    /// The TLS handshake after STARTTLS is done: everything the client said before is forgotten (RFC 3207 §4.2).
    public mutating func handshakeCompleted(_ tls: TLSFacts) -> Action {
        guard case .handshaking = self.takeState() else { preconditionFailure("Handshake without STARTTLS.") }
        self.facts = SessionFacts(clientAddress: self.facts.clientAddress, listener: self.facts.listener)
        self.facts.tls = tls
        self.lines = CommandLineDecoder(isBareLineFeedAllowed: self.configuration.isBareLineFeedAllowedInCommands)
        self.state = .greeted
        return .needsMore
    }

    /// The log acknowledged the message on stable storage: the relay now owns it (RFC 5321 §6.1).
    public mutating func published(as id: String) -> Action {
        self.takePublishing()
        self.messageCount += 1
        self.junkCommandCount = 0
        self.overshootCount = 0
        return .reply(.queued(as: id))
    }

    /// The message was not taken: the log refused or timed out (``Reply/notStored``), or it was refused after a look
    /// at its content. The session goes on, unless the reply is 421.
    public mutating func publishFailed(_ reply: Reply) -> Action {
        precondition(reply.isNegative, "A failure must not look like success.")
        self.takePublishing()
        return self.answer(reply)
    }

    /// The client was silent for too long (RFC 5321 §4.5.3.2.7), or the service closes: answers at once, or after the
    /// event awaited from the driver.
    public mutating func interrupted(by reply: Reply) -> Action {
        switch self.takeState() {
        case .refused, .greeted, .ready, .envelope, .content, .betweenChunks, .chunk, .discardingChunk,
            .authenticating:
            return .replyThenClose(reply)
        case .closed:
            return .needsMore
        case let waiting where self.interruption == nil:
            self.state = waiting
            self.interruption = reply
            return .needsMore
        case let waiting:
            self.state = waiting
            return .needsMore
        }
    }

    private mutating func takePublishing() {
        guard case .publishing = self.takeState() else { preconditionFailure("Publish result fed without a publish.") }
        self.state = .ready
    }

    // MARK: Octets

    /// Takes the next unit of octets; `nil` when the unit asks for nothing and the next one can follow.
    private mutating func advance(
        _ octets: UnsafeRawBufferPointer,
        _ sink: (UnsafeRawBufferPointer) -> Void
    ) -> (Int, Action?) {
        switch self.state {
        case .unconnected, .lookingUp, .checking, .handshaking, .publishing:
            return (0, .needsMore)
        case .closed:
            return (octets.count, .needsMore)
        case .refused, .greeted, .ready, .envelope, .betweenChunks:
            return self.advanceLine(octets, lineCountMax: self.configuration.limits.lineOctetCountMax)
        case .authenticating:
            return self.advanceLine(octets, lineCountMax: self.configuration.limits.authenticationLineOctetCountMax)
        case .content:
            return self.advanceContent(octets, sink)
        case .chunk:
            return self.advanceChunk(octets, sink)
        case .discardingChunk:
            return self.advanceDiscard(octets)
        }
    }

    private mutating func advanceLine(_ octets: UnsafeRawBufferPointer, lineCountMax: Int) -> (Int, Action?) {
        switch self.lines.next(octets, lineCountMax: lineCountMax) {
        case .needsMore(let consumedCount):
            return (consumedCount, .needsMore)
        case .line(let count, let consumedCount):
            return (consumedCount, self.received(line: UnsafeRawBufferPointer(rebasing: octets[..<count])))
        case .tooLong(let consumedCount):
            return (consumedCount, self.receivedUnusableLine(.lineTooLong))
        case .bareLineFeed(let consumedCount):
            return (consumedCount, self.receivedUnusableLine(.bareNewlineInCommand))
        }
    }

    private mutating func advanceContent(
        _ octets: UnsafeRawBufferPointer,
        _ sink: (UnsafeRawBufferPointer) -> Void
    ) -> (Int, Action?) {
        guard case .content(let transaction, var decoder) = self.takeState() else {
            preconditionFailure("Not within content.")
        }
        let progress = decoder.next(octets, sink: sink)
        switch progress.status {
        case .needsMore:
            self.state = .content(transaction, decoder)
            return (progress.consumedCount, .needsMore)
        case .abandoned:
            return (progress.consumedCount, .replyThenClose(.messageTooLarge))
        case .ended:
            return (
                progress.consumedCount, self.endContent(transaction, size: decoder.size, faults: decoder.faults)
            )
        }
    }

    private mutating func advanceChunk(
        _ octets: UnsafeRawBufferPointer,
        _ sink: (UnsafeRawBufferPointer) -> Void
    ) -> (Int, Action?) {
        guard case .chunk(let transaction, var decoder, let size, let isLast) = self.takeState() else {
            preconditionFailure("Not within a chunk.")
        }
        let consumedCount = decoder.next(octets, sink: sink)
        guard decoder.isChunkComplete else {
            self.state = .chunk(transaction, decoder, size: size, isLast: isLast)
            return (consumedCount, .needsMore)
        }
        if isLast {
            decoder.finish(sink: sink)
        } else if decoder.faults.isEmpty {
            self.state = .betweenChunks(transaction, decoder)
            return (consumedCount, .reply(.chunkReceived(octets: size)))
        }
        return (consumedCount, self.endContent(transaction, size: decoder.size, faults: decoder.faults))
    }

    private mutating func advanceDiscard(_ octets: UnsafeRawBufferPointer) -> (Int, Action?) {
        guard case .discardingChunk(let remainingCount, let reply, let next) = self.takeState() else {
            preconditionFailure("Not discarding.")
        }
        let count = min(octets.count, remainingCount)
        guard count == remainingCount else {
            self.state = .discardingChunk(remainingCount: remainingCount - count, reply: reply, next: next)
            return (count, .needsMore)
        }
        self.state = next
        return (count, self.answer(reply))
    }

    /// Content is complete: to the log with it, unless something was wrong with it.
    private mutating func endContent(
        _ transaction: AcceptedTransaction,
        size: Int,
        faults: ContentFaults
    ) -> Action {
        guard let reply = Self.reply(to: faults) else {
            var transaction = transaction
            transaction.contentSize = size
            self.state = .publishing
            return .publish(transaction)
        }
        self.state = .ready
        return self.answer(reply, discardsContent: true)
    }

    private static func reply(to faults: ContentFaults) -> Reply? {
        if faults.isEmpty { return nil }
        if faults.contains(.tooLarge) { return .messageTooLarge }
        if faults.contains(.bareNewline) { return .bareNewline }
        return faults.contains(.nul) ? .nulInContent : .contentLineTooLong
    }

    // MARK: Answers

    /// Answers, and gives up on a peer that makes too many errors. 421 always closes (RFC 5321 §3.8).
    mutating func answer(_ reply: Reply, discardsContent: Bool = false) -> Action {
        if reply.code == 421 { return self.close(reply) }
        if reply.isPermanentNegative {
            self.errorCount += 1
            if self.errorCount >= self.configuration.limits.errorCountMax { return self.close(.tooManyErrors) }
        } else if reply.isNegative {
            // Not the peer's fault, and no progress either.
            self.junkCommandCount += 1
            guard self.junkCommandCount <= self.configuration.limits.junkCommandCountMax else {
                return self.close(.tooManyJunkCommands)
            }
        }
        return discardsContent ? .discardContent(reply) : .reply(reply)
    }

    mutating func close(_ reply: Reply) -> Action {
        self.state = .closed
        return .replyThenClose(reply)
    }

    /// Moves the state out, so that payloads are changed in place rather than copied.
    ///
    /// A path that forgets to put a state back leaves `closed`.
    mutating func takeState() -> State {
        exchange(&self.state, with: .closed)
    }
}
