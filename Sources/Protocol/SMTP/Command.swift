import Mail

/// One command of a client (RFC 5321 §4.1.1 and the extensions' own RFCs).
public enum Command: Hashable, Sendable {
    /// The argument is a domain or an address literal, as the client wrote it.
    case ehlo(clientName: String)
    case helo(clientName: String)
    case mail(MailArguments)
    case rcpt(RecipientArguments)
    case data
    /// The chunk of `size` octets follows the command's line at once (RFC 3030 §2).
    case bdat(size: Int, isLast: Bool)
    case rset
    case noop
    case quit
    case vrfy
    case expn
    case help
    case startTLS
    /// `mechanism` is in upper case. `initialResponse` is the text as sent, still base 64; `=` means an empty one.
    case auth(mechanism: String, initialResponse: [UInt8]?)
}

/// The arguments of MAIL (RFC 5321 §4.1.1.2).
public struct MailArguments: Hashable, Sendable {
    /// `nil` is the null reverse-path `<>`.
    public var reversePath: Mailbox?
    /// Whether the path was written in ASCII; if not, SMTPUTF8 must be given (RFC 6531 §3.4).
    public var isPathASCII = true
    /// Octets the client means to send (RFC 1870 §5); numbers that do not fit are `Int.max`.
    public var size: Int?
    public var bodyType: Envelope.BodyType?
    public var isInternationalized = false
    public var returnContent: Envelope.ReturnContent?
    /// Decoded from xtext.
    public var envelopeID: String?
    /// The AUTH parameter, decoded from xtext; empty is `<>` (RFC 4954 §5).
    public var submitter: String?
    public var hasParameters = false

    public init(reversePath: Mailbox?) {
        self.reversePath = reversePath
    }
}

/// The arguments of RCPT (RFC 5321 §4.1.1.3).
public struct RecipientArguments: Hashable, Sendable {
    public enum ForwardPath: Hashable, Sendable {
        case mailbox(Mailbox)
        /// `<Postmaster>` without domain: the server's own.
        case postmaster
    }

    public var forwardPath: ForwardPath
    public var isPathASCII = true
    public var notify: Recipient.Notify?
    /// `addr-type;xtext` as received.
    public var originalRecipient: String?
    public var hasParameters = false

    public init(forwardPath: ForwardPath) {
        self.forwardPath = forwardPath
    }
}

/// Why a line is no command.
public struct CommandError: Error, Hashable, Sendable {
    public enum Code: Hashable, Sendable {
        /// The verb means nothing here.
        case unknownCommand
        /// The verb is known, the rest is wrong.
        case syntax
        /// A BDAT line without a usable size: where the next command begins is unknown, so nothing after it can be
        /// trusted.
        case unknownChunkSize
    }

    public var code: Code
    /// What to answer.
    public var reply: Reply

    init(_ code: Code, _ reply: Reply) {
        self.code = code
        self.reply = reply
    }
}
