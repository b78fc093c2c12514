extension Reply {
    // MARK: Success

    /// 250 to RSET and NOOP.
    public static let ok = Reply(250, EnhancedStatusCode(2, 0, 0), "Ok")
    /// 250 to MAIL.
    public static let senderOk = Reply(250, EnhancedStatusCode(2, 1, 0), "Ok")
    /// 250 to RCPT.
    public static let recipientOk = Reply(250, EnhancedStatusCode(2, 1, 5), "Ok")
    /// 354 to DATA.
    public static let startMailInput = Reply(354, "End data with <CR><LF>.<CR><LF>")
    /// 220 to STARTTLS (RFC 3207 §4).
    public static let readyForTLS = Reply(220, EnhancedStatusCode(2, 0, 0), "Ready to start TLS")
    /// 221 to QUIT.
    public static let closing = Reply(221, EnhancedStatusCode(2, 0, 0), "Bye")
    /// 235 (RFC 4954 §6).
    public static let authenticated = Reply(235, EnhancedStatusCode(2, 7, 0), "Authentication successful")
    /// 252 to VRFY: RFC 5321 §3.5.3 lets a relay answer so, and §7.3 advises it.
    public static let cannotVerify = Reply(252, EnhancedStatusCode(2, 5, 0), "Cannot VRFY, but will try to deliver")
    /// 214 to HELP.
    public static let help = Reply(
        214,
        EnhancedStatusCode(2, 0, 0),
        "Commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP STARTTLS AUTH"
    )

    /// 250 to end-of-data: the message is durable.
    public static func queued(as id: String) -> Reply {
        Reply(250, EnhancedStatusCode(2, 0, 0), "Ok: queued as \(id)")
    }

    /// 250 to a chunk that is not the last (RFC 3030 §2).
    public static func chunkReceived(octets: Int) -> Reply {
        Reply(250, EnhancedStatusCode(2, 0, 0), "Ok: \(octets) octets received")
    }

    // MARK: Syntax

    public static let unknownCommand = Reply(500, EnhancedStatusCode(5, 5, 1), "Command unrecognized")
    public static let lineTooLong = Reply(500, EnhancedStatusCode(5, 5, 2), "Line too long")
    public static let bareNewlineInCommand = Reply(
        500,
        EnhancedStatusCode(5, 5, 2),
        "Lines end with <CR><LF>, nothing else"
    )
    /// 501, whatever the command (RFC 5321 §4.1.2).
    public static let controlCharacterInCommand = Reply(
        501,
        EnhancedStatusCode(5, 5, 2),
        "Control character in command"
    )
    public static let noArgumentsAllowed = Reply(501, EnhancedStatusCode(5, 5, 4), "No arguments allowed")
    public static let badHello = Reply(501, "Give a domain or an address literal")
    public static let badReversePath = Reply(501, EnhancedStatusCode(5, 1, 7), "Bad sender address syntax")
    public static let badForwardPath = Reply(501, EnhancedStatusCode(5, 1, 3), "Bad recipient address syntax")
    public static let mailSyntax = Reply(501, EnhancedStatusCode(5, 5, 4), "Syntax: MAIL FROM:<address> [parameters]")
    public static let rcptSyntax = Reply(501, EnhancedStatusCode(5, 5, 4), "Syntax: RCPT TO:<address> [parameters]")
    public static let bdatSyntax = Reply(501, EnhancedStatusCode(5, 5, 4), "Syntax: BDAT octets [LAST]")
    public static let authSyntax = Reply(501, EnhancedStatusCode(5, 5, 4), "Syntax: AUTH mechanism [initial-response]")
    public static let badParameter = Reply(501, EnhancedStatusCode(5, 5, 4), "Bad parameter value")
    public static let duplicateParameter = Reply(501, EnhancedStatusCode(5, 5, 4), "Parameter given twice")
    public static let unknownParameter = Reply(
        555,
        EnhancedStatusCode(5, 5, 4),
        "Parameter not recognized or not implemented"
    )
    public static let notImplemented = Reply(502, EnhancedStatusCode(5, 5, 1), "Command not implemented")

    // MARK: Sequence and state

    public static let badSequence = Reply(503, EnhancedStatusCode(5, 5, 1), "Bad sequence of commands")
    public static let helloFirst = Reply(503, EnhancedStatusCode(5, 5, 1), "Send EHLO first")
    public static let nestedMail = Reply(503, EnhancedStatusCode(5, 5, 1), "Sender already given")
    public static let mailFirst = Reply(503, EnhancedStatusCode(5, 5, 1), "Send MAIL first")
    public static let recipientFirst = Reply(503, EnhancedStatusCode(5, 5, 1), "Send RCPT first")
    public static let noValidRecipients = Reply(554, EnhancedStatusCode(5, 5, 1), "No valid recipients")
    public static let tlsActive = Reply(503, EnhancedStatusCode(5, 5, 1), "TLS is already active")
    public static let alreadyAuthenticated = Reply(503, EnhancedStatusCode(5, 5, 1), "Already authenticated")

    // MARK: Limits

    public static let tooManyRecipients = Reply(452, EnhancedStatusCode(4, 5, 3), "Too many recipients")
    public static let messageTooLarge = Reply(552, EnhancedStatusCode(5, 3, 4), "Message size exceeds fixed limit")
    public static let tooManyMessages = Reply(
        421,
        EnhancedStatusCode(4, 7, 0),
        "Too many messages in this session, closing"
    )
    public static let tooManyErrors = Reply(421, EnhancedStatusCode(4, 7, 0), "Too many errors, closing")
    public static let notSMTP = Reply(421, EnhancedStatusCode(4, 7, 0), "This is a mail server, closing")
    public static let tooManyJunkCommands = Reply(
        421,
        EnhancedStatusCode(4, 7, 0),
        "Too many commands without a message, closing"
    )
    public static let timedOut = Reply(421, EnhancedStatusCode(4, 4, 2), "Timed out waiting for you, closing")
    public static let shuttingDown = Reply(421, EnhancedStatusCode(4, 3, 2), "Service shutting down, try again")
    public static let serviceUnavailable = Reply(
        421,
        EnhancedStatusCode(4, 3, 0),
        "Service not available, closing"
    )

    // MARK: Content

    public static let bareNewline = Reply(550, EnhancedStatusCode(5, 6, 0), "Bare <CR> or <LF> in content")
    public static let nulInContent = Reply(550, EnhancedStatusCode(5, 6, 0), "NUL in content")
    public static let contentLineTooLong = Reply(550, EnhancedStatusCode(5, 6, 0), "Line too long in content")
    /// 451: the message was not made durable; the peer keeps it.
    public static let notStored = Reply(451, EnhancedStatusCode(4, 3, 0), "Message not stored, try again")
    public static let insufficientStorage = Reply(452, EnhancedStatusCode(4, 3, 1), "Insufficient system storage")

    // MARK: Addresses and policy

    public static let smtputf8Needed = Reply(
        553,
        EnhancedStatusCode(5, 6, 7),
        "Address is not ASCII and SMTPUTF8 was not asked for"
    )
    /// 550 to RCPT for the node's own postmaster, who has no mailbox.
    public static let noPostmaster = Reply(550, EnhancedStatusCode(5, 1, 1), "This relay has no postmaster mailbox")
    public static let relayDenied = Reply(550, EnhancedStatusCode(5, 7, 1), "Relaying denied")
    public static let noService = Reply(554, EnhancedStatusCode(5, 7, 1), "No SMTP service here")
    public static let tlsRequired = Reply(530, EnhancedStatusCode(5, 7, 0), "Must issue a STARTTLS command first")
    public static let authenticationRequired = Reply(530, EnhancedStatusCode(5, 7, 0), "Authentication required")

    // MARK: Authentication (RFC 4954 §6)

    public static let badCredentials = Reply(535, EnhancedStatusCode(5, 7, 8), "Authentication credentials invalid")
    public static let encryptionRequired = Reply(
        538,
        EnhancedStatusCode(5, 7, 11),
        "Encryption required for authentication"
    )
    public static let unknownMechanism = Reply(504, EnhancedStatusCode(5, 5, 4), "Mechanism not supported")
    public static let authenticationCancelled = Reply(501, EnhancedStatusCode(5, 7, 0), "Authentication cancelled")
    public static let badAuthenticationResponse = Reply(501, EnhancedStatusCode(5, 5, 2), "Cannot decode response")
    public static let authenticationLineTooLong = Reply(
        500,
        EnhancedStatusCode(5, 5, 6),
        "Authentication exchange line too long"
    )
    public static let authenticationUnavailable = Reply(
        454,
        EnhancedStatusCode(4, 7, 0),
        "Temporary authentication failure"
    )
}
