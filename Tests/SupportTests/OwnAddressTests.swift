import Testing

@testable import NodeSupport

@Suite("Where others reach a node")
struct OwnAddressTests {
    @Test(
        "Of a machine's addresses the first that others may reach, IPv4 before IPv6",
        arguments: [
            // A pod or a container: its own name is its address.
            (["10.1.2.3", "127.0.0.1", "10.1.2.3"], true, "10.1.2.3"),
            // Debian's /etc/hosts gives the name to a loopback address.
            (["127.0.1.1", "127.0.0.1", "::1", "fe80::1", "192.0.2.7", "172.17.0.1"], true, "192.0.2.7"),
            (["2001:db8::5", "192.0.2.7"], false, "192.0.2.7"),
            (["::1", "fe80::1", "2001:db8::5"], false, "2001:db8::5"),
            (["2001:db8::5"], true, nil),
            (["127.0.0.1", "169.254.3.4", "0.0.0.0", "::"], false, nil),
            ([], false, nil),
        ] as [([String], Bool, String?)]
    )
    func isBest(addresses: [String], isIPv4Only: Bool, expected: String?) {
        #expect(addresses.compactMap { IPAddress($0) }.count == addresses.count)
        let best = OwnAddress.best(addresses.compactMap { IPAddress($0) }, isIPv4Only: isIPv4Only)
        #expect(best?.description == expected)
    }

    @Test("What listens on one address or a socket is announced as it is")
    func isAsConfigured() {
        for endpoint in [Endpoint.host("192.0.2.7", port: 9_925), .host("::1", port: 1), .unixSocket(path: "/run/x")] {
            #expect(OwnAddress.reachable(at: endpoint, name: "name.invalid") == endpoint)
        }
    }

    @Test("What listens everywhere is announced with its port, and never as every address or as loopback")
    func isElsewhere() {
        let found = OwnAddress.reachable(at: .host("0.0.0.0", port: 9_925), name: "localhost")
        guard case .host(let host, 9_925) = found else {
            Issue.record("\(found)")
            return
        }
        #expect(!host.hasPrefix("127.") && host != "0.0.0.0")
    }
}
