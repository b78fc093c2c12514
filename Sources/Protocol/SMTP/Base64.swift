/// Base 64 with padding, strict: no line breaks, no other characters, no stray bits (RFC 4648 §4, §3.5).
public enum Base64 {
    private static let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)

    public static func encode(_ octets: some Collection<UInt8>) -> String {
        var out: [UInt8] = []
        out.reserveCapacity((octets.count + 2) / 3 * 4)
        var bits: UInt32 = 0
        var count = 0
        for octet in octets {
            bits = bits << 8 | UInt32(octet)
            count += 1
            guard count == 3 else { continue }
            for shift in [18, 12, 6, 0] as [UInt32] { out.append(self.alphabet[Int(bits >> shift & 63)]) }
            bits = 0
            count = 0
        }
        if count == 1 {
            out.append(self.alphabet[Int(bits >> 2 & 63)])
            out.append(self.alphabet[Int(bits << 4 & 63)])
            out.append(contentsOf: [0x3d, 0x3d])
        } else if count == 2 {
            out.append(self.alphabet[Int(bits >> 10 & 63)])
            out.append(self.alphabet[Int(bits >> 4 & 63)])
            out.append(self.alphabet[Int(bits << 2 & 63)])
            out.append(0x3d)
        }
        return String(decoding: out, as: UTF8.self)
    }

    /// `nil` for anything that ``encode(_:)`` would not have produced.
    public static func decode(_ text: some Collection<UInt8>) -> [UInt8]? {
        guard text.count % 4 == 0 else { return nil }
        var out: [UInt8] = []
        out.reserveCapacity(text.count / 4 * 3)
        var bits: UInt32 = 0
        var count = 0
        var padding = 0
        for character in text {
            guard character != 0x3d else {
                padding += 1
                guard padding <= 2 else { return nil }
                continue
            }
            guard padding == 0, let digit = self.digit(character) else { return nil }
            bits = bits << 6 | digit
            count += 1
            guard count == 4 else { continue }
            out.append(UInt8(truncatingIfNeeded: bits >> 16))
            out.append(UInt8(truncatingIfNeeded: bits >> 8))
            out.append(UInt8(truncatingIfNeeded: bits))
            bits = 0
            count = 0
        }
        switch (count, padding) {
        case (0, 0):
            break
        case (2, 2):
            guard bits & 0xf == 0 else { return nil }
            out.append(UInt8(truncatingIfNeeded: bits >> 4))
        case (3, 1):
            guard bits & 0x3 == 0 else { return nil }
            out.append(UInt8(truncatingIfNeeded: bits >> 10))
            out.append(UInt8(truncatingIfNeeded: bits >> 2))
        default:
            return nil
        }
        return out
    }

    public static func decode(_ text: some StringProtocol) -> [UInt8]? { self.decode(text.utf8) }

    private static func digit(_ character: UInt8) -> UInt32? {
        switch character {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): UInt32(character - UInt8(ascii: "A"))
        case UInt8(ascii: "a")...UInt8(ascii: "z"): UInt32(character - UInt8(ascii: "a")) + 26
        case UInt8(ascii: "0")...UInt8(ascii: "9"): UInt32(character - UInt8(ascii: "0")) + 52
        case UInt8(ascii: "+"): 62
        case UInt8(ascii: "/"): 63
        default: nil
        }
    }
}
