/// The trace field a relay puts on top of every message it takes (RFC 5321 §4.4, RFC 3848, RFC 6531 §3.7.3).
///
/// Everything the peer gave is made safe: it can end neither the field nor a comment in it.
public struct ReceivedField: Hashable, Sendable {
    /// What the client called itself in EHLO or HELO.
    public var clientName: String
    /// The client's address without port or brackets; empty leaves it out.
    public var clientAddress: String
    /// The client's host name as verified in DNS, if it was.
    public var clientHostName: String?
    /// This relay's name.
    public var receiverName: String
    /// The `with` keyword: see ``transmissionType(isExtended:isTLS:isAuthenticated:isInternationalized:isLMTP:)``.
    public var transmissionType: String
    public var messageID: MessageID
    /// What protected the session, as the TLS library writes it: `TLSv1.3`.
    public var tlsVersion: String?
    /// The cipher suite, by IANA's name: `TLS_AES_256_GCM_SHA384`. Written only with a version.
    public var tlsCipherSuite: String?
    /// Only for a message with a single recipient: naming one of several would tell the others.
    public var recipient: Mailbox?
    /// Milliseconds since 1970, UTC.
    public var receivedAt: Int64

    public init(
        clientName: String,
        clientAddress: String,
        clientHostName: String? = nil,
        receiverName: String,
        transmissionType: String,
        messageID: MessageID,
        tlsVersion: String? = nil,
        tlsCipherSuite: String? = nil,
        recipient: Mailbox? = nil,
        receivedAt: Int64
    ) {
        self.clientName = clientName
        self.clientAddress = clientAddress
        self.clientHostName = clientHostName
        self.receiverName = receiverName
        self.transmissionType = transmissionType
        self.messageID = messageID
        self.tlsVersion = tlsVersion
        self.tlsCipherSuite = tlsCipherSuite
        self.recipient = recipient
        self.receivedAt = receivedAt
    }

    /// The registered `with` keyword for a session (RFC 3848, RFC 6531 §4.3).
    public static func transmissionType(
        isExtended: Bool,
        isTLS: Bool = false,
        isAuthenticated: Bool = false,
        isInternationalized: Bool = false,
        isLMTP: Bool = false
    ) -> String {
        let suffix = (isTLS ? "S" : "") + (isAuthenticated ? "A" : "")
        if isInternationalized { return (isLMTP ? "UTF8LMTP" : "UTF8SMTP") + suffix }
        if isLMTP { return "LMTP" + suffix }
        return isExtended || !suffix.isEmpty ? "ESMTP" + suffix : "SMTP"
    }

    /// The field with its line ending, folded within 78 octets wherever its words allow.
    public var octets: [UInt8] {
        var writer = HeaderFieldWriter(capacity: 512, foldOctet: UInt8.tab)
        writer.begin("Received")
        writer.token("from")
        writer.token { HeaderText.append(host: self.clientName, to: &$0) }
        self.appendClient(to: &writer)
        writer.fold()
        writer.token("by")
        writer.token { HeaderText.append(host: self.receiverName, to: &$0) }
        writer.token("with")
        writer.token { HeaderText.append(word: self.transmissionType, to: &$0, max: 20) }
        if let version = self.tlsVersion {
            writer.fold()
            writer.token("(using")
            writer.token {
                HeaderText.append(word: version, to: &$0, max: 20)
                if self.tlsCipherSuite == nil { $0.append(UInt8(ascii: ")")) }
            }
            if let suite = self.tlsCipherSuite {
                writer.token("with cipher")
                writer.token {
                    HeaderText.append(word: suite, to: &$0, max: 64)
                    $0.append(UInt8(ascii: ")"))
                }
            }
        }
        writer.fold()
        writer.token("id")
        writer.token { $0.append(text: self.messageID.description) }
        self.appendRecipient(to: &writer)
        writer.token { DateTime(millisecondsSince1970: self.receivedAt).appendRFC5322(to: &$0) }
        writer.end()
        return writer.octets
    }

    /// `(host.example [192.0.2.1])`, `([IPv6:2001:db8::1])`
    private func appendClient(to writer: inout HeaderFieldWriter) {
        let hostName = self.clientHostName.flatMap { $0.isEmpty ? nil : $0 }
        guard hostName != nil || !self.clientAddress.isEmpty else { return }
        writer.token {
            $0.append(UInt8(ascii: "("))
            if let hostName { HeaderText.append(host: hostName, to: &$0) }
            guard !self.clientAddress.isEmpty else { return $0.append(UInt8(ascii: ")")) }
            if hostName != nil { $0.append(UInt8.space) }
            $0.append(UInt8(ascii: "["))
            if self.clientAddress.utf8.contains(UInt8(ascii: ":")) { $0.append(literal: "IPv6:") }
            let start = $0.count
            HeaderText.append(host: self.clientAddress, to: &$0, max: 64)
            for index in start..<$0.count where $0[index] == UInt8(ascii: "[") || $0[index] == UInt8(ascii: "]") {
                $0[index] = UInt8(ascii: "?")
            }
            $0.append(literal: "])")
        }
    }

    /// ` for <forward-path>;`, or only the semicolon when there is no recipient to name or none that may be written.
    private func appendRecipient(to writer: inout HeaderFieldWriter) {
        let isUTF8 = self.transmissionType.utf8.starts(with: "UTF8".utf8)
        if let recipient = self.recipient, recipient.isWellFormed, recipient.isASCII || isUTF8 {
            writer.token("for")
            writer.token {
                $0.append(UInt8(ascii: "<"))
                recipient.append(to: &$0, allowingUTF8: true)
                $0.append(literal: ">;")
            }
        } else {
            writer.appendToToken(UInt8(ascii: ";"))
        }
    }
}
