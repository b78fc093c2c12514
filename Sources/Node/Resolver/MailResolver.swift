import DNS
import Mail

/// What the relay asks the DNS.
///
/// Nothing here throws: that a question has no answer is an answer. All calls end within the resolver's timeout, and at
/// once when their task is cancelled.
public protocol MailResolver: Sendable {
    /// How answers become hosts and addresses.
    var rules: MailExchangerRules { get }

    /// Asks one question; aliases are followed.
    func lookup<Record: DNSRecord>(_ type: Record.Type, of name: DNSName) async -> DNSAnswer<Record>
}

extension MailResolver {
    /// Where mail for a domain goes (RFC 5321 §5.1). The hosts' addresses are the next question, asked when it comes to
    /// that host.
    public func mailExchangers(for domain: Domain) async -> Result<MailExchangerSet, RoutingFailure> {
        switch self.rules.question(for: domain) {
        case .known(let set): return .success(set)
        case .failure(let failure): return .failure(failure)
        case .mx(let name):
            let answer = await self.lookup(MXRecord.self, of: name)
            var random = SystemRandomNumberGenerator()
            return self.rules.exchangers(of: name, answer: answer, random: &random)
        }
    }

    /// Where a host can be reached: both families are asked at once.
    public func addresses(
        of host: DNSName,
        source: MailExchangerSet.Source = .mxRecords
    ) async -> Result<HostAddresses, RoutingFailure> {
        let preference = self.rules.addressPreference
        async let v6 = preference.usesIPv6 ? self.lookup(IPv6Address.self, of: host) : nil
        let v4 = preference.usesIPv4 ? await self.lookup(IPv4Address.self, of: host) : nil
        return self.rules.addresses(of: host, v4: v4, v6: await v6, source: source)
    }

    /// Where one exchanger of a set can be reached; what is an address already is not looked up.
    public func addresses(
        of exchanger: MailExchangerSet.Exchanger,
        in set: MailExchangerSet
    ) async -> Result<HostAddresses, RoutingFailure> {
        switch exchanger.host {
        case .name(let name):
            return await self.addresses(of: name, source: set.source)
        case .address(let address):
            return .success(HostAddresses(addresses: [address], isSecure: false, timeToLive: set.timeToLive))
        }
    }

    /// The text records of a name, such as those of DKIM (RFC 6376 §3.6.2) and MTA-STS (RFC 8461 §3.1).
    public func txt(_ name: DNSName) async -> DNSAnswer<TXTRecord> {
        await self.lookup(TXTRecord.self, of: name)
    }

    /// What a host's certificate on a port must match (RFC 6698 §3). Only a secure answer binds (RFC 7672 §2.2).
    public func tlsa(of host: DNSName, port: UInt16 = 25) async -> DNSAnswer<TLSARecord> {
        guard let name = TLSARecord.name(of: host, port: port) else {
            // A host whose name leaves no room for the labels cannot have the records.
            return DNSAnswer(.noData, timeToLive: .zero)
        }
        return await self.lookup(TLSARecord.self, of: name)
    }
}
