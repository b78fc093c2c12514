import Foundation
import NIOCore
import NIOSSL
import SMTP
import Testing

@testable import Delivery

@Suite("OutboundConnection and TLS", .timeLimit(.minutes(1)))
struct OutboundTLSTests {
    static let offer: [ServerStep] = [.say("220 mx\r\n"), .read("EHLO"), .say("250-mx\r\n250 STARTTLS\r\n")]
    static let secured: [ServerStep] =
        offer + [
            .read("STARTTLS"), .say("220 go\r\n"), .startTLS, .read("EHLO"), .say("250-mx\r\n250 PIPELINING\r\n"),
            .read("MAIL"), .read("RCPT"), .read("DATA"), .say("250 ok\r\n250 ok\r\n354 go\r\n"), .readContent,
            .say("250 in\r\n"),
        ]

    @Test("STARTTLS protects the transaction", arguments: [TLSLevel.opportunistic, .required, .verified])
    func secures(tls: TLSLevel) async throws {
        let certificate = try TestCertificate.shared.get()
        let server = try await ScriptedServer([Self.secured], tls: certificate.server)
        var harness = try await OutboundHarness(
            .test([try server.address], tls: tls),
            .test(verified: certificate.trusting)
        )
        let facts = try await harness.ready()
        #expect(facts.tlsCipherSuite?.hasPrefix("TLS_AES_") == true)
        #expect(facts.tlsVersion == "TLSv1.3" && facts.isTLSVerified == (tls == .verified) && !facts.isTLSAvoided)
        let content = String(repeating: "text\r\n", count: 100_000)
        harness.send(content)
        #expect(try await harness.finished().0.results.first?.reply?.code == 250)
        #expect(try await server.transcript()[0].hasSuffix(content + ".\r\n"))
        try await server.close()
    }

    @Test("TLS from the first octet (RFC 8314)")
    func securesFromStart() async throws {
        let certificate = try TestCertificate.shared.get()
        let server = try await ScriptedServer([[.startTLS] + ServerStep.greeting], tls: certificate.server)
        var harness = try await OutboundHarness(
            .test([try server.address], tls: .verified, isImplicitTLS: true),
            .test(verified: certificate.trusting)
        )
        #expect(try await harness.ready().isTLSVerified)
        try await server.close()
    }

    @Test("A certificate nobody vouches for is refused where it must be verified")
    func verifies() async throws {
        let certificate = try TestCertificate.shared.get()
        let server = try await ScriptedServer([Self.secured], tls: certificate.server)
        var untrusted = try await OutboundHarness(.test([try server.address], tls: .verified), .test())
        let failure = try await untrusted.closed()
        #expect(failure?.status.description == "4.7.5" && failure?.isPermanent == false)
        #expect(failure?.text.hasSuffix("the server's certificate is of an authority that is not trusted.") == true)

        var target = OutboundTarget.test([try server.address], tls: .verified)
        target.endpoints[0].host = "other.example"
        var misnamed = try await OutboundHarness(target, .test(verified: certificate.trusting))
        let mismatch = try await misnamed.closed()
        #expect(mismatch?.status.description == "4.7.5")
        #expect(mismatch?.text.hasSuffix("the server's certificate is for another name.") == true)
        try await server.close()
    }

    @Test("A certificate is refused for what is wrong with it: name, address, time, chain, or that it is unreadable")
    func saysWhy() throws {
        let certificate = try TestCertificate.shared.get()
        #expect(certificate.trusting.refusal(of: certificate.chain, host: "mx.example") == nil)
        #expect(certificate.trusting.refusal(of: certificate.chain, host: "MX.example") == nil)
        let wrongName = "the server's certificate is for another name"
        for host in ["x.mx.example", "192.0.2.1", "::1"] {
            #expect(certificate.trusting.refusal(of: certificate.chain, host: host) == wrongName)
        }
        #expect(certificate.trusting.refusal(of: [], host: "mx.example") == "the server's certificate cannot be read")
        let now = Int(Date().timeIntervalSince1970)
        for (time, reason) in [(now + 5 * 86_400, "has expired"), (now - 86_400, "is not valid yet")] {
            let refusal = certificate.trusting.refusal(of: certificate.chain, host: "mx.example", at: time)
            #expect(refusal == "the server's certificate \(reason)")
        }
        #expect(throws: CertificateVerifier.LoadFailure.self) {
            try CertificateVerifier(trustedCertificatesFile: "/nonexistent.pem")
        }
    }

    @Test("Opportunistic TLS that fails is left out on a second connection to the same host")
    func avoidsTLS() async throws {
        let broken = Self.offer + [.read("STARTTLS"), .say("220 go\r\n"), .readAnything, .say("not TLS\r\n"), .drop]
        let server = try await ScriptedServer([broken, Self.offer])
        var harness = try await OutboundHarness(.test([try server.address], tls: .opportunistic), .test())
        let facts = try await harness.ready()
        #expect(facts.isTLSAvoided && facts.tlsVersion == nil)
        try await server.close()
    }

    @Test("Required TLS is never left out")
    func requiresTLS() async throws {
        let broken = Self.offer + [.read("STARTTLS"), .say("220 go\r\n"), .readAnything, .say("not TLS\r\n"), .drop]
        let server = try await ScriptedServer([broken, ServerStep.greeting])
        let reasons = [("4.7.5", "the handshake failed: wrong version number."), ("4.7.4", "does not offer it.")]
        for (status, reason) in reasons {
            var harness = try await OutboundHarness(.test([try server.address], tls: .required), .test())
            let failure = try await harness.closed()
            #expect(failure?.text.hasSuffix(reason) == true, "\(failure?.text ?? "")")
            #expect(failure?.status.description == status && failure?.phase == .starttls && failure?.scope == .site)
        }
        try await server.close()
    }
}
