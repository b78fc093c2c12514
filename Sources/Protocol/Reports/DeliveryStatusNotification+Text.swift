import Mail

extension DeliveryStatusNotification {
    /// Appends the first part, header fields included: what happened, in words for people (RFC 3464 §2.1).
    func appendExplanation(returned: ReturnedPart?, to octets: inout [UInt8]) {
        let text = self.explanation(returned: returned)
        let isASCII = text.allSatisfy { $0 < 0x80 }
        octets.append(literal: "Content-Description: Notification\r\nContent-Type: text/plain; charset=")
        octets.append(literal: isASCII ? "us-ascii\r\n\r\n" : "utf-8\r\n")
        if isASCII {
            octets.append(contentsOf: text)
        } else {
            octets.append(literal: "Content-Transfer-Encoding: quoted-printable\r\n\r\n")
            text.withUnsafeBytes { TransferEncoder.appendQuotedPrintable($0, to: &octets) }
        }
    }

    private func explanation(returned: ReturnedPart?) -> [UInt8] {
        var text = PlainText()
        text.paragraph("This is an automatic message from the mail system at \(self.reportingMTA).")
        let failed = self.recipients.filter { $0.action == .failed }
        let delayed = self.recipients.filter { $0.action == .delayed }
        let succeeded = self.recipients.filter { ![.failed, .delayed].contains($0.action) }
        if !failed.isEmpty {
            text.paragraph(
                "Your message could not be delivered to \(Self.people(failed.count)) below. It will not be tried again."
            )
            for recipient in failed { Self.append(recipient, to: &text) }
        }
        if !delayed.isEmpty {
            text.paragraph(
                "Your message has not yet been delivered to \(Self.people(delayed.count)) below. This is only a "
                    + "warning: the mail system goes on trying, and you need not send the message again."
            )
            for recipient in delayed { Self.append(recipient, to: &text) }
        }
        if !succeeded.isEmpty {
            text.paragraph("You asked to be told: your message reached \(Self.people(succeeded.count)) below.")
            for recipient in succeeded { Self.append(recipient, to: &text) }
        }
        text.paragraph("About your message:")
        if let subject = self.originalSubject() { text.item("Subject: \(subject)") }
        text.item("Received: \(DateTime(millisecondsSince1970: self.original.arrivedAt).rfc5322)")
        text.item("Reference: \(self.original.messageID)")
        text.blank()
        if let returned {
            text.paragraph(
                returned.isComplete
                    ? "Your message is attached, after a report for mail programs and administrators."
                    : "The head of your message is attached, after a report for mail programs and administrators."
            )
        } else {
            text.paragraph("A report for mail programs and administrators is attached.")
        }
        return text.octets
    }

    private static func people(_ count: Int) -> String {
        count == 1 ? "the recipient" : "the \(count) recipients"
    }

    private static func append(_ recipient: RecipientStatus, to text: inout PlainText) {
        let explanation = StatusExplanation(status: recipient.wellFormedStatus)
        text.address(recipient.mailbox)
        switch recipient.action {
        case .failed:
            text.item("Why: \(recipient.reason ?? explanation.reason)")
            text.answer(of: recipient)
            text.item("What you can do: \(explanation.advice)")
        case .delayed:
            text.item("Why: \(recipient.reason ?? explanation.reason)")
            text.answer(of: recipient)
            if let willRetryUntil = recipient.willRetryUntil {
                text.item("It will be tried until: \(DateTime(millisecondsSince1970: willRetryUntil).rfc5322)")
            }
            text.item("What you can do: nothing for now. If it cannot be delivered in the end, you will be told.")
        case .delivered:
            text.item(recipient.reason ?? "It was delivered to the recipient's mailbox.")
        case .relayed:
            text.item(
                recipient.reason
                    ?? "It was passed on to the recipient's mail system, which sends no reports: you may hear no more."
            )
        case .expanded:
            text.item(recipient.reason ?? "It was passed on to the members of a list.")
        }
        text.blank()
    }
}

/// Lines of text folded at 76 columns, made safe from whatever the values in it hold.
private struct PlainText {
    private(set) var octets: [UInt8] = []
    private static let lineSizeMax = 76

    mutating func paragraph(_ text: String) {
        self.wrap(text, indent: 0, hanging: 0)
        self.blank()
    }

    mutating func item(_ text: String) {
        self.wrap(text, indent: 4, hanging: 6)
    }

    mutating func blank() {
        self.octets.appendLineEnding()
    }

    /// Addresses are never folded.
    mutating func address(_ mailbox: Mailbox) {
        self.octets.append(literal: "  <")
        mailbox.append(to: &self.octets, allowingUTF8: true)
        self.octets.append(UInt8(ascii: ">"))
        self.octets.appendLineEnding()
    }

    /// The reply of the remote host, line by line, or this relay's own diagnostic.
    mutating func answer(of recipient: DeliveryStatusNotification.RecipientStatus) {
        guard let diagnostic = recipient.diagnostic, !diagnostic.isEmpty else { return }
        if recipient.isSMTPDiagnostic, let remoteMTA = recipient.remoteMTA, !remoteMTA.isEmpty {
            self.item("The server \(remoteMTA) answered:")
        } else {
            self.item("In technical terms:")
        }
        for line in diagnostic.split(whereSeparator: \.isNewline).prefix(20) {
            self.wrap(String(line), indent: 8, hanging: 10)
        }
    }

    private mutating func wrap(_ text: String, indent: Int, hanging: Int) {
        var safe: [UInt8] = []
        HeaderText.append(text, to: &safe, allowingUTF8: true, max: 2000)
        var lineSize = 0
        for word in safe.split(separator: UInt8.space) {
            var rest = word
            while !rest.isEmpty {
                // A word no line can hold is broken, though not within a character.
                var cut = min(rest.startIndex + 900, rest.endIndex)
                while cut < rest.endIndex, cut > rest.startIndex + 890, rest[cut] & 0xc0 == 0x80 { cut -= 1 }
                if lineSize > 0, lineSize + 1 + (cut - rest.startIndex) > Self.lineSizeMax {
                    self.octets.appendLineEnding()
                    self.octets.append(contentsOf: repeatElement(UInt8.space, count: hanging))
                    lineSize = hanging
                } else if lineSize > 0 {
                    self.octets.append(UInt8.space)
                    lineSize += 1
                } else {
                    self.octets.append(contentsOf: repeatElement(UInt8.space, count: indent))
                    lineSize = indent
                }
                self.octets.append(contentsOf: rest[rest.startIndex..<cut])
                lineSize += cut - rest.startIndex
                rest = rest[cut...]
            }
        }
        self.octets.appendLineEnding()
    }
}
