import DNS

/// Answers from data it was given: for tests, and for set-ups that must not ask the DNS.
///
/// A name is what its entry says. A name without an entry does not exist, unless another lies below it. Aliases are
/// followed as a resolver would.
public struct StaticResolver: MailResolver {
    /// Everything known about one name.
    public struct Entry: Sendable {
        public var mx: [MXRecord] = []
        public var addresses: [HostAddress] = []
        public var txt: [TXTRecord] = []
        public var tlsa: [TLSARecord] = []
        public var alias: DNSName?
        /// Every question about the name fails with this.
        public var failure: DNSFailure?
        /// DNSSEC would prove the answers.
        public var isSecure = false

        public init() {}
    }

    /// Aliases followed before the chain counts as a failure.
    public static let aliasCountMax = 10

    public var rules: MailExchangerRules
    public var timeToLive: Duration
    public var entries: [DNSName: Entry]

    public init(
        entries: [DNSName: Entry] = [:],
        rules: MailExchangerRules = MailExchangerRules(),
        timeToLive: Duration = .seconds(300)
    ) {
        self.entries = entries
        self.rules = rules
        self.timeToLive = timeToLive
    }

    /// A mail domain with its exchangers, most preferred first, and a host entry for each that has addresses.
    public mutating func addMailDomain(_ domain: DNSName, exchangers: [(host: DNSName, addresses: [HostAddress])]) {
        for (index, exchanger) in exchangers.enumerated() {
            let preference = UInt16(clamping: (index + 1) * 10)
            self.entries[domain, default: Entry()].mx
                .append(MXRecord(preference: preference, exchange: exchanger.host))
            self.entries[exchanger.host, default: Entry()].addresses = exchanger.addresses
        }
    }

    public func lookup<Record: DNSRecord>(_ type: Record.Type, of name: DNSName) async -> DNSAnswer<Record> {
        var name = name
        var isSecure = true
        for _ in 0...Self.aliasCountMax {
            guard let entry = self.entries[name] else {
                let suffix = ".\(name.text)"
                let isAbove = self.entries.keys.contains { $0.text.hasSuffix(suffix) }
                return DNSAnswer(isAbove ? .noData : .nxDomain, timeToLive: self.timeToLive)
            }
            if let failure = entry.failure { return .failure(failure) }
            isSecure = isSecure && entry.isSecure
            if let alias = entry.alias, Record.recordType != CNAMERecord.recordType {
                name = alias
                continue
            }
            let records = entry.records(Record.self)
            return DNSAnswer(
                records.isEmpty ? .noData : .found(records),
                timeToLive: self.timeToLive,
                isSecure: isSecure
            )
        }
        return .failure(.serverFailure)
    }
}

extension StaticResolver.Entry {
    fileprivate func records<Record: DNSRecord>(_ type: Record.Type) -> [Record] {
        let known: [any DNSRecord] =
            switch type.recordType {
            case MXRecord.recordType: self.mx
            case TXTRecord.recordType: self.txt
            case TLSARecord.recordType: self.tlsa
            case CNAMERecord.recordType: self.alias.map { [CNAMERecord(target: $0)] } ?? []
            default:
                self.addresses.map { address in
                    switch address {
                    case .v4(let address): address
                    case .v6(let address): address
                    }
                }
            }
        return known.compactMap { $0 as? Record }
    }
}
