/// `xtext = *( xchar / hexchar )` (RFC 3461 §4).
public enum XText {
    /// Decodes to printable ASCII and spaces; `nil` for what is not xtext, or decodes to anything else.
    public static func decode(_ text: UnsafeRawBufferPointer) -> String? {
        var out: [UInt8] = []
        out.reserveCapacity(text.count)
        var index = 0
        while index < text.count {
            var octet = text[index]
            index += 1
            switch octet {
            case UInt8(ascii: "+"):
                guard index + 1 < text.count, let high = self.digit(text[index]), let low = self.digit(text[index + 1])
                else { return nil }
                octet = high << 4 | low
                index += 2
            case UInt8(ascii: "="):
                return nil
            default:
                guard octet >= 33, octet <= 126 else { return nil }
            }
            guard octet >= 32, octet <= 126 else { return nil }
            out.append(octet)
        }
        return String(decoding: out, as: UTF8.self)
    }

    /// Encodes any text; octets outside 33...126 and `+`, `=` as `+HH`.
    public static func encode(_ text: some StringProtocol) -> String {
        let digits = Array("0123456789ABCDEF".utf8)
        var out: [UInt8] = []
        for octet in text.utf8 {
            if octet >= 33, octet <= 126, octet != UInt8(ascii: "+"), octet != UInt8(ascii: "=") {
                out.append(octet)
            } else {
                out.append(contentsOf: [UInt8(ascii: "+"), digits[Int(octet >> 4)], digits[Int(octet & 15)]])
            }
        }
        return String(decoding: out, as: UTF8.self)
    }

    /// hexchar has upper case digits only.
    private static func digit(_ octet: UInt8) -> UInt8? {
        switch octet {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): octet - UInt8(ascii: "0")
        case UInt8(ascii: "A")...UInt8(ascii: "F"): octet - UInt8(ascii: "A") + 10
        default: nil
        }
    }
}
