public import Mail
public import NIOCore
public import SMTP

/// How well a connection must be protected (RFC 3207; DANE and MTA-STS add to this later).
public enum TLSLevel: Hashable, Sendable {
    case none
    /// Use STARTTLS when offered, without verifying; go on in the clear when it is not offered.
    case opportunistic
    /// STARTTLS must succeed; the certificate is not verified.
    case required
    /// STARTTLS must succeed with a certificate that a trusted authority issued for the host's name.
    case verified
}

/// What to connect to for a site: where, how, and as whom.
public struct OutboundTarget: Hashable, Sendable {
    public enum Wire: Hashable, Sendable {
        case smtp
        /// RFC 2033: one reply per recipient after the content.
        case lmtp
    }

    public struct Endpoint: Hashable, Sendable {
        /// The host's name, for logs and certificates; the path for a Unix socket.
        public var host: String
        /// In the order to try them.
        public var addresses: [SocketAddress]
        public init(host: String, addresses: [SocketAddress]) {
            self.host = host
            self.addresses = addresses
        }
    }

    public var wire: Wire
    /// In the order to try them: connect, banner, EHLO and TLS failures fall through to the next.
    public var endpoints: [Endpoint]
    public var tls: TLSLevel
    /// TLS from the first octet (RFC 8314 §3.3).
    public var isImplicitTLS: Bool
    public var credentials: OutboundCredentials?

    public init(
        wire: Wire = .smtp,
        endpoints: [Endpoint],
        tls: TLSLevel = .opportunistic,
        isImplicitTLS: Bool = false,
        credentials: OutboundCredentials? = nil
    ) {
        self.wire = wire
        self.endpoints = endpoints
        self.tls = tls
        self.isImplicitTLS = isImplicitTLS
        self.credentials = credentials
    }
}

public struct OutboundCredentials: Hashable, Sendable {
    public var user: String
    public var password: String
    public init(user: String, password: String) {
        self.user = user
        self.password = password
    }
}

/// One mail transaction to try on a connection.
public struct OutboundTransaction: Sendable {
    public var id: UInt64
    public var reversePath: Mailbox?
    public var recipients: [Recipient]
    public var bodyType: Envelope.BodyType
    public var isInternationalized: Bool
    public var returnContent: Envelope.ReturnContent?
    public var envelopeID: String?
    /// The exact octets to send, before dot-stuffing.
    public var content: ByteBuffer

    public init(
        id: UInt64,
        reversePath: Mailbox?,
        recipients: [Recipient],
        bodyType: Envelope.BodyType,
        isInternationalized: Bool,
        returnContent: Envelope.ReturnContent?,
        envelopeID: String?,
        content: ByteBuffer
    ) {
        self.id = id
        self.reversePath = reversePath
        self.recipients = recipients
        self.bodyType = bodyType
        self.isInternationalized = isInternationalized
        self.returnContent = returnContent
        self.envelopeID = envelopeID
        self.content = content
    }
}

/// What one attempt at one recipient came to.
public enum RecipientResult: Sendable {
    /// The remote took responsibility. `isDSNPassedOn` says whether it accepted the DSN parameters.
    case delivered(RemoteReply, isDSNPassedOn: Bool)
    case failed(DeliveryFailure)
}

/// What one attempt came to; one result for each recipient, in their order.
public struct TransactionResult: Sendable {
    public var transactionID: UInt64
    public var results: [RecipientResult]
    /// Microseconds from handing over the transaction to its last reply.
    public var duration: Int64
    /// The content was past its final dot when the connection was lost: it may have been delivered.
    public var isInDoubt: Bool

    public init(transactionID: UInt64, results: [RecipientResult], duration: Int64, isInDoubt: Bool) {
        self.transactionID = transactionID
        self.results = results
        self.duration = duration
        self.isInDoubt = isInDoubt
    }
}

/// Facts of an established connection, for outcomes and the logger.
public struct OutboundSessionFacts: Hashable, Sendable {
    public var host: String
    /// Address and port, as text.
    public var address: String
    /// `TLSv1.3`, `nil` in the clear.
    public var tlsVersion: String?
    /// IANA's name: `TLS_AES_256_GCM_SHA384`, `nil` in the clear.
    public var tlsCipherSuite: String?
    /// The certificate was verified for the host's name.
    public var isTLSVerified: Bool
    /// STARTTLS was offered but failed, so this connection is in the clear; opportunistic TLS only.
    public var isTLSAvoided: Bool
    /// Forward-paths the host takes in one transaction; 100 unless it says otherwise (RFC 5321 §4.5.3.1.8).
    public var recipientCountMax: Int
    /// Octets of content the host takes; `nil` when it does not say (RFC 1870).
    public var contentSizeMax: Int?

    public init(
        host: String,
        address: String,
        tlsVersion: String?,
        tlsCipherSuite: String? = nil,
        isTLSVerified: Bool,
        isTLSAvoided: Bool = false,
        recipientCountMax: Int = 100,
        contentSizeMax: Int? = nil
    ) {
        self.host = host
        self.address = address
        self.tlsVersion = tlsVersion
        self.tlsCipherSuite = tlsCipherSuite
        self.isTLSVerified = isTLSVerified
        self.isTLSAvoided = isTLSAvoided
        self.recipientCountMax = recipientCountMax
        self.contentSizeMax = contentSizeMax
    }
}

/// What a connection tells its owner; each call is on the connection's event loop.
public protocol OutboundConnectionDelegate: Sendable {
    /// Connected, greeted, secured and logged in: a transaction may be sent.
    func connectionBecameReady(_ id: UInt64, facts: OutboundSessionFacts)
    /// The transaction is over. The connection takes another one only if `isReusable`; else it closes by itself.
    func connection(_ id: UInt64, finished result: TransactionResult, isReusable: Bool)
    /// The connection is gone: it could not be made (after all endpoints were tried; `failure` is the most telling
    /// one), or it ended while idle (`failure` is `nil`). Last call for this id. A transaction that was under way has
    /// been reported through `finished` before.
    func connectionClosed(_ id: UInt64, failure: DeliveryFailure?)
}
