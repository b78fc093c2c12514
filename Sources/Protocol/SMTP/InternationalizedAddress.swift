/// The address type `utf-8` of ORCPT (RFC 6533 §3).
enum InternationalizedAddress {
    /// Octets in the longest value of ORCPT (RFC 3461 §4.2).
    static let octetCountMax = 500

    /// An ORCPT value in the form that every server takes, also one without SMTPUTF8; what is ASCII stays as it is.
    ///
    /// ```
    /// utf-8-addr-xtext    = 1*(QCHAR / EmbeddedUnicodeChar)
    /// EmbeddedUnicodeChar = "\x{" HEXPOINT "}"
    /// QCHAR               = %x21-2a / %x2c-3c / %x3e-5b / %x5d-7e
    /// ```
    static func sevenBit(_ value: String) -> String {
        guard value.utf8.contains(where: { $0 >= 0x80 }) else { return value }
        var out = ""
        var rest = value.unicodeScalars[...]
        while let scalar = rest.popFirst() {
            switch scalar {
            // Encoded already.
            case "\\" where rest.starts(with: "x{".unicodeScalars): out.unicodeScalars.append(scalar)
            case "+", "=", "\\": out += Self.embedded(scalar)
            case "!"..."~": out.unicodeScalars.append(scalar)
            default: out += Self.embedded(scalar)
            }
        }
        return out
    }

    private static func embedded(_ scalar: Unicode.Scalar) -> String {
        "\\x{\(String(scalar.value, radix: 16, uppercase: true))}"
    }
}
