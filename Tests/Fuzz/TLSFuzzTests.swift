import Testing
import TransportPolicy

@Suite("Fuzz: what a TLS server sends first")
struct TLSFuzzTests {
    static let vectors: [[UInt8]] = [
        [22, 3, 3, 0, 45, 2, 0, 0, 41, 3, 3] + Array(repeating: 9, count: 32) + [0, 0x13, 1, 0, 0, 0],
        [21, 3, 3, 0, 2, 1, 112, 22, 3, 3, 0, 1, 2, 22, 3, 3, 0, 44, 0, 0, 41, 3, 3] + Array(repeating: 9, count: 32)
            + [0, 0xc0, 0x30, 0, 0, 0],
    ]

    @Test("It is decided once, within its bound, whatever follows", arguments: seeds)
    func decides(seed: UInt64) {
        var random = FuzzRandom(seed: seed)
        for _ in 0..<500 {
            var octets = random.input(like: Self.vectors)
            if Bool.random(using: &random) { octets += random.octets(0...2_000) }
            let whole = octets.withUnsafeBytes { ServerHello.parse($0) }
            var decided: ServerHello?
            for end in [0] + random.cuts(of: octets.count) + [octets.count] {
                let answer = octets[..<end].withUnsafeBytes { ServerHello.parse($0) }
                if let decided { #expect(answer == decided, "seed \(seed)") }
                if answer != .needsMore { decided = answer }
            }
            #expect(decided ?? .needsMore == whole, "seed \(seed)")
            #expect(whole != .needsMore || octets.count < ServerHello.countMax, "seed \(seed)")
        }
    }
}
