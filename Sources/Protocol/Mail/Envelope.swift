/// What the relay knows about a message besides its content: who sent it, to whom, and how (RFC 5321 §2.3.1).
///
/// It travels with the message through the log, so that any node can deliver it, defer it or report on it.
public struct Envelope: Hashable, Sendable {
    /// What the content is made of (RFC 1652, RFC 6152).
    public enum BodyType: UInt8, Hashable, Sendable {
        case sevenBit = 0
        case eightBitMIME = 1
    }

    /// What a notification should return (RFC 3461 §4.3).
    public enum ReturnContent: UInt8, Hashable, Sendable {
        case full = 1
        case headers = 2
    }

    /// The relay's own identity for the message, unique across the cluster.
    public var messageID: MessageID
    /// Where notifications go; `nil` is the null reverse-path `<>`.
    public var reversePath: Mailbox?
    public var recipients: [Recipient]
    public var bodyType: BodyType
    /// The sender asked for SMTPUTF8 (RFC 6531 §3.4).
    public var isInternationalized: Bool
    /// The sender's RET parameter, if any (RFC 3461 §4.3).
    public var returnContent: ReturnContent?
    /// The sender's ENVID parameter, decoded from xtext (RFC 3461 §4.4).
    public var envelopeID: String?
    /// When the relay took the message, milliseconds since 1970 (UTC).
    public var acceptedAt: Int64
    /// Octets of content.
    public var contentSize: Int
    public var origin: Origin

    public init(
        messageID: MessageID,
        reversePath: Mailbox?,
        recipients: [Recipient],
        bodyType: BodyType = .sevenBit,
        isInternationalized: Bool = false,
        returnContent: ReturnContent? = nil,
        envelopeID: String? = nil,
        acceptedAt: Int64,
        contentSize: Int,
        origin: Origin = Origin()
    ) {
        self.messageID = messageID
        self.reversePath = reversePath
        self.recipients = recipients
        self.bodyType = bodyType
        self.isInternationalized = isInternationalized
        self.returnContent = returnContent
        self.envelopeID = envelopeID
        self.acceptedAt = acceptedAt
        self.contentSize = contentSize
        self.origin = origin
    }
}

/// Where a message came from; for logs, outcomes and notifications.
public struct Origin: Hashable, Sendable {
    /// The client's address without port, as text; empty for mail the relay made itself.
    public var clientAddress: String
    /// What the client called itself in EHLO or HELO.
    public var clientName: String
    /// The authenticated identity, if any.
    public var authenticatedIdentity: String?
    /// The `with` keyword of Received (RFC 3848): `ESMTP`, `ESMTPSA`, ...
    public var transmissionType: String
    /// The name of the listener that took it.
    public var listener: String

    public init(
        clientAddress: String = "",
        clientName: String = "",
        authenticatedIdentity: String? = nil,
        transmissionType: String = "",
        listener: String = ""
    ) {
        self.clientAddress = clientAddress
        self.clientName = clientName
        self.authenticatedIdentity = authenticatedIdentity
        self.transmissionType = transmissionType
        self.listener = listener
    }
}

/// One forward-path of a message, with what the sender asked about it (RFC 5321 §4.1.1.3, RFC 3461 §4.1-4.2).
public struct Recipient: Hashable, Sendable {
    /// When the sender wants notifications (RFC 3461 §4.1). `never` excludes the others.
    public struct Notify: OptionSet, Hashable, Sendable {
        public let rawValue: UInt8
        public init(rawValue: UInt8) { self.rawValue = rawValue }
        public static let success = Notify(rawValue: 1)
        public static let failure = Notify(rawValue: 2)
        public static let delay = Notify(rawValue: 4)
        public static let never = Notify(rawValue: 8)
    }

    public var mailbox: Mailbox
    /// The position in the message as accepted, stable for its life: with the message's id it names the recipient's
    /// final outcome.
    public var index: UInt32
    /// `nil` when the sender said nothing: failure (and delay, where configured) is reported.
    public var notify: Notify?
    /// ORCPT as received, `addr-type;xtext` (RFC 3461 §4.2).
    public var originalRecipient: String?

    public init(mailbox: Mailbox, index: UInt32, notify: Notify? = nil, originalRecipient: String? = nil) {
        self.mailbox = mailbox
        self.index = index
        self.notify = notify
        self.originalRecipient = originalRecipient
    }
}
