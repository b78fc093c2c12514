import Mail

/// The client side of one SMTP or LMTP session (RFC 5321 §3, §4.5.4; RFC 2033), from the banner to QUIT.
///
/// Sans-IO: the driver feeds it octets and events and performs the one ``Action`` each returns. Before an action it
/// writes what stands in ``outbound``, after it the peer has ``timeout``. Whatever the peer sends becomes an action;
/// an event out of order is the driver's error and traps.
///
/// Every transaction given to ``begin(_:)`` ends in exactly one ``Action/finished(_:)``, whatever happens.
public struct ClientSession: Sendable {
    /// What the driver does next, after writing ``outbound``.
    public enum Action: Hashable, Sendable {
        /// Wait for the peer.
        case wait
        /// Make the connection a TLS one, then call ``tlsEstablished()`` or ``ended(_:)``.
        case startTLS
        /// Derive the key away from the event loop, then call ``derived(_:)``.
        case deriveKey(KeyDerivation)
        /// ``begin(_:)`` may be called.
        case becameReady
        /// Write the content, dot-stuffed, and the final dot, then call ``contentWritten()``.
        case sendContent
        /// The transaction is over. If the outcome says that the session is not reusable, call ``quit()``.
        case finished(ClientTransactionOutcome)
        /// TLS failed and is not required: connect again to the same host, with TLS `.never`.
        case reconnectWithoutTLS
        /// No session came about: close.
        case failed(ClientFailure)
        /// Close; nothing is lost.
        case close
    }

    /// Why nothing more will come.
    public enum End: Hashable, Sendable {
        case connectionLost
        case timedOut
        /// We end it.
        case aborted
        /// The handshake failed, or the certificate did not verify.
        case tlsFailed(reason: String)
    }

    enum State: Sendable {
        /// Not connected. Next: `banner`.
        case initial
        /// Next: `hello`, `closed`.
        case banner
        /// EHLO or LHLO was sent. Next: `helo`, `startTLS`, `authentication`, `ready`, `closed`.
        case hello
        /// HELO was sent, EHLO being unknown. Next: `ready`, `closed`.
        case helo
        /// STARTTLS was sent. Next: `handshake`, `authentication` or `ready` (it was refused), `closed`.
        case startTLS
        /// Next: `hello`, `closed`.
        case handshake
        /// Next: `ready`, `closed`.
        case authentication(ClientAuthentication)
        /// Between transactions. Next: `transaction`, `quitting`, `closed`.
        case ready
        /// Next: `ready`, `closed`.
        case transaction(OpenTransaction)
        /// QUIT was sent. Next: `closed`.
        case quitting
        /// Final.
        case closed
    }

    /// Commands to write before the next action is performed; the driver empties it with ``clearOutbound()``.
    public internal(set) var outbound: [UInt8] = []
    /// What the server offered last.
    public internal(set) var capabilities = ClientCapabilities()
    /// Everything from here on is within TLS.
    public internal(set) var isSecured: Bool

    var state = State.initial
    var parser = ClientReplyParser()
    let configuration: ClientConfiguration
    /// The server may still have an envelope of ours: RSET goes before the next MAIL.
    var needsReset = false
    var transactionCount = 0

    /// - Parameter isSecured: TLS was established before the banner (RFC 8314 §3.3).
    public init(configuration: ClientConfiguration, isSecured: Bool = false) {
        self.configuration = configuration
        self.isSecured = isSecured
        self.outbound.reserveCapacity(512)
    }

    public mutating func clearOutbound() {
        self.outbound.removeAll(keepingCapacity: true)
    }

    /// How long the peer may take with what is awaited now; `nil` when nothing is.
    public var timeout: Duration? {
        let timeouts = self.configuration.timeouts
        switch self.state {
        case .initial, .ready, .closed: return nil
        case .banner: return timeouts.banner
        case .hello, .helo, .startTLS, .authentication: return timeouts.hello
        case .handshake: return timeouts.tlsHandshake
        case .quitting: return timeouts.quit
        case .transaction(let open):
            switch open.expected {
            case .reset: return timeouts.reset
            case .mail: return timeouts.mail
            case .rcpt: return timeouts.recipient
            case .data: return timeouts.data
            case .content: return timeouts.contentBlock
            case .finalDot, .loneDot: return timeouts.finalDot
            }
        }
    }

    /// A transaction may begin.
    public var isReady: Bool {
        if case .ready = self.state { true } else { false }
    }

    /// QUIT was sent and is not answered.
    public var isQuitting: Bool {
        if case .quitting = self.state { true } else { false }
    }

    public var isInTransaction: Bool {
        if case .transaction = self.state { true } else { false }
    }

    /// Forward-paths the server takes in one transaction; 100 unless it says otherwise (RFC 5321 §4.5.3.1.8).
    public var recipientCountMax: Int { self.capabilities.recipientCountMax ?? 100 }

    // MARK: Events

    /// The connection is there, and secured if it is to be from the start.
    public mutating func connected() -> Action {
        guard case .initial = self.state else { preconditionFailure("Connected twice.") }
        self.state = .banner
        return .wait
    }

    /// Octets came. Call again with the same octets until it returns `nil`, which means that all are taken.
    public mutating func received(_ octets: UnsafeRawBufferPointer, at position: inout Int) -> Action? {
        guard position < octets.count else { return nil }
        if case .closed = self.state {
            position = octets.count
            return nil
        }
        switch self.parser.parse(octets, at: &position) {
        case .needsMore:
            return nil
        case .malformed(let error):
            position = octets.count
            return self.fail(.malformedReply(error))
        case .reply(let code):
            return self.receivedReply(code, isLast: position == octets.count)
        }
    }

    /// The handshake is done, and the certificate verified if it had to be.
    public mutating func tlsEstablished() -> Action {
        guard case .handshake = self.state else { preconditionFailure("TLS established out of turn.") }
        self.isSecured = true
        // What was learnt in the clear counts no more (RFC 3207 §4.2).
        self.capabilities = ClientCapabilities()
        return self.sendHello()
    }

    /// The key of an ``Action/deriveKey(_:)`` is there. The session may have ended meanwhile.
    public mutating func derived(_ key: [UInt8]) -> Action {
        guard case .authentication(var authentication) = self.state, let response = authentication.derived(key) else {
            return .wait
        }
        self.outbound.append(text: response)
        self.outbound.appendLineEnding()
        self.state = .authentication(authentication)
        return .wait
    }

    /// The final dot has left: from now on the message may be delivered.
    public mutating func contentWritten() -> Action {
        switch exchange(&self.state, with: .closed) {
        case .transaction(var open):
            // It may be over already, when the server answered before it had read everything.
            if case .content = open.expected { open.expected = .finalDot(open.nextPending(from: 0)) }
            self.state = .transaction(open)
        case let other:
            self.state = other
        }
        return .wait
    }

    /// QUIT if the session is in a state for it.
    public mutating func quit() -> Action {
        switch self.state {
        case .ready:
            self.outbound.append(literal: "QUIT\r\n")
            self.state = .quitting
            return .wait
        case .quitting:
            return .wait
        case .initial, .banner, .hello, .helo, .startTLS, .handshake, .authentication, .closed:
            self.state = .closed
            return .close
        case .transaction:
            preconditionFailure("QUIT within a transaction.")
        }
    }

    /// Nothing more will come from the peer, or is waited for.
    public mutating func ended(_ end: End) -> Action {
        let cause: ClientFailure.Cause =
            switch end {
            case .connectionLost: .connectionLost
            case .timedOut: .timedOut
            case .aborted: .aborted
            case .tlsFailed(let reason): .tlsFailed(reason: reason)
            }
        guard end != .aborted, self.configuration.tls == .opportunistic else { return self.fail(cause) }
        switch self.state {
        case .startTLS where end != .timedOut, .handshake:
            self.state = .closed
            return .reconnectWithoutTLS
        case .hello where self.isSecured && end != .timedOut:
            // In TLS 1.3 the peer may turn us down after our side of the handshake is done.
            self.state = .closed
            return .reconnectWithoutTLS
        case .initial, .banner, .hello, .helo, .startTLS, .authentication, .ready, .transaction, .quitting, .closed:
            return self.fail(cause)
        }
    }

    /// Gives the open transaction up, unless it is past its final dot. `nil` when there is nothing to give up.
    public mutating func abortBeforeFinalDot() -> Action? {
        guard case .transaction(let open) = self.state else { return nil }
        if case .finalDot = open.expected { return nil }
        return self.fail(.aborted)
    }

    // MARK: Replies

    private mutating func receivedReply(_ code: Int, isLast: Bool) -> Action {
        switch exchange(&self.state, with: .closed) {
        case .initial, .closed:
            return .close
        case .banner:
            self.state = .banner
            return self.receivedBanner(code, isLast: isLast)
        case .hello:
            self.state = .hello
            return self.receivedHello(code, isLast: isLast)
        case .helo:
            self.state = .helo
            guard code / 100 == 2, isLast else { return self.fail(self.cause(code, isExpected: code / 100 != 2)) }
            return self.becomeReady()
        case .startTLS:
            self.state = .startTLS
            return self.receivedStartTLS(code, isLast: isLast)
        case .handshake:
            self.state = .handshake
            return self.fail(.unexpectedReply(self.parser.makeReply()))
        case .authentication(let authentication):
            self.state = .authentication(authentication)
            return self.receivedAuthentication(authentication, code, isLast: isLast)
        case .ready, .quitting:
            // Nobody asked: it is idle too long (421), or out of step.
            self.state = .closed
            return .close
        case .transaction(let open):
            return self.receivedReply(code, isLast: isLast, in: open)
        }
    }

    /// Ends the session, and the transaction in it.
    mutating func fail(_ cause: ClientFailure.Cause) -> Action {
        switch exchange(&self.state, with: .closed) {
        case .initial: return .failed(ClientFailure(.connect, cause))
        case .banner: return .failed(ClientFailure(.banner, cause))
        case .hello, .helo: return .failed(ClientFailure(.ehlo, cause))
        case .startTLS, .handshake: return .failed(ClientFailure(.starttls, cause))
        case .authentication: return .failed(ClientFailure(.auth, cause))
        case .ready, .quitting, .closed: return .close
        case .transaction(let open): return .finished(open.outcome(endedBy: cause))
        }
    }

    func cause(_ code: Int, isExpected: Bool) -> ClientFailure.Cause {
        let reply = self.parser.makeReply()
        return isExpected ? .reply(reply) : .unexpectedReply(reply)
    }
}
