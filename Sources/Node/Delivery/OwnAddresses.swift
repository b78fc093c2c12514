import DNS
import NIOCore
import NodeSupport

/// Where this node itself takes mail: a mail exchanger with such an address is the node, whatever its name is.
struct OwnAddresses: Sendable {
    /// The port of mail exchangers.
    private static let port = 25

    /// Of the listeners; the unspecified address stands for all of its family, that of IPv6 for both.
    private let listening: [IPAddress]
    private let interfaces: @Sendable () -> Set<IPAddress>

    /// - Parameter interfaces: the machine's addresses, asked for each time since they change.
    init(_ configuration: NodeConfiguration, interfaces: @escaping @Sendable () -> Set<IPAddress>) {
        self.listening =
            configuration.roles.contains(.ingress)
            ? configuration.listeners.filter { $0.port == Self.port }.compactMap { IPAddress($0.address) } : []
        self.interfaces = interfaces
    }

    /// The best preference at which the node is among the exchangers; `nil` when it is not.
    func preference(in exchangers: [(preference: UInt16, addresses: HostAddresses)]) -> UInt16? {
        guard !self.listening.isEmpty else { return nil }
        let machine = self.interfaces()
        return
            exchangers.filter { exchanger in
                exchanger.addresses.addresses.contains { address in
                    IPAddress(address.description).map { self.isOurs($0, machine) } ?? false
                }
            }
            .map { $0.preference }.min()
    }

    private func isOurs(_ address: IPAddress, _ machine: Set<IPAddress>) -> Bool {
        let isMachine =
            machine.contains(address) || Self.isUnspecified(address)
            || Network.loopback.contains { $0.contains(address) }
        guard isMachine else { return false }
        return self.listening.contains { listening in
            if Self.isUnspecified(listening) { return !listening.isIPv4 || address.isIPv4 }
            return listening == address || Self.isUnspecified(address)
        }
    }

    private static func isUnspecified(_ address: IPAddress) -> Bool { address.high == 0 && address.low == 0 }

    /// What the machine's interfaces have now.
    @Sendable static func ofInterfaces() -> Set<IPAddress> {
        // Without a list the node is known by its name and by loopback.
        let devices = (try? System.enumerateDevices()) ?? []
        return Set(devices.compactMap { $0.address?.ipAddress }.compactMap { IPAddress($0) })
    }
}
