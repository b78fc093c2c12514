import Mail
import SMTP
import Testing

/// What RFC 5321 says a client MUST do, as far as no other test of the client shows it.
@Suite("RFC 5321: what a client MUST do")
struct RFC5321ClientMustTests {
    @Test("§4.1.1.1, §4.1.4: EHLO comes first, QUIT comes last, and EHLO gives the configured name")
    func order() {
        var harness = ClientHarness()
        #expect(harness.sent() == "")
        _ = harness.says("220 mx.example\r\n")
        #expect(harness.sent() == "EHLO relay.example\r\n")
        _ = harness.says("250 mx.example\r\n")
        _ = harness.begin(["a@x.example"])
        #expect(harness.sent().hasPrefix("MAIL FROM:"))
        for reply in ["250 ok\r\n", "250 ok\r\n", "354 go\r\n"] { _ = harness.says(reply) }
        _ = harness.session.contentWritten()
        _ = harness.says("250 ok\r\n")
        _ = harness.sent()
        _ = harness.session.quit()
        #expect(harness.sent() == "QUIT\r\n")
        #expect(harness.says("221 bye\r\n") == [.close])
    }

    @Test("§4.1.1.1: EHLO keywords are recognised in any case")
    func keywords() {
        let capabilities = ClientHarness.ready(["pipelining", "Size 1000", "8BitMime", "dSN"]).session.capabilities
        #expect(capabilities.hasPipelining && capabilities.hasEightBitMIME && capabilities.hasNotifications)
        #expect(capabilities.contentSizeMax == 1_000)
    }

    @Test("§4.2, §4.3.2: a code no RFC knows is taken by its first digit", arguments: [259, 299, 477, 499, 577, 599])
    func unknownCodes(code: Int) {
        var harness = ClientHarness.ready()
        _ = harness.begin(["a@x.example", "b@x.example"])
        for reply in ["250 ok\r\n", "250 ok\r\n", "\(code) what\r\n", "354 go\r\n"] { _ = harness.says(reply) }
        _ = harness.session.contentWritten()
        let accepted = ClientRecipientOutcome.accepted(RemoteReply(250, "2.0.0 queued"))
        let refused = ClientRecipientOutcome.failed(ClientFailure(.rcpt, .reply(RemoteReply(code, "what"))))
        let outcome = harness.says("250 2.0.0 queued\r\n").outcome
        #expect(outcome?.recipients == [accepted, code < 300 ? accepted : refused])
    }

    @Test("§4.2, §4.2.1: replies without text, and without the space before it, are replies", arguments: ["", " "])
    func bareCodes(space: String) {
        var harness = ClientHarness()
        #expect(harness.says("220\(space)\r\n") == [.wait])
        #expect(harness.says("250-\r\n250\(space)\r\n") == [.becameReady])
        _ = harness.begin(["a@x.example"])
        #expect(harness.says("250\(space)\r\n") == [.wait])
        #expect(harness.says("250\(space)\r\n") == [.wait])
        #expect(harness.says("354\(space)\r\n") == [.sendContent])
        _ = harness.session.contentWritten()
        #expect(harness.says("250\(space)\r\n").outcome?.recipients.count == 1)
    }

    @Test("§3.3: no content is sent without a 354", arguments: [220, 250, 251, 421, 450, 452, 500, 503, 550, 554])
    func noContent(code: Int) {
        var harness = ClientHarness.ready()
        _ = harness.begin(["a@x.example"])
        for reply in ["250 ok\r\n", "250 ok\r\n"] { _ = harness.says(reply) }
        let actions = harness.says("\(code) no\r\n")
        #expect(!actions.contains(.sendContent))
        guard case .failed? = actions.outcome?.recipients.first else {
            Issue.record("\(actions)")
            return
        }
    }
}
