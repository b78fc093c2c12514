import NodeSupport

/// What lets strangers relay anywhere.
enum OpenRelay {
    /// More of the IPv4 or global IPv6 Internet than anybody owns: a /4 of the one, a /16 of the other.
    static func isOpen(_ networks: [Network]) -> Bool {
        let privateIPv6 = [
            Network(IPAddress(high: 0xfc00 << 48, low: 0), prefixLength: 7),
            Network(IPAddress(high: 0xfe80 << 48, low: 0), prefixLength: 10),
        ]
        let outermost = Set(networks)
            .filter { network in
                !networks.contains {
                    $0 != network && $0.prefixLength < network.prefixLength && $0.contains(network.base)
                }
            }
        // Networks are nested or disjoint, so the outermost ones can be added up.
        var ipv4 = 0.0
        var ipv6 = 0.0
        for network in outermost {
            if network.base.isIPv4 {
                ipv4 += Self.share(network.prefixLength)
            } else if !privateIPv6.contains(where: {
                $0.prefixLength <= network.prefixLength && $0.contains(network.base)
            }) {
                ipv6 += Self.share(network.prefixLength)
            }
        }
        return ipv4 > Self.share(4) || ipv6 > Self.share(16)
    }

    /// The share of all addresses that a prefix leaves.
    private static func share(_ prefixLength: Int) -> Double {
        Double(sign: .plus, exponent: -prefixLength, significand: 1)
    }

    /// Everything, or everything under a top-level domain that is not reserved for private use.
    static func isOpen(_ pattern: DomainPattern) -> Bool {
        let privateDomains = ["local", "localhost", "internal", "lan", "home", "corp", "intranet", "test", "example"]
        switch pattern {
        case .any: return true
        case .exact: return false
        case .suffix(let name), .subdomains(let name): return !name.contains(".") && !privateDomains.contains(name)
        }
    }
}
