import Mail

// One mail transaction: MAIL, RCPT, DATA, the final dot (RFC 5321 §3.3), pipelined where offered (RFC 2920).

/// A transaction that is under way.
struct OpenTransaction: Sendable {
    /// What the next reply answers.
    enum Expected: Hashable, Sendable {
        case reset
        case mail
        /// The recipient's index.
        case rcpt(Int)
        case data
        /// The content is being written; an answer now is premature.
        case content
        /// In LMTP the index of the recipient that is answered next; in SMTP of the first accepted one.
        case finalDot(Int)
        /// The end of an empty message that a 354 for nobody forced on us (RFC 2920 §3.1).
        case loneDot
    }

    var request: ClientTransaction
    var expected: Expected
    /// `nil` while a recipient has not failed and is not delivered.
    var outcomes: [ClientRecipientOutcome?]
    var acceptedCount = 0
    var isPipelined: Bool
    var isLMTP: Bool
    var isDSNPassedOn: Bool
    /// What failed for all recipients at once.
    var failure: ClientFailure?
    /// MAIL, while the answer to RSET is awaited in lock-step.
    var deferredMAIL: [UInt8]?

    var phase: ClientPhase {
        switch self.expected {
        case .reset, .mail: .mail
        case .rcpt: .rcpt
        case .data: .data
        case .content: .content
        case .finalDot: .finalDot
        case .loneDot: .data
        }
    }

    /// The index of the first recipient from `index` on that has no outcome; the count when there is none.
    func nextPending(from index: Int) -> Int {
        var index = index
        while index < self.outcomes.count, self.outcomes[index] != nil { index += 1 }
        return index
    }

    /// All that is left undecided ends as `failure`.
    func outcome(failure: ClientFailure, isInDoubt: Bool, isReusable: Bool) -> ClientTransactionOutcome {
        ClientTransactionOutcome(
            recipients: self.outcomes.map { $0 ?? .failed(failure) },
            isDSNPassedOn: self.isDSNPassedOn,
            isInDoubt: isInDoubt,
            isReusable: isReusable
        )
    }

    /// The session ended.
    func outcome(endedBy cause: ClientFailure.Cause) -> ClientTransactionOutcome {
        var isInDoubt = false
        if case .finalDot = self.expected {
            switch cause {
            case .reply: break
            default: isInDoubt = true
            }
        }
        return self.outcome(
            failure: self.failure ?? ClientFailure(self.phase, cause),
            isInDoubt: isInDoubt,
            isReusable: false
        )
    }
}

extension ClientSession {
    /// Starts a transaction; only when ``isReady``.
    ///
    /// When the server cannot take the message, the action is ``Action/finished(_:)`` at once.
    public mutating func begin(_ transaction: ClientTransaction) -> Action {
        guard case .ready = self.state else { preconditionFailure("A transaction begins within another.") }
        precondition(!transaction.recipients.isEmpty, "A transaction without recipients.")
        let isInternationalized =
            transaction.hasInternationalizedHeader || transaction.reversePath?.isASCII == false
            || transaction.recipients.contains { !$0.mailbox.isASCII }
        if let failure = self.obstacle(to: transaction, isInternationalized: isInternationalized) {
            return .finished(self.refused(transaction, failure))
        }
        let hasNotifications = self.capabilities.hasNotifications
        let start = self.outbound.count
        var open = OpenTransaction(
            request: transaction,
            expected: self.needsReset ? .reset : .mail,
            outcomes: Array(repeating: nil, count: transaction.recipients.count),
            isPipelined: self.capabilities.hasPipelining,
            isLMTP: self.configuration.wire == .lmtp,
            isDSNPassedOn: hasNotifications
        )
        var isSendable = true
        if self.needsReset { self.outbound.append(literal: "RSET\r\n") }
        if open.isPipelined {
            isSendable = self.appendMAIL(transaction, isInternationalized: isInternationalized)
            for recipient in transaction.recipients where isSendable { isSendable = self.appendRCPT(recipient) }
            self.outbound.append(literal: "DATA\r\n")
        } else {
            // Every command is tried here, so that none turns out unsendable half-way through.
            let kept = self.outbound.count
            for recipient in transaction.recipients where isSendable { isSendable = self.appendRCPT(recipient) }
            self.outbound.removeLast(self.outbound.count - kept)
            if isSendable {
                isSendable = self.appendMAIL(transaction, isInternationalized: isInternationalized)
            }
            if self.needsReset {
                // In lock-step MAIL waits for the answer to RSET.
                open.deferredMAIL = Array(self.outbound[kept...])
                self.outbound.removeLast(self.outbound.count - kept)
            }
        }
        guard isSendable else {
            self.outbound.removeLast(self.outbound.count - start)
            return .finished(self.refused(transaction, ClientFailure(.mail, .unsendableEnvelope)))
        }
        self.needsReset = false
        self.transactionCount += 1
        self.state = .transaction(open)
        return .wait
    }

    private func obstacle(to transaction: ClientTransaction, isInternationalized: Bool) -> ClientFailure? {
        if isInternationalized, !self.capabilities.hasInternationalizedMail {
            return ClientFailure(.mail, .internationalizationNotOffered)
        }
        if transaction.hasEightBitContent, !self.capabilities.hasEightBitMIME {
            return ClientFailure(.mail, .eightBitNotOffered)
        }
        if let limit = self.capabilities.contentSizeMax, transaction.contentSize > limit {
            return ClientFailure(.mail, .contentTooLarge(limit: limit))
        }
        return nil
    }

    private func refused(_ transaction: ClientTransaction, _ failure: ClientFailure) -> ClientTransactionOutcome {
        ClientTransactionOutcome(
            recipients: transaction.recipients.map { _ in .failed(failure) },
            isDSNPassedOn: false,
            isInDoubt: false,
            isReusable: true
        )
    }

    /// Gives the transaction a reply. Every path puts a state back; `closed` is one.
    mutating func receivedReply(_ code: Int, isLast: Bool, in transaction: consuming OpenTransaction) -> Action {
        var open = transaction
        if code == 421 {
            // The server goes away, whatever was asked (RFC 5321 §3.8).
            return .finished(open.outcome(endedBy: .reply(self.parser.makeReply())))
        }
        let isPositive = code / 100 == 2
        switch open.expected {
        case .reset:
            guard isPositive else { return self.endUnexpected(open) }
            open.expected = .mail
            if let mail = open.deferredMAIL {
                self.outbound.append(contentsOf: mail)
                open.deferredMAIL = nil
            }
        case .mail:
            if !isPositive {
                guard code >= 400 else { return self.endUnexpected(open) }
                open.failure = ClientFailure(.mail, .reply(self.parser.makeReply()))
                guard open.isPipelined else { return self.finish(open, isLast: isLast) }
            }
            open.expected = .rcpt(0)
            if !open.isPipelined { _ = self.appendRCPT(open.request.recipients[0]) }
        case .rcpt(let index):
            if let action = self.receivedRCPT(&open, index, code, isLast: isLast) { return action }
        case .data:
            if let action = self.receivedDATA(&open, code, isLast: isLast) { return action }
        case .content:
            // It cannot have the final dot yet: a refusal is believed, an acceptance is not.
            guard code >= 400 else { return self.endUnexpected(open) }
            return .finished(
                open.outcome(
                    failure: ClientFailure(.content, .reply(self.parser.makeReply())),
                    isInDoubt: false,
                    isReusable: false
                )
            )
        case .finalDot(let index):
            if let action = self.receivedFinalDot(&open, index, code, isLast: isLast) { return action }
        case .loneDot:
            return self.finish(open, isLast: isLast)
        }
        if !isLast, !open.mayBeAnsweredAlready { return self.endUnexpected(open) }
        let action: Action = open.expected == .content ? .sendContent : .wait
        self.state = .transaction(open)
        return action
    }

    /// Returns the action only when the transaction is over.
    private mutating func receivedRCPT(
        _ open: inout OpenTransaction,
        _ index: Int,
        _ code: Int,
        isLast: Bool
    ) -> Action? {
        if code / 100 == 2 {
            open.acceptedCount += 1
        } else {
            guard code >= 400 else { return self.endUnexpected(open) }
            if open.failure == nil {
                open.outcomes[index] = .failed(ClientFailure(.rcpt, .reply(self.parser.makeReply())))
            }
        }
        if index + 1 < open.outcomes.count {
            open.expected = .rcpt(index + 1)
            if !open.isPipelined { _ = self.appendRCPT(open.request.recipients[index + 1]) }
            return nil
        }
        if !open.isPipelined {
            guard open.acceptedCount > 0 else { return self.finish(open, isLast: isLast) }
            self.outbound.append(literal: "DATA\r\n")
        }
        open.expected = .data
        return nil
    }

    private mutating func receivedDATA(_ open: inout OpenTransaction, _ code: Int, isLast: Bool) -> Action? {
        switch code / 100 {
        case 3:
            if open.acceptedCount > 0, open.failure == nil {
                open.expected = .content
            } else {
                self.outbound.append(literal: ".\r\n")
                open.expected = .loneDot
            }
            return nil
        case 4, 5:
            if open.acceptedCount > 0, open.failure == nil {
                open.failure = ClientFailure(.data, .reply(self.parser.makeReply()))
            }
            return self.finish(open, isLast: isLast)
        default:
            return self.endUnexpected(open)
        }
    }

    private mutating func receivedFinalDot(
        _ open: inout OpenTransaction,
        _ index: Int,
        _ code: Int,
        isLast: Bool
    ) -> Action? {
        let reply = self.parser.makeReply()
        let outcome: ClientRecipientOutcome
        switch code / 100 {
        case 2: outcome = .accepted(reply)
        case 4, 5: outcome = .failed(ClientFailure(.finalDot, .reply(reply)))
        default: return self.endUnexpected(open)
        }
        guard open.isLMTP else {
            for index in open.outcomes.indices where open.outcomes[index] == nil { open.outcomes[index] = outcome }
            return self.finish(open, isLast: isLast)
        }
        if index < open.outcomes.count { open.outcomes[index] = outcome }
        let next = open.nextPending(from: index)
        guard next < open.outcomes.count else { return self.finish(open, isLast: isLast) }
        open.expected = .finalDot(next)
        return nil
    }

    private mutating func endUnexpected(_ open: OpenTransaction) -> Action {
        self.state = .closed
        return .finished(open.outcome(endedBy: .unexpectedReply(self.parser.makeReply())))
    }

    /// The transaction came to its end in step with the server.
    private mutating func finish(_ open: OpenTransaction, isLast: Bool) -> Action {
        let isDelivered = open.outcomes.contains { if case .accepted = $0 { true } else { false } }
        self.needsReset = !isDelivered
        // Octets that nobody asked for would be taken for answers to the next transaction.
        self.state = isLast ? .ready : .closed
        let isBelowMax = self.capabilities.transactionCountMax.map { self.transactionCount < $0 } ?? true
        return .finished(
            open.outcome(
                failure: open.failure ?? ClientFailure(.finalDot, .aborted),
                isInDoubt: false,
                isReusable: isLast && isBelowMax
            )
        )
    }
}

extension OpenTransaction {
    /// The octets behind the last reply may answer what is expected now; else they answer nothing.
    var mayBeAnsweredAlready: Bool {
        switch self.expected {
        case .reset, .mail, .rcpt, .data: self.isPipelined
        case .finalDot: self.isLMTP
        case .content, .loneDot: false
        }
    }
}
