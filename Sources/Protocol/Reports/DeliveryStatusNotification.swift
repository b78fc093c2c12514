import Mail

/// A message that tells a sender what became of their mail (RFC 3461 §6, RFC 3464, RFC 6522, RFC 6533).
///
/// It is to be sent from the null reverse-path (RFC 5321 §4.5.5). Nothing a peer or the sender wrote can add a header
/// field, a report field or a MIME part to it.
public struct DeliveryStatusNotification: Hashable, Sendable {
    /// What happened to a recipient (RFC 3464 §2.3.3).
    public enum Action: String, Hashable, Sendable {
        case failed
        case delayed
        case delivered
        case relayed
        case expanded
    }

    /// What the notification as a whole is about: the gravest of its recipients' actions.
    public enum Kind: Hashable, Sendable {
        case failure
        case delay
        case success
    }

    /// The message reported on.
    public struct Original: Hashable, Sendable {
        public var messageID: MessageID
        /// Whom the notification goes to.
        public var reversePath: Mailbox
        /// ENVID, decoded.
        public var envelopeID: String?
        public var returnContent: Envelope.ReturnContent?
        /// Milliseconds since 1970, UTC.
        public var arrivedAt: Int64

        public init(
            messageID: MessageID,
            reversePath: Mailbox,
            envelopeID: String? = nil,
            returnContent: Envelope.ReturnContent? = nil,
            arrivedAt: Int64
        ) {
            self.messageID = messageID
            self.reversePath = reversePath
            self.envelopeID = envelopeID
            self.returnContent = returnContent
            self.arrivedAt = arrivedAt
        }

        /// `nil` for the null reverse-path: nobody can be told.
        public init?(_ envelope: Envelope) {
            guard let reversePath = envelope.reversePath else { return nil }
            self.init(
                messageID: envelope.messageID,
                reversePath: reversePath,
                envelopeID: envelope.envelopeID,
                returnContent: envelope.returnContent,
                arrivedAt: envelope.acceptedAt
            )
        }
    }

    /// What became of one recipient.
    public struct RecipientStatus: Hashable, Sendable {
        public var mailbox: Mailbox
        /// ORCPT as received, `addr-type;xtext`.
        public var originalRecipient: String?
        public var action: Action
        /// The enhanced status code, `5.1.1` (RFC 3463).
        public var status: String
        /// The host that answered, if one did.
        public var remoteMTA: String?
        /// The SMTP reply with its code, lines separated by line endings; or this relay's own text.
        public var diagnostic: String?
        /// Milliseconds since 1970, UTC.
        public var lastAttemptAt: Int64?
        /// Milliseconds since 1970, UTC; for delays.
        public var willRetryUntil: Int64?
        /// A sentence for people, in place of the one the status code implies.
        public var reason: String?

        public init(
            mailbox: Mailbox,
            originalRecipient: String? = nil,
            action: Action,
            status: String,
            remoteMTA: String? = nil,
            diagnostic: String? = nil,
            lastAttemptAt: Int64? = nil,
            willRetryUntil: Int64? = nil,
            reason: String? = nil
        ) {
            self.mailbox = mailbox
            self.originalRecipient = originalRecipient
            self.action = action
            self.status = status
            self.remoteMTA = remoteMTA
            self.diagnostic = diagnostic
            self.lastAttemptAt = lastAttemptAt
            self.willRetryUntil = willRetryUntil
            self.reason = reason
        }
    }

    /// What is known of the original's content.
    public enum Returned: Hashable, Sendable {
        case nothing
        /// At least the header section; what follows it is ignored.
        case headers([UInt8])
        case content([UInt8])
    }

    /// The notification ready to be put in the log.
    public struct Rendered: Hashable, Sendable {
        public var content: [UInt8]
        /// What the content needs of its next hop.
        public var bodyType: Envelope.BodyType
        /// The sender's address is not ASCII: SMTPUTF8 is needed.
        public var isInternationalized: Bool
    }

    /// This relay's name.
    public var reportingMTA: String
    public var original: Original
    public var recipients: [RecipientStatus]
    public var returned: Returned
    /// The notification's own Message-ID, without angle brackets.
    public var messageID: String
    /// Milliseconds since 1970, UTC.
    public var date: Int64
    /// Content up to this size is returned in full when a failure is reported and RET does not say otherwise; beyond
    /// it the header section is.
    public var returnedSizeMax = 64 * 1024
    /// The same where the sender said RET=FULL.
    public var requestedReturnedSizeMax = 10 * 1024 * 1024

    public init(
        reportingMTA: String,
        original: Original,
        recipients: [RecipientStatus],
        returned: Returned,
        messageID: String,
        date: Int64
    ) {
        self.reportingMTA = reportingMTA
        self.original = original
        self.recipients = recipients
        self.returned = returned
        self.messageID = messageID
        self.date = date
    }

    public var kind: Kind {
        if self.recipients.contains(where: { $0.action == .failed }) { return .failure }
        if self.recipients.contains(where: { $0.action == .delayed }) { return .delay }
        return .success
    }

    /// Whether addresses that are not ASCII force the internationalised report types (RFC 6533 §3).
    var isGlobal: Bool {
        self.recipients.contains { recipient in
            !recipient.mailbox.isASCII
                || (recipient.originalRecipient.flatMap(OriginalRecipient.init)?.isInternationalized ?? false)
        }
    }

    /// Writes the notification.
    public func rendered() -> Rendered {
        let returnedPart = self.returnedPart()
        let isGlobal = self.isGlobal
        let boundary = self.boundary(avoiding: returnedPart?.octets ?? [])
        let status = self.statusFields(isGlobal: isGlobal)
        let isStatusEightBit = status.contains { $0 >= 0x80 }
        let isEightBit = isStatusEightBit || returnedPart?.isEightBit == true

        var octets = self.header(boundary: boundary, isGlobal: isGlobal, isEightBit: isEightBit)
        octets.reserveCapacity(octets.count + status.count + (returnedPart?.octets.count ?? 0) + 4096)
        octets.append(literal: "This is a MIME message; a mail program shows its parts.\r\n")

        octets.append(delimiter: boundary)
        self.appendExplanation(returned: returnedPart, to: &octets)

        octets.append(delimiter: boundary)
        octets.append(literal: "Content-Description: Delivery report\r\nContent-Type: message/")
        octets.append(literal: isGlobal ? "global-delivery-status\r\n" : "delivery-status\r\n")
        if isStatusEightBit { octets.append(literal: "Content-Transfer-Encoding: 8bit\r\n") }
        octets.appendLineEnding()
        octets.append(contentsOf: status)

        if let returnedPart {
            octets.append(delimiter: boundary)
            octets.append(literal: "Content-Description: Undelivered message")
            octets.append(literal: returnedPart.isComplete ? "\r\n" : " headers\r\n")
            octets.append(literal: "Content-Type: ")
            octets.append(literal: returnedPart.type)
            octets.appendLineEnding()
            if returnedPart.isEightBit { octets.append(literal: "Content-Transfer-Encoding: 8bit\r\n") }
            octets.appendLineEnding()
            octets.append(contentsOf: returnedPart.octets)
        }
        octets.append(literal: "\r\n--")
        octets.append(contentsOf: boundary)
        octets.append(literal: "--\r\n")
        return Rendered(
            content: octets,
            bodyType: isEightBit ? .eightBitMIME : .sevenBit,
            isInternationalized: !self.original.reversePath.isASCII
        )
    }

    private func header(boundary: [UInt8], isGlobal: Bool, isEightBit: Bool) -> [UInt8] {
        var writer = HeaderFieldWriter(capacity: 1024)
        writer.begin("From")
        writer.token("Mail Delivery System")
        writer.token {
            $0.append(literal: "<MAILER-DAEMON@")
            HeaderText.append(host: self.reportingMTA, to: &$0)
            $0.append(UInt8(ascii: ">"))
        }
        writer.end()
        writer.begin("To")
        writer.token {
            $0.append(UInt8(ascii: "<"))
            self.original.reversePath.append(to: &$0, allowingUTF8: true)
            $0.append(UInt8(ascii: ">"))
        }
        writer.end()
        switch self.kind {
        case .failure: writer.field("Subject", literal: "Undelivered mail: your message could not be delivered")
        case .delay: writer.field("Subject", literal: "Delayed mail: your message is still being tried")
        case .success: writer.field("Subject", literal: "Delivery report: your message was delivered")
        }
        writer.field("Date", date: self.date)
        writer.begin("Message-ID")
        writer.token {
            $0.append(UInt8(ascii: "<"))
            $0.append(messageIDText: self.messageID)
            $0.append(UInt8(ascii: ">"))
        }
        writer.end()
        if let reference = self.originalMessageID() {
            writer.begin("References")
            writer.token { $0.append(contentsOf: reference) }
            writer.end()
        }
        writer.field("Auto-Submitted", literal: "auto-replied")
        writer.field("MIME-Version", literal: "1.0")
        writer.begin("Content-Type")
        writer.token("multipart/report;")
        writer.token(isGlobal ? "report-type=global-delivery-status;" : "report-type=delivery-status;")
        writer.token {
            $0.append(literal: "boundary=\"")
            $0.append(contentsOf: boundary)
            $0.append(UInt8(ascii: "\""))
        }
        writer.end()
        if isEightBit { writer.field("Content-Transfer-Encoding", literal: "8bit") }
        var octets = writer.octets
        octets.appendLineEnding()
        return octets
    }

    /// A boundary made from the Message-ID that the returned octets do not hold.
    private func boundary(avoiding octets: [UInt8]) -> [UInt8] {
        var base = Array("=_posthorn_".utf8)
        base.append(contentsOf: self.messageID.utf8.lazy.filter(\.isLetterOrDigit).prefix(40))
        var boundary = base
        var attempt = 0
        while octets.containsLine(startingWith: boundary) {
            boundary = base
            boundary.append(text: "_\(attempt)")
            attempt += 1
        }
        return boundary
    }
}

extension [UInt8] {
    fileprivate mutating func append(delimiter boundary: [UInt8]) {
        self.append(literal: "\r\n--")
        self.append(contentsOf: boundary)
        self.appendLineEnding()
    }

    /// Whether some line starts with two hyphens and `boundary`.
    fileprivate func containsLine(startingWith boundary: [UInt8]) -> Bool {
        self.withUnsafeBytes { content in
            var line = 0
            while line < content.count {
                if content.count - line >= boundary.count + 2, content[line] == UInt8(ascii: "-"),
                    content[line + 1] == UInt8(ascii: "-"),
                    content[line + 2..<line + 2 + boundary.count].elementsEqual(boundary)
                {
                    return true
                }
                guard let lineFeed = content.firstLineFeed(from: line, to: content.count) else { return false }
                line = lineFeed + 1
            }
            return false
        }
    }
}
