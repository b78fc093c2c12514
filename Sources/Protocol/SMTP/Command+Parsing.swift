import Mail

extension Command {
    /// Reads one line, given without its `<CR><LF>`. White space before the line's end is ignored (RFC 5321 §4.1.1).
    ///
    /// - Throws: ``CommandError`` by `unknownCommand`, `syntax`, `unknownChunkSize`.
    public init(line: UnsafeRawBufferPointer) throws(CommandError) {
        var cursor = OctetCursor(line)
        guard !cursor.containsControlCharacter else {
            throw CommandError(.syntax, .controlCharacterInCommand)
        }
        cursor.dropTrailingSpaces()
        switch cursor.takeVerb() {
        case "EHLO": self = .ehlo(clientName: try Self.clientName(&cursor))
        case "HELO": self = .helo(clientName: try Self.clientName(&cursor))
        case "MAIL": self = .mail(try MailArguments(&cursor))
        case "RCPT": self = .rcpt(try RecipientArguments(&cursor))
        case "DATA": self = try Self.withoutArguments(.data, cursor)
        case "BDAT": self = try Self.bdat(&cursor)
        case "RSET": self = try Self.withoutArguments(.rset, cursor)
        // The string argument of NOOP is ignored (RFC 5321 §4.1.1.9), as is that of HELP.
        case "NOOP": self = .noop
        case "HELP": self = .help
        case "QUIT": self = try Self.withoutArguments(.quit, cursor)
        case "VRFY": self = .vrfy
        case "EXPN": self = .expn
        case "STARTTLS": self = try Self.withoutArguments(.startTLS, cursor)
        case "AUTH": self = try Self.auth(&cursor)
        default: throw CommandError(.unknownCommand, .unknownCommand)
        }
    }

    private static func withoutArguments(_ command: Command, _ cursor: OctetCursor) throws(CommandError) -> Command {
        guard cursor.isAtEnd else { throw CommandError(.syntax, .noArgumentsAllowed) }
        return command
    }

    /// ```
    /// ehlo = "EHLO" SP ( Domain / address-literal ) CRLF
    /// ```
    /// Deviations: any run of letters, digits and `.-_:` is taken for a domain, brackets are allowed around anything of
    /// that kind, since clients name themselves so and RFC 5321 §4.1.4 forbids refusing mail over a name that does not
    /// check out.
    private static func clientName(_ cursor: inout OctetCursor) throws(CommandError) -> String {
        guard cursor.takeSpaces() else { throw CommandError(.syntax, .badHello) }
        let name = cursor.takeWord()
        guard cursor.isAtEnd, name.count > 0, name.count <= Domain.octetCountMax, Self.isClientName(name) else {
            throw CommandError(.syntax, .badHello)
        }
        return String(decoding: name, as: UTF8.self)
    }

    private static func isClientName(_ name: UnsafeRawBufferPointer) -> Bool {
        var inner = name[...]
        if inner.first == UInt8(ascii: "[") {
            guard inner.last == UInt8(ascii: "]"), inner.count > 2 else { return false }
            inner = inner.dropFirst().dropLast()
        }
        return inner.allSatisfy { octet in
            switch octet {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "_"),
                UInt8(ascii: ":"):
                true
            default:
                false
            }
        }
    }

    /// ```
    /// bdat-cmd   ::= "BDAT" SP chunk-size [ SP end-marker ] CR LF
    /// end-marker ::= "LAST"
    /// ```
    private static func bdat(_ cursor: inout OctetCursor) throws(CommandError) -> Command {
        guard cursor.takeSpaces(), let size = decimal(cursor.takeWord()) else {
            throw CommandError(.unknownChunkSize, .bdatSyntax)
        }
        guard size < Int.max else { throw CommandError(.unknownChunkSize, .messageTooLarge) }
        _ = cursor.takeSpaces()
        let marker = cursor.takeWord()
        guard cursor.isAtEnd, marker.count == 0 || equalsIgnoringCase(marker, "LAST") else {
            throw CommandError(.unknownChunkSize, .bdatSyntax)
        }
        return .bdat(size: size, isLast: marker.count > 0)
    }

    /// ```
    /// auth-command     = "AUTH" SP sasl-mech [SP initial-response] *(CRLF [base64]) [CRLF cancel-response] CRLF
    /// initial-response = base64 / "="
    /// ```
    private static func auth(_ cursor: inout OctetCursor) throws(CommandError) -> Command {
        guard cursor.takeSpaces() else { throw CommandError(.syntax, .authSyntax) }
        let mechanism = cursor.takeWord()
        let hasResponse = cursor.takeSpaces()
        let response = cursor.takeWord()
        guard cursor.isAtEnd, (1...20).contains(mechanism.count), !hasResponse || response.count > 0 else {
            throw CommandError(.syntax, .authSyntax)
        }
        return .auth(
            mechanism: String(decoding: mechanism, as: UTF8.self).uppercased(),
            initialResponse: hasResponse ? Array(response) : nil
        )
    }
}

extension MailArguments {
    /// ```
    /// mail = "MAIL FROM:" Reverse-path [SP Mail-parameters] CRLF
    /// ```
    init(_ cursor: inout OctetCursor) throws(CommandError) {
        guard cursor.takeSpaces(), cursor.takeKeyword("FROM:") else { throw CommandError(.syntax, .mailSyntax) }
        // Deviation: spaces after the colon, which many clients send.
        _ = cursor.takeSpaces()
        guard let path = Path(&cursor) else { throw CommandError(.syntax, .badReversePath) }
        switch path.target {
        case .null: self.init(reversePath: nil)
        case .mailbox(let mailbox): self.init(reversePath: mailbox)
        case .postmaster: throw CommandError(.syntax, .badReversePath)
        }
        self.isPathASCII = path.isASCII
        var seen: Set<MailParameter> = []
        while let parameter = try cursor.takeParameter() {
            guard let name = MailParameter(keyword: parameter.keyword) else {
                throw CommandError(.syntax, .unknownParameter)
            }
            guard seen.insert(name).inserted else { throw CommandError(.syntax, .duplicateParameter) }
            guard self.take(name, parameter.value) else { throw CommandError(.syntax, .badParameter) }
            self.hasParameters = true
        }
    }

    private enum MailParameter: Hashable {
        case size
        case body
        case smtputf8
        case ret
        case envid
        case auth

        init?(keyword: UnsafeRawBufferPointer) {
            if equalsIgnoringCase(keyword, "SIZE") {
                self = .size
            } else if equalsIgnoringCase(keyword, "BODY") {
                self = .body
            } else if equalsIgnoringCase(keyword, "SMTPUTF8") {
                self = .smtputf8
            } else if equalsIgnoringCase(keyword, "RET") {
                self = .ret
            } else if equalsIgnoringCase(keyword, "ENVID") {
                self = .envid
            } else if equalsIgnoringCase(keyword, "AUTH") {
                self = .auth
            } else {
                return nil
            }
        }
    }

    /// Returns whether the value is one the parameter may have.
    private mutating func take(_ name: MailParameter, _ value: UnsafeRawBufferPointer?) -> Bool {
        guard name != .smtputf8 else {
            self.isInternationalized = true
            return value == nil
        }
        guard let value else { return false }
        switch name {
        case .smtputf8:
            return false
        case .size:
            // size-value ::= 1*20DIGIT
            guard value.count <= 20, let size = decimal(value) else { return false }
            self.size = size
        case .body:
            if equalsIgnoringCase(value, "7BIT") {
                self.bodyType = .sevenBit
            } else if equalsIgnoringCase(value, "8BITMIME") {
                self.bodyType = .eightBitMIME
            } else {
                return false
            }
        case .ret:
            if equalsIgnoringCase(value, "FULL") {
                self.returnContent = .full
            } else if equalsIgnoringCase(value, "HDRS") {
                self.returnContent = .headers
            } else {
                return false
            }
        case .envid:
            // At most 100 characters once decoded (RFC 3461 §4.4).
            guard let text = XText.decode(value), text.utf8.count <= 100 else { return false }
            self.envelopeID = text
        case .auth:
            if value.elementsEqual("<>".utf8) {
                self.submitter = ""
            } else {
                guard let text = XText.decode(value), text.utf8.count <= 500 else { return false }
                self.submitter = text
            }
        }
        return true
    }
}

extension RecipientArguments {
    /// ```
    /// rcpt = "RCPT TO:" ( "<Postmaster@" Domain ">" / "<Postmaster>" / Forward-path ) [SP Rcpt-parameters] CRLF
    /// ```
    init(_ cursor: inout OctetCursor) throws(CommandError) {
        guard cursor.takeSpaces(), cursor.takeKeyword("TO:") else { throw CommandError(.syntax, .rcptSyntax) }
        _ = cursor.takeSpaces()
        guard let path = Path(&cursor) else { throw CommandError(.syntax, .badForwardPath) }
        switch path.target {
        case .null: throw CommandError(.syntax, .badForwardPath)
        case .mailbox(let mailbox): self.init(forwardPath: .mailbox(mailbox))
        case .postmaster: self.init(forwardPath: .postmaster)
        }
        self.isPathASCII = path.isASCII
        while let parameter = try cursor.takeParameter() {
            if equalsIgnoringCase(parameter.keyword, "NOTIFY") {
                guard self.notify == nil else { throw CommandError(.syntax, .duplicateParameter) }
                guard let notify = parameter.value.flatMap(Self.notify) else {
                    throw CommandError(.syntax, .badParameter)
                }
                self.notify = notify
            } else if equalsIgnoringCase(parameter.keyword, "ORCPT") {
                guard self.originalRecipient == nil else { throw CommandError(.syntax, .duplicateParameter) }
                guard let original = parameter.value.flatMap(Self.originalRecipient) else {
                    throw CommandError(.syntax, .badParameter)
                }
                self.originalRecipient = original
            } else {
                throw CommandError(.syntax, .unknownParameter)
            }
            self.hasParameters = true
        }
    }

    /// ```
    /// notify-esmtp-value = "NEVER" / 1#notify-list-element
    /// ```
    private static func notify(_ value: UnsafeRawBufferPointer) -> Recipient.Notify? {
        var notify: Recipient.Notify = []
        for element in value.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false) {
            let word = UnsafeRawBufferPointer(rebasing: element)
            if equalsIgnoringCase(word, "SUCCESS") {
                notify.insert(.success)
            } else if equalsIgnoringCase(word, "FAILURE") {
                notify.insert(.failure)
            } else if equalsIgnoringCase(word, "DELAY") {
                notify.insert(.delay)
            } else if equalsIgnoringCase(word, "NEVER") {
                notify.insert(.never)
            } else {
                return nil
            }
        }
        return notify.contains(.never) && notify != .never ? nil : notify
    }

    /// ```
    /// original-recipient-address = addr-type ";" xtext
    /// ```
    /// At most 500 characters (RFC 3461 §4.2). UTF-8 is allowed for the type `utf-8` (RFC 6533 §3).
    private static func originalRecipient(_ value: UnsafeRawBufferPointer) -> String? {
        guard value.count <= 500, let separator = value.firstIndex(of: UInt8(ascii: ";")), separator > 0 else {
            return nil
        }
        let type = value[..<separator]
        guard type.allSatisfy({ OctetCursor.isKeywordCharacter($0) }) else { return nil }
        let address = UnsafeRawBufferPointer(rebasing: value[(separator + 1)...])
        guard address.count > 0 else { return nil }
        if equalsIgnoringCase(UnsafeRawBufferPointer(rebasing: type), "utf-8") {
            return String(validating: value, as: UTF8.self)
        }
        guard XText.decode(address) != nil else { return nil }
        return String(validating: value, as: UTF8.self)
    }
}
