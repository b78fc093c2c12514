import DNS
import Testing

/// What a name server answers.
@Suite("Fuzz: names, records and mail exchangers")
struct DNSFuzzTests {
    private static let names: [[UInt8]] = [
        [0], [3, 0x6d, 0x78, 0x31, 7] + Array("Example".utf8) + [3] + Array("net".utf8) + [0],
        [63] + Array(repeating: 0x61, count: 63) + [0], [1, 0x2e, 1, 0x5c, 2, 0, 0xff, 0],
        [1, 0x2a, 2, 0x69, 0x6f, 0], [0xc0, 0x0c],
    ]

    /// Goal: a name of a stranger means what it says, and only names that can be asked for pass for host names.
    @Test("A name on the wire is read within its octets, and host names read again", arguments: seeds)
    func wireNames(seed: UInt64) {
        forEachInput(seed: seed, like: Self.names) { octets in
            guard let (name, count) = octets.withUnsafeBytes({ DNSName.parse(wire: $0) }) else { return }
            #expect((1...octets.count).contains(count) && count <= DNSName.octetCountMax)
            #expect(name.text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7f }, "\(shown(octets))")
            if name.isHostName { #expect(DNSName(name.text) == name, "\(shown(octets))") }
            // What follows a name does not change it.
            let again = (octets.prefix(count) + [0x41]).withUnsafeBytes { DNSName.parse(wire: $0) }
            #expect(again?.name == name && again?.octetCount == count)
        }
    }

    @Test("A name in text that is read, written again, is the same name", arguments: seeds)
    func textNames(seed: UInt64) {
        forEachInput(seed: seed, like: [".", "Mx1.Example.NET.", "_25._tcp.mx.example", "a-.b", "1.2.3.4"]) { octets in
            guard let name = DNSName(String(decoding: octets, as: UTF8.self)) else { return }
            #expect(DNSName(name.text) == name, "\(shown(octets))")
            #expect(name.text.utf8.count <= 253)
            _ = TLSARecord.name(of: name)
        }
    }

    @Test("Rdata of any octets is a record or none", arguments: seeds)
    func rdata(seed: UInt64) {
        let vectors =
            Self.names.map { [0, 10] + $0 } + Self.names + [[3, 1, 1] + Array(repeating: 7, count: 32), [3, 1, 2, 3]]
        forEachInput(seed: seed, like: vectors) { octets in
            octets.withUnsafeBytes { rdata in
                _ = CNAMERecord(rdata: rdata)
                #expect(TXTRecord(rdata: rdata).map { $0.octets.count < rdata.count } ?? true)
                #expect(TLSARecord(rdata: rdata).map { $0.association.count == rdata.count - 3 } ?? true)
                #expect((IPv4Address(rdata: rdata) != nil) == (rdata.count == 4))
                #expect((IPv6Address(rdata: rdata) != nil) == (rdata.count == 16))
                guard let record = MXRecord(rdata: rdata) else { return }
                #expect(record.preference == UInt16(rdata[0]) << 8 | UInt16(rdata[1]))
            }
        }
    }

    /// Goal: whatever a domain publishes, there is a bounded list in order, without ourselves, or a reason.
    @Test("Any set of records gives a bounded, ordered list of others, or a reason", arguments: seeds)
    func exchangers(seed: UInt64) throws {
        var random = FuzzRandom(seed: seed)
        let own = try #require(DNSName("relay.example"))
        let domain = try #require(DNSName("example.net"))
        var names = Self.names.compactMap { $0.withUnsafeBytes { DNSName.parse(wire: $0)?.name } }
        names += ["a.example", "b.example", "192.0.2.1"].compactMap { DNSName($0) } + [own]
        var rules = MailExchangerRules()
        rules.ownNames = [own]
        rules.exchangerCountMax = 3
        for _ in 0..<100 {
            let records = (0..<Int.random(in: 1...8, using: &random))
                .map { _ in
                    MXRecord(
                        preference: .random(in: 0...3, using: &random),
                        exchange: names.randomElement(using: &random) ?? own
                    )
                }
            let answer = DNSAnswer<MXRecord>(
                .found(records),
                timeToLive: .seconds(Int.random(in: 0...1 << 40, using: &random))
            )
            guard case .success(let set) = rules.exchangers(of: domain, answer: answer, random: &random) else {
                continue
            }
            #expect((1...3).contains(set.exchangers.count))
            #expect(rules.timeToLiveBounds.contains(set.timeToLive))
            let preferences = set.exchangers.map(\.preference)
            #expect(preferences == preferences.sorted())
            let ownPreference = records.filter { $0.exchange == own }.map(\.preference).min()
            #expect(preferences.allSatisfy { $0 < ownPreference ?? .max })
            for exchanger in set.exchangers {
                guard case .name(let name) = exchanger.host else { continue }
                #expect(name.isHostName && name != own && HostAddress(name.text) == nil)
            }
        }
    }
}
