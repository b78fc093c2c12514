import Mail

extension ServerSession {
    /// The peer sent a line, given without its end. `nil` when there is nothing to answer yet.
    mutating func received(line: UnsafeRawBufferPointer) -> Action? {
        if case .authenticating = self.state { return self.receivedResponse(line) }
        let command: Command
        do throws(CommandError) {
            command = try Command(line: line)
        } catch {
            if error.code == .unknownCommand && Self.isForeign(line) { return self.close(.notSMTP) }
            return self.received(error)
        }
        if case .refused = self.state { return self.receivedWhileRefused(command) }
        switch command {
        case .ehlo(let clientName): return self.hello(clientName, isExtended: true)
        case .helo(let clientName): return self.hello(clientName, isExtended: false)
        case .mail(let arguments): return self.mail(arguments)
        case .rcpt(let arguments): return self.rcpt(arguments)
        case .data: return self.data()
        case .bdat(let size, let isLast): return self.bdat(size: size, isLast: isLast)
        case .rset: return self.rset()
        case .noop: return self.answerJunk(.ok)
        case .help: return self.answerJunk(.help)
        case .expn: return self.answerJunk(.notImplemented)
        case .vrfy: return self.answerJunk(self.demandedBeforeMail() ?? .cannotVerify)
        case .quit: return self.close(.closing)
        case .startTLS: return self.startTLS()
        case .auth(let mechanism, let initialResponse): return self.auth(mechanism, initialResponse)
        }
    }

    /// A line that was too long or did not end as lines do.
    mutating func receivedUnusableLine(_ reply: Reply) -> Action {
        if case .authenticating = self.state {
            self.state = .ready
            return self.answer(reply == .lineTooLong ? .authenticationLineTooLong : reply)
        }
        return self.answer(reply)
    }

    private mutating func received(_ error: CommandError) -> Action {
        switch error.code {
        case .unknownCommand: return self.answerJunk(error.reply)
        case .syntax: return self.answer(error.reply)
        // Whatever follows could be content: nothing of it may be taken for a command.
        case .unknownChunkSize: return self.close(error.reply)
        }
    }

    /// After 554 in place of a greeting only QUIT has a meaning (RFC 5321 §3.1).
    private mutating func receivedWhileRefused(_ command: Command) -> Action? {
        switch command {
        case .quit:
            return self.close(.closing)
        case .bdat(let size, _):
            return self.discardChunk(size, .badSequence)
        case .ehlo, .helo, .mail, .rcpt, .data, .rset, .noop, .help, .expn, .vrfy, .startTLS, .auth:
            return self.answer(.badSequence)
        }
    }

    /// Whether a line that is no command comes from another protocol: an HTTP request, or a header field of one. A
    /// browser on a trusted host must not be made to send mail.
    private static func isForeign(_ line: UnsafeRawBufferPointer) -> Bool {
        guard let end = line.firstIndex(where: { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: ":") }) else {
            return false
        }
        if line[end] == UInt8(ascii: ":") { return true }
        let verb = String(decoding: line[..<end], as: UTF8.self)
        return ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"].contains(verb)
    }

    private mutating func answerJunk(_ reply: Reply) -> Action {
        self.junkCommandCount += 1
        guard self.junkCommandCount <= self.configuration.limits.junkCommandCountMax else {
            return self.close(.tooManyJunkCommands)
        }
        return self.answer(reply)
    }

    // MARK: Session

    /// EHLO and HELO also abort an open transaction, as RSET does (RFC 5321 §4.1.4).
    private mutating func hello(_ clientName: String, isExtended: Bool) -> Action {
        self.facts.clientName = clientName
        self.facts.isExtended = isExtended
        let hadContent = self.isReceivingContent
        switch self.policy.evaluateHello(self.facts) {
        case .accept:
            self.state = .ready
            let reply =
                isExtended
                ? self.configuration.ehloReply(
                    isTLS: self.facts.tls != nil,
                    isAuthenticated: self.facts.authenticatedIdentity != nil
                )
                : self.configuration.heloReply
            let action = self.answerJunk(reply)
            return hadContent && action == .reply(reply) ? .discardContent(reply) : action
        case .reject(let reply):
            self.state = .greeted
            return self.answer(reply, discardsContent: hadContent)
        case .close(let reply):
            return self.close(reply)
        }
    }

    private mutating func rset() -> Action {
        switch self.takeState() {
        case .greeted:
            self.state = .greeted
            return self.answerJunk(.ok)
        case .ready, .envelope:
            self.state = .ready
            return self.answerJunk(.ok)
        case .betweenChunks:
            self.state = .ready
            let action = self.answerJunk(.ok)
            return action == .reply(.ok) ? .discardContent(.ok) : action
        case .unconnected, .refused, .content, .chunk, .discardingChunk, .authenticating, .lookingUp, .checking,
            .handshaking, .publishing, .closed:
            preconditionFailure("Command taken where none is read.")
        }
    }

    private mutating func startTLS() -> Action {
        guard self.facts.tls == nil else { return self.answer(.tlsActive) }
        guard self.configuration.isTLSAvailable else { return self.answer(.notImplemented) }
        switch self.takeState() {
        case .ready:
            self.state = .handshaking
            return .replyThenHandshake(.readyForTLS)
        case let other:
            self.state = other
            return self.answer(.badSequence)
        }
    }

    /// The refusal of a session that has yet to use TLS or AUTH (RFC 3207 §4, RFC 4954 §6).
    func demandedBeforeMail() -> Reply? {
        if self.configuration.isTLSRequired && self.facts.tls == nil { return .tlsRequired }
        guard let authentication = self.configuration.authentication, authentication.isRequired,
            self.facts.authenticatedIdentity == nil
        else { return nil }
        let isPossible = self.facts.tls != nil || authentication.isAllowedWithoutTLS
        return isPossible || !self.configuration.isTLSAvailable ? .authenticationRequired : .tlsRequired
    }

    // MARK: Transaction

    private mutating func mail(_ arguments: MailArguments) -> Action {
        switch self.takeState() {
        case .greeted:
            self.state = .greeted
            return self.answer(.helloFirst)
        case .envelope(let transaction):
            self.state = .envelope(transaction)
            return self.answer(.nestedMail)
        case .betweenChunks(let transaction, let decoder):
            self.state = .betweenChunks(transaction, decoder)
            return self.answer(.nestedMail)
        case .ready:
            self.state = .ready
        case .unconnected, .refused, .content, .chunk, .discardingChunk, .authenticating, .lookingUp, .checking,
            .handshaking, .publishing, .closed:
            preconditionFailure("Command taken where none is read.")
        }
        if let refusal = self.demandedBeforeMail() ?? self.refusal(of: arguments) { return self.answer(refusal) }
        guard self.messageCount < self.configuration.limits.messageCountMax else {
            return self.close(.tooManyMessages)
        }
        switch self.policy.evaluateMail(arguments, self.facts) {
        case .accept:
            self.state = .envelope(AcceptedTransaction(arguments, session: self.facts))
            return .reply(.senderOk)
        case .reject(let reply):
            return self.answer(reply)
        case .close(let reply):
            return self.close(reply)
        }
    }

    private func refusal(of arguments: MailArguments) -> Reply? {
        // Parameters belong to extensions, and HELO means there are none (RFC 5321 §4.1.1.11).
        if arguments.hasParameters && !self.facts.isExtended { return .unknownParameter }
        if !arguments.isPathASCII && !arguments.isInternationalized { return .smtputf8Needed }
        if let size = arguments.size, size > self.configuration.contentRules.sizeMax { return .messageTooLarge }
        return nil
    }

    private mutating func rcpt(_ arguments: RecipientArguments) -> Action {
        switch self.takeState() {
        case .envelope(var transaction):
            let verdict = self.evaluate(arguments, &transaction)
            self.state = .envelope(transaction)
            switch verdict {
            case .accept: return .reply(.recipientOk)
            case .reject(.tooManyRecipients): return self.answerOvershoot()
            case .reject(let reply): return self.answer(reply)
            case .close(let reply): return self.close(reply)
            }
        case .greeted:
            self.state = .greeted
            return self.answer(.helloFirst)
        case .ready:
            self.state = .ready
            return self.answer(self.demandedBeforeMail() ?? .mailFirst)
        case .betweenChunks(let transaction, let decoder):
            self.state = .betweenChunks(transaction, decoder)
            return self.answer(.badSequence)
        case .unconnected, .refused, .content, .chunk, .discardingChunk, .authenticating, .lookingUp, .checking,
            .handshaking, .publishing, .closed:
            preconditionFailure("Command taken where none is read.")
        }
    }

    /// A client that does not know of LIMITS may name many more than fit, and sends to those that did (RFC 5321
    /// §4.5.3.1.10): as many again are no junk.
    private mutating func answerOvershoot() -> Action {
        self.overshootCount += 1
        let isFree = self.overshootCount <= self.configuration.limits.recipientCountMax
        return isFree ? .reply(.tooManyRecipients) : self.answer(.tooManyRecipients)
    }

    /// Adds the recipient to the transaction if it is accepted.
    private func evaluate(
        _ arguments: RecipientArguments,
        _ transaction: inout AcceptedTransaction
    ) -> PolicyVerdict {
        if arguments.hasParameters && !self.facts.isExtended { return .reject(.unknownParameter) }
        if !arguments.isPathASCII && !transaction.isInternationalized { return .reject(.smtputf8Needed) }
        // Without SMTPUTF8 an address in ORCPT is written in ASCII (RFC 6533 §3).
        if !transaction.isInternationalized, arguments.originalRecipient?.utf8.contains(where: { $0 >= 0x80 }) == true {
            return .reject(.badParameter)
        }
        let count = transaction.recipients.count
        guard count < self.configuration.limits.recipientCountMax else { return .reject(.tooManyRecipients) }
        let mailbox =
            switch arguments.forwardPath {
            case .mailbox(let mailbox): mailbox
            case .postmaster: Mailbox(localPart: "postmaster", domain: self.configuration.hostname)
            }
        let recipient = Recipient(
            mailbox: mailbox,
            index: UInt32(count),
            notify: arguments.notify,
            originalRecipient: arguments.originalRecipient
        )
        let verdict = self.policy.evaluateRecipient(recipient, transaction)
        if verdict == .accept { transaction.recipients.append(self.policy.resolve(recipient, transaction)) }
        return verdict
    }

    private mutating func data() -> Action {
        switch self.takeState() {
        case .envelope(let transaction):
            self.state = .envelope(transaction)
            if let refusal = self.contentRefusal(transaction) { return refusal }
            self.state = .content(transaction, ContentDecoder(rules: self.configuration.contentRules))
            return .beginContent(transaction, reply: .startMailInput)
        case .greeted:
            self.state = .greeted
            return self.answer(.helloFirst)
        case .ready:
            self.state = .ready
            return self.answer(self.demandedBeforeMail() ?? .mailFirst)
        case .betweenChunks(let transaction, let decoder):
            // DATA and BDAT do not mix (RFC 3030 §2).
            self.state = .betweenChunks(transaction, decoder)
            return self.answer(.badSequence)
        case .unconnected, .refused, .content, .chunk, .discardingChunk, .authenticating, .lookingUp, .checking,
            .handshaking, .publishing, .closed:
            preconditionFailure("Command taken where none is read.")
        }
    }

    /// Why content may not begin now, if so.
    private mutating func contentRefusal(_ transaction: AcceptedTransaction) -> Action? {
        guard !transaction.recipients.isEmpty else { return self.answer(.noValidRecipients) }
        switch self.policy.evaluateContent(transaction) {
        case .accept:
            return nil
        case .reject(let reply):
            self.state = .ready
            return self.answer(reply)
        case .close(let reply):
            return self.close(reply)
        }
    }

    // MARK: BDAT (RFC 3030)

    private mutating func bdat(size: Int, isLast: Bool) -> Action? {
        switch self.takeState() {
        case .greeted:
            self.state = .greeted
            return self.discardChunk(size, .helloFirst)
        case .ready:
            // After a failed chunk too: those pipelined behind it end here.
            self.state = .ready
            return self.discardChunk(size, self.demandedBeforeMail() ?? .mailFirst)
        case .envelope(let transaction):
            self.state = .envelope(transaction)
            return self.firstChunk(transaction, size: size, isLast: isLast)
        case .betweenChunks(let transaction, var decoder):
            guard size <= self.configuration.contentRules.sizeMax - decoder.size else {
                self.state = .ready
                return self.discardChunk(size, .messageTooLarge)
            }
            decoder.beginChunk(size: size)
            self.state = .chunk(transaction, decoder, size: size, isLast: isLast)
            return nil
        case .unconnected, .refused, .content, .chunk, .discardingChunk, .authenticating, .lookingUp, .checking,
            .handshaking, .publishing, .closed:
            preconditionFailure("Command taken where none is read.")
        }
    }

    private mutating func firstChunk(_ transaction: AcceptedTransaction, size: Int, isLast: Bool) -> Action? {
        guard !transaction.recipients.isEmpty else { return self.discardChunk(size, .noValidRecipients) }
        switch self.policy.evaluateContent(transaction) {
        case .accept:
            break
        case .reject(let reply):
            self.state = .ready
            return self.discardChunk(size, reply)
        case .close(let reply):
            return self.close(reply)
        }
        guard size <= self.configuration.contentRules.sizeMax else {
            self.state = .ready
            return self.discardChunk(size, .messageTooLarge)
        }
        var decoder = ChunkDecoder(rules: self.configuration.contentRules)
        decoder.beginChunk(size: size)
        self.state = .chunk(transaction, decoder, size: size, isLast: isLast)
        return .beginContent(transaction, reply: nil)
    }

    /// Swallows a chunk, then answers and is where it was; closes when the chunk is beyond all bounds.
    private mutating func discardChunk(_ size: Int, _ reply: Reply) -> Action? {
        let rules = self.configuration.contentRules
        let (max, isTooLarge) = rules.sizeMax.addingReportingOverflow(rules.discardCountMax)
        guard isTooLarge || size <= max else { return self.close(.messageTooLarge) }
        let next = self.takeState()
        self.state = .discardingChunk(remainingCount: size, reply: reply, next: next)
        return nil
    }
}
