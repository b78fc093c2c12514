import DNS
import Mail
import Testing

@Suite("MailExchangerRules: RFC 5321 §5.1")
struct MailExchangerRulesTests {
    private func exchangers(
        _ outcome: DNSAnswer<MXRecord>.Outcome,
        rules: MailExchangerRules = MailExchangerRules(),
        seed: UInt64 = 1
    ) -> Result<MailExchangerSet, RoutingFailure> {
        var random = SplitMix64(seed: seed)
        let answer = DNSAnswer(outcome, timeToLive: .seconds(300), isSecure: true)
        return rules.exchangers(of: "example.net", answer: answer, random: &random)
    }

    private func names(_ result: Result<MailExchangerSet, RoutingFailure>) -> [String] {
        guard case .success(let set) = result else { return [] }
        return set.exchangers.map { exchanger in
            if case .name(let name) = exchanger.host { name.text } else { "?" }
        }
    }

    private func reason(_ result: Result<some Any, RoutingFailure>) -> RoutingFailure.Reason? {
        if case .failure(let failure) = result { failure.reason } else { nil }
    }

    @Test("Exchangers are sorted by preference")
    func sorts() throws {
        let result = self.exchangers(
            .found([
                MXRecord(preference: 30, exchange: "c.example"), MXRecord(preference: 10, exchange: "a.example"),
                MXRecord(preference: 20, exchange: "b.example"),
            ])
        )
        #expect(self.names(result) == ["a.example", "b.example", "c.example"])
        let set = try result.get()
        #expect(set.isSecure && set.source == .mxRecords && set.timeToLive == .seconds(300))
    }

    /// Goal: load is spread evenly among equals, and only among them. Method: count first places over many seeds.
    @Test("Exchangers of equal preference come in every order, before those of higher preference")
    func shufflesEquals() {
        let records = ["a", "b", "c"].compactMap { DNSName("\($0).example") }
            .map {
                MXRecord(preference: 5, exchange: $0)
            }
        var firsts: [String: Int] = [:]
        for seed in UInt64(0)..<300 {
            let names = self.names(
                self.exchangers(.found([MXRecord(preference: 9, exchange: "z.example")] + records), seed: seed)
            )
            #expect(names.last == "z.example")
            #expect(Set(names).count == 4)
            firsts[names[0], default: 0] += 1
        }
        #expect(firsts.count == 3)
        #expect(firsts.values.allSatisfy { $0 > 60 })
    }

    @Test("The same seed gives the same order whatever order the records came in")
    func isDeterministic() {
        let records = (0..<8).compactMap { DNSName("h\($0).example") }.map { MXRecord(preference: 1, exchange: $0) }
        #expect(
            self.names(self.exchangers(.found(records), seed: 7))
                == self.names(self.exchangers(.found(records.reversed()), seed: 7))
        )
    }

    @Test("Without MX records the domain itself is the exchanger")
    func usesImplicitMX() throws {
        let set = try self.exchangers(.noData).get()
        #expect(set.source == .implicitMX)
        #expect(set.exchangers == [.init(host: .name("example.net"), preference: 0)])
        #expect(set.isSecure)
    }

    @Test("A null MX is permanent, 556 5.1.10 (RFC 7505)")
    func refusesNullMX() {
        let result = self.exchangers(.found([MXRecord(preference: 0, exchange: .root)]))
        #expect(self.reason(result) == .nullMX)
        let failure = RoutingFailure(.nullMX, name: "example.net")
        #expect(failure.isPermanent && failure.replyCode == 556 && failure.enhancedStatusCode == (5, 1, 10))
    }

    @Test("A null MX beside others is ignored")
    func ignoresNullMXAmongOthers() {
        let result = self.exchangers(
            .found([MXRecord(preference: 0, exchange: .root), MXRecord(preference: 5, exchange: "a.example")])
        )
        #expect(self.names(result) == ["a.example"])
    }

    @Test(
        "Each reason has its reply and enhanced status code",
        arguments: [
            (RoutingFailure.Reason.domainNotFound, 550, [5, 1, 2]), (.domainInvalid, 550, [5, 1, 2]),
            (.noMailHost, 550, [5, 1, 2]), (.noUsableExchanger, 550, [5, 4, 4]), (.loopsBack, 554, [5, 4, 6]),
            (.temporary(.timedOut), 451, [4, 4, 3]), (.temporary(.bogus("x")), 451, [4, 4, 3]),
        ]
    )
    func codes(reason: RoutingFailure.Reason, replyCode: Int, enhanced: [Int]) {
        let failure = RoutingFailure(reason, name: "example.net")
        #expect(failure.replyCode == replyCode)
        let (subjectClass, subject, detail) = failure.enhancedStatusCode
        #expect([Int(subjectClass), Int(subject), Int(detail)] == enhanced)
        #expect(failure.isPermanent == (enhanced[0] == 5))
        #expect(failure.text.hasPrefix("example.net: "))
    }

    @Test("NXDOMAIN is permanent; a failure to answer is temporary")
    func mapsOutcomes() {
        #expect(self.reason(self.exchangers(.nxDomain)) == .domainNotFound)
        #expect(self.reason(self.exchangers(.temporaryFailure(.serverFailure))) == .temporary(.serverFailure))
    }

    @Test("This relay in the list removes itself and every host that is not better")
    func removesOwn() {
        var rules = MailExchangerRules()
        rules.ownNames = ["me.example"]
        let records = [
            MXRecord(preference: 10, exchange: "a.example"), MXRecord(preference: 20, exchange: "b.example"),
            MXRecord(preference: 20, exchange: "me.example"), MXRecord(preference: 30, exchange: "c.example"),
        ]
        #expect(self.names(self.exchangers(.found(records), rules: rules)) == ["a.example"])
        #expect(self.reason(self.exchangers(.found(Array(records.dropFirst())), rules: rules)) == .loopsBack)
        rules.ownNames = ["example.net"]
        #expect(self.reason(self.exchangers(.noData, rules: rules)) == .loopsBack)
    }

    @Test("A host recognised by address removes itself and what is not better")
    func removesOwnByAddress() throws {
        let set =
            try self.exchangers(
                .found([
                    MXRecord(preference: 10, exchange: "a.example"), MXRecord(preference: 20, exchange: "b.example"),
                ])
            )
            .get()
        #expect(self.names(set.removingOwnHost(preference: 20)) == ["a.example"])
        #expect(self.reason(set.removingOwnHost(preference: 10)) == .loopsBack)
    }

    @Test("Addresses and odd names as exchangers are ignored; nothing else left is permanent")
    func ignoresAddressExchangers() {
        let odd = parse(CNAMERecord.self, [3, 0x61, 0x00, 0x62, 0])?.target ?? .root
        let bad = [MXRecord(preference: 1, exchange: "192.0.2.1"), MXRecord(preference: 2, exchange: odd)]
        #expect(self.names(self.exchangers(.found(bad + [MXRecord(preference: 3, exchange: "a.b")]))) == ["a.b"])
        #expect(self.reason(self.exchangers(.found(bad))) == .noUsableExchanger)
    }

    @Test("At most the configured number of exchangers is kept, the best ones, each host once")
    func bounds() {
        let records = (0..<200).compactMap { DNSName("h\($0).example") }.enumerated()
            .map {
                MXRecord(preference: UInt16(1000 - $0.offset), exchange: $0.element)
            }
        let names = self.names(self.exchangers(.found(records)))
        #expect(names.count == 50)
        #expect(names.first == "h199.example")
        let twice = [MXRecord(preference: 9, exchange: "a.b"), MXRecord(preference: 1, exchange: "a.b")]
        #expect(self.names(self.exchangers(.found(twice))) == ["a.b"])
    }

    @Test("Time to live is kept within bounds", arguments: [(0, 30), (300, 300), (9_999_999, 86_400)])
    func boundsTimeToLive(seconds: Int, expected: Int) throws {
        var random = SplitMix64(seed: 0)
        let answer = DNSAnswer<MXRecord>(.noData, timeToLive: .seconds(seconds))
        let set = try MailExchangerRules().exchangers(of: "a.b", answer: answer, random: &random).get()
        #expect(set.timeToLive == .seconds(expected))
    }

    @Test("Address literals need no question; what is no domain is permanent")
    func asksOnlyForDomains() {
        let rules = MailExchangerRules()
        #expect(rules.question(for: Domain(normalized: "example.net")) == .mx("example.net"))
        guard case .known(let set) = rules.question(for: Domain(normalized: "[IPv6:2001:db8::1]")) else {
            Issue.record("A literal was not recognised")
            return
        }
        #expect(set.source == .addressLiteral)
        #expect(HostAddress("2001:db8::1").map { set.exchangers == [.init(host: .address($0), preference: 0)] } == true)
        for text in ["[x]", "", ".", "a b", "192.0.2.1", "a..b", "a\0.example"] {
            guard case .failure(let failure) = rules.question(for: Domain(normalized: text)) else {
                Issue.record("\(text) was taken for a domain")
                continue
            }
            #expect(failure.reason == .domainInvalid)
        }
    }
}

@Suite("Addresses of a host")
struct HostAddressesTests {
    private let v4 = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].compactMap { IPv4Address($0) }
    private let v6 = ["2001:db8::1"].compactMap { IPv6Address($0) }

    private func answer<Record: DNSRecord>(_ records: [Record], isSecure: Bool = true) -> DNSAnswer<Record> {
        DNSAnswer(records.isEmpty ? .noData : .found(records), timeToLive: .seconds(600), isSecure: isSecure)
    }

    @Test("Families take turns, the preferred one first (RFC 8305 §4)")
    func interleaves() {
        #expect(
            AddressPreference.ipv6First.order(self.v4, self.v6).map(\.description)
                == ["2001:db8::1", "192.0.2.1", "192.0.2.2", "192.0.2.3"]
        )
        #expect(
            AddressPreference.ipv4First.order(self.v4, self.v6).map(\.description)
                == ["192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.3"]
        )
        #expect(AddressPreference.ipv4Only.order(self.v4, self.v6).allSatisfy { !$0.isV6 })
        #expect(AddressPreference.ipv6Only.order(self.v4, self.v6).map(\.description) == ["2001:db8::1"])
        #expect(AddressPreference.ipv6First.order([], []).isEmpty)
    }

    @Test("One family's addresses are enough when the other fails, and are then not secure")
    func toleratesOneFamily() throws {
        let found = try MailExchangerRules()
            .addresses(
                of: "a.b",
                v4: self.answer(self.v4),
                v6: .failure(.timedOut)
            )
            .get()
        #expect(found.addresses.count == 3)
        #expect(!found.isSecure)
        #expect(found.timeToLive == .seconds(600))
        let both = try MailExchangerRules()
            .addresses(
                of: "a.b",
                v4: self.answer(self.v4),
                v6: self.answer(self.v6)
            )
            .get()
        #expect(both.isSecure)
    }

    @Test("Without addresses a failure is temporary, their absence permanent")
    func mapsAbsence() {
        let rules = MailExchangerRules()
        let none = self.answer([IPv4Address]())
        #expect(
            rules.addresses(of: "a.b", v4: none, v6: .failure(.serverFailure))
                == .failure(RoutingFailure(.temporary(.serverFailure), name: "a.b"))
        )
        #expect(
            rules.addresses(of: "a.b", v4: none, v6: self.answer([IPv6Address]()))
                == .failure(RoutingFailure(.noUsableExchanger, name: "a.b"))
        )
        #expect(
            rules.addresses(of: "a.b", v4: none, v6: nil, source: .implicitMX)
                == .failure(RoutingFailure(.noMailHost, name: "a.b"))
        )
    }

    @Test("At most the configured number of addresses is kept")
    func boundsCount() throws {
        let many = (0..<500).map { IPv4Address(rawValue: $0) }
        #expect(
            try MailExchangerRules().addresses(of: "a.b", v4: self.answer(many), v6: nil).get().addresses.count == 32
        )
    }
}
