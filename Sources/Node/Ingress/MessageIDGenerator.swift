import Mail

/// Makes message ids without asking the system for each: xoshiro256** (Blackman and Vigna, 2018), seeded with 256 bits
/// of the system's random numbers.
///
/// An id has to be unique, not secret: it stands in the trace field of the message.
struct MessageIDGenerator {
    private var state: (UInt64, UInt64, UInt64, UInt64)

    init() {
        var system = SystemRandomNumberGenerator()
        // All zeros is the one state it cannot leave.
        self.state = (system.next() | 1, system.next(), system.next(), system.next())
    }

    mutating func next(milliseconds: Int64) -> MessageID {
        let low = self.next()
        return MessageID(
            milliseconds: milliseconds,
            randomHigh: UInt16(truncatingIfNeeded: self.next() >> 48),
            randomLow: low
        )
    }

    private mutating func next() -> UInt64 {
        let result = Self.rotate(self.state.1 &* 5, by: 7) &* 9
        let shifted = self.state.1 << 17
        self.state.2 ^= self.state.0
        self.state.3 ^= self.state.1
        self.state.1 ^= self.state.2
        self.state.0 ^= self.state.3
        self.state.2 ^= shifted
        self.state.3 = Self.rotate(self.state.3, by: 45)
        return result
    }

    private static func rotate(_ value: UInt64, by count: UInt64) -> UInt64 {
        value << count | value >> (64 - count)
    }
}
