import DNS

/// A seeded random source: a failure replays exactly.
struct SplitMix64: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) {
        self.state = seed
    }

    mutating func next() -> UInt64 {
        self.state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = self.state
        mixed = (mixed ^ mixed >> 30) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ mixed >> 27) &* 0x94d0_49bb_1331_11eb
        return mixed ^ mixed >> 31
    }
}

extension DNSName: ExpressibleByStringLiteral {
    /// A literal that is no name reads as the root, which fails the test that uses it.
    public init(stringLiteral text: String) {
        self = DNSName(text) ?? .root
    }
}

/// The wire form of a name written with dots.
func wire(_ name: String) -> [UInt8] {
    name.split(separator: ".").flatMap { [UInt8($0.utf8.count)] + Array($0.utf8) } + [0]
}

func parse<Record: DNSRecord>(_ type: Record.Type, _ rdata: [UInt8]) -> Record? {
    rdata.withUnsafeBytes { Record(rdata: $0) }
}
