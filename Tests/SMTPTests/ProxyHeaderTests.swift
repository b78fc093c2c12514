import SMTP
import Testing

@Suite("PROXY protocol")
struct ProxyHeaderTests {
    private static func parse(_ octets: [UInt8]) -> ProxyHeader.Progress {
        octets.withUnsafeBytes { ProxyHeader.parse($0) }
    }

    private static let signature: [UInt8] = [0x0d, 0x0a, 0x0d, 0x0a, 0, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a]

    /// A header, the ends it tells ("address port"), or `nil` for none.
    static let good: [([UInt8], String?, String?)] = [
        (Array("PROXY TCP4 192.0.2.1 198.51.100.2 56324 25\r\n".utf8), "192.0.2.1 56324", "198.51.100.2 25"),
        (Array("PROXY TCP6 2001:DB8::1 ::1 65535 0\r\n".utf8), "2001:db8::1 65535", "::1 0"),
        (Array("PROXY UNKNOWN\r\n".utf8), nil, nil),
        (Array("PROXY UNKNOWN ffff:f...f:ffff x 1 2\r\n".utf8), nil, nil),
        (
            signature + [0x21, 0x11, 0, 12, 192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 0, 25], "192.0.2.1 56324",
            "198.51.100.2 25"
        ),
        // A TLV of type NOOP follows the addresses.
        (
            signature + [0x21, 0x11, 0, 16, 192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 0, 25, 4, 0, 1, 0],
            "192.0.2.1 56324", "198.51.100.2 25"
        ),
        (
            signature + [0x21, 0x21, 0, 36, 0x20, 1, 0xd, 0xb8] + Array(repeating: 0, count: 11) + [1]
                + Array(repeating: 0, count: 15) + [1, 0, 1, 0, 25], "2001:db8::1 1", "::1 25"
        ),
        (signature + [0x20, 0, 0, 0], nil, nil), (signature + [0x20, 0x11, 0, 2, 1, 2], nil, nil),
        (signature + [0x21, 0, 0, 3, 1, 2, 3], nil, nil),
        (signature + [0x21, 0x31, 0, 216] + Array(repeating: 0, count: 216), nil, nil),
    ]

    @Test("A header is read at its last octet, not before, and no further", arguments: good)
    func checkGood(octets: [UInt8], source: String?, destination: String?) {
        for count in 0..<octets.count {
            #expect(Self.parse(Array(octets[..<count])) == .needsMore, "\(count)")
        }
        for rest in ["", "EHLO c\r\n"] {
            guard case .complete(let header, let consumedCount) = Self.parse(octets + Array(rest.utf8)) else {
                Issue.record("Not complete.")
                continue
            }
            #expect(consumedCount == octets.count)
            #expect(header.source.map { "\($0.address) \($0.port)" } == source)
            #expect(header.destination.map { "\($0.address) \($0.port)" } == destination)
        }
    }

    static let bad: [[UInt8]] = [
        Array("EHLO c\r\n".utf8), Array("PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n".utf8),
        Array("PROXY TCP4 192.0.2.1 198.51.100.2 56324 65536\r\n".utf8),
        Array("PROXY TCP4 192.0.2.1 198.51.100.2 056 25\r\n".utf8), Array("PROXY TCP4 ::1 ::1 1 2\r\n".utf8),
        Array("PROXY TCP4  192.0.2.1 198.51.100.2 1 2\r\n".utf8), Array("PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n".utf8),
        Array("PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n".utf8), Array("PROXY \n".utf8), Array("PROXY \r\n".utf8),
        Array(("PROXY UNKNOWN " + String(repeating: "a", count: 93)).utf8), [0x0d, 0x0a, 0x0d, 0x0b],
        signature + [0x11, 0x11, 0, 12], signature + [0x22, 0x11, 0, 12], signature + [0x21, 0x11, 0, 11],
        signature + [0x21, 0x41, 0, 12], signature + [0x21, 0x13, 0, 12], signature + [0x21, 0x11, 0xff, 0xff],
    ]

    @Test("What is no header is refused without waiting for more", arguments: bad)
    func checkBad(octets: [UInt8]) {
        #expect(Self.parse(octets) == .malformed)
    }

    @Test("Random octets never trap", arguments: 0..<300 as Range<UInt64>)
    func fuzz(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        let starts: [[UInt8]] = [[], Array("PROXY TCP6 ".utf8), Self.signature, Self.signature + [0x21, 0x21, 0]]
        let tail = (0..<Int.random(in: 0...200, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
        for start in starts {
            if case .complete(_, let count) = Self.parse(start + tail) { #expect(count <= start.count + tail.count) }
        }
    }
}
