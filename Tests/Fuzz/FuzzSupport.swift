/// The seeds that every fuzz test runs with. A failure names its seed, and the seed gives the same inputs again.
let seeds = UInt64(0)..<16

/// A seeded source of hostile input (Steele, Lea, Flood: SplitMix).
struct FuzzRandom: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { self.state = seed &* 0x2545_f491_4f6c_dd1d }

    mutating func next() -> UInt64 {
        self.state &+= 0x9e37_79b9_7f4a_7c15
        var value = self.state
        value = (value ^ value >> 30) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ value >> 27) &* 0x94d0_49bb_1331_11eb
        return value ^ value >> 31
    }

    mutating func octets(_ count: ClosedRange<Int>) -> [UInt8] {
        (0..<Int.random(in: count, using: &self)).map { _ in UInt8.random(in: 0...255, using: &self) }
    }

    /// Text of characters that mean something to some parser.
    mutating func text(_ count: ClosedRange<Int>) -> String {
        let alphabet = Array("ab09.-_@<>\"\\ \t,;:=+/()[]{}%&*~\r\n\0\u{7f}é漢\u{301}\u{2028}😀")
        return String(
            (0..<Int.random(in: count, using: &self)).compactMap { _ in alphabet.randomElement(using: &self) }
        )
    }

    /// Places at which `count` octets are cut.
    mutating func cuts(of count: Int) -> [Int] {
        (0..<Int.random(in: 0...4, using: &self)).map { _ in Int.random(in: 0...count, using: &self) }.sorted()
    }

    /// One of `vectors` with a few edits, or the start of one and the end of another, or random octets.
    mutating func input(like vectors: [[UInt8]]) -> [UInt8] {
        guard let vector = vectors.randomElement(using: &self), let other = vectors.randomElement(using: &self) else {
            return self.octets(0...64)
        }
        var octets: [UInt8]
        switch Int.random(in: 0..<8, using: &self) {
        case 0: return self.octets(0...64)
        case 1: octets = vector.prefix(Int.random(in: 0...vector.count, using: &self)) + self.octets(0...20)
        case 2:
            octets = Array(vector.prefix(Int.random(in: 0...vector.count, using: &self)))
            octets += other.suffix(Int.random(in: 0...other.count, using: &self))
        default: octets = vector
        }
        for _ in 0..<Int.random(in: 0...4, using: &self) { self.edit(&octets) }
        return octets
    }

    private mutating func edit(_ octets: inout [UInt8]) {
        let special = Array("\0\t\r\n\" ()<>@,;:\\/[]?.=+-_*{}09azAZ\u{7f}\u{e9}\u{ff}".utf8) + [0x80, 0xc0, 0xff]
        let place = Int.random(in: 0...octets.count, using: &self)
        let octet = special.randomElement(using: &self) ?? 0
        switch Int.random(in: 0..<6, using: &self) {
        case 0: octets.insert(octet, at: place)
        case 1 where place < octets.count: octets[place] = octet
        case 2 where place < octets.count: octets[place] = UInt8.random(in: 0...255, using: &self)
        case 3 where place < octets.count: octets.remove(at: place)
        case 4 where place < octets.count:
            octets.insert(contentsOf: octets[place...].prefix(Int.random(in: 1...40, using: &self)), at: place)
        default: octets.insert(contentsOf: repeatElement(octet, count: Int.random(in: 1...70, using: &self)), at: place)
        }
    }
}

/// Calls `body` with every prefix of every vector, and with `count` inputs like them.
func forEachInput(
    seed: UInt64,
    like vectors: [String],
    count: Int = 100,
    _ body: ([UInt8]) throws -> Void
) rethrows {
    try forEachInput(seed: seed, like: vectors.map { Array($0.utf8) }, count: count, body)
}

func forEachInput(
    seed: UInt64,
    like vectors: [[UInt8]],
    count: Int = 100,
    _ body: ([UInt8]) throws -> Void
) rethrows {
    // Truncations do not depend on the seed.
    if seed == seeds.lowerBound {
        for vector in vectors {
            for size in 0...vector.count { try body(Array(vector.prefix(size))) }
        }
    }
    var random = FuzzRandom(seed: seed)
    for _ in 0..<count { try body(random.input(like: vectors)) }
}

/// What is shown of an input that a parser got wrong.
func shown(_ octets: [UInt8]) -> String { String(decoding: octets, as: UTF8.self).debugDescription }
