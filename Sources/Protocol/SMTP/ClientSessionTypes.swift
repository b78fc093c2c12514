public import Mail

/// How one ``ClientSession`` behaves.
public struct ClientConfiguration: Sendable {
    public enum Wire: Hashable, Sendable {
        case smtp
        /// RFC 2033: LHLO, and one reply per recipient after the content.
        case lmtp
    }

    public enum TLS: Hashable, Sendable {
        case never
        /// STARTTLS when offered; in the clear when not, or when it fails.
        case opportunistic
        /// Nothing is sent beyond EHLO and STARTTLS without it. Verifying the certificate is the driver's.
        case required
    }

    public struct Credentials: Hashable, Sendable {
        public var user: String
        public var password: String
        public init(user: String, password: String) {
            self.user = user
            self.password = password
        }
    }

    public var wire: Wire
    /// What EHLO calls us: a domain or an address literal.
    public var name: String
    public var tls: TLS
    /// `nil`: no AUTH.
    public var credentials: Credentials?
    /// A password may cross this connection in the clear, because it does not leave the machine.
    public var isLoopback: Bool
    /// Printable ASCII without comma, fresh for every session (RFC 5802 §5.1).
    public var nonce: String
    public var timeouts: ClientTimeouts

    public init(
        wire: Wire = .smtp,
        name: String,
        tls: TLS = .opportunistic,
        credentials: Credentials? = nil,
        isLoopback: Bool = false,
        nonce: String = "",
        timeouts: ClientTimeouts = ClientTimeouts()
    ) {
        self.wire = wire
        self.name = name
        self.tls = tls
        self.credentials = credentials
        self.isLoopback = isLoopback
        self.nonce = nonce
        self.timeouts = timeouts
    }
}

/// How long a server may take, by phase (RFC 5321 §4.5.3.2).
public struct ClientTimeouts: Hashable, Sendable {
    /// For one address.
    public var connect: Duration = .seconds(30)
    public var banner: Duration = .seconds(300)
    /// EHLO, HELO, STARTTLS and each step of AUTH.
    public var hello: Duration = .seconds(300)
    public var tlsHandshake: Duration = .seconds(30)
    public var mail: Duration = .seconds(300)
    public var recipient: Duration = .seconds(300)
    public var data: Duration = .seconds(120)
    /// For the peer to take some more of the content.
    public var contentBlock: Duration = .seconds(180)
    public var finalDot: Duration = .seconds(600)
    public var reset: Duration = .seconds(20)
    public var quit: Duration = .seconds(5)

    public init() {}
}

/// Where in a session something happened.
public enum ClientPhase: String, Hashable, Sendable, CaseIterable {
    case connect, banner, ehlo, starttls, auth, mail, rcpt, data, content, finalDot, idle
}

/// Why a session or a recipient failed, before anybody judges what follows from it.
public struct ClientFailure: Hashable, Sendable {
    public enum Cause: Hashable, Sendable {
        /// The server said so.
        case reply(RemoteReply)
        /// A reply that answers nothing, or not in a way the command allows.
        case unexpectedReply(RemoteReply)
        case malformedReply(ClientReplyError)
        case connectionLost
        case timedOut
        /// We gave up, at a moment when nothing can have been delivered.
        case aborted
        case tlsNotOffered
        /// The handshake failed, or the certificate was not accepted; why, for people.
        case tlsFailed(reason: String)
        /// No mechanism of the server's is one of ours.
        case authenticationNotOffered
        /// The password would have crossed the network in the clear.
        case authenticationUnprotected
        /// The server did not prove that it knows the password, or broke the exchange (RFC 5802 §9).
        case authenticationBroken
        /// The content needs SMTPUTF8 (RFC 6531 §3.2).
        case internationalizationNotOffered
        /// The content needs 8BITMIME; convert it, or give up (RFC 6152 §3).
        case eightBitNotOffered
        /// The content is larger than the server's SIZE.
        case contentTooLarge(limit: Int)
        /// An address or a parameter cannot be written as a command.
        case unsendableEnvelope
    }

    public var phase: ClientPhase
    public var cause: Cause

    public init(_ phase: ClientPhase, _ cause: Cause) {
        self.phase = phase
        self.cause = cause
    }
}

/// The envelope of one mail transaction, and what must be known of its content.
public struct ClientTransaction: Hashable, Sendable {
    public var reversePath: Mailbox?
    public var recipients: [Recipient]
    /// Octets, before dot-stuffing.
    public var contentSize: Int
    /// The sender declared it, or octets above 127 were seen in the body.
    public var isEightBit: Bool
    /// Whether octets above 127 were really seen, so that the content cannot go to a server without 8BITMIME.
    public var hasEightBitContent: Bool
    /// The header section has octets above 127; addresses are looked at by the session.
    public var hasInternationalizedHeader: Bool
    public var returnContent: Envelope.ReturnContent?
    /// As the sender meant it; it is sent as xtext.
    public var envelopeID: String?

    public init(
        reversePath: Mailbox?,
        recipients: [Recipient],
        contentSize: Int,
        isEightBit: Bool = false,
        hasEightBitContent: Bool = false,
        hasInternationalizedHeader: Bool = false,
        returnContent: Envelope.ReturnContent? = nil,
        envelopeID: String? = nil
    ) {
        self.reversePath = reversePath
        self.recipients = recipients
        self.contentSize = contentSize
        self.isEightBit = isEightBit
        self.hasEightBitContent = hasEightBitContent
        self.hasInternationalizedHeader = hasInternationalizedHeader
        self.returnContent = returnContent
        self.envelopeID = envelopeID
    }
}

/// What a transaction came to for one recipient.
public enum ClientRecipientOutcome: Hashable, Sendable {
    /// The reply to the final dot: the server took responsibility (RFC 5321 §6.1).
    case accepted(RemoteReply)
    case failed(ClientFailure)
}

/// What a transaction came to.
public struct ClientTransactionOutcome: Hashable, Sendable {
    /// One for each recipient, in their order.
    public var recipients: [ClientRecipientOutcome]
    /// The server was given the DSN parameters, so notifications of success are its duty (RFC 3461 §5.2.1).
    public var isDSNPassedOn: Bool
    /// The connection was lost between the final dot and its reply: the message may have been delivered.
    public var isInDoubt: Bool
    /// Another transaction may begin.
    public var isReusable: Bool

    public init(recipients: [ClientRecipientOutcome], isDSNPassedOn: Bool, isInDoubt: Bool, isReusable: Bool) {
        self.recipients = recipients
        self.isDSNPassedOn = isDSNPassedOn
        self.isInDoubt = isInDoubt
        self.isReusable = isReusable
    }
}
