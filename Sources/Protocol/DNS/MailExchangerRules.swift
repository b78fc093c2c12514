import Mail

/// Turns answers of the DNS into where mail goes (RFC 5321 §5.1, RFC 7505).
///
/// Pure: the driver asks what ``question(for:)`` says and hands the answers back.
public struct MailExchangerRules: Sendable {
    /// Hosts kept of one domain's list, the most preferred ones.
    public var exchangerCountMax = 50
    /// Addresses kept of one host.
    public var addressCountMax = 32
    /// Bounds on how long what was learned is kept, whatever the DNS says.
    public var timeToLiveBounds: ClosedRange<Duration> = .seconds(30)...Duration.seconds(86_400)
    /// The names by which this relay is a mail exchanger.
    public var ownNames: Set<DNSName> = []
    public var addressPreference = AddressPreference.ipv6First

    public init() {}

    /// What to ask about a domain.
    public enum Question: Hashable, Sendable {
        case mx(DNSName)
        /// Nothing: it is known already.
        case known(MailExchangerSet)
        case failure(RoutingFailure)
    }

    /// The first step for every domain. Address literals need no DNS (RFC 5321 §5.1).
    public func question(for domain: Domain) -> Question {
        if domain.isAddressLiteral {
            guard let address = HostAddress(literal: domain.text) else {
                return .failure(RoutingFailure(.domainInvalid, name: domain.text))
            }
            return .known(
                MailExchangerSet(
                    domain: domain.text,
                    exchangers: [.init(host: .address(address), preference: 0)],
                    source: .addressLiteral,
                    isSecure: false,
                    timeToLive: self.timeToLiveBounds.upperBound
                )
            )
        }
        guard let name = DNSName(domain.text), name.isHostName, IPv4Address(name.text) == nil else {
            return .failure(RoutingFailure(.domainInvalid, name: domain.text))
        }
        return .mx(name)
    }

    /// What the MX answer means.
    ///
    /// - Parameter random: orders exchangers of equal preference, to spread load among them (RFC 5321 §5.1).
    public func exchangers(
        of name: DNSName,
        answer: DNSAnswer<MXRecord>,
        random: inout some RandomNumberGenerator
    ) -> Result<MailExchangerSet, RoutingFailure> {
        let found: [MXRecord]
        switch answer.outcome {
        case .nxDomain:
            return .failure(RoutingFailure(.domainNotFound, name: name.text))
        case .temporaryFailure(let failure):
            return .failure(RoutingFailure(.temporary(failure), name: name.text))
        case .noData:
            return self.implicitExchanger(of: name, answer: answer)
        case .found(let records):
            // A null MX stands alone; its preference should be 0, and nobody gains when it is not (RFC 7505 §3).
            if records.count == 1, records[0].exchange.isRoot {
                return .failure(RoutingFailure(.nullMX, name: name.text))
            }
            found = records
        }

        let sorted = self.sorted(found, random: &random)
        let ownPreference = sorted.first { self.ownNames.contains($0.exchange) }?.preference
        // Names that cannot be looked up and addresses written as names count for nothing.
        let usable = sorted.filter { $0.exchange.isHostName && IPv4Address($0.exchange.text) == nil }
        let remaining = ownPreference.map { own in usable.filter { $0.preference < own } } ?? usable
        guard !remaining.isEmpty else {
            let reason: RoutingFailure.Reason = ownPreference == nil ? .noUsableExchanger : .loopsBack
            return .failure(RoutingFailure(reason, name: name.text))
        }
        return .success(
            MailExchangerSet(
                domain: name.text,
                exchangers: remaining.prefix(self.exchangerCountMax)
                    .map {
                        .init(host: .name($0.exchange), preference: $0.preference)
                    },
                source: .mxRecords,
                isSecure: answer.isSecure,
                timeToLive: self.bounded(answer.timeToLive)
            )
        )
    }

    /// Where a host can be reached, from the answers of the families the preference uses.
    ///
    /// One family's addresses are enough. Without any, a failure of either leaves the question open: it is temporary.
    /// - Parameter source: an implicit exchanger without addresses is a domain without mail.
    public func addresses(
        of host: DNSName,
        v4: DNSAnswer<IPv4Address>?,
        v6: DNSAnswer<IPv6Address>?,
        source: MailExchangerSet.Source = .mxRecords
    ) -> Result<HostAddresses, RoutingFailure> {
        let ordered = self.addressPreference.order(v4?.records ?? [], v6?.records ?? [])
        guard ordered.isEmpty else {
            // A failure has no time to live: what was found may be kept for as long as it says.
            let lives = [v4?.knownTimeToLive, v6?.knownTimeToLive].compactMap { $0 }
            return .success(
                HostAddresses(
                    addresses: Array(ordered.prefix(self.addressCountMax)),
                    isSecure: (v4?.isSecure ?? true) && (v6?.isSecure ?? true),
                    timeToLive: self.bounded(lives.min() ?? .zero)
                )
            )
        }
        for failure in [v4?.failure, v6?.failure] {
            if let failure { return .failure(RoutingFailure(.temporary(failure), name: host.text)) }
        }
        return .failure(RoutingFailure(source == .implicitMX ? .noMailHost : .noUsableExchanger, name: host.text))
    }

    private func implicitExchanger(
        of name: DNSName,
        answer: DNSAnswer<MXRecord>
    ) -> Result<MailExchangerSet, RoutingFailure> {
        guard !self.ownNames.contains(name) else { return .failure(RoutingFailure(.loopsBack, name: name.text)) }
        return .success(
            MailExchangerSet(
                domain: name.text,
                exchangers: [.init(host: .name(name), preference: 0)],
                source: .implicitMX,
                isSecure: answer.isSecure,
                timeToLive: self.bounded(answer.timeToLive)
            )
        )
    }

    /// By preference, equal ones shuffled, each host once at its best.
    private func sorted(_ records: [MXRecord], random: inout some RandomNumberGenerator) -> [MXRecord] {
        // Two hosts sort the same way whatever order they came in, so that the random source alone decides.
        var sorted = Set(records).sorted { ($0.preference, $0.exchange) < ($1.preference, $1.exchange) }
        var seen: Set<DNSName> = []
        sorted.removeAll { !seen.insert($0.exchange).inserted }
        var start = 0
        while start < sorted.count {
            let preference = sorted[start].preference
            let end = sorted[start...].firstIndex { $0.preference != preference } ?? sorted.count
            sorted[start..<end].shuffle(using: &random)
            start = end
        }
        return sorted
    }

    private func bounded(_ timeToLive: Duration) -> Duration {
        min(max(timeToLive, self.timeToLiveBounds.lowerBound), self.timeToLiveBounds.upperBound)
    }
}
