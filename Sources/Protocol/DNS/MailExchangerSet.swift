/// The hosts that take mail for a domain, in the order to try them (RFC 5321 §5.1).
public struct MailExchangerSet: Hashable, Sendable {
    public struct Exchanger: Hashable, Sendable {
        public enum Host: Hashable, Sendable {
            case name(DNSName)
            /// From an address literal: nothing to look up.
            case address(HostAddress)
        }

        public var host: Host
        /// Lower is tried first; equal ones are in random order.
        public var preference: UInt16

        public init(host: Host, preference: UInt16) {
            self.host = host
            self.preference = preference
        }
    }

    /// Where the set comes from.
    public enum Source: Hashable, Sendable {
        case mxRecords
        /// No MX: the domain's own addresses stand in (RFC 5321 §5.1).
        case implicitMX
        case addressLiteral
    }

    /// What was asked for.
    public var domain: String
    /// Never empty.
    public var exchangers: [Exchanger]
    public var source: Source
    /// DNSSEC proves the set, or proves that there is no MX; DANE needs it (RFC 7672 §2.2.1).
    public var isSecure: Bool
    /// How long to keep it: the DNS's word, within the rules' bounds.
    public var timeToLive: Duration

    public init(domain: String, exchangers: [Exchanger], source: Source, isSecure: Bool, timeToLive: Duration) {
        self.domain = domain
        self.exchangers = exchangers
        self.source = source
        self.isSecure = isSecure
        self.timeToLive = timeToLive
    }

    /// Without a host found to be this relay, and without every host that is not better (RFC 5321 §5.1).
    ///
    /// For whoever recognises the relay by address: ``MailExchangerRules`` has already done it by name. Since exchangers are in
    /// the order of their preference, those that stay are the first.
    public func removingOwnHost(preference: UInt16) -> Result<MailExchangerSet, RoutingFailure> {
        var remaining = self
        remaining.exchangers.removeAll { $0.preference >= preference }
        guard !remaining.exchangers.isEmpty else { return .failure(RoutingFailure(.loopsBack, name: self.domain)) }
        return .success(remaining)
    }
}

/// Where one host can be reached, in the order to try.
public struct HostAddresses: Hashable, Sendable {
    /// Never empty.
    public var addresses: [HostAddress]
    /// DNSSEC proves the answers of both families that were asked (RFC 7672 §2.2.2).
    public var isSecure: Bool
    public var timeToLive: Duration

    public init(addresses: [HostAddress], isSecure: Bool, timeToLive: Duration) {
        self.addresses = addresses
        self.isSecure = isSecure
        self.timeToLive = timeToLive
    }
}

/// Which address families are used, and which comes first.
public enum AddressPreference: Hashable, Sendable, CaseIterable {
    case ipv6First
    case ipv4First
    case ipv6Only
    case ipv4Only

    public var usesIPv4: Bool { self != .ipv6Only }
    public var usesIPv6: Bool { self != .ipv4Only }

    /// Takes the families in turn, so that one that does not work costs one attempt (RFC 8305 §4).
    public func order(_ v4: [IPv4Address], _ v6: [IPv6Address]) -> [HostAddress] {
        let v4 = v4.map(HostAddress.v4)
        let v6 = v6.map(HostAddress.v6)
        let first: [HostAddress]
        let second: [HostAddress]
        switch self {
        case .ipv4Only: return v4
        case .ipv6Only: return v6
        case .ipv6First: (first, second) = (v6, v4)
        case .ipv4First: (first, second) = (v4, v6)
        }
        var ordered: [HostAddress] = []
        ordered.reserveCapacity(first.count + second.count)
        for index in 0..<max(first.count, second.count) {
            if index < first.count { ordered.append(first[index]) }
            if index < second.count { ordered.append(second[index]) }
        }
        return ordered
    }
}
