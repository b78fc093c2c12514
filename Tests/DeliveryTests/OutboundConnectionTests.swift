import Mail
import NIOCore
import SMTP
import Testing

@testable import Delivery

@Suite("OutboundConnection against scripted servers", .timeLimit(.minutes(1)))
struct OutboundConnectionTests {
    static let envelope: [ServerStep] = [
        .read("MAIL FROM:<s@y.example>"), .read("RCPT TO:<a@x.example>"), .read("DATA"),
    ]

    static func open(
        _ scripts: [[ServerStep]],
        wire: OutboundTarget.Wire = .smtp,
        timeouts: ClientTimeouts = ClientTimeouts()
    ) async throws -> (ScriptedServer, OutboundHarness) {
        let server = try await ScriptedServer(scripts)
        let harness = try await OutboundHarness(
            .test([try server.address], wire: wire),
            .test(timeouts: timeouts)
        )
        return (server, harness)
    }

    @Test("Several messages over one connection, then QUIT")
    func delivers() async throws {
        let message = Self.envelope + [.say("250 ok\r\n250 ok\r\n354 go\r\n"), .readContent, .say("250 2.0.0 in\r\n")]
        var (server, harness) = try await Self.open([
            ServerStep.greeting + message + message + [.read("QUIT"), .say("221 bye\r\n"), .drop]
        ])
        let facts = try await harness.ready()
        #expect(facts.host == "mx.example" && facts.tlsVersion == nil && facts.recipientCountMax == 100)
        for id in UInt64(1)...2 {
            harness.send("Subject: x\r\n\r\n.hidden\r\nopen", id: id)
            let (result, isReusable) = try await harness.finished()
            #expect(result.transactionID == id && isReusable && !result.isInDoubt)
            #expect(result.results.first?.reply?.text == "2.0.0 in")
        }
        harness.close()
        #expect(try await harness.closed() == nil)
        #expect(try await server.transcript()[0].contains("DATA\r\nSubject: x\r\n\r\n..hidden\r\nopen\r\n.\r\n"))
        try await server.close()
    }

    /// Goal: a new connection in the place of one that quits is not one more than the server bears. Method: the server
    /// answers QUIT and does not close.
    @Test("A connection that quits is not over before the server closes, for a second")
    func waitsForClose() async throws {
        var (server, harness) = try await Self.open([ServerStep.greeting + [.read("QUIT"), .say("221 bye\r\n")]])
        _ = try await harness.ready()
        let start = ContinuousClock.now
        harness.close()
        #expect(try await harness.closed() == nil)
        #expect(ContinuousClock.now - start >= .seconds(1))
        try await server.close()
    }

    @Test("What a server says after its answer to QUIT is not waited for")
    func closesOnNoise() async throws {
        var (server, harness) = try await Self.open([
            ServerStep.greeting + [.read("QUIT"), .say("221 bye\r\n250 and another\r\n")]
        ])
        _ = try await harness.ready()
        harness.close()
        #expect(try await harness.closed() == nil)
        try await server.close()
    }

    /// Method: the server extends the client's nonce, as SCRAM has it, and turns the proof down.
    @Test("SCRAM goes on once the key has been derived on another thread")
    func derivesKey() async throws {
        let server = try await ScriptedServer([
            [
                .say("220 mx\r\n"), .read("EHLO"), .say("250-mx\r\n250 AUTH SCRAM-SHA-256\r\n"),
                .answer { line in
                    let octets = Base64.decode(Array((line.split(separator: " ").last ?? "").utf8)) ?? []
                    let nonce = String(decoding: octets, as: UTF8.self).split(separator: "=").last ?? ""
                    return "334 \(Base64.encode("r=\(nonce)more,s=AAAA,i=4096".utf8))\r\n"
                },
                // biws: no channel binding, as it was announced.
                .answer { line in
                    let octets = Base64.decode(Array(line.utf8)) ?? []
                    return octets.starts(with: "c=biws,r=".utf8) ? "535 5.7.8 wrong\r\n" : "500 what\r\n"
                },
            ]
        ])
        var harness = try await OutboundHarness(
            .test([try server.address], credentials: OutboundCredentials(user: "u", password: "p")),
            .test()
        )
        let failure = try #require(try await harness.closed())
        #expect(failure.reply?.code == 535)
        try await server.close()
    }

    @Test("Lock-step, a large content with many dots, and a slow start")
    func deliversLargeContent() async throws {
        var script = ServerStep.plainGreeting
        for step in Self.envelope { script += [step, .say(script.count == 7 ? "354 go\r\n" : "250 ok\r\n")] }
        var (server, harness) = try await Self.open([script + [.readContent, .say("250 ok\r\n")]])
        _ = try await harness.ready()
        let content = String(repeating: ".line of text that is long enough to matter\r\n", count: 20_000)
        harness.send(content)
        let (result, isReusable) = try await harness.finished()
        #expect(result.results.first?.reply?.code == 250 && isReusable)
        let transcript = try await server.transcript()[0]
        #expect(transcript.hasSuffix(content.replacing("\r\n.", with: "\r\n..") + ".\r\n"))
        try await server.close()
    }

    @Test("Partial rejections, pipelined")
    func rejectsPartially() async throws {
        var (server, harness) = try await Self.open([
            ServerStep.greeting + [
                .read("MAIL"), .read("RCPT"), .read("RCPT"), .read("DATA"),
                .say("250 ok\r\n550 5.1.1 no\r\n250 ok\r\n354 go\r\n"), .readContent, .say("250 in\r\n"),
            ]
        ])
        _ = try await harness.ready()
        harness.send(to: ["a@x.example", "b@x.example"])
        let (result, isReusable) = try await harness.finished()
        #expect(isReusable)
        #expect(result.results[0].failure?.scope == .recipient && result.results[0].failure?.isPermanent == true)
        #expect(result.results[1].reply?.code == 250)
        try await server.close()
    }

    @Test("A 354 after all recipients failed gets a lone dot, and the connection lives on")
    func sendsLoneDot() async throws {
        var (server, harness) = try await Self.open([
            ServerStep.greeting + Self.envelope + [
                .say("250 ok\r\n550 no\r\n354 go\r\n"), .read(".\r\n"), .say("554 none\r\n"), .read("RSET"),
            ] + Self.envelope + [
                .say("250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"), .readContent, .say("250 in\r\n"),
            ]
        ])
        _ = try await harness.ready()
        harness.send()
        #expect(try await harness.finished().isReusable)
        harness.send()
        #expect(try await harness.finished().0.results.first?.reply?.code == 250)
        try await server.close()
    }

    @Test("LMTP: one reply per recipient")
    func deliversLMTP() async throws {
        var (server, harness) = try await Self.open(
            [
                [
                    .say("220 lmtp\r\n"), .read("LHLO"), .say("250-x\r\n250 PIPELINING\r\n"), .read("MAIL"),
                    .read("RCPT"), .read("RCPT"), .read("DATA"), .say("250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n"),
                    .readContent, .say("250 in\r\n452 4.2.2 full\r\n"),
                ]
            ],
            wire: .lmtp
        )
        _ = try await harness.ready()
        harness.send(to: ["a@x.example", "b@x.example"])
        let (result, isReusable) = try await harness.finished()
        #expect(isReusable)
        #expect(result.results[0].reply?.code == 250)
        #expect(result.results[1].failure?.status.description == "4.2.2")
        try await server.close()
    }

    // MARK: Losses

    /// The steps of a session up to each phase, at which the server goes away.
    static let phases: [([ServerStep], DeliveryFailure.Phase)] = [
        ([], .banner),
        ([.say("220 mx\r\n"), .read("EHLO")], .ehlo),
        (ServerStep.greeting + envelope, .mail),
        (ServerStep.greeting + envelope + [.say("250 ok\r\n")], .rcpt),
        (ServerStep.greeting + envelope + [.say("250 ok\r\n250 ok\r\n")], .data),
        (ServerStep.greeting + envelope + [.say("250 ok\r\n250 ok\r\n354 go\r\n"), .readContent], .finalDot),
    ]

    @Test("A server that goes away, in every phase; doubt only after the final dot", arguments: 0..<6, [true, false])
    func survivesLoss(index: Int, isSilent: Bool) async throws {
        let (steps, phase) = Self.phases[index]
        var timeouts = ClientTimeouts()
        if isSilent {
            timeouts.banner = .milliseconds(80)
            timeouts.hello = .milliseconds(80)
            timeouts.mail = .milliseconds(80)
            timeouts.recipient = .milliseconds(80)
            timeouts.data = .milliseconds(80)
            timeouts.finalDot = .milliseconds(80)
        }
        var (server, harness) = try await Self.open([steps + (isSilent ? [] : [.drop])], timeouts: timeouts)
        if index < 2 {
            let failure = try #require(try await harness.closed())
            #expect(failure.phase == phase && failure.scope == .site && !failure.isPermanent)
        } else {
            _ = try await harness.ready()
            harness.send()
            let (result, isReusable) = try await harness.finished()
            let failure = try #require(result.results.first?.failure)
            #expect(failure.phase == phase && failure.scope == .session && !failure.isPermanent)
            #expect(result.isInDoubt == (phase == .finalDot) && !isReusable)
            #expect(try await harness.closed() == nil)
        }
        #expect(await harness.next() == nil)
        try await server.close()
    }

    @Test("A reply that trickles in has no more time than one that does not come", .timeLimit(.minutes(1)))
    func timesOutTricklingReply() async throws {
        var timeouts = ClientTimeouts()
        timeouts.mail = .milliseconds(150)
        // Two seconds, at no time of them silent for as long as the timeout.
        let reply = "250-" + String(repeating: "x", count: 80) + "\r\n250 ok\r\n"
        var (server, harness) = try await Self.open(
            [ServerStep.greeting + Self.envelope + [.trickle(reply, 20)]],
            timeouts: timeouts
        )
        _ = try await harness.ready()
        harness.send()
        let (result, _) = try await harness.finished()
        let failure = try #require(result.results.first?.failure)
        #expect(failure.phase == .mail && failure.scope == .session && !failure.isPermanent)
        #expect(failure.text == "The server took too long in answer to MAIL.")
        try await server.close()
    }

    @Test("A server that takes no content in time")
    func timesOutContent() async throws {
        var timeouts = ClientTimeouts()
        timeouts.contentBlock = .milliseconds(100)
        var (server, harness) = try await Self.open(
            [ServerStep.greeting + Self.envelope + [.stopReading, .say("250 ok\r\n250 ok\r\n354 go\r\n")]],
            timeouts: timeouts
        )
        _ = try await harness.ready()
        // More than both sides' socket buffers hold.
        harness.send(String(repeating: "x", count: 32 << 20))
        let (result, isReusable) = try await harness.finished()
        #expect(result.results.first?.failure?.phase == .content)
        #expect(!result.isInDoubt && !isReusable)
        try await server.close()
    }

    @Test("An idle connection that the server ends is reported closed", arguments: ["421 idle\r\n", "garbage\r\n", ""])
    func survivesIdleEnd(text: String) async throws {
        var (server, harness) = try await Self.open([
            ServerStep.greeting + (text.isEmpty ? [.drop] : [.say(text)])
        ])
        switch await harness.next() {
        // The words may come with the answer to EHLO, which is then no answer.
        case .closed(let failure)?: #expect(failure?.phase == .ehlo)
        case .ready?: #expect(try await harness.closed() == nil)
        case .finished?, nil: Issue.record("no end")
        }
        #expect(await harness.next() == nil)
        try await server.close()
    }

    @Test("Giving up ends what is before its final dot")
    func aborts() async throws {
        var (server, harness) = try await Self.open([ServerStep.greeting + Self.envelope])
        _ = try await harness.ready()
        harness.abort()
        harness.send()
        harness.abort()
        let (result, isReusable) = try await harness.finished()
        #expect(result.results.first?.failure?.scope == .session && !result.isInDoubt && !isReusable)
        #expect(try await harness.closed() == nil)
        try await server.close()
    }

    @Test("Closing while a transaction runs waits for its end")
    func closesAfterTransaction() async throws {
        var (server, harness) = try await Self.open([
            ServerStep.greeting + Self.envelope + [
                .say("250 ok\r\n250 ok\r\n354 go\r\n"), .readContent, .say("250 in\r\n"), .read("QUIT"), .drop,
            ]
        ])
        _ = try await harness.ready()
        harness.send(closes: true)
        let (result, isReusable) = try await harness.finished()
        #expect(result.results.first?.reply?.code == 250 && !isReusable)
        #expect(try await harness.closed() == nil)
        try await server.close()
    }

    // MARK: Hosts

    @Test("Refusing, mute and unkind hosts are passed over")
    func fallsThrough() async throws {
        let dead = try await ScriptedServer([[]])
        let deadAddress = try dead.address
        try await dead.close()
        let unkind = try await ScriptedServer([[.say("554 go away\r\n")]])
        let dropping = try await ScriptedServer([[.drop]])
        let kind = try await ScriptedServer([ServerStep.greeting + [.read("QUIT"), .drop]])
        var harness = try await OutboundHarness(
            .test([deadAddress, try unkind.address, try dropping.address, try kind.address]),
            .test()
        )
        let facts = try await harness.ready()
        #expect(facts.address == "127.0.0.1:\(try kind.address.port ?? 0)")
        harness.close()
        #expect(try await harness.closed() == nil)

        var hopeless = try await OutboundHarness(
            .test([deadAddress, try unkind.address, try dropping.address]),
            .test()
        )
        let failure = try await hopeless.closed()
        #expect(failure?.reply?.code == 554 && failure?.scope == .site && failure?.isPermanent == false)
        for server in [unkind, dropping, kind] { try await server.close() }
    }

    @Test("A dead address does not hold up a live one of the same host")
    func triesNextAddress() async throws {
        let dead = try await ScriptedServer([[]])
        let deadAddress = try dead.address
        try await dead.close()
        let live = try await ScriptedServer([ServerStep.greeting])
        let target = OutboundTarget(
            endpoints: [.init(host: "mx.example", addresses: [deadAddress, try live.address])],
            tls: .none
        )
        var harness = try await OutboundHarness(target, .test())
        #expect(try await harness.ready().address == "127.0.0.1:\(try live.address.port ?? 0)")
        var nowhere = try await OutboundHarness(.test([]), .test())
        #expect(try await nowhere.closed()?.phase == .routing)
        try await live.close()
    }
}
