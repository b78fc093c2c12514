import DNS
import Mail
import Resolver
import Testing

@Suite("StaticResolver: answers as data")
struct StaticResolverTests {
    private func makeResolver() throws -> StaticResolver {
        var resolver = StaticResolver()
        resolver.addMailDomain(
            "example.net",
            exchangers: [
                ("mx1.example.net", [try #require(HostAddress("192.0.2.1"))]),
                ("mx2.example.net", [try #require(HostAddress("2001:db8::2"))]),
            ]
        )
        resolver.entries["alias.example", default: .init()].alias = "mx1.example.net"
        resolver.entries["loop.example", default: .init()].alias = "loop.example"
        resolver.entries["broken.example", default: .init()].failure = .serverFailure
        return resolver
    }

    @Test("A mail domain's hosts and their addresses are found")
    func findsHosts() async throws {
        let resolver: any MailResolver = try self.makeResolver()
        let set = try await resolver.mailExchangers(for: Domain(normalized: "example.net")).get()
        #expect(set.exchangers.map(\.host) == [.name("mx1.example.net"), .name("mx2.example.net")])
        var addresses: [String] = []
        for exchanger in set.exchangers {
            addresses += try await resolver.addresses(of: exchanger, in: set).get().addresses.map(\.description)
        }
        #expect(addresses == ["192.0.2.1", "2001:db8::2"])
    }

    @Test("Aliases are followed, a loop fails, and absent names are told from empty ones")
    func mapsOutcomes() async throws {
        let resolver = try self.makeResolver()
        #expect(await resolver.lookup(IPv4Address.self, of: "alias.example").records.count == 1)
        #expect(await resolver.lookup(IPv4Address.self, of: "loop.example").failure == .serverFailure)
        #expect(await resolver.lookup(MXRecord.self, of: "broken.example").failure == .serverFailure)
        #expect(await resolver.lookup(MXRecord.self, of: "absent.example").outcome == .nxDomain)
        #expect(await resolver.lookup(MXRecord.self, of: "net").outcome == .noData)
        #expect(await resolver.lookup(TXTRecord.self, of: "example.net").outcome == .noData)
    }
}
