/// The relay's own identity for a message: 128 bits, the first 48 the time of acceptance, so that ids sort by it.
///
/// Written as 26 characters of Crockford's base 32. Not the Message-ID header field, which belongs to the sender.
public struct MessageID: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let high: UInt64
    public let low: UInt64

    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// - Parameters:
    ///   - milliseconds: since 1970; the low 48 bits are used.
    ///   - randomHigh: 16 bits are used.
    public init(milliseconds: Int64, randomHigh: UInt16, randomLow: UInt64) {
        self.high = UInt64(truncatingIfNeeded: milliseconds) << 16 | UInt64(randomHigh)
        self.low = randomLow
    }

    /// When the message was accepted, milliseconds since 1970.
    public var milliseconds: Int64 { Int64(self.high >> 16) }

    private static let alphabet = Array("0123456789ABCDEFGHJKMNPQRSTVWXYZ".utf8)

    public var description: String {
        String(unsafeUninitializedCapacity: 26) { out in
            var high = self.high
            var low = self.low
            for index in stride(from: 25, through: 0, by: -1) {
                out[index] = Self.alphabet[Int(low & 31)]
                low = low >> 5 | high << 59
                high >>= 5
            }
            return 26
        }
    }

    /// Reads the 26 characters back; `nil` for anything else.
    public init?(_ text: some StringProtocol) {
        var high: UInt64 = 0
        var low: UInt64 = 0
        var count = 0
        for octet in text.utf8 {
            let upper = octet >= 0x61 && octet <= 0x7a ? octet - 0x20 : octet
            guard let digit = Self.alphabet.firstIndex(of: upper) else { return nil }
            if count == 0 && digit > 7 { return nil }
            high = high << 5 | low >> 59
            low = low << 5 | UInt64(digit)
            count += 1
        }
        guard count == 26 else { return nil }
        self.init(high: high, low: low)
    }

    public static func < (left: MessageID, right: MessageID) -> Bool {
        (left.high, left.low) < (right.high, right.low)
    }
}
