import Testing
import TransportPolicy

@Suite("The cipher suite in a server's hello")
struct ServerHelloTests {
    static func record(_ type: UInt8, _ body: [UInt8]) -> [UInt8] {
        [type, 3, 3, UInt8(body.count >> 8), UInt8(body.count & 0xff)] + body
    }

    static func hello(_ suite: UInt16, sessionIDCount: UInt8 = 32, tail: [UInt8] = [0, 0, 0]) -> [UInt8] {
        let session = [sessionIDCount] + Array(repeating: 7, count: Int(sessionIDCount))
        let body =
            [3, 3] + Array(repeating: 5, count: 32) + session + [UInt8(suite >> 8), UInt8(suite & 0xff)] + tail
        return [2, 0, 0, UInt8(body.count)] + body
    }

    static func parse(_ octets: [UInt8]) -> ServerHello { octets.withUnsafeBytes { ServerHello.parse($0) } }

    /// The first octets of a server, the suite they tell, and how many of them tell it.
    static let good: [(octets: [UInt8], suite: UInt16, count: Int)] = [
        // The hello of RFC 8448 §3, whose session id is empty.
        (
            [
                0x16, 0x03, 0x03, 0x00, 0x5a, 0x02, 0x00, 0x00, 0x56, 0x03, 0x03, 0xa6, 0xaf, 0x06, 0xa4, 0x12, 0x18,
                0x60, 0xdc, 0x5e, 0x6e, 0x60, 0x24, 0x9c, 0xd3, 0x4c, 0x95, 0x93, 0x0c, 0x8a, 0xc5, 0xcb, 0x14, 0x34,
                0xda, 0xc1, 0x55, 0x77, 0x2e, 0xd3, 0xe2, 0x69, 0x28, 0x00, 0x13, 0x01, 0x00, 0x00, 0x2e,
            ], 0x1301, 46
        ),
        (record(22, hello(0xc030)), 0xc030, 78),
        (record(22, hello(0x1302, sessionIDCount: 0)) + record(20, [1]), 0x1302, 46),
        // A warning, then the hello over three records.
        (
            record(21, [1, 112]) + record(22, Array(hello(0x1303).prefix(1)))
                + record(22, Array(hello(0x1303)[1..<72])) + record(22, Array(hello(0x1303)[72...])), 0x1303, 95
        ),
    ]

    @Test("It is told at the octet that completes it, not before, whatever follows", arguments: good)
    func reads(octets: [UInt8], suite: UInt16, count: Int) {
        for end in 0...octets.count {
            let expected = end < count ? ServerHello.needsMore : .chosen(CipherSuite(rawValue: suite))
            #expect(Self.parse(Array(octets[..<end])) == expected, "\(end)")
        }
        #expect(Self.parse(octets + [0xff, 0xff]) == .chosen(CipherSuite(rawValue: suite)))
    }

    static let bad: [[UInt8]] = [
        Array("220 mx.example\r\n".utf8), [22, 2], [23, 3, 3], [22, 3, 3, 0, 0], [22, 3, 3, 0x40, 1],
        record(22, [1, 0, 0, 1, 0]), record(22, hello(0x1301, sessionIDCount: 33)),
        Array(repeating: record(21, [1, 0]), count: 200).flatMap { $0 },
    ]

    @Test("What no TLS server begins with is told as such", arguments: bad)
    func refuses(octets: [UInt8]) {
        #expect(Self.parse(octets) == .malformed)
    }

    @Test("Suites have IANA's names, and a number where there is none")
    func names() {
        #expect(CipherSuite(rawValue: 0x1302).description == "TLS_AES_256_GCM_SHA384")
        #expect(CipherSuite(rawValue: 0xc02f).description == "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256")
        #expect(CipherSuite(rawValue: 0x000f).description == "0x000f")
    }
}
