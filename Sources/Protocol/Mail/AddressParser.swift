extension Domain {
    /// Octets in the longest domain (RFC 5321 §4.5.3.1.2).
    public static let octetCountMax = 255

    /// Reads a domain or an address literal and normalises it (RFC 5321 §4.1.2, §4.1.3; RFC 6531 §3.3).
    ///
    /// Lower case, no trailing dot, U-labels as A-labels; address literals in their canonical form. Underscores are
    /// taken, since hosts that have them send and receive mail.
    public init?(parsing text: some StringProtocol) {
        guard let domain = withUTF8Octets(of: text, { Domain(parsing: $0) }) else { return nil }
        self = domain
    }

    /// The same, from octets.
    public init?(parsing octets: UnsafeRawBufferPointer) {
        guard octets.count > 0, octets.count <= 4 * Domain.octetCountMax else { return nil }
        if octets[0] == UInt8(ascii: "[") {
            guard octets.count > 2, octets[octets.count - 1] == UInt8(ascii: "]"),
                let literal = AddressLiteral(UnsafeRawBufferPointer(rebasing: octets[1..<octets.count - 1]))
            else { return nil }
            self.init(normalized: literal.text)
            return
        }
        guard let text = Domain.normalizedName(octets) else { return nil }
        self.init(normalized: text)
    }

    /// ```
    /// Domain         = sub-domain *("." sub-domain)
    /// sub-domain     = Let-dig [Ldh-str] / U-label
    /// ```
    private static func normalizedName(_ octets: UnsafeRawBufferPointer) -> String? {
        var name = octets
        if name[name.count - 1] == UInt8(ascii: ".") {
            name = UnsafeRawBufferPointer(rebasing: name.dropLast())
            guard name.count > 0 else { return nil }
        }
        guard let labels = Domain.scan(name) else { return nil }
        let text: String
        switch labels {
        case .ascii:
            guard name.count <= Domain.octetCountMax else { return nil }
            text = String(unsafeUninitializedCapacity: name.count) { out in
                for index in 0..<name.count {
                    let octet = name[index]
                    out[index] = octet >= 0x41 && octet <= 0x5a ? octet | 0x20 : octet
                }
                return name.count
            }
        case .international:
            guard let unicode = String(validating: name, as: UTF8.self) else { return nil }
            var normalized = ""
            for label in unicode.split(separator: ".", omittingEmptySubsequences: false) {
                if !normalized.isEmpty { normalized += "." }
                if label.utf8.allSatisfy({ $0 < 0x80 }) {
                    normalized += label.lowercased()
                } else {
                    guard let encoded = Punycode.aLabel(of: label) else { return nil }
                    normalized += encoded
                }
            }
            guard normalized.utf8.count <= Domain.octetCountMax else { return nil }
            text = normalized
        }
        // A last label of digits alone would be read as an IPv4 address (RFC 1123 §2.1).
        let last = text.utf8.reversed().prefix { $0 != UInt8(ascii: ".") }
        return last.allSatisfy { $0 >= 0x30 && $0 <= 0x39 } ? nil : text
    }

    private enum Labels {
        case ascii
        case international
    }

    /// Checks the label rules that need no decoding: 1...63 octets, no hyphen at an end.
    private static func scan(_ name: UnsafeRawBufferPointer) -> Labels? {
        var labels = Labels.ascii
        var labelStart = 0
        var isLabelASCII = true
        for index in 0...name.count {
            let octet = index < name.count ? name[index] : UInt8(ascii: ".")
            switch octet {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"):
                break
            case UInt8(ascii: "-"):
                guard index > labelStart else { return nil }
            case UInt8(ascii: "."):
                guard index > labelStart, !isLabelASCII || index - labelStart <= 63,
                    name[index - 1] != UInt8(ascii: "-")
                else { return nil }
                labelStart = index + 1
                isLabelASCII = true
            case 0x80...:
                labels = .international
                isLabelASCII = false
            default:
                return nil
            }
        }
        return labels
    }
}

extension Mailbox {
    /// Octets in the longest local part (RFC 5321 §4.5.3.1.1).
    public static let localPartOctetCountMax = 64

    /// Reads `Local-part "@" ( Domain / address-literal )` (RFC 5321 §4.1.2, RFC 6531 §3.3).
    ///
    /// The local part keeps its case. Quotes it does not need are removed (RFC 5321 §4.1.2: the form with the least
    /// quoting is the one to send). Octets above 127 must be valid UTF-8; whether they are welcome is the caller's to
    /// decide. Angle brackets and source routes belong to a path, not to a mailbox.
    public init?(parsing text: some StringProtocol) {
        guard let mailbox = withUTF8Octets(of: text, { Mailbox(parsing: $0) }) else { return nil }
        self = mailbox
    }

    /// The same, from octets.
    public init?(parsing octets: UnsafeRawBufferPointer) {
        guard let localPartCount = Mailbox.scanLocalPart(octets), localPartCount < octets.count,
            octets[localPartCount] == UInt8(ascii: "@"),
            let localPart = Mailbox.normalizedLocalPart(UnsafeRawBufferPointer(rebasing: octets[..<localPartCount])),
            let domain = Domain(parsing: UnsafeRawBufferPointer(rebasing: octets[(localPartCount + 1)...]))
        else { return nil }
        self.init(localPart: localPart, domain: domain)
    }

    /// The octets of the local part at the start of `octets`; `nil` when none is there.
    /// ```
    /// Local-part     = Dot-string / Quoted-string
    /// Dot-string     = Atom *("." Atom)
    /// Quoted-string  = DQUOTE *QcontentSMTP DQUOTE
    /// ```
    static func scanLocalPart(_ octets: UnsafeRawBufferPointer) -> Int? {
        guard let first = octets.first else { return nil }
        return first == UInt8(ascii: "\"") ? self.scanQuotedString(octets) : self.scanDotString(octets)
    }

    /// ```
    /// QcontentSMTP   = qtextSMTP / quoted-pairSMTP
    /// quoted-pairSMTP  = %d92 %d32-126
    /// qtextSMTP      = %d32-33 / %d35-91 / %d93-126 / UTF8-non-ascii
    /// ```
    private static func scanQuotedString(_ octets: UnsafeRawBufferPointer) -> Int? {
        var index = 1
        while index < octets.count {
            switch octets[index] {
            case UInt8(ascii: "\""):
                return index + 1
            case UInt8(ascii: "\\"):
                guard index + 1 < octets.count, octets[index + 1] >= 32, octets[index + 1] <= 126 else { return nil }
                index += 2
            case 32...126, 128...:
                index += 1
            default:
                return nil
            }
        }
        return nil
    }

    private static func scanDotString(_ octets: UnsafeRawBufferPointer) -> Int? {
        var index = 0
        var isAtomEmpty = true
        while index < octets.count {
            let octet = octets[index]
            if isAtomText(octet) {
                isAtomEmpty = false
            } else if octet == UInt8(ascii: ".") {
                guard !isAtomEmpty else { return nil }
                isAtomEmpty = true
            } else {
                break
            }
            index += 1
        }
        return isAtomEmpty ? nil : index
    }

    private static func normalizedLocalPart(_ octets: UnsafeRawBufferPointer) -> String? {
        guard octets[0] == UInt8(ascii: "\"") else {
            return octets.count <= self.localPartOctetCountMax ? String(validating: octets, as: UTF8.self) : nil
        }
        var content: [UInt8] = []
        var needsQuotes: [UInt8] = []
        var index = 1
        while index < octets.count - 1 {
            if octets[index] == UInt8(ascii: "\\") { index += 1 }
            let octet = octets[index]
            content.append(octet)
            if octet == UInt8(ascii: "\"") || octet == UInt8(ascii: "\\") { needsQuotes.append(UInt8(ascii: "\\")) }
            needsQuotes.append(octet)
            index += 1
        }
        let isDotString = content.withUnsafeBytes { self.scanDotString($0) == $0.count }
        let minimal = isDotString ? content : [UInt8(ascii: "\"")] + needsQuotes + [UInt8(ascii: "\"")]
        guard minimal.count <= self.localPartOctetCountMax else { return nil }
        return String(validating: minimal, as: UTF8.self)
    }
}

/// ```
/// atext = ALPHA / DIGIT / "!" / "#" / "$" / "%" / "&" / "'" / "*" / "+" / "-" / "/" / "=" / "?" / "^" / "_" /
///         "`" / "{" / "|" / "}" / "~" / UTF8-non-ascii
/// ```
private func isAtomText(_ octet: UInt8) -> Bool {
    switch octet {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), 0x80...:
        true
    case UInt8(ascii: "!"), UInt8(ascii: "#"), UInt8(ascii: "$"), UInt8(ascii: "%"), UInt8(ascii: "&"),
        UInt8(ascii: "'"), UInt8(ascii: "*"), UInt8(ascii: "+"), UInt8(ascii: "-"), UInt8(ascii: "/"),
        UInt8(ascii: "="), UInt8(ascii: "?"), UInt8(ascii: "^"), UInt8(ascii: "_"), UInt8(ascii: "`"),
        UInt8(ascii: "{"), UInt8(ascii: "|"), UInt8(ascii: "}"), UInt8(ascii: "~"):
        true
    default:
        false
    }
}

private func withUTF8Octets<Result>(
    of text: some StringProtocol,
    _ body: (UnsafeRawBufferPointer) -> Result
) -> Result {
    text.utf8.withContiguousStorageIfAvailable { body(UnsafeRawBufferPointer($0)) }
        ?? Array(text.utf8).withUnsafeBytes(body)
}
