import Mail

/// What one listener offers and demands; made once, shared by all its sessions.
public struct ServerConfiguration: Sendable {
    /// What a listener is for.
    public enum Kind: Hashable, Sendable {
        /// Port 25: anyone may speak, policy decides for whom mail is taken (RFC 5321).
        case relay
        /// Port 587: STARTTLS, then AUTH (RFC 6409).
        case submission
        /// Port 465: TLS from the first octet, then AUTH (RFC 8314 §3.3).
        case submissionOverTLS
    }

    /// The bounds one session enforces on its peer.
    public struct Limits: Hashable, Sendable {
        /// Forward-paths accepted per transaction; at least 100 (RFC 5321 §4.5.3.1.8).
        public var recipientCountMax: Int
        /// Messages accepted per session.
        public var messageCountMax: Int
        /// Replies with 5yz before the session is closed.
        public var errorCountMax: Int
        /// Commands that lead nowhere (NOOP, RSET, VRFY, HELP, repeated EHLO, what is answered with 4yz, ...) between two
        /// messages.
        public var junkCommandCountMax: Int
        /// Failed AUTH exchanges before the session is closed.
        public var authenticationFailureCountMax: Int
        /// Octets in a command line, `<CR><LF>` included; at least 512 (RFC 5321 §4.5.3.1.4).
        public var lineOctetCountMax: Int
        /// Octets in a line with SASL data (RFC 4954 §4).
        public var authenticationLineOctetCountMax: Int

        public init(
            recipientCountMax: Int = 1_000,
            messageCountMax: Int = 1_000,
            errorCountMax: Int = 20,
            junkCommandCountMax: Int = 100,
            authenticationFailureCountMax: Int = 3,
            lineOctetCountMax: Int = 2_048,
            authenticationLineOctetCountMax: Int = 12_288
        ) {
            precondition(recipientCountMax >= 100 && messageCountMax >= 1 && errorCountMax >= 1)
            precondition(junkCommandCountMax >= 1 && authenticationFailureCountMax >= 1 && lineOctetCountMax >= 512)
            self.recipientCountMax = recipientCountMax
            self.messageCountMax = messageCountMax
            self.errorCountMax = errorCountMax
            self.junkCommandCountMax = junkCommandCountMax
            self.authenticationFailureCountMax = authenticationFailureCountMax
            self.lineOctetCountMax = lineOctetCountMax
            self.authenticationLineOctetCountMax = max(lineOctetCountMax, authenticationLineOctetCountMax)
        }
    }

    /// How clients authenticate (RFC 4954).
    public struct Authentication: Hashable, Sendable {
        /// In the order offered.
        public var mechanisms: [SASLExchange.Mechanism]
        /// Whether MAIL needs AUTH before it.
        public var isRequired: Bool
        /// Whether AUTH may be used on a connection without TLS.
        public var isAllowedWithoutTLS: Bool
        /// Makes unknown users look like wrong passwords; the same on all nodes, so that the salts agree.
        public var dummySecret: [UInt8]
        /// Iterations pretended for unknown users: those of most records.
        public var dummyIterations: Int

        public init(
            mechanisms: [SASLExchange.Mechanism] = SASLExchange.Mechanism.allCases,
            isRequired: Bool = true,
            isAllowedWithoutTLS: Bool = false,
            dummySecret: [UInt8],
            dummyIterations: Int = CredentialRecord.defaultIterations
        ) {
            precondition(!mechanisms.isEmpty && dummyIterations >= 1)
            self.mechanisms = mechanisms
            self.isRequired = isRequired
            self.isAllowedWithoutTLS = isAllowedWithoutTLS
            self.dummySecret = dummySecret
            self.dummyIterations = dummyIterations
        }
    }

    /// The server's name in the greeting and in replies to EHLO.
    public let hostname: Domain
    /// The listener's name, for traces of messages.
    public let listener: String
    public let kind: Kind
    /// Whether there is a certificate, so that STARTTLS can be offered.
    public let isTLSAvailable: Bool
    /// Whether mail is taken over TLS only (RFC 3207 §4: never set this on a public port 25).
    public let isTLSRequired: Bool
    public let authentication: Authentication?
    public let limits: Limits
    /// `contentRules.sizeMax` is what SIZE announces.
    public let contentRules: ContentRules
    /// Whether a command may end in `<LF>` alone; against RFC 5321 §2.3.8.
    public let isBareLineFeedAllowedInCommands: Bool

    let banner: Reply
    let heloReply: Reply
    private let ehloReplies: [Reply]

    public init(
        hostname: Domain,
        listener: String = "",
        kind: Kind = .relay,
        isTLSAvailable: Bool = false,
        isTLSRequired: Bool = false,
        authentication: Authentication? = nil,
        limits: Limits = Limits(),
        contentRules: ContentRules = ContentRules(sizeMax: 50 << 20),
        isBareLineFeedAllowedInCommands: Bool = false
    ) {
        self.hostname = hostname
        self.listener = listener
        self.kind = kind
        self.isTLSAvailable = isTLSAvailable
        self.isTLSRequired = isTLSRequired
        self.authentication = authentication
        self.limits = limits
        self.contentRules = contentRules
        self.isBareLineFeedAllowedInCommands = isBareLineFeedAllowedInCommands
        self.banner = Reply(220, "\(hostname) ESMTP")
        self.heloReply = Reply(250, "\(hostname)")
        let offersTLS = isTLSAvailable && kind != .submissionOverTLS
        self.ehloReplies = [(false, false), (false, true), (true, false), (true, true)]
            .map { isTLS, isAuthenticated in
                var lines = [
                    "\(hostname)", "PIPELINING", "SIZE \(contentRules.sizeMax)", "8BITMIME", "ENHANCEDSTATUSCODES",
                    "SMTPUTF8", "CHUNKING", "DSN",
                    "LIMITS RCPTMAX=\(limits.recipientCountMax) MAILMAX=\(limits.messageCountMax)",
                ]
                if offersTLS && !isTLS { lines.append("STARTTLS") }
                if let authentication, isTLS || authentication.isAllowedWithoutTLS, !isAuthenticated {
                    lines.append("AUTH " + authentication.mechanisms.map(\.rawValue).joined(separator: " "))
                }
                return Reply(250, lines: lines)
            }
    }

    func ehloReply(isTLS: Bool, isAuthenticated: Bool) -> Reply {
        self.ehloReplies[(isTLS ? 2 : 0) + (isAuthenticated ? 1 : 0)]
    }
}
