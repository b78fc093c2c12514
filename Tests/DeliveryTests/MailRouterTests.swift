import DNS
import Mail
import NIOCore
import NodeSupport
import Resolver
import SMTP
import Testing

@testable import Delivery

/// Method: exchangers from a static resolver; the machine's addresses are the test's.
@Suite("MailRouter: this node among the mail exchangers (RFC 5321 §5.1)")
struct MailRouterTests {
    private static let own = "198.51.100.7"

    /// Routes `example.net`, whose exchangers have these addresses at preferences 10, 20, ...
    private func route(_ exchangers: [[String]], listeningOn address: String = "::", port: Int = 25) async throws
        -> Routing
    {
        var resolver = StaticResolver()
        resolver.addMailDomain(
            try #require(DNSName("example.net")),
            exchangers: try exchangers.enumerated()
                .map { index, texts in
                    (
                        try #require(DNSName("mx\(index).example.net")),
                        try texts.map { text in
                            let literal = text.contains(":") ? "[IPv6:\(text)]" : "[\(text)]"
                            return try #require(HostAddress(literal: literal))
                        }
                    )
                }
        )
        var configuration = NodeConfiguration()
        configuration.listeners = [.init(name: "smtp", kind: .relay, address: address, port: port)]
        let router = MailRouter(
            configuration: configuration,
            passwords: try RoutePasswords(files: []) { _ in "" },
            resolver: resolver,
            interfaces: { Set([Self.own, "2001:db8::7"].compactMap { IPAddress($0) }) }
        )
        return await router.route(Domain(normalized: "example.net")).routing
    }

    /// The hosts that are tried, or the status of the failure.
    private func outcome(_ routing: Routing) -> [String] {
        switch routing {
        case .site(let plan): plan.target.endpoints.map(\.host)
        case .failed(let failure): [failure.status.description, failure.isPermanent ? "permanent" : "temporary"]
        case .discard: ["discard"]
        }
    }

    @Test(
        "An exchanger with an address at which we listen is ourselves: it goes, with all that are not better",
        arguments: [
            ([["192.0.2.1"], [own], ["192.0.2.3"]], ["mx0.example.net"]),
            ([["192.0.2.1"], ["192.0.2.2", "2001:db8::7"]], ["mx0.example.net"]),
            ([["192.0.2.1"], ["192.0.2.2"]], ["mx0.example.net", "mx1.example.net"]),
            ([[own], ["192.0.2.2"]], ["5.4.6", "permanent"]), ([["127.0.0.1"]], ["5.4.6", "permanent"]),
            ([["0.0.0.0"]], ["5.4.6", "permanent"]), ([["::1"]], ["5.4.6", "permanent"]),
        ]
    )
    func leavesOutOurselves(exchangers: [[String]], expected: [String]) async throws {
        #expect(self.outcome(try await self.route(exchangers)) == expected)
    }

    @Test(
        "Who else listens on the machine is another host: another port, or another of its addresses",
        arguments: [
            ("::", 2525, own, false), ("192.0.2.200", 25, own, false), (own, 25, own, true), ("0.0.0.0", 25, own, true),
            ("0.0.0.0", 25, "2001:db8::7", false), ("127.0.0.1", 25, "127.0.0.1", true),
            ("127.0.0.1", 25, own, false),
        ]
    )
    func tellsOthersApart(listener: String, port: Int, exchanger: String, isOurs: Bool) async throws {
        let found = self.outcome(try await self.route([[exchanger]], listeningOn: listener, port: port))
        #expect(found == (isOurs ? ["5.4.6", "permanent"] : ["mx0.example.net"]))
    }

    @Test("The site of what is left is named for it, so that others with the same exchangers share it")
    func namesSite() async throws {
        guard case .site(let plan) = try await self.route([["192.0.2.1"], [Self.own]]) else {
            Issue.record("No site.")
            return
        }
        #expect(plan.id == "mx0.example.net")
    }

    @Test("The machine's interfaces have its loopback address")
    func listsInterfaces() throws {
        #expect(OwnAddresses.ofInterfaces().contains(try #require(IPAddress("127.0.0.1"))))
    }
}

/// Goal: mail that must be protected, or sent as somebody, never goes over a connection that was opened with less.
/// Method: connections belong to sites, so the same hosts reached otherwise have to be another site.
@Suite("MailRouter: the same hosts, reached otherwise, are another site")
struct RouteQualifierTests {
    private static let host: [NodeSupport.Endpoint] = [.host("192.0.2.1", port: 25)]

    private func site(_ route: NodeConfiguration.Route) async throws -> String {
        var configuration = NodeConfiguration()
        configuration.routes = [route]
        let router = MailRouter(
            configuration: configuration,
            passwords: try RoutePasswords(files: []) { _ in "" },
            resolver: StaticResolver(),
            interfaces: { [] }
        )
        guard case .site(let plan) = await router.route(Domain(normalized: "example.net")).routing else {
            Issue.record("No site.")
            return ""
        }
        return plan.id
    }

    private func route(
        via: NodeConfiguration.Route.NextHop = .smtp(hosts: Self.host, isImplicitTLS: false),
        tls: NodeSupport.TLSLevel? = nil,
        user: String? = nil
    ) -> NodeConfiguration.Route {
        var route = NodeConfiguration.Route(match: .any, via: via)
        route.tls = tls
        route.authentication = user.map { .init(user: $0, passwordFile: "/p") }
        return route
    }

    @Test("Each level of TLS, implicit TLS, each user and LMTP is a site of its own; the same again is the same")
    func keepsApart() async throws {
        let routes = [
            self.route(), self.route(tls: NodeSupport.TLSLevel.none), self.route(tls: .required),
            self.route(tls: .verified), self.route(tls: .verified, user: "a"), self.route(tls: .verified, user: "b"),
            self.route(via: .smtp(hosts: Self.host, isImplicitTLS: true)), self.route(via: .lmtp(hosts: Self.host)),
        ]
        var ids: [String] = []
        for route in routes { ids.append(try await self.site(route)) }
        #expect(Set(ids).count == routes.count, "\(ids)")
        for (route, id) in zip(routes, ids) { #expect(try await self.site(route) == id) }
        #expect(try await self.site(self.route(tls: .opportunistic)) == ids[0], "The default said is the default.")
    }
}
