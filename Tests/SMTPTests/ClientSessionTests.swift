import Mail
import SMTP
import Testing

@Suite("ClientSession: from the banner to readiness")
struct ClientSessionTests {
    static func configuration(
        tls: ClientConfiguration.TLS = .opportunistic,
        wire: ClientConfiguration.Wire = .smtp,
        hasPassword: Bool = false,
        isLoopback: Bool = false
    ) -> ClientConfiguration {
        ClientConfiguration(
            wire: wire,
            name: "relay.example",
            tls: tls,
            credentials: hasPassword ? ClientConfiguration.Credentials(user: "tim", password: "tanstaaftanstaaf") : nil,
            isLoopback: isLoopback
        )
    }

    @Test("EHLO follows the banner, then the session is ready")
    func greets() {
        var harness = ClientHarness(Self.configuration(tls: .never))
        #expect(harness.says("220-mx\r\n220 hello\r\n") == [.wait])
        #expect(harness.sent() == "EHLO relay.example\r\n")
        let ehlo = "250-mx\r\n250-PIPELINING\r\n250-size 100\r\n250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n"
        #expect(harness.says(ehlo + "250-LIMITS RCPTMAX=7 MAILMAX=3\r\n250 STARTTLS\r\n") == [.becameReady])
        #expect(harness.sent() == "")
        let capabilities = harness.session.capabilities
        #expect(capabilities.hasPipelining && capabilities.hasEightBitMIME && capabilities.hasNotifications)
        #expect(capabilities.hasInternationalizedMail && capabilities.hasTLS && capabilities.hasSize)
        #expect(capabilities.contentSizeMax == 100)
        #expect(harness.session.recipientCountMax == 7)
        #expect(capabilities.transactionCountMax == 3)
    }

    @Test("LHLO opens an LMTP session, and has no HELO to fall back on")
    func greetsLMTP() {
        var harness = ClientHarness(Self.configuration(wire: .lmtp))
        _ = harness.says("220 lmtp\r\n")
        #expect(harness.sent() == "LHLO relay.example\r\n")
        #expect(harness.says("500 what\r\n") == [.failed(ClientFailure(.ehlo, .reply(RemoteReply(500, "what"))))])
    }

    @Test("HELO follows a 5xx to EHLO")
    func fallsBackToHELO() {
        var harness = ClientHarness(Self.configuration())
        _ = harness.says("220 old\r\n")
        _ = harness.sent()
        #expect(harness.says("502 what\r\n") == [.wait])
        #expect(harness.sent() == "HELO relay.example\r\n")
        #expect(harness.says("250 old\r\n") == [.becameReady])
        #expect(!harness.session.capabilities.hasPipelining)
    }

    @Test(
        "A refusal ends the greeting",
        arguments: [
            ("554 go away\r\n", ClientPhase.banner), ("421 busy\r\n", .banner), ("450 not now\r\n", .banner),
        ]
    )
    func failsOnBanner(banner: String, phase: ClientPhase) {
        var harness = ClientHarness(Self.configuration())
        let code = Int(banner.prefix(3)) ?? 0
        let reply = RemoteReply(code, String(banner.dropFirst(4).dropLast()))
        #expect(harness.says(banner) == [.failed(ClientFailure(phase, .reply(reply)))])
        #expect(harness.says("220 changed my mind\r\n") == [])
    }

    @Test("Words before their time end the session", arguments: ["220 a\r\n220 b\r\n", "354 x\r\n", "nonsense\r\n"])
    func refusesEarlyTalk(banner: String) {
        var harness = ClientHarness(Self.configuration())
        guard case .failed(let failure)? = harness.says(banner).first else {
            Issue.record("not failed")
            return
        }
        #expect(failure.phase == .banner)
    }

    // MARK: TLS

    @Test("STARTTLS is used when offered, and EHLO comes again")
    func startsTLS() {
        var harness = ClientHarness(Self.configuration())
        _ = harness.says("220 mx\r\n")
        _ = harness.says("250-mx\r\n250-PIPELINING\r\n250 STARTTLS\r\n")
        #expect(harness.sent() == "EHLO relay.example\r\nSTARTTLS\r\n")
        #expect(harness.says("220 go ahead\r\n") == [.startTLS])
        #expect(harness.session.tlsEstablished() == .wait)
        #expect(harness.sent() == "EHLO relay.example\r\n")
        #expect(!harness.session.capabilities.hasPipelining)
        #expect(harness.says("250 mx\r\n") == [.becameReady])
        #expect(harness.session.isSecured)
    }

    @Test("Octets behind the 220 to STARTTLS are an attack", arguments: ["250 injected\r\n", "2"])
    func refusesInjection(injected: String) {
        for tls in [ClientConfiguration.TLS.opportunistic, .required] {
            var harness = ClientHarness(Self.configuration(tls: tls))
            _ = harness.says("220 mx\r\n")
            _ = harness.says("250-mx\r\n250 STARTTLS\r\n")
            let actions = harness.says("220 go\r\n" + injected)
            #expect(
                actions == [.failed(ClientFailure(.starttls, .unexpectedReply(RemoteReply(220, "go"))))]
            )
        }
    }

    @Test("Required TLS is never done without")
    func neverDowngrades() {
        var notOffered = ClientHarness(Self.configuration(tls: .required))
        _ = notOffered.says("220 mx\r\n")
        #expect(notOffered.says("250 mx\r\n") == [.failed(ClientFailure(.starttls, .tlsNotOffered))])

        var refused = ClientHarness(Self.configuration(tls: .required))
        _ = refused.says("220 mx\r\n")
        _ = refused.says("250-mx\r\n250 STARTTLS\r\n")
        #expect(
            refused.says("454 4.7.0 no\r\n")
                == [.failed(ClientFailure(.starttls, .reply(RemoteReply(454, "4.7.0 no"))))]
        )

        var unknown = ClientHarness(Self.configuration(tls: .required))
        _ = unknown.says("220 mx\r\n")
        #expect(unknown.says("500 EHLO?\r\n") == [.failed(ClientFailure(.ehlo, .reply(RemoteReply(500, "EHLO?"))))])

        var failed = ClientHarness(Self.configuration(tls: .required))
        _ = failed.says("220 mx\r\n")
        _ = failed.says("250-mx\r\n250 STARTTLS\r\n")
        _ = failed.says("220 go\r\n")
        let failure = ClientFailure(.starttls, .tlsFailed(reason: "it failed"))
        #expect(failed.session.ended(.tlsFailed(reason: "it failed")) == .failed(failure))
    }

    @Test("Opportunistic TLS that is refused goes on in the clear; one that fails asks for another connection")
    func fallsBack() {
        var refused = ClientHarness(Self.configuration())
        _ = refused.says("220 mx\r\n")
        _ = refused.says("250-mx\r\n250 STARTTLS\r\n")
        #expect(refused.says("454 no\r\n") == [.becameReady])

        for end in [ClientSession.End.tlsFailed(reason: "it failed"), .connectionLost, .timedOut] {
            var failed = ClientHarness(Self.configuration())
            _ = failed.says("220 mx\r\n")
            _ = failed.says("250-mx\r\n250 STARTTLS\r\n")
            _ = failed.says("220 go\r\n")
            #expect(failed.session.ended(end) == .reconnectWithoutTLS)
            #expect(failed.session.ended(end) == .close)
        }
    }

    // MARK: AUTH

    @Test("No password crosses a network in the clear")
    func protectsPassword() {
        var harness = ClientHarness(Self.configuration(tls: .never, hasPassword: true))
        _ = harness.says("220 mx\r\n")
        #expect(
            harness.says("250-mx\r\n250 AUTH PLAIN\r\n")
                == [.failed(ClientFailure(.auth, .authenticationUnprotected))]
        )
    }

    @Test("AUTH PLAIN", arguments: ["AUTH LOGIN PLAIN", "AUTH=PLAIN"])
    func authenticatesPlain(offer: String) {
        var harness = ClientHarness(Self.configuration(tls: .never, hasPassword: true, isLoopback: true))
        _ = harness.says("220 mx\r\n")
        _ = harness.sent()
        #expect(harness.says("250-mx\r\n250 \(offer)\r\n") == [.wait])
        #expect(harness.sent() == "AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm\r\n")
        #expect(harness.says("235 2.7.0 in\r\n") == [.becameReady])
    }

    @Test("AUTH LOGIN, when there is nothing better")
    func authenticatesLogin() {
        var harness = ClientHarness(Self.configuration(tls: .never, hasPassword: true, isLoopback: true))
        _ = harness.says("220 mx\r\n")
        _ = harness.sent()
        _ = harness.says("250-mx\r\n250 AUTH LOGIN\r\n")
        #expect(harness.sent() == "AUTH LOGIN\r\n")
        _ = harness.says("334 VXNlcm5hbWU6\r\n")
        #expect(harness.sent() == "dGlt\r\n")
        _ = harness.says("334 UGFzc3dvcmQ6\r\n")
        #expect(harness.sent() == "dGFuc3RhYWZ0YW5zdGFhZg==\r\n")
        #expect(
            harness.says("535 5.7.8 no\r\n") == [.failed(ClientFailure(.auth, .reply(RemoteReply(535, "5.7.8 no"))))]
        )
    }

    /// The exchange of RFC 7677 §3.
    @Test("AUTH SCRAM-SHA-256 proves the password both ways (RFC 7677 §3)")
    func authenticatesSCRAM() {
        var harness = ClientHarness(
            ClientConfiguration(
                name: "relay.example",
                tls: .never,
                credentials: ClientConfiguration.Credentials(user: "user", password: "pencil"),
                isLoopback: true,
                nonce: "rOprNGfwEbeRWgbNEkqO"
            )
        )
        _ = harness.says("220 mx\r\n")
        _ = harness.sent()
        _ = harness.says("250-mx\r\n250 AUTH PLAIN SCRAM-SHA-256\r\n")
        #expect(
            harness.sent() == "AUTH SCRAM-SHA-256 \(Base64.encode("n,,n=user,r=rOprNGfwEbeRWgbNEkqO".utf8))\r\n"
        )
        let first = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        var forged = harness
        _ = harness.says("334 \(Base64.encode(first.utf8))\r\n")
        let final =
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        #expect(harness.sent() == "\(Base64.encode(final.utf8))\r\n")
        var early = harness
        var wrong = harness
        _ = harness.says("334 \(Base64.encode("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".utf8))\r\n")
        #expect(harness.sent() == "\r\n")
        #expect(harness.says("235 ok\r\n") == [.becameReady])

        let broken: [ClientSession.Action] = [.failed(ClientFailure(.auth, .authenticationBroken))]
        #expect(early.says("235 trust me\r\n") == broken)
        #expect(
            wrong.says("334 \(Base64.encode("v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".utf8))\r\n") == broken
        )
        let other = first.replacing("rOpr", with: "xOpr")
        #expect(forged.says("334 \(Base64.encode(other.utf8))\r\n") == broken)
    }

    @Test("While a SCRAM key is derived the server has nothing to say; a key that comes too late is nobody's")
    func waitsForKey() throws {
        var harness = ClientHarness(
            ClientConfiguration(
                name: "relay.example",
                tls: .never,
                credentials: ClientConfiguration.Credentials(user: "u", password: "p"),
                isLoopback: true,
                nonce: "n"
            )
        )
        _ = harness.says("220 mx\r\n")
        _ = harness.says("250-mx\r\n250 AUTH SCRAM-SHA-256\r\n")
        _ = harness.sent()
        let challenge = Array("334 \(Base64.encode("r=nn,s=AAAA,i=1".utf8))\r\n".utf8)
        let action = challenge.withUnsafeBytes { octets in
            var position = 0
            return harness.session.received(octets, at: &position)
        }
        guard case .deriveKey(let derivation)? = action else {
            Issue.record("\(String(describing: action))")
            return
        }
        #expect(harness.sent() == "" && harness.session.timeout == .seconds(300))
        let broken: [ClientSession.Action] = [.failed(ClientFailure(.auth, .authenticationBroken))]
        for word in ["334 AAAA\r\n", "235 in\r\n"] {
            var early = harness
            #expect(early.says(word) == broken)
            #expect(early.session.derived(derivation.key()) == .wait && early.sent() == "")
        }
        #expect(harness.session.derived(derivation.key()) == .wait)
        #expect(harness.sent().hasSuffix("\r\n"))
    }

    @Test(
        "A broken SCRAM challenge is an error, not a trap",
        arguments: [
            "", "!", "r=", "r=n,s=,i=0", "r=nn,s=AAAA,i=99999999999999999999", "r=nn,s=AAAA,i=-1",
            "r=nn,s=AAAA,i=1000000",
            "m=x,r=nn,s=AAAA,i=1", "r=n,s=AAAA,i=1", ",,,",
        ]
    )
    func survivesBrokenSCRAM(challenge: String) {
        var harness = ClientHarness(
            ClientConfiguration(
                name: "relay.example",
                tls: .never,
                credentials: ClientConfiguration.Credentials(user: "u,=", password: "p"),
                isLoopback: true,
                nonce: "n"
            )
        )
        _ = harness.says("220 mx\r\n")
        _ = harness.says("250-mx\r\n250 AUTH SCRAM-SHA-256\r\n")
        let text = challenge == "!" ? "!" : Base64.encode(challenge.utf8)
        #expect(
            harness.says("334 \(text)\r\n") == [.failed(ClientFailure(.auth, .authenticationBroken))]
        )
    }

    // MARK: Ends

    @Test("A loss before readiness names its phase")
    func namesPhaseOfLoss() {
        var harness = ClientHarness(Self.configuration())
        var atBanner = harness
        #expect(atBanner.session.ended(.timedOut) == .failed(ClientFailure(.banner, .timedOut)))
        _ = harness.says("220 mx\r\n")
        #expect(harness.session.ended(.connectionLost) == .failed(ClientFailure(.ehlo, .connectionLost)))
    }

    @Test("Whatever an idle server says, the session closes", arguments: ["421 idle\r\n", "250 what\r\n", "junk"])
    func closesWhenIdle(text: String) {
        var harness = ClientHarness.ready()
        #expect(harness.says(text) == [.close])
        #expect(harness.says("250 more\r\n") == [])
        #expect(harness.session.ended(.connectionLost) == .close)
    }

    @Test("QUIT is said once, and any answer or none closes")
    func quits() {
        var harness = ClientHarness.ready()
        #expect(harness.session.quit() == .wait)
        #expect(harness.session.quit() == .wait)
        #expect(harness.sent() == "QUIT\r\n")
        var silent = harness
        #expect(silent.session.ended(.timedOut) == .close)
        #expect(harness.says("221 bye\r\n") == [.close])
    }

    @Test("Each phase has the timeout of RFC 5321 §4.5.3.2")
    func tellsTimeouts() {
        var harness = ClientHarness(Self.configuration(tls: .never))
        #expect(harness.session.timeout == .seconds(300))
        _ = harness.says("220 mx\r\n")
        #expect(harness.session.timeout == .seconds(300))
        _ = harness.says("250 mx\r\n")
        #expect(harness.session.timeout == nil)
        _ = harness.begin(["a@b.example"])
        #expect(harness.session.timeout == .seconds(300))
        _ = harness.says("250 ok\r\n")
        _ = harness.says("250 ok\r\n")
        #expect(harness.session.timeout == .seconds(120))
        #expect(harness.says("354 go\r\n") == [.sendContent])
        #expect(harness.session.timeout == .seconds(180))
        _ = harness.session.contentWritten()
        #expect(harness.session.timeout == .seconds(600))
        _ = harness.says("250 done\r\n")
        #expect(harness.session.timeout == nil)
    }
}
