/// `Local-part "@" ( Domain / address-literal )` (RFC 5321 §4.1.2, RFC 6531 §3.3).
public struct Mailbox: Hashable, Sendable, CustomStringConvertible {
    /// As the sender wrote it, quotes included when it needs them; compared octet for octet (RFC 5321 §2.4).
    public let localPart: String
    public let domain: Domain

    /// For values already known to be valid, such as those read back from the log.
    public init(localPart: String, domain: Domain) {
        self.localPart = localPart
        self.domain = domain
    }

    public var description: String { "\(self.localPart)@\(self.domain)" }

    /// Whether every octet is ASCII, so that no SMTPUTF8 is needed to carry it.
    public var isASCII: Bool { self.localPart.utf8.allSatisfy { $0 < 0x80 } }
}

/// A domain name in lower case A-label form without trailing dot, or an address literal with its brackets.
public struct Domain: Hashable, Sendable, CustomStringConvertible {
    public let text: String

    /// For values already known to be normalised, such as those read back from the log.
    public init(normalized text: String) {
        self.text = text
    }

    public var description: String { self.text }
    public var isAddressLiteral: Bool { self.text.utf8.first == UInt8(ascii: "[") }
}
