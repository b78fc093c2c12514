import ClusterLog
import Foundation
import Mail
import NodeSupport
import Records
import Testing

@testable import Ingress

@Suite("Ingress: who may send where, and what is not SMTP at all", .serialized)
struct RelayControlTests {
    @Test(
        "A stranger reaches our domains and our postmaster; everything else is 550 5.7.1",
        arguments: [
            ("u@ours.example", true), ("u@OURS.EXAMPLE", true), ("u@sub.tree.example", true), ("u@tree.example", true),
            ("u@elsewhere.example", false), ("u@notours.example", false), ("u@ours.example.evil.example", false),
            ("u@xtree.example", false), ("u%elsewhere.example@[127.0.0.1]", false), ("Postmaster", true),
            ("postMASTER@mx.example.net", true), ("u@mx.example.net", false), ("u@[127.0.0.1]", false),
            ("\"u@elsewhere.example\"@evil.example", false),
        ]
    )
    func controlsRelay(recipient: String, isAccepted: Bool) async throws {
        try await TestServer.with({
            $0.relay.networks = []
            $0.relay.domains = [.exact("ours.example"), .suffix("tree.example")]
            $0.postmaster = "admin@ours.example"
        })
        .run { server in
            let client = try TestClient(port: server.port)
            try client.hello()
            #expect(try client.ask("MAIL FROM:<a@ours.example>").hasPrefix("250"))
            let reply = try client.ask("RCPT TO:<\(recipient)>")
            #expect(reply.hasPrefix(isAccepted ? "250 2.1.5" : "550 5.7.1"))
        }
    }

    @Test(
        "A stranger's mail to the postmaster goes where the configuration says, and returns to nobody (RFC 5321 §4.5.1)",
        arguments: [nil, "admin@elsewhere.example"],
        ["<postmaster>", "<PostMaster@MX.example.net> NOTIFY=FAILURE,DELAY"]
    )
    func routesPostmaster(address: String?, recipient: String) async throws {
        try await TestServer.with({
            $0.relay.networks = []
            $0.postmaster = address
            if address == nil { $0.routes = [.init(match: .exact("mx.example.net"), via: .discard)] }
        })
        .run { server in
            let client = try TestClient(port: server.port)
            try client.hello()
            #expect(try client.ask("MAIL FROM:<forged@victim.example>").hasPrefix("250"))
            #expect(try client.ask("RCPT TO:\(recipient)").hasPrefix("250"))
            #expect(try client.ask("DATA").hasPrefix("354"))
            #expect(try client.ask("x\r\n.").hasPrefix("250"))
            let accepted = try #require(try server.accepted().first?.entry.envelope.recipients.first)
            #expect(accepted.notify == .never)
            #expect(accepted.mailbox.domain.text == (address == nil ? "mx.example.net" : "elsewhere.example"))
            #expect(accepted.mailbox.localPart.lowercased() == (address == nil ? "postmaster" : "admin"))
        }
    }

    @Test("Where nobody says who the postmaster is, strangers are told so; who may relay anywhere may write there too")
    func refusesPostmaster() async throws {
        try await TestServer.with({ $0.relay.networks = [] })
            .run { server in
                let client = try TestClient(port: server.port)
                try client.hello()
                #expect(try client.ask("MAIL FROM:<forged@victim.example>").hasPrefix("250"))
                #expect(try client.ask("RCPT TO:<postmaster>").hasPrefix("550 5.1.1"))
                #expect(try client.ask("RCPT TO:<postmaster@mx.example.net>").hasPrefix("550 5.1.1"))
            }
        try await TestServer.with({ $0.postmaster = "admin@elsewhere.example" })
            .run { server in
                let client = try TestClient(port: server.port)
                try client.hello()
                _ = try client.sendMessage(to: ["postmaster@mx.example.net"])
                let accepted = try #require(try server.accepted().first?.entry.envelope.recipients.first)
                #expect(accepted.notify == nil && accepted.mailbox.description == "admin@elsewhere.example")
            }
    }

    @Test("An address without domain is refused, but for postmaster (RFC 5321 §4.5.1)")
    func refusesUnqualified() async throws {
        try await TestServer.run { server in
            let client = try TestClient(port: server.port)
            try client.hello()
            #expect(try client.ask("MAIL FROM:<>").hasPrefix("250"))
            #expect(try client.ask("RCPT TO:<user>").hasPrefix("501"))
            #expect(try client.ask("RCPT TO:<postmaster>").hasPrefix("250"))
            #expect(try client.ask("DATA").hasPrefix("354"))
            #expect(try client.ask("x\r\n.").hasPrefix("250"))
            #expect(try server.accepted().first?.record.key == "mx.example.net")
        }
    }

    @Test("A proxy tells who the client is; who is no proxy cannot, and a proxy must")
    func readsProxyHeader() async throws {
        try await TestServer.with({
            $0.relay.networks = [Network("192.0.2.1")].compactMap { $0 }
            $0.listeners[0].proxyProtocolNetworks = [Network("127.0.0.2")].compactMap { $0 }
        })
        .run { server in
            let proxied = try TestClient(port: server.port, from: "127.0.0.2")
            proxied.send("PROXY TCP4 192.0.2.1 198.51.100.1 5000 25\r\nEHLO c\r\n")
            #expect(try proxied.reply().hasPrefix("220"))
            #expect(try proxied.reply().hasPrefix("250"))
            #expect(try proxied.sendMessage().hasPrefix("250"))
            #expect(try server.accepted().first?.text.contains("[192.0.2.1]") == true)

            let version2 = try TestClient(port: server.port, from: "127.0.0.2")
            let header: [UInt8] =
                [0x0d, 0x0a, 0x0d, 0x0a, 0, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, 0x21, 0x11, 0, 12]
                + [192, 0, 2, 9, 198, 51, 100, 1, 0x13, 0x88, 0, 25]
            for octet in header { version2.send([octet]) }
            try version2.hello()
            #expect(try version2.ask("MAIL FROM:<>").hasPrefix("250"))
            #expect(try version2.ask("RCPT TO:<b@example.com>").hasPrefix("550 5.7.1"))

            let without = try TestClient(port: server.port, from: "127.0.0.2")
            without.send("EHLO c\r\n")
            #expect(without.isClosed())

            let liar = try TestClient(port: server.port)
            liar.send("PROXY TCP4 192.0.2.1 198.51.100.1 5000 25\r\n")
            #expect(try liar.reply().hasPrefix("220"))
            #expect(try liar.reply().hasPrefix("500"))
        }
    }

    @Test("Random octets on every kind of listener hurt nobody else", arguments: UInt64(1)...8)
    func survivesGarbage(seed: UInt64) async throws {
        let certificates = try await TestCertificates.shared.value
        let files = NodeConfiguration.Listener.TLSFiles(
            certificateFile: certificates.certificate,
            keyFile: certificates.key
        )
        try await TestServer.with({
            $0.listeners = [
                TestServer.listener("smtp", .relay, tls: files),
                TestServer.listener("submission", .submission, tls: files),
                TestServer.listener("submissions", .submissions, tls: files),
            ]
        })
        .run { server in
            var random = SplitMix64(state: seed)
            let bystander = try TestClient(port: server.port)
            try bystander.hello()
            for port in server.ports.values {
                for _ in 0..<8 {
                    let client = try TestClient(port: port)
                    let count = Int(random.next() % 3_000)
                    var octets = (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) }
                    if random.next() % 2 == 0 { octets = Array("EHLO x\r\nSTARTTLS\r\n".utf8) + octets }
                    client.send(octets)
                    client.endOfInput()
                    _ = client.rest()
                }
            }
            #expect(try bystander.sendMessage().hasPrefix("250"))
            try await eventually { server.server.sessionCount == 1 }
            #expect(server.server.octetsInFlight == 0)
        }
    }

    @Test("Commands sent in clear behind STARTTLS are not carried out after it (CVE-2011-0411)")
    func dropsInjectedCommands() async throws {
        let certificates = try await TestCertificates.shared.value
        let files = NodeConfiguration.Listener.TLSFiles(
            certificateFile: certificates.certificate,
            keyFile: certificates.key
        )
        try await TestServer.with({ $0.listeners[0].tls = files })
            .run { server in
                let client = try TestClient(port: server.port)
                try client.hello()
                #expect(try client.ask("STARTTLS\r\nMAIL FROM:<evil@example.org>").hasPrefix("220"))
                client.endOfInput()
                #expect(!client.rest().contains("250"))
            }
    }
}

/// A small generator, so that a failing test can be run again.
struct SplitMix64: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        self.state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = self.state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }
}
