import Mail

/// What TLS gave a session.
public struct TLSFacts: Hashable, Sendable {
    /// `TLSv1.3`
    public var version: String
    /// IANA's name of the cipher suite: `TLS_AES_256_GCM_SHA384`.
    public var cipherSuite: String?
    /// The name in a client certificate that was verified.
    public var verifiedClientName: String?

    public init(version: String, cipherSuite: String? = nil, verifiedClientName: String? = nil) {
        self.version = version
        self.cipherSuite = cipherSuite
        self.verifiedClientName = verifiedClientName
    }
}

/// What is known of a session besides its transaction.
public struct SessionFacts: Hashable, Sendable {
    /// The client's address without port, as text.
    public var clientAddress: String
    /// The name of the listener.
    public var listener: String
    /// What the client called itself in EHLO or HELO, as sent; empty before.
    public var clientName = ""
    /// Whether it said EHLO.
    public var isExtended = false
    public var tls: TLSFacts?
    public var authenticatedIdentity: String?

    public init(clientAddress: String, listener: String = "") {
        self.clientAddress = clientAddress
        self.listener = listener
    }
}

/// A transaction that has passed the session's checks: everything about a message but its content.
public struct AcceptedTransaction: Hashable, Sendable {
    /// `nil` is the null reverse-path.
    public var reversePath: Mailbox?
    /// In the order given; `index` is the position.
    public var recipients: [Recipient] = []
    public var bodyType: Envelope.BodyType
    /// The client asked for SMTPUTF8.
    public var isInternationalized: Bool
    public var returnContent: Envelope.ReturnContent?
    public var envelopeID: String?
    /// The SIZE parameter, if given.
    public var declaredSize: Int?
    /// The AUTH parameter; empty is `<>` (RFC 4954 §5). Believe it from trusted clients only.
    public var submitter: String?
    /// Octets of content; 0 until the content is complete.
    public var contentSize = 0
    public var session: SessionFacts

    public init(_ arguments: MailArguments, session: SessionFacts) {
        self.reversePath = arguments.reversePath
        self.bodyType = arguments.bodyType ?? .sevenBit
        self.isInternationalized = arguments.isInternationalized
        self.returnContent = arguments.returnContent
        self.envelopeID = arguments.envelopeID
        self.declaredSize = arguments.size
        self.submitter = arguments.submitter
        self.session = session
    }

    /// The `with` keyword of Received (RFC 3848, RFC 6531 §4.3).
    public var transmissionType: String {
        guard self.session.isExtended else { return "SMTP" }
        switch (self.isInternationalized, self.session.tls != nil, self.session.authenticatedIdentity != nil) {
        case (false, false, false): return "ESMTP"
        case (false, false, true): return "ESMTPA"
        case (false, true, false): return "ESMTPS"
        case (false, true, true): return "ESMTPSA"
        case (true, false, false): return "UTF8SMTP"
        case (true, false, true): return "UTF8SMTPA"
        case (true, true, false): return "UTF8SMTPS"
        case (true, true, true): return "UTF8SMTPSA"
        }
    }

    /// Where the message came from, for its envelope.
    public var origin: Origin {
        Origin(
            clientAddress: self.session.clientAddress,
            clientName: self.session.clientName,
            authenticatedIdentity: self.session.authenticatedIdentity,
            transmissionType: self.transmissionType,
            listener: self.session.listener
        )
    }
}
