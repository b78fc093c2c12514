import NIOCore

/// Where others may reach this machine.
public enum OwnAddress {
    private static let limited = ["127.0.0.0/8", "::1/128", "0.0.0.0/8", "::/128", "169.254.0.0/16", "fe80::/10"]
        .compactMap { Network($0) }

    /// Where others reach what listens on `address`: when that is every address, the one that this machine's own name
    /// means to itself, or else that of an interface, or else the name.
    ///
    /// A pod's or a container's name often means something to itself alone, so an address is announced rather than it.
    /// May wait for a name server.
    public static func reachable(at address: Endpoint, name: String) -> Endpoint {
        guard case .host(let host, let port) = address, host == "0.0.0.0" || host == "::" else { return address }
        let named = [try? SocketAddress.makeAddressResolvingHost(name, port: 0)]
        let interfaces = ((try? System.enumerateDevices()) ?? []).map { $0.address }
        let own = Self.best(
            (named + interfaces).compactMap { $0?.ipAddress.flatMap { IPAddress($0) } },
            isIPv4Only: host == "0.0.0.0"
        )
        return .host(own?.description ?? name, port: port)
    }

    /// The first that others may reach, IPv4 before IPv6.
    static func best(_ addresses: [IPAddress], isIPv4Only: Bool) -> IPAddress? {
        let reachable = addresses.filter { address in !Self.limited.contains { $0.contains(address) } }
        return reachable.first { $0.isIPv4 } ?? (isIPv4Only ? nil : reachable.first)
    }
}
