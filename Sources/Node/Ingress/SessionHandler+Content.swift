import ClusterLog
import Logging
import Mail
import NIOCore
import NodeSupport
import SMTP

/// A message on its way into the log, as the log line about it needs it.
struct PublishedMessage {
    let messageID: MessageID
    let transaction: AcceptedTransaction
    let size: Int
}

extension SessionHandler {
    func beginContent(_ transaction: AcceptedTransaction) {
        self.dropIntake()
        let milliseconds = self.shared.clock.milliseconds
        self.beginContentTime()
        self.intake = ContentIntake(
            transaction,
            messageID: self.loop.makeMessageID(milliseconds: milliseconds),
            receivedAt: milliseconds,
            receiverName: self.role.receiverName,
            allocator: self.context?.channel.allocator ?? ByteBufferAllocator()
        )
    }

    func dropIntake() {
        self.intake?.release(self.shared.gate)
        self.intake = nil
    }

    /// Content is complete: a last look at it, then one append.
    func publish(_ transaction: AcceptedTransaction) {
        guard var intake = exchangeNil(&self.intake) else {
            return self.perform(self.session.publishFailed(.notStored))
        }
        let configuration = self.shared.configuration
        let refusal = intake.finish(
            limits: configuration.limits,
            fixesHeader: self.role.listener.kind != .relay,
            addsMissingFields: configuration.smtp.addMissingHeaders,
            receiverName: self.role.receiverName
        )
        if let refusal {
            intake.release(self.shared.gate)
            return self.perform(self.session.publishFailed(refusal))
        }
        let content = intake.buffer
        let envelope = Envelope(
            messageID: intake.messageID,
            reversePath: transaction.reversePath,
            recipients: MessageRecords.withoutDuplicates(transaction.recipients),
            bodyType: transaction.bodyType,
            isInternationalized: transaction.isInternationalized,
            returnContent: transaction.returnContent,
            envelopeID: transaction.envelopeID,
            acceptedAt: intake.receivedAt,
            contentSize: content.readableBytes,
            origin: transaction.origin
        )
        self.published = PublishedMessage(
            messageID: intake.messageID,
            transaction: transaction,
            size: content.readableBytes
        )
        self.loop.append(envelope, content: content, session: self, chargedCount: intake.chargedCount)
    }

    /// The log has answered.
    func appended(_ result: Result<[Position], RecordLogError>, duration: Int64) {
        guard let message = exchangeNil(&self.published) else { return }
        switch result {
        case .success:
            self.noteAccepted(message, duration: duration)
            // The client has gone; the message is ours.
            if case .closed = self.phase { return }
            self.beginTransactionTime()
            self.proceed(self.session.published(as: message.messageID.description))
        case .failure(let error):
            self.shared.logger.warning(
                "The log did not take a message",
                metadata: [LogKeys.messageID: "\(message.messageID)", LogKeys.error: "\(error)"]
            )
            if case .closed = self.phase { return }
            self.proceed(self.session.publishFailed(Reply(error)))
        }
    }

    private func noteAccepted(_ message: PublishedMessage, duration: Int64) {
        let metrics = self.shared.metrics
        metrics.messages.increment()
        metrics.recipients.increment(by: message.transaction.recipients.count)
        metrics.octets.increment(by: message.size)
        guard self.shared.logger.logLevel <= .info else { return }
        let transaction = message.transaction
        // Handlers redact the sender; who the client is remains.
        self.shared.logger.info(
            "Accepted message",
            metadata: [
                LogKeys.messageID: "\(message.messageID)",
                LogKeys.listener: .string(transaction.session.listener),
                LogKeys.client: .string(transaction.session.clientAddress),
                LogKeys.sender: .string(transaction.reversePath?.description ?? "<>"),
                LogKeys.recipientCount: "\(transaction.recipients.count)",
                LogKeys.size: "\(message.size)",
                LogKeys.duration: "\(duration / 1_000_000)",
            ]
        )
    }

    /// Counts a negative reply and, when it ended a transaction or refused a recipient, says so.
    func noteRejection(_ reply: Reply) {
        let reason = IngressMetrics.Reason(reply)
        self.shared.metrics.reject(reason)
        switch reason {
        case .authentication, .syntax, .timeout, .shutdown, .errors, .sessions, .other, .tlsRequired:
            break
        case .relayDenied, .size, .content, .loop, .recipients, .storage, .log:
            self.shared.logger.info(
                "Rejected",
                metadata: [
                    LogKeys.reason: .string(reason.rawValue),
                    LogKeys.reply: .string(reply.description),
                    LogKeys.listener: .string(self.role.listener.name),
                    LogKeys.client: .string(self.session.facts.clientAddress),
                ]
            )
        }
    }
}

/// Takes a value out of where it is.
private func exchangeNil<Value>(_ place: inout Value?) -> Value? {
    let value = place
    place = nil
    return value
}
