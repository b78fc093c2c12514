import DNS
import Foundation
import Logging
import Mail
import Resolver
import Testing

extension DNSName: ExpressibleByStringLiteral {
    /// A literal that is no name reads as the root, which fails the test that uses it.
    public init(stringLiteral text: String) {
        self = DNSName(text) ?? .root
    }
}

func makeResolver(
    port: UInt16,
    timeout: Duration = .seconds(20),
    adjust: (inout UnboundOptions) -> Void = { _ in }
) throws -> UnboundResolver {
    var options = UnboundOptions()
    options.upstream = .forwarders(["127.0.0.1@\(port)"])
    options.extra = [("do-not-query-localhost", "no")]
    options.queryTimeout = timeout
    adjust(&options)
    return try UnboundResolver(options: options, logger: Logger(label: "test"))
}

private func reason(_ result: Result<some Any, RoutingFailure>) -> RoutingFailure.Reason? {
    if case .failure(let failure) = result { failure.reason } else { nil }
}

@Suite("UnboundResolver: against a real name server", .enabled(if: UnboundServer.isEnabled), .serialized)
struct UnboundResolverTests {
    private let server: UnboundServer
    private let resolver: UnboundResolver

    init() throws {
        self.server = try UnboundServer()
        self.resolver = try makeResolver(port: self.server.port)
    }

    private func exchangers(_ domain: String) async -> Result<MailExchangerSet, RoutingFailure> {
        await self.resolver.mailExchangers(for: Domain(normalized: domain))
    }

    @Test("MX hosts come by preference, with time to live and not secure")
    func resolvesMX() async throws {
        let set = try await self.exchangers("mail.posthorn.example").get()
        #expect(set.exchangers.map(\.preference) == [10, 10, 20])
        #expect(
            Set(set.exchangers.prefix(2).map(\.host)) == [
                .name("mx1.posthorn.example"), .name("mx2.posthorn.example"),
            ]
        )
        #expect(set.exchangers.last?.host == .name("mx3.posthorn.example"))
        #expect(set.timeToLive > .seconds(200) && set.timeToLive <= .seconds(300))
        #expect(!set.isSecure)
    }

    @Test("Both families' addresses come interleaved, through CNAMEs too", arguments: ["mx1", "mx2", "alias"])
    func resolvesAddresses(host: String) async throws {
        let name = try #require(DNSName("\(host).posthorn.example"))
        let found = try await self.resolver.addresses(of: name).get()
        #expect(found.addresses.first?.description == "2001:db8::1")
        #expect(Set(found.addresses.dropFirst().map(\.description)) == ["192.0.2.1", "192.0.2.2"])
    }

    @Test("Null MX, NXDOMAIN, NODATA, SERVFAIL, refusal and a CNAME loop are told apart")
    func mapsOutcomes() async throws {
        #expect(reason(await self.exchangers("null.posthorn.example")) == .nullMX)
        #expect(reason(await self.exchangers("absent.posthorn.example")) == .domainNotFound)
        let implicit = try await self.exchangers("implicit.posthorn.example").get()
        #expect(implicit.source == .implicitMX)
        let host = try #require(implicit.exchangers.first)
        let addresses = try await self.resolver.addresses(of: host, in: implicit).get()
        #expect(addresses.addresses.map(\.description) == ["192.0.2.9"])
        let bare = try await self.exchangers("bare.posthorn.example").get()
        let bareHost = try #require(bare.exchangers.first)
        #expect(reason(await self.resolver.addresses(of: bareHost, in: bare)) == .noMailHost)
        for domain in ["servfail.example", "refused.example", "loop.posthorn.example"] {
            guard case .temporary = reason(await self.exchangers(domain)) else {
                Issue.record("\(domain) is not a temporary failure")
                continue
            }
        }
    }

    @Test("An answer too large for UDP comes whole over TCP")
    func fallsBackToTCP() async {
        let answer = await self.resolver.lookup(MXRecord.self, of: "many.posthorn.example")
        #expect(answer.records.count == 120)
    }

    @Test("TXT strings are joined and TLSA fields read")
    func resolvesTXTAndTLSA() async {
        #expect(await self.resolver.txt("spf.posthorn.example").records.map(\.text) == ["v=spf1 -all"])
        let tlsa = await self.resolver.tlsa(of: "mx1.posthorn.example").records
        #expect(
            tlsa == [
                TLSARecord(usage: 3, selector: 1, matchingType: 1, association: Array(repeating: 0xab, count: 32))
            ]
        )
        #expect(await self.resolver.tlsa(of: "mx3.posthorn.example").outcome == .nxDomain)
    }

    @Test("Unsigned data below a trust anchor is bogus, which is temporary")
    func detectsBogus() async throws {
        let file = FileManager.default.temporaryDirectory.appending(path: "posthorn-anchor-\(UUID())")
        defer { try? FileManager.default.removeItem(at: file) }
        try "bogus.example. IN DS 12345 8 2 \(String(repeating: "AB", count: 32))\n"
            .write(to: file, atomically: true, encoding: .utf8)
        let resolver = try makeResolver(port: self.server.port) { $0.trustAnchorFile = file.path }
        let answer = await resolver.lookup(MXRecord.self, of: "bogus.example")
        guard case .bogus(let explanation) = answer.failure else {
            Issue.record("The answer is \(answer.outcome)")
            return
        }
        #expect(!explanation.isEmpty)
        await resolver.shutdown()
    }

    /// Goal: many questions at once all end rightly, through a narrow window of active ones. Method: 2,000 names.
    @Test("Two thousand questions at once are all answered")
    func answersMany() async throws {
        let resolver = try makeResolver(port: self.server.port) { $0.activeQueryCountMax = 50 }
        let missing = await withTaskGroup(of: Bool.self) { group in
            for index in 0..<2_000 {
                group.addTask {
                    guard let name = DNSName("n\(index % 500).posthorn.example") else { return false }
                    return await resolver.lookup(IPv4Address.self, of: name).outcome == .nxDomain
                }
            }
            return await group.reduce(into: 0) { $0 += $1 ? 1 : 0 }
        }
        #expect(missing == 2_000)
        await resolver.shutdown()
    }

    @Test(
        "Cached answers per second",
        .enabled(if: ProcessInfo.processInfo.environment["POSTHORN_TEST_MEASURE"] != nil)
    )
    func measuresCached() async {
        _ = await self.exchangers("mail.posthorn.example")
        let clock = ContinuousClock()
        let one = await clock.measure { for _ in 0..<5_000 { _ = await self.exchangers("mail.posthorn.example") } }
        let resolver = self.resolver
        let many = await clock.measure {
            await withTaskGroup(of: Void.self) { group in
                for _ in 0..<100 {
                    group.addTask {
                        for _ in 0..<500 {
                            _ = await resolver.mailExchangers(for: Domain(normalized: "mail.posthorn.example"))
                        }
                    }
                }
            }
        }
        print("cached MX: 5,000 one at a time in \(one); 50,000 by 100 tasks in \(many)")
    }
}

@Suite("UnboundResolver: bounds and endings")
struct UnboundResolverLifetimeTests {
    /// Takes questions and never answers.
    private let silent: LoopbackSocket

    init() throws {
        self.silent = try LoopbackSocket()
    }

    @Test("A question ends at its timeout when nobody answers")
    func timesOut() async throws {
        let resolver = try makeResolver(port: self.silent.port, timeout: .milliseconds(300))
        let clock = ContinuousClock()
        let start = clock.now
        #expect(await resolver.lookup(MXRecord.self, of: "a.example").failure == .timedOut)
        #expect(clock.now - start >= .milliseconds(300))
        #expect(clock.now - start < .seconds(10))
        await resolver.shutdown()
    }

    @Test("A question waiting for its turn ends at its timeout too")
    func timesOutWaiting() async throws {
        let resolver = try makeResolver(port: self.silent.port, timeout: .milliseconds(300)) {
            $0.activeQueryCountMax = 1
        }
        async let first = resolver.lookup(MXRecord.self, of: "a.example")
        async let second = resolver.lookup(MXRecord.self, of: "b.example")
        async let third = resolver.lookup(MXRecord.self, of: "c.example")
        #expect(await [first.failure, second.failure, third.failure] == [.timedOut, .timedOut, .timedOut])
        await resolver.shutdown()
    }

    @Test("Beyond the bound a question fails at once")
    func refusesBeyondBound() async throws {
        let resolver = try makeResolver(port: self.silent.port, timeout: .milliseconds(300)) { $0.queryCountMax = 1 }
        async let first = resolver.lookup(MXRecord.self, of: "a.example")
        async let second = resolver.lookup(MXRecord.self, of: "b.example")
        #expect(await Set([first.failure, second.failure]) == [.timedOut, .overloaded])
        await resolver.shutdown()
    }

    @Test("Cancellation ends a question at once")
    func cancels() async throws {
        let resolver = try makeResolver(port: self.silent.port, timeout: .seconds(3_600))
        let failures = await withTaskGroup(of: DNSFailure?.self) { group in
            for index in 0..<50 {
                group.addTask {
                    guard let name = DNSName("h\(index).example") else { return nil }
                    return await resolver.lookup(MXRecord.self, of: name).failure
                }
            }
            group.cancelAll()
            return await group.reduce(into: []) { $0.append($1) }
        }
        #expect(failures == Array(repeating: .cancelled, count: 50))
        await resolver.shutdown()
    }

    @Test("Shutdown ends open questions and refuses later ones", arguments: 0..<10)
    func shutsDown(round: Int) async throws {
        let resolver = try makeResolver(port: self.silent.port, timeout: .seconds(3_600))
        let failures = await withTaskGroup(of: DNSFailure?.self) { group in
            for index in 0..<20 {
                group.addTask {
                    guard let name = DNSName("h\(index).example") else { return nil }
                    return await resolver.lookup(MXRecord.self, of: name).failure
                }
            }
            group.addTask {
                await resolver.shutdown()
                return .unavailable
            }
            return await group.reduce(into: []) { $0.append($1) }
        }
        #expect(failures == Array(repeating: .unavailable, count: 21))
        #expect(await resolver.lookup(MXRecord.self, of: "late.example").failure == .unavailable)
        await resolver.shutdown()
    }

    @Test("Options that cannot work are refused at the start")
    func refusesBadOptions() throws {
        #expect(throws: ResolverError.self) { try makeResolver(port: 53) { $0.extra = [("no-such-option", "1")] } }
        #expect(throws: ResolverError.self) { try makeResolver(port: 53) { $0.upstream = .forwarders(["nonsense"]) } }
        #expect(throws: ResolverError.self) { try makeResolver(port: 53) { $0.trustAnchorFile = "/nonexistent" } }
        #expect(throws: ResolverError.self) {
            try makeResolver(port: 53) { $0.upstream = .resolvConf(file: "/nonexistent") }
        }
    }

    @Test("Names of the hosts file are answered without asking")
    func readsHostsFile() async throws {
        let file = FileManager.default.temporaryDirectory.appending(path: "posthorn-hosts-\(UUID())")
        defer { try? FileManager.default.removeItem(at: file) }
        try "192.0.2.7 smarthost.example\n".write(to: file, atomically: true, encoding: .utf8)
        let resolver = try makeResolver(port: self.silent.port) { $0.hostsFile = file.path }
        let answer = await resolver.lookup(IPv4Address.self, of: "smarthost.example")
        #expect(answer.records.map(\.description) == ["192.0.2.7"])
        await resolver.shutdown()
    }
}
