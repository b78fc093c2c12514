import Mail

// MAIL and RCPT as octets (RFC 5321 §4.1.1.2-3), with the parameters the server offered.

extension ClientSession {
    /// Returns whether what was appended is one command.
    mutating func appendMAIL(_ transaction: ClientTransaction, isInternationalized: Bool) -> Bool {
        let start = self.outbound.count
        self.outbound.append(literal: "MAIL FROM:<")
        if let reversePath = transaction.reversePath { self.append(reversePath) }
        self.outbound.append(UInt8(ascii: ">"))
        if self.capabilities.hasSize {
            self.outbound.append(literal: " SIZE=")
            self.append(decimal: transaction.contentSize)
        }
        if self.capabilities.hasEightBitMIME, transaction.isEightBit || transaction.hasEightBitContent {
            self.outbound.append(literal: " BODY=8BITMIME")
        }
        if isInternationalized { self.outbound.append(literal: " SMTPUTF8") }
        if self.capabilities.hasNotifications {
            switch transaction.returnContent {
            case .full: self.outbound.append(literal: " RET=FULL")
            case .headers: self.outbound.append(literal: " RET=HDRS")
            case nil: break
            }
            if let envelopeID = transaction.envelopeID {
                self.outbound.append(literal: " ENVID=")
                self.append(xtext: envelopeID)
            }
        }
        return self.endCommand(from: start)
    }

    /// Returns whether what was appended is one command.
    mutating func appendRCPT(_ recipient: Recipient) -> Bool {
        let start = self.outbound.count
        self.outbound.append(literal: "RCPT TO:<")
        self.append(recipient.mailbox)
        self.outbound.append(UInt8(ascii: ">"))
        if self.capabilities.hasNotifications {
            if let notify = recipient.notify, !notify.isEmpty {
                self.outbound.append(literal: " NOTIFY=")
                self.append(notify)
            }
            // One that has grown too long to be taken is better not given than the recipient refused.
            if let original = recipient.originalRecipient.map(InternationalizedAddress.sevenBit),
                original.utf8.count <= InternationalizedAddress.octetCountMax
            {
                self.outbound.append(literal: " ORCPT=")
                self.outbound.append(text: original)
            }
        }
        return self.endCommand(from: start)
    }

    private mutating func append(_ mailbox: Mailbox) {
        self.outbound.append(text: mailbox.localPart)
        self.outbound.append(UInt8(ascii: "@"))
        self.outbound.append(text: mailbox.domain.text)
    }

    private mutating func append(_ notify: Recipient.Notify) {
        guard !notify.contains(.never) else {
            self.outbound.append(literal: "NEVER")
            return
        }
        let start = self.outbound.count
        if notify.contains(.success) { self.outbound.append(literal: "SUCCESS,") }
        if notify.contains(.failure) { self.outbound.append(literal: "FAILURE,") }
        if notify.contains(.delay) { self.outbound.append(literal: "DELAY,") }
        if self.outbound.count > start { self.outbound.removeLast() }
    }

    private mutating func append(decimal value: Int) {
        let value = max(0, value)
        if value >= 10 { self.append(decimal: value / 10) }
        self.outbound.append(UInt8(ascii: "0") + UInt8(value % 10))
    }

    /// `xtext = *( xchar / hexchar )` (RFC 3461 §4)
    private mutating func append(xtext text: String) {
        for octet in text.utf8 {
            switch octet {
            case UInt8(ascii: "+"), UInt8(ascii: "="), 0...0x20, 0x7f...:
                self.outbound.append(UInt8(ascii: "+"))
                for digit in [octet >> 4, octet & 15] {
                    self.outbound.append(digit < 10 ? UInt8(ascii: "0") + digit : UInt8(ascii: "A") + digit - 10)
                }
            default:
                self.outbound.append(octet)
            }
        }
    }

    /// Nothing that came in with an address may end the line early and start a command of its own.
    private mutating func endCommand(from start: Int) -> Bool {
        let isOneLine = !self.outbound[start...].contains { $0 < 0x20 || $0 == 0x7f }
        self.outbound.appendLineEnding()
        return isOneLine
    }
}
