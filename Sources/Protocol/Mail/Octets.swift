// What the octets of mail mean, for the scanners of this module and of Reports.

extension UInt8 {
    package static let tab: UInt8 = 0x09
    package static let lineFeed: UInt8 = 0x0a
    package static let carriageReturn: UInt8 = 0x0d
    package static let space: UInt8 = 0x20

    /// Space or tab: `WSP` (RFC 5234).
    package var isBlank: Bool { self == 0x20 || self == 0x09 }

    package var isControl: Bool { self < 0x20 || self == 0x7f }

    package var isDigit: Bool { self >= 0x30 && self <= 0x39 }

    package var isLetterOrDigit: Bool {
        (self | 0x20 >= 0x61 && self | 0x20 <= 0x7a) || self.isDigit
    }

    package var lowercased: UInt8 { self >= 0x41 && self <= 0x5a ? self | 0x20 : self }

    /// `atext` (RFC 5322 §3.2.3), ASCII only.
    package var isAtomText: Bool {
        if self.isLetterOrDigit { return true }
        switch self {
        case UInt8(ascii: "!"), UInt8(ascii: "#"), UInt8(ascii: "$"), UInt8(ascii: "%"), UInt8(ascii: "&"),
            UInt8(ascii: "'"), UInt8(ascii: "*"), UInt8(ascii: "+"), UInt8(ascii: "-"), UInt8(ascii: "/"),
            UInt8(ascii: "="), UInt8(ascii: "?"), UInt8(ascii: "^"), UInt8(ascii: "_"), UInt8(ascii: "`"),
            UInt8(ascii: "{"), UInt8(ascii: "|"), UInt8(ascii: "}"), UInt8(ascii: "~"):
            return true
        default:
            return false
        }
    }
}

extension UnsafeRawBufferPointer {
    /// The first line feed in `start..<end`, eight octets at a time.
    package func firstLineFeed(from start: Int, to end: Int) -> Int? {
        var position = start
        while position + 8 <= end {
            let word = UInt64(littleEndian: self.loadUnaligned(fromByteOffset: position, as: UInt64.self))
            let hits = word.lineFeeds
            if hits != 0 { return position + hits.trailingZeroBitCount >> 3 }
            position += 8
        }
        while position < end {
            if self[position] == UInt8.lineFeed { return position }
            position += 1
        }
        return nil
    }

    /// The length of the line ending that starts here, if one does.
    package func lineEndingLength(at position: Int) -> Int? {
        guard position < self.count else { return nil }
        if self[position] == UInt8.lineFeed { return 1 }
        if self[position] == UInt8.carriageReturn, position + 1 < self.count,
            self[position + 1] == UInt8.lineFeed
        {
            return 2
        }
        return nil
    }

    /// Whether the octets here are `text`, which is lower case, in any case.
    package func matches(_ text: UnsafeBufferPointer<UInt8>, at position: Int) -> Bool {
        guard position + text.count <= self.count else { return false }
        for index in 0..<text.count where self[position + index].lowercased != text[index].lowercased {
            return false
        }
        return true
    }

    package func hasEightBit(_ range: Range<Int>) -> Bool {
        var position = range.lowerBound
        let end = Swift.min(range.upperBound, self.count)
        while position + 32 <= end {
            let first = self.loadUnaligned(fromByteOffset: position, as: UInt64.self)
            let second = self.loadUnaligned(fromByteOffset: position + 8, as: UInt64.self)
            let third = self.loadUnaligned(fromByteOffset: position + 16, as: UInt64.self)
            let fourth = self.loadUnaligned(fromByteOffset: position + 24, as: UInt64.self)
            if (first | second | third | fourth) & UInt64.highBits != 0 { return true }
            position += 32
        }
        while position < end {
            if self[position] >= 0x80 { return true }
            position += 1
        }
        return false
    }
}

extension UInt64 {
    package static let highBits: UInt64 = 0x8080_8080_8080_8080

    /// The high bit of every octet that is a line feed, exactly.
    package var lineFeeds: UInt64 {
        let low: UInt64 = 0x7f7f_7f7f_7f7f_7f7f
        let difference = self ^ 0x0a0a_0a0a_0a0a_0a0a
        return ~(((difference & low) &+ low) | difference | low)
    }
}

extension [UInt8] {
    package mutating func append(text: String) {
        self.append(contentsOf: text.utf8)
    }

    package mutating func append(literal: StaticString) {
        literal.withUTF8Buffer { self.append(contentsOf: $0) }
    }

    package mutating func appendLineEnding() {
        self.append(0x0d)
        self.append(0x0a)
    }
}
