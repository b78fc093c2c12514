import DNS
import Testing

@Suite("Rdata: what records say")
struct RecordsTests {
    @Test("A, AAAA, CNAME, MX, TXT and TLSA are read")
    func readsEveryType() {
        #expect(parse(IPv4Address.self, [192, 0, 2, 1])?.description == "192.0.2.1")
        let v6 = parse(IPv6Address.self, [0x20, 0x01, 0x0d, 0xb8] + Array(repeating: 0, count: 11) + [1])
        #expect(v6?.description == "2001:db8::1")
        #expect(parse(CNAMERecord.self, wire("Target.Example"))?.target == "target.example")
        #expect(
            parse(MXRecord.self, [1, 2] + wire("mx.example")) == MXRecord(preference: 258, exchange: "mx.example")
        )
        #expect(parse(MXRecord.self, [0, 0, 0]) == MXRecord(preference: 0, exchange: .root))
        #expect(parse(TXTRecord.self, [2, 0x61, 0x62, 0, 1, 0x63])?.text == "abc")
        #expect(
            parse(TLSARecord.self, [3, 1, 1, 0xaa])
                == TLSARecord(usage: 3, selector: 1, matchingType: 1, association: [0xaa])
        )
    }

    /// Goal: no prefix of valid rdata is mistaken for a record, except where the prefix is one. Method: every cut.
    @Test("Truncated and overlong rdata is refused")
    func refusesTruncation() {
        let mx = [0, 10] + wire("mx.example.net")
        for count in 0..<mx.count { #expect(parse(MXRecord.self, Array(mx.prefix(count))) == nil) }
        #expect(parse(MXRecord.self, mx + [0]) == nil)
        let cname = wire("a.b.c")
        for count in 0..<cname.count { #expect(parse(CNAMERecord.self, Array(cname.prefix(count))) == nil) }
        for count in [0, 3, 5] { #expect(parse(IPv4Address.self, Array(repeating: 1, count: count)) == nil) }
        for count in [0, 15, 17] { #expect(parse(IPv6Address.self, Array(repeating: 1, count: count)) == nil) }
        for count in 0...3 { #expect(parse(TLSARecord.self, Array(repeating: 1, count: count)) == nil) }
        for rdata: [UInt8] in [[], [1], [5, 1, 2], [255]] { #expect(parse(TXTRecord.self, rdata) == nil) }
    }

    @Test("A compression pointer, a long label or a name over 255 octets is refused")
    func refusesBadNames() {
        #expect(parse(CNAMERecord.self, [0xc0, 0x0c]) == nil)
        #expect(parse(CNAMERecord.self, [1, 0x61, 0xc0, 0x00]) == nil)
        #expect(parse(CNAMERecord.self, [64] + Array(repeating: 0x61, count: 64) + [0]) == nil)
        let label = [UInt8(63)] + Array(repeating: UInt8(ascii: "a"), count: 63)
        let longest = label + label + label + [61] + Array(repeating: UInt8(ascii: "a"), count: 61) + [0]
        #expect(longest.count == 255)
        #expect(parse(CNAMERecord.self, longest) != nil)
        #expect(parse(CNAMERecord.self, label + label + label + label + [0]) == nil)
    }

    @Test("Octets no host name has are escaped, and the name is no host name")
    func escapesOddOctets() {
        let name = parse(CNAMERecord.self, [4, 0x61, 0x2e, 0x00, 0x5c, 1, 0x62, 0])?.target
        #expect(name?.text == #"a\.\000\\.b"#)
        #expect(name?.isHostName == false)
    }

    /// Goal: no octets trap, and what is read is bounded by what came. Method: random octets and mutated valid rdata.
    @Test("Random rdata never traps", arguments: UInt64(0)..<64)
    func survivesRandomRdata(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        for _ in 0..<500 {
            var rdata: [UInt8]
            if Bool.random(using: &random) {
                rdata = (0..<Int.random(in: 0...300, using: &random)).map { _ in .random(in: 0...255, using: &random) }
            } else {
                rdata = [0, 10] + wire("mx\(UInt8.random(in: 0...255, using: &random)).some.example.net")
                for _ in 0..<Int.random(in: 0...4, using: &random) {
                    rdata[Int.random(in: 0..<rdata.count, using: &random)] = .random(in: 0...255, using: &random)
                }
            }
            _ = parse(IPv4Address.self, rdata)
            _ = parse(IPv6Address.self, rdata)
            if let record = parse(TLSARecord.self, rdata) { #expect(record.association.count == rdata.count - 3) }
            if let record = parse(TXTRecord.self, rdata) { #expect(record.octets.count < rdata.count) }
            for name in [parse(MXRecord.self, rdata)?.exchange, parse(CNAMERecord.self, rdata)?.target] {
                guard let name else { continue }
                #expect(name.text.utf8.count <= 4 * DNSName.octetCountMax)
                if name.isHostName { #expect(DNSName(name.text) == name) }
            }
        }
    }
}

@Suite("Names and addresses as text")
struct TextTests {
    @Test(
        "Names are lower-cased and lose their trailing dot",
        arguments: [("Example.NET.", "example.net"), (".", "."), ("_dmarc.a", "_dmarc.a"), ("a", "a")]
    )
    func readsNames(text: String, expected: String) {
        #expect(DNSName(text)?.text == expected)
    }

    @Test(
        "What could change a query's meaning is no name",
        arguments: [
            "", "..", ".a", "a..b", "a b", "a\0b", #"a\.b"#, "a\n", "\u{e9}.example", "a/b", "[1.2.3.4]",
            String(repeating: "a", count: 64), String(repeating: "a.", count: 127) + "b",
            String(repeating: "abcdefg.", count: 40),
        ]
    )
    func refusesNames(text: String) {
        #expect(DNSName(text) == nil)
    }

    @Test("A name of 253 characters is the longest")
    func boundsLength() {
        let label = String(repeating: "a", count: 63)
        let longest = [label, label, label, String(repeating: "a", count: 61)].joined(separator: ".")
        #expect(longest.utf8.count == 253)
        #expect(DNSName(longest) != nil)
        #expect(DNSName(longest + ".") != nil)
        #expect(DNSName(longest + "a") == nil)
        #expect(DNSName(longest)?.prefixed(by: "_25._tcp") == nil)
    }

    @Test(
        "Addresses are read in every form and written in the canonical one (RFC 5952)",
        arguments: [
            ("192.0.2.255", "192.0.2.255"), ("::", "::"), ("::1", "::1"), ("1::", "1::"),
            ("2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"), ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.1"), ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
            ("1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"), ("64:ff9b::1.2.3.4", "64:ff9b::102:304"),
        ]
    )
    func readsAddresses(text: String, expected: String) {
        #expect(HostAddress(text)?.description == expected)
    }

    @Test(
        "What is no address is refused",
        arguments: [
            "", "1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "1.2.3.", "+1.2.3.4", ":", ":::", "1:", ":1", "1::2::3",
            "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "::1:2:3:4:5:6:7:8", "12345::", "g::", "+1::", "1.2.3.4::", "1:2:3",
            "::1%eth0", ":1::", "::1:",
        ]
    )
    func refusesAddresses(text: String) {
        #expect(HostAddress(text) == nil)
    }

    @Test("Address literals are read with their brackets (RFC 5321 §4.1.3)")
    func readsLiterals() {
        #expect(HostAddress(literal: "[192.0.2.1]")?.description == "192.0.2.1")
        #expect(HostAddress(literal: "[IPv6:2001:db8::1]")?.description == "2001:db8::1")
        for text in ["[]", "[", "192.0.2.1", "[2001:db8::1]", "[IPv6:192.0.2.1]", "[x]", "[IPv6:]"] {
            #expect(HostAddress(literal: text) == nil)
        }
    }
}
