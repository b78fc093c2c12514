import DNS
public import Mail
import NIOCore
public import NodeSupport
public import Resolver
import SMTP

/// Static routes first, then the mail exchangers of the domain (RFC 5321 §5.1).
public struct MailRouter: MailRouting {
    /// How long a static route's addresses are used, milliseconds.
    private static let staticValidity: Int64 = 60_000
    /// How long a failure to find a route is believed, milliseconds.
    private static let failureValidity: Int64 = 5_000
    /// Mail exchangers whose addresses are looked up; those of lower preference wait for a change of the set.
    private static let exchangerCountMax = 8

    private let configuration: NodeConfiguration
    private let passwords: RoutePasswords
    private let resolver: any MailResolver
    private let ownAddresses: OwnAddresses

    public init(configuration: NodeConfiguration, passwords: RoutePasswords, resolver: any MailResolver) {
        self.init(
            configuration: configuration,
            passwords: passwords,
            resolver: resolver,
            interfaces: OwnAddresses.ofInterfaces
        )
    }

    init(
        configuration: NodeConfiguration,
        passwords: RoutePasswords,
        resolver: any MailResolver,
        interfaces: @escaping @Sendable () -> Set<IPAddress>
    ) {
        self.configuration = configuration
        self.passwords = passwords
        self.resolver = resolver
        self.ownAddresses = OwnAddresses(configuration, interfaces: interfaces)
    }

    public func route(_ domain: Domain) async -> (routing: Routing, validFor: Int64) {
        let route = self.configuration.route(for: domain.text)
        switch route.via {
        case .mailExchangers:
            return await self.exchangers(of: domain, route)
        case .smtp(let hosts, let isImplicitTLS):
            return await self.smartHosts(hosts, .smtp, isImplicitTLS: isImplicitTLS, route)
        case .lmtp(let hosts):
            return await self.smartHosts(hosts, .lmtp, isImplicitTLS: false, route)
        case .discard:
            return (.discard, Self.staticValidity)
        case .refuse(let reply):
            let status = EnhancedStatusCode(reply.enhancedStatusCode) ?? EnhancedStatusCode(5, 0, 0)
            let remote = RemoteReply(
                code: reply.code,
                enhancedStatusCode: status,
                lines: ["\(reply.enhancedStatusCode) \(reply.text)"]
            )
            let failure = DeliveryFailure(
                scope: .message,
                isPermanent: reply.code >= 500,
                phase: .policy,
                reply: remote,
                status: status,
                text: reply.text
            )
            return (.failed(failure), Self.staticValidity)
        }
    }

    // MARK: Static routes

    private func smartHosts(
        _ hosts: [NodeSupport.Endpoint],
        _ wire: OutboundTarget.Wire,
        isImplicitTLS: Bool,
        _ route: NodeConfiguration.Route
    ) async -> (routing: Routing, validFor: Int64) {
        var endpoints: [OutboundTarget.Endpoint] = []
        var lastFailure: DeliveryFailure?
        for host in hosts {
            switch await self.endpoint(host) {
            case .success(let endpoint): endpoints.append(endpoint)
            case .failure(let failure): lastFailure = DeliveryFailure(routing: failure, isStatic: true)
            }
        }
        guard !endpoints.isEmpty else {
            return (.failed(lastFailure ?? .notResolved), Self.failureValidity)
        }
        let target = OutboundTarget(
            wire: wire,
            endpoints: endpoints,
            tls: TLSLevel(route.tls ?? self.configuration.delivery.tls),
            isImplicitTLS: isImplicitTLS,
            credentials: self.credentials(route)
        )
        let name = hosts.map(\.description).joined(separator: ",")
        return (.site(self.plan(name, target, route)), Self.staticValidity)
    }

    private func endpoint(_ host: NodeSupport.Endpoint) async -> Result<OutboundTarget.Endpoint, RoutingFailure> {
        switch host {
        case .unixSocket(let path):
            guard let address = try? SocketAddress(unixDomainSocketPath: path) else {
                return .failure(RoutingFailure(.domainInvalid, name: path))
            }
            return .success(OutboundTarget.Endpoint(host: path, addresses: [address]))
        case .host(let name, let port):
            if let address = try? SocketAddress(ipAddress: name, port: port) {
                return .success(OutboundTarget.Endpoint(host: name, addresses: [address]))
            }
            if name == "localhost" {
                // RFC 6761 §6.3: never asked of the DNS.
                let addresses = ["127.0.0.1", "::1"].compactMap { try? SocketAddress(ipAddress: $0, port: port) }
                return .success(OutboundTarget.Endpoint(host: name, addresses: addresses))
            }
            guard let dnsName = DNSName(name) else { return .failure(RoutingFailure(.domainInvalid, name: name)) }
            return await self.resolver.addresses(of: dnsName)
                .map { found in
                    OutboundTarget.Endpoint(host: name, addresses: Self.socketAddresses(found, port: port))
                }
        }
    }

    private func credentials(_ route: NodeConfiguration.Route) -> OutboundCredentials? {
        route.authentication.map { authentication in
            OutboundCredentials(
                user: authentication.user,
                password: self.passwords[authentication.passwordFile] ?? ""
            )
        }
    }

    // MARK: Mail exchangers

    private func exchangers(
        of domain: Domain,
        _ route: NodeConfiguration.Route
    ) async -> (routing: Routing, validFor: Int64) {
        var set: MailExchangerSet
        switch await self.resolver.mailExchangers(for: domain) {
        case .success(let found): set = found
        case .failure(let failure): return (.failed(DeliveryFailure(routing: failure)), Self.failureValidity)
        }
        let found = await self.addresses(of: set)
        let known = zip(set.exchangers, found)
            .compactMap { exchanger, result in
                (try? result.get()).map { (preference: exchanger.preference, addresses: $0) }
            }
        // We may be one of them under a name or an address that the rules do not know: only better ones are for us to try.
        if let preference = self.ownAddresses.preference(in: known) {
            switch set.removingOwnHost(preference: preference) {
            case .success(let others): set = others
            case .failure(let failure): return (.failed(DeliveryFailure(routing: failure)), Self.failureValidity)
            }
        }
        var endpoints: [OutboundTarget.Endpoint] = []
        var failures: [RoutingFailure] = []
        var validity = set.timeToLive.milliseconds
        for (exchanger, result) in zip(set.exchangers, found) {
            switch result {
            case .success(let addresses):
                validity = min(validity, addresses.timeToLive.milliseconds)
                endpoints.append(
                    OutboundTarget.Endpoint(
                        host: Self.name(exchanger.host),
                        addresses: Self.socketAddresses(addresses, port: 25)
                    )
                )
            case .failure(let failure):
                failures.append(failure)
            }
        }
        guard !endpoints.isEmpty else {
            // One exchanger that may be found later is enough not to give up.
            let failure = failures.first { !$0.isPermanent } ?? failures.first
            return (.failed(failure.map { DeliveryFailure(routing: $0) } ?? .notResolved), Self.failureValidity)
        }
        let target = OutboundTarget(
            wire: .smtp,
            endpoints: endpoints,
            tls: TLSLevel(route.tls ?? self.configuration.delivery.tls),
            isImplicitTLS: false,
            credentials: nil
        )
        let name = Self.siteName(set)
        return (.site(self.plan(name, target, route)), max(validity, Self.failureValidity))
    }

    /// Of the first exchangers, in their order.
    private func addresses(of set: MailExchangerSet) async -> [Result<HostAddresses, RoutingFailure>] {
        let resolver = self.resolver
        let wanted = set.exchangers.prefix(Self.exchangerCountMax)
        return await withTaskGroup(of: (Int, Result<HostAddresses, RoutingFailure>).self) { group in
            for (index, exchanger) in wanted.enumerated() {
                group.addTask { (index, await resolver.addresses(of: exchanger, in: set)) }
            }
            var results: [(Int, Result<HostAddresses, RoutingFailure>)] = []
            for await result in group { results.append(result) }
            return results.sorted { $0.0 < $1.0 }.map(\.1)
        }
    }

    /// Domains with the same mail exchangers are one site, in whatever order the DNS gave them.
    static func siteName(_ set: MailExchangerSet) -> String {
        set.exchangers.map { "\($0.preference) \(Self.name($0.host))" }.sorted()
            .map { $0.split(separator: " ").last.map(String.init) ?? $0 }.joined(separator: ",")
    }

    /// What makes the same hosts another site: mail that needs more protection, or another user, must not go over a
    /// connection that was opened with less.
    static func qualifiers(_ target: OutboundTarget, defaultLevel: TLSLevel) -> String {
        var text = ""
        if target.wire == .lmtp { text += ";lmtp" }
        if target.isImplicitTLS { text += ";implicit-tls" }
        if target.tls != defaultLevel { text += ";tls=\(target.tls)" }
        if let user = target.credentials?.user { text += ";user=\(user)" }
        return text
    }

    private static func name(_ host: MailExchangerSet.Exchanger.Host) -> String {
        switch host {
        case .name(let name): name.text
        case .address(let address): address.description
        }
    }

    private static func socketAddresses(_ found: HostAddresses, port: Int) -> [SocketAddress] {
        found.addresses.compactMap { try? SocketAddress(ipAddress: $0.description, port: port) }
    }

    private func plan(_ name: String, _ target: OutboundTarget, _ route: NodeConfiguration.Route) -> SitePlan {
        let delivery = self.configuration.delivery
        return SitePlan(
            id: name + Self.qualifiers(target, defaultLevel: TLSLevel(delivery.tls)),
            target: target,
            connectionCountMax: route.connectionCountMax ?? delivery.connectionCountPerSiteMax,
            messagesPerConnectionMax: route.messagesPerConnectionMax ?? delivery.messagesPerConnectionMax
        )
    }
}

extension TLSLevel {
    fileprivate init(_ configured: NodeSupport.TLSLevel) {
        switch configured {
        case .none: self = .none
        case .opportunistic: self = .opportunistic
        case .required: self = .required
        case .verified: self = .verified
        }
    }
}

extension DeliveryFailure {
    /// - Parameter isStatic: the name is in our configuration; its loss is ours to mend, so mail waits.
    init(routing failure: RoutingFailure, isStatic: Bool = false) {
        let (class_, subject, detail) = failure.enhancedStatusCode
        let isPermanent = failure.isPermanent && !isStatic
        self.init(
            scope: .message,
            isPermanent: isPermanent,
            phase: .routing,
            status: EnhancedStatusCode(isPermanent ? class_ : 4, subject, detail),
            text: failure.text
        )
    }

    static let notResolved = DeliveryFailure(
        scope: .message,
        isPermanent: false,
        phase: .routing,
        status: EnhancedStatusCode(4, 4, 3),
        text: "The mail exchangers could not be looked up."
    )
}

extension RemoteReply {
    /// What stands in for a remote's reply when a route throws mail away.
    static let discarded = RemoteReply(
        code: 250,
        enhancedStatusCode: EnhancedStatusCode(2, 0, 0),
        lines: ["2.0.0 Discarded by a route"]
    )
}
