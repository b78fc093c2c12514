import Mail

extension DeliveryStatusNotification {
    /// The second part's fields: one block on the message, one for each recipient (RFC 3464 §2).
    func statusFields(isGlobal: Bool) -> [UInt8] {
        var writer = HeaderFieldWriter(capacity: 512 + 512 * self.recipients.count)
        writer.begin("Reporting-MTA")
        writer.token("dns;")
        writer.token { HeaderText.append(host: self.reportingMTA, to: &$0) }
        writer.end()
        if let envelopeID = self.original.envelopeID, !envelopeID.isEmpty {
            writer.field("Original-Envelope-Id", envelopeID)
        }
        writer.field("Arrival-Date", date: self.original.arrivedAt)
        writer.field("X-Posthorn-Message-ID", self.original.messageID.description)
        for recipient in self.recipients {
            writer.end()
            Self.append(recipient, isGlobal: isGlobal, to: &writer)
        }
        return writer.octets
    }

    private static func append(_ recipient: RecipientStatus, isGlobal: Bool, to writer: inout HeaderFieldWriter) {
        if let original = recipient.originalRecipient.flatMap(OriginalRecipient.init) {
            writer.begin("Original-Recipient")
            writer.token {
                HeaderText.append(word: original.addressType, to: &$0, max: 40)
                $0.append(UInt8(ascii: ";"))
            }
            writer.words(original.address, allowingUTF8: isGlobal, max: 800)
            writer.end()
        }
        writer.begin("Final-Recipient")
        writer.token(recipient.mailbox.isASCII ? "rfc822;" : "utf-8;")
        writer.token { recipient.mailbox.append(to: &$0, allowingUTF8: isGlobal) }
        writer.end()
        writer.field("Action", recipient.action.rawValue)
        writer.field("Status", recipient.wellFormedStatus)
        if let remoteMTA = recipient.remoteMTA, !remoteMTA.isEmpty {
            writer.begin("Remote-MTA")
            writer.token("dns;")
            writer.token { HeaderText.append(host: remoteMTA, to: &$0) }
            writer.end()
        }
        if let diagnostic = recipient.diagnostic, !diagnostic.isEmpty {
            writer.begin("Diagnostic-Code")
            writer.token(recipient.isSMTPDiagnostic ? "smtp;" : "x-posthorn;")
            writer.words(diagnostic, allowingUTF8: isGlobal)
            writer.end()
        }
        if let lastAttemptAt = recipient.lastAttemptAt {
            writer.field("Last-Attempt-Date", date: lastAttemptAt)
        }
        if recipient.action == .delayed, let willRetryUntil = recipient.willRetryUntil {
            writer.field("Will-Retry-Until", date: willRetryUntil)
        }
    }
}

extension DeliveryStatusNotification.RecipientStatus {
    /// `class "." subject "." detail` (RFC 3463 §2), or a general code of the class the action implies.
    var wellFormedStatus: String {
        let parts = self.status.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        let isWellFormed =
            parts.count == 3 && parts.allSatisfy { (1...3).contains($0.count) && $0.allSatisfy(\.isDigit) }
            && ["2", "4", "5"].contains(String(parts[0]))
        if isWellFormed { return self.status }
        switch self.action {
        case .failed: return "5.0.0"
        case .delayed: return "4.0.0"
        case .delivered, .relayed, .expanded: return "2.0.0"
        }
    }

    /// Whether the diagnostic starts with a reply code.
    var isSMTPDiagnostic: Bool {
        guard let diagnostic = self.diagnostic?.utf8, let first = diagnostic.first else { return false }
        let digits = diagnostic.prefix { $0.isDigit }
        return digits.count == 3 && first >= UInt8(ascii: "2") && first <= UInt8(ascii: "5")
    }
}

/// ORCPT taken apart: `addr-type ";" xtext` (RFC 3461 §4.2), `utf-8;` with embedded characters (RFC 6533 §3).
struct OriginalRecipient {
    var addressType: String
    /// Decoded. As untrusted as it came.
    var address: String

    init?(_ text: String) {
        let octets = Array(text.utf8)
        guard let separator = octets.firstIndex(of: UInt8(ascii: ";")), separator > 0, separator + 1 < octets.count
        else { return nil }
        self.addressType = String(decoding: octets[..<separator].map(\.lowercased), as: UTF8.self)
        let decoded = Self.decodedXText(octets[(separator + 1)...])
        self.address = String(
            decoding: self.addressType == "utf-8" ? Self.decodedEmbeddedCharacters(decoded) : decoded,
            as: UTF8.self
        )
    }

    var isInternationalized: Bool {
        self.addressType == "utf-8" && !self.address.utf8.allSatisfy { $0 < 0x80 }
    }

    /// `"+" 2HEXDIG`; anything else is itself.
    private static func decodedXText(_ octets: ArraySlice<UInt8>) -> [UInt8] {
        var result: [UInt8] = []
        result.reserveCapacity(octets.count)
        var position = octets.startIndex
        while position < octets.endIndex {
            if octets[position] == UInt8(ascii: "+"), position + 2 < octets.endIndex,
                let high = self.hexValue(octets[position + 1]), let low = self.hexValue(octets[position + 2])
            {
                result.append(UInt8(truncatingIfNeeded: high << 4 | low))
                position += 3
            } else {
                result.append(octets[position])
                position += 1
            }
        }
        return result
    }

    /// `"\x{" HEXPOINT "}"`; anything else is itself.
    private static func decodedEmbeddedCharacters(_ octets: [UInt8]) -> [UInt8] {
        var result: [UInt8] = []
        result.reserveCapacity(octets.count)
        var position = 0
        while position < octets.count {
            if octets[position...].starts(with: [UInt8(ascii: "\\"), UInt8(ascii: "x"), UInt8(ascii: "{")]) {
                var value: UInt32 = 0
                var end = position + 3
                while end < octets.count, end < position + 9, let digit = self.hexValue(octets[end]) {
                    value = value << 4 | digit
                    end += 1
                }
                if end > position + 3, end < octets.count, octets[end] == UInt8(ascii: "}"),
                    let scalar = Unicode.Scalar(value)
                {
                    result.append(text: String(Character(scalar)))
                    position = end + 1
                    continue
                }
            }
            result.append(octets[position])
            position += 1
        }
        return result
    }

    private static func hexValue(_ octet: UInt8) -> UInt32? {
        switch octet {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): return UInt32(octet - UInt8(ascii: "0"))
        case UInt8(ascii: "A")...UInt8(ascii: "F"): return UInt32(octet - UInt8(ascii: "A")) + 10
        case UInt8(ascii: "a")...UInt8(ascii: "f"): return UInt32(octet - UInt8(ascii: "a")) + 10
        default: return nil
        }
    }
}
