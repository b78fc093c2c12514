/// The value of a Content-Transfer-Encoding field (RFC 2045 §6.1).
enum TransferEncoding: Hashable, Sendable {
    case sevenBit
    /// 8bit and binary: both are the octets as they are.
    case eightBit
    case quotedPrintable
    case base64

    /// The body is the octets as they are.
    var isIdentity: Bool { self == .sevenBit || self == .eightBit }

    /// `nil` for an encoding that is not one of RFC 2045's.
    init?(_ value: [UInt8]) {
        let end = value.firstIndex { $0.isBlank || $0 == UInt8(ascii: ";") || $0 == UInt8(ascii: "(") } ?? value.count
        switch String(decoding: value[..<end].map(\.lowercased), as: UTF8.self) {
        case "7bit", "": self = .sevenBit
        case "8bit", "binary": self = .eightBit
        case "quoted-printable": self = .quotedPrintable
        case "base64": self = .base64
        default: return nil
        }
    }
}

/// Quoted-printable and base64 (RFC 2045 §6.7, §6.8).
package enum TransferEncoder {
    private static let lineSizeMax = 76

    /// Line endings (CRLF, LF) of text stay line endings; a carriage return alone is encoded.
    package static func appendQuotedPrintable(_ text: UnsafeRawBufferPointer, to output: inout [UInt8]) {
        var lineSize = 0
        var position = 0
        while position < text.count {
            if let ending = text.lineEndingLength(at: position) {
                output.appendLineEnding()
                lineSize = 0
                position += ending
                continue
            }
            let octet = text[position]
            let isLast = position + 1 == text.count || text.lineEndingLength(at: position + 1) != nil
            let isPlain: Bool
            switch octet {
            case UInt8(ascii: "="): isPlain = false
            case UInt8.space, UInt8.tab: isPlain = !isLast
            // Lines a careless agent would change: a dot alone, and mbox's "From ".
            case UInt8(ascii: "."), UInt8(ascii: "F"): isPlain = lineSize > 0
            default: isPlain = octet > 0x20 && octet < 0x7f
            }
            // Room for the soft line break, unless the line ends here.
            if lineSize + (isPlain ? 1 : 3) > (isLast ? Self.lineSizeMax : Self.lineSizeMax - 1) {
                output.append(UInt8(ascii: "="))
                output.appendLineEnding()
                lineSize = 0
                continue
            }
            if isPlain {
                output.append(octet)
                lineSize += 1
            } else {
                output.append(quoted: octet)
                lineSize += 3
            }
            position += 1
        }
    }

    /// Lines of 76 characters, each with its line ending.
    package static func appendBase64(_ octets: UnsafeRawBufferPointer, to output: inout [UInt8]) {
        var position = 0
        var lineSize = 0
        while position < octets.count {
            let rest = octets.count - position
            let first = UInt32(octets[position])
            let second = rest > 1 ? UInt32(octets[position + 1]) : 0
            let third = rest > 2 ? UInt32(octets[position + 2]) : 0
            let group = first << 16 | second << 8 | third
            output.append(Self.base64Digit(group >> 18))
            output.append(Self.base64Digit(group >> 12))
            output.append(rest > 1 ? Self.base64Digit(group >> 6) : UInt8(ascii: "="))
            output.append(rest > 2 ? Self.base64Digit(group) : UInt8(ascii: "="))
            position += 3
            lineSize += 4
            if lineSize == Self.lineSizeMax || position >= octets.count {
                output.appendLineEnding()
                lineSize = 0
            }
        }
    }

    private static func base64Digit(_ value: UInt32) -> UInt8 {
        let value = UInt8(truncatingIfNeeded: value & 63)
        switch value {
        case 0..<26: return UInt8(ascii: "A") + value
        case 26..<52: return UInt8(ascii: "a") + (value - 26)
        case 52..<62: return UInt8(ascii: "0") + (value - 52)
        case 62: return UInt8(ascii: "+")
        default: return UInt8(ascii: "/")
        }
    }
}

extension [UInt8] {
    /// `"=" 2HEXDIG`, upper case.
    mutating func append(quoted octet: UInt8) {
        self.append(UInt8(ascii: "="))
        self.append(Self.hexDigit(octet >> 4))
        self.append(Self.hexDigit(octet & 15))
    }

    private static func hexDigit(_ value: UInt8) -> UInt8 {
        value < 10 ? UInt8(ascii: "0") + value : UInt8(ascii: "A") + (value - 10)
    }
}
