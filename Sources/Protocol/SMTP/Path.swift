import Mail

/// A reverse-path or a forward-path (RFC 5321 §4.1.2).
struct Path {
    enum Target {
        case null
        case postmaster
        case mailbox(Mailbox)
    }

    /// Octets in the longest path, brackets included (RFC 5321 §4.5.3.1.3).
    static let octetCountMax = 256

    var target: Target
    var isASCII: Bool

    /// ```
    /// Path   = "<" [ A-d-l ":" ] Mailbox ">"
    /// A-d-l  = At-domain *( "," At-domain )
    /// ```
    /// The source route is checked and dropped (RFC 5321 §4.1.1.3, appendix C).
    init?(_ cursor: inout OctetCursor) {
        guard var inner = cursor.takeAngleBrackets() else { return nil }
        self.isASCII = inner.allSatisfy { $0 < 0x80 }
        guard inner.count > 0 else {
            self.target = .null
            return
        }
        if inner[0] == UInt8(ascii: "@") {
            guard let colon = inner.firstIndex(of: UInt8(ascii: ":")) else { return nil }
            for hop in inner[..<colon].split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false) {
                guard hop.first == UInt8(ascii: "@"),
                    Domain(parsing: UnsafeRawBufferPointer(rebasing: hop.dropFirst())) != nil
                else { return nil }
            }
            inner = UnsafeRawBufferPointer(rebasing: inner[(colon + 1)...])
        }
        guard inner.count <= Self.octetCountMax - 2 else { return nil }
        if equalsIgnoringCase(inner, "postmaster") {
            self.target = .postmaster
            return
        }
        // Measured again as it will be sent: A-labels are longer than the U-labels they stand for.
        guard let mailbox = Mailbox(parsing: inner),
            mailbox.localPart.utf8.count + mailbox.domain.text.utf8.count + 3 <= Self.octetCountMax
        else { return nil }
        self.target = .mailbox(mailbox)
    }
}
