import Mail
import SMTP
import Testing

@Suite("Server session")
struct ServerSessionTests {
    private static let envelope = "MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\n"

    @Test("A message is published with its envelope, and 250 follows")
    func message() throws {
        var harness = SessionHarness(isConnected: false)
        #expect(harness.connect() == "220 mx.example.com ESMTP\r\n")
        #expect(harness.send("EHLO client.example\r\n").hasPrefix("250-mx.example.com\r\n250-PIPELINING\r\n"))
        #expect(harness.send("MAIL FROM:<a@example.net> SIZE=30 RET=FULL ENVID=x\r\n") == "250 2.1.0 Ok\r\n")
        #expect(harness.send("RCPT TO:<b@example.com> NOTIFY=NEVER\r\n") == "250 2.1.5 Ok\r\n")
        #expect(harness.send("RCPT TO:<c@elsewhere.example>\r\n") == "550 5.7.1 Relaying denied\r\n")
        #expect(harness.send("RCPT TO:<postmaster>\r\n") == "250 2.1.5 Ok\r\n")
        #expect(harness.send("DATA\r\n").hasPrefix("354 "))
        #expect(harness.send("Subject: x\r\n\r\n..y\r\n.\r\n") == "250 2.0.0 Ok: queued as ID1\r\n")
        #expect(harness.send("QUIT\r\n") == "221 2.0.0 Bye\r\n")
        #expect(harness.isClosed)
        let message = try #require(harness.messages.first)
        #expect(message.content == "Subject: x\r\n\r\n.y\r\n")
        #expect(message.transaction.contentSize == message.content.utf8.count)
        #expect(message.transaction.reversePath?.description == "a@example.net")
        #expect(
            message.transaction.recipients.map(\.mailbox.description) == ["b@example.com", "postmaster@mx.example.com"]
        )
        #expect(message.transaction.recipients.map(\.index) == [0, 1])
        #expect(message.transaction.recipients[0].notify == .never)
        #expect(message.transaction.returnContent == .full)
        #expect(message.transaction.envelopeID == "x")
        #expect(message.transaction.origin.transmissionType == "ESMTP")
        #expect(message.transaction.origin.clientName == "client.example")
    }

    @Test("EHLO lists what is honoured")
    func extensions() {
        var harness = SessionHarness()
        let reply = harness.send("EHLO c.example\r\n")
        for line in [
            "PIPELINING", "SIZE 1000000", "8BITMIME", "ENHANCEDSTATUSCODES", "SMTPUTF8", "CHUNKING", "DSN", "STARTTLS",
            "LIMITS RCPTMAX=1000 MAILMAX=1000",
        ] {
            #expect(reply.contains("-\(line)\r\n") || reply.contains(" \(line)\r\n"), "\(line)")
        }
        #expect(!reply.contains("AUTH"))
    }

    @Test("A pipelined group gives the same answers at every split point")
    func pipelined() {
        let text =
            Self.envelope + "RCPT TO:<x@elsewhere.example>\r\nDATA\r\nhello\r\n.\r\n" + Self.envelope
            + "BDAT 6\r\nabcd\r\nBDAT 4 LAST\r\nef\r\nNOOP\r\nRSET\r\nQUIT\r\n"
        var whole = SessionHarness.greeted()
        let expected = whole.send(text)
        #expect(whole.messages.map(\.content) == ["hello\r\n", "abcd\r\nef\r\n"])
        let octets = Array(text.utf8)
        for split in 0...octets.count {
            var harness = SessionHarness.greeted()
            let answer = harness.send(Array(octets[..<split])) + harness.send(Array(octets[split...]))
            #expect(answer == expected, "split at \(split)")
            #expect(harness.messages == whole.messages)
        }
        var trickled = SessionHarness.greeted()
        var answer = ""
        for octet in octets { answer += trickled.send([octet]) }
        #expect(answer == expected)
    }

    @Test("Commands behind the end of data wait until the message is durable")
    func publishHolds() {
        var harness = SessionHarness.greeted()
        harness.holdsPublish = true
        #expect(harness.codes(Self.envelope + "DATA\r\nx\r\n.\r\nNOOP\r\n") == [250, 250, 354])
        #expect(harness.session.isWaiting)
        #expect(harness.send("QUIT\r\n") == "")
        #expect(harness.published(as: "Z") == "250 2.0.0 Ok: queued as Z\r\n250 2.0.0 Ok\r\n221 2.0.0 Bye\r\n")
    }

    @Test("A failed publish is answered and the session goes on")
    func publishFails() {
        var harness = SessionHarness.greeted()
        harness.publishFailure = .notStored
        #expect(harness.codes(Self.envelope + "DATA\r\nx\r\n.\r\n") == [250, 250, 354, 451])
        harness.publishFailure = nil
        #expect(harness.codes(Self.envelope + "DATA\r\nx\r\n.\r\n") == [250, 250, 354, 250])
        harness.publishFailure = .serviceUnavailable
        #expect(harness.codes(Self.envelope + "DATA\r\nx\r\n.\r\nNOOP\r\n") == [250, 250, 354, 421])
        #expect(harness.isClosed)
    }

    static let sequences: [(String, [Int])] = [
        ("MAIL FROM:<a@b.example>\r\n", [503]), ("RCPT TO:<b@example.com>\r\n", [503]), ("DATA\r\n", [503]),
        ("BDAT 5\r\nNOOP\nNOOP\r\n", [503, 250]), ("STARTTLS\r\n", [503]),
        ("RSET\r\nNOOP\r\nHELP\r\nVRFY a\r\nEXPN a\r\n", [250, 250, 214, 252, 502]),
        ("EHLO c\r\nRCPT TO:<b@example.com>\r\nDATA\r\nBDAT 0\r\n", [250, 503, 503, 503]),
        ("EHLO c\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\nDATA\r\nSTARTTLS\r\n", [250, 250, 503, 554, 503]),
        ("EHLO c\r\nMAIL FROM:<>\r\nEHLO c\r\nRCPT TO:<b@example.com>\r\n", [250, 250, 250, 503]),
        ("EHLO c\r\nMAIL FROM:<>\r\nRSET\r\nRCPT TO:<b@example.com>\r\n", [250, 250, 250, 503]),
        ("EHLO c\r\nMAIL FROM:<a@spam.example>\r\nMAIL FROM:<>\r\n", [250, 550, 250]),
        ("EHLO c\r\nMAIL FROM:<> SIZE=1000001\r\n", [250, 552]),
        ("EHLO c\r\nMAIL FROM:<> SIZE=99999999999999999999\r\n", [250, 552]),
        ("EHLO c\r\nMAIL FROM:<> SIZE=1000000\r\n", [250, 250]),
        (
            "EHLO c\r\nMAIL FROM:<\u{fc}@b.example>\r\nMAIL FROM:<\u{fc}@b.example> SMTPUTF8\r\nRCPT TO:<\u{fc}@example.com>\r\n",
            [250, 553, 250, 250]
        ),
        (
            "EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<\u{fc}@example.com>\r\nRCPT TO:<a@\u{fc}.example>\r\n",
            [250, 250, 553, 553]
        ),
        (
            "HELO c\r\nMAIL FROM:<> SIZE=5\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.com> NOTIFY=NEVER\r\nAUTH PLAIN\r\n",
            [250, 555, 250, 555, 503]
        ),
        ("EHLO c\r\nAUTH PLAIN\r\n", [250, 502]),
        (
            "EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nBDAT 2\r\nhiMAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nNOOP\r\nRSET\r\nBDAT 0 LAST\r\n",
            [250, 250, 250, 250, 503, 503, 503, 250, 250, 503]
        ),
        ("NOOP\nNOOP\r\n", [500, 250]), (String(repeating: "x", count: 2_100) + "\r\nNOOP\r\n", [500, 250]),
        ("FOO\r\n\r\n", [500, 500]),
    ]

    @Test("Every command has its answer in every state", arguments: sequences)
    func sequence(text: String, codes: [Int]) {
        var harness = SessionHarness()
        #expect(harness.codes(text) == codes)
        #expect(!harness.isClosed)
    }

    @Test("Content with a bare line feed is refused at its true end, and nothing in it becomes a command")
    func smuggling() {
        var harness = SessionHarness.greeted()
        let text = Self.envelope + "DATA\r\nx\n.\r\nMAIL FROM:<evil@example.com>\r\n.\r\nNOOP\r\n"
        #expect(harness.codes(text) == [250, 250, 354, 550, 250])
        #expect(harness.messages.isEmpty && harness.discardCount == 1)
        #expect(harness.codes(Self.envelope + "BDAT 3 LAST\r\na\nbNOOP\r\n") == [250, 250, 550, 250])
    }

    @Test("552 5.3.4 at the end of content that is too large")
    func contentTooLarge() {
        var harness = SessionHarness.greeted(.test(rules: ContentRules(sizeMax: 10)))
        let answer = harness.send(Self.envelope + "DATA\r\n01234567890\r\n.\r\nNOOP\r\n")
        #expect(answer.hasSuffix("552 5.3.4 Message size exceeds fixed limit\r\n250 2.0.0 Ok\r\n"))
        #expect(
            harness.codes(Self.envelope + "BDAT 8\r\n01234567BDAT 8\r\n01234567BDAT 1 LAST\r\nxNOOP\r\n") == [
                250, 250, 250, 552, 503, 250,
            ]
        )
        #expect(harness.codes(Self.envelope + "BDAT 11\r\n01234567890NOOP\r\n") == [250, 250, 552, 250])
        #expect(harness.messages.isEmpty)
    }

    @Test(
        "A chunk whose size cannot be known or borne closes the session",
        arguments: ["BDAT x", "BDAT 9999999999", "BDAT 99999999999999999999 LAST"]
    )
    func unusableChunk(line: String) {
        var harness = SessionHarness.greeted()
        #expect(harness.codes(Self.envelope + line + "\r\nMAIL FROM:<evil@example.com>\r\n").count == 3)
        #expect(harness.isClosed)
    }

    @Test("BDAT 0 LAST ends a message, also an empty one")
    func emptyLastChunk() {
        var harness = SessionHarness.greeted()
        #expect(harness.codes(Self.envelope + "BDAT 3\r\nabcBDAT 0 LAST\r\n") == [250, 250, 250, 250])
        #expect(harness.codes(Self.envelope + "BDAT 0 LAST\r\n") == [250, 250, 250])
        #expect(harness.messages.map(\.content) == ["abc", ""])
    }

    @Test("RSET between chunks forgets the content")
    func resetBetweenChunks() {
        var harness = SessionHarness.greeted()
        #expect(
            harness.codes(Self.envelope + "BDAT 3\r\nabcRSET\r\n" + Self.envelope + "BDAT 3 LAST\r\ndef") == [
                250, 250, 250, 250, 250, 250, 250,
            ]
        )
        #expect(harness.discardCount == 1)
        #expect(harness.messages.map(\.content) == ["def"])
    }

    @Test("452 4.5.3 beyond the limit of recipients, and the transaction goes on")
    func recipientLimit() {
        var harness = SessionHarness.greeted(.test(limits: .init(recipientCountMax: 100)))
        _ = harness.send("MAIL FROM:<>\r\n")
        for _ in 0..<100 { #expect(harness.codes("RCPT TO:<b@example.com>\r\n") == [250]) }
        #expect(harness.send("RCPT TO:<b@example.com>\r\n").hasPrefix("452 4.5.3"))
        #expect(harness.codes("DATA\r\n.\r\n") == [354, 250])
        #expect(harness.messages[0].transaction.recipients.count == 100)
    }

    @Test("421 when there are too many messages, errors or idle commands")
    func sessionLimits() {
        var messages = SessionHarness.greeted(.test(limits: .init(messageCountMax: 1)))
        #expect(messages.codes(Self.envelope + "DATA\r\n.\r\nMAIL FROM:<>\r\nNOOP\r\n") == [250, 250, 354, 250, 421])
        var errors = SessionHarness.greeted(.test(limits: .init(errorCountMax: 3)))
        #expect(errors.codes("A\r\nB\r\nC\r\nD\r\n") == [500, 500, 421])
        var idle = SessionHarness.greeted(.test(limits: .init(junkCommandCountMax: 3)))
        #expect(idle.codes("NOOP\r\nRSET\r\nNOOP\r\n") == [250, 250, 421])
        #expect(messages.isClosed && errors.isClosed && idle.isClosed)
    }

    @Test("501 for an ORCPT that is not ASCII, unless MAIL said SMTPUTF8 (RFC 6533 §3)")
    func refusesEightBitOriginalRecipient() {
        let recipient = "RCPT TO:<b@example.com> ORCPT=utf-8;j\u{f6}rg@b.example\r\n"
        var plain = SessionHarness.greeted()
        #expect(plain.codes("MAIL FROM:<a@b.example>\r\n" + recipient) == [250, 501])
        let encoded = "RCPT TO:<b@example.com> ORCPT=utf-8;j\\x{F6}rg@b.example\r\n"
        #expect(plain.codes(encoded + "DATA\r\n.\r\n") == [250, 354, 250])
        #expect(plain.messages[0].transaction.recipients[0].originalRecipient == "utf-8;j\\x{F6}rg@b.example")
        #expect(plain.codes("MAIL FROM:<a@b.example> SMTPUTF8\r\n" + recipient) == [250, 250])
    }

    @Test("421 after many replies of 4yz, which are no progress; as many recipients too many as allowed are free")
    func boundsTemporaryRefusals() {
        // EHLO is the first.
        let limits = ServerConfiguration.Limits(recipientCountMax: 100, junkCommandCountMax: 3)
        let policy = TestPolicy(content: .reject(.notStored))
        var refused = SessionHarness.greeted(.test(limits: limits), policy: policy)
        for _ in 0..<2 { #expect(refused.codes(Self.envelope + "DATA\r\n") == [250, 250, 451]) }
        #expect(refused.codes(Self.envelope + "DATA\r\n") == [250, 250, 421])

        var overshooting = SessionHarness.greeted(.test(limits: limits))
        #expect(overshooting.codes("MAIL FROM:<a@b.example>\r\n") == [250])
        let recipient = "RCPT TO:<r@example.com>\r\n"
        let codes = overshooting.codes(String(repeating: recipient, count: 200))
        #expect(codes == Array(repeating: 250, count: 100) + Array(repeating: 452, count: 100))
        #expect(overshooting.codes("DATA\r\n.\r\n") == [354, 250])
        #expect(overshooting.codes("MAIL FROM:<a@b.example>\r\n") == [250])
        _ = overshooting.codes(String(repeating: recipient, count: 200))
        #expect(overshooting.codes(String(repeating: recipient, count: 4)) == [452, 452, 452, 421])
    }

    @Test("STARTTLS drops what was pipelined behind it and forgets what was said before")
    func startTLS() {
        var harness = SessionHarness.greeted()
        // CVE-2011-0411.
        #expect(harness.codes("STARTTLS\r\nEHLO evil.example\r\nMAIL FROM:<a@b.example>\r\n") == [220])
        #expect(harness.session.facts.clientName == "")
        #expect(harness.codes("MAIL FROM:<>\r\n") == [503])
        let reply = harness.send("EHLO c.example\r\n")
        #expect(!reply.contains("STARTTLS"))
        #expect(harness.codes("STARTTLS\r\n" + Self.envelope + "DATA\r\n.\r\n") == [503, 250, 250, 354, 250])
        #expect(harness.messages[0].transaction.transmissionType == "ESMTPS")
    }

    @Test("STARTTLS is 502 without a certificate, and MAIL is 530 where TLS is demanded")
    func tlsRules() {
        var without = SessionHarness.greeted(.test(isTLSAvailable: false))
        #expect(without.codes("STARTTLS\r\n") == [502])
        var required = SessionHarness.greeted(.test(isTLSRequired: true))
        #expect(required.send("MAIL FROM:<>\r\n").hasPrefix("530 5.7.0"))
        #expect(required.codes("RCPT TO:<b@example.com>\r\nVRFY a\r\nNOOP\r\n") == [530, 530, 250])
    }

    @Test("554 in place of a greeting is followed by 503 until QUIT")
    func refusedConnection() {
        var harness = SessionHarness(policy: TestPolicy(connection: .reject(.noService)), isConnected: false)
        #expect(harness.connect().hasPrefix("554 5.7.1"))
        #expect(harness.codes("EHLO c\r\nMAIL FROM:<>\r\nBDAT 3\r\nabcNOOP\r\nQUIT\r\n") == [503, 503, 503, 503, 221])
        #expect(harness.isClosed)
        var closed = SessionHarness(policy: TestPolicy(connection: .close(.serviceUnavailable)), isConnected: false)
        #expect(closed.connect().hasPrefix("421"))
        #expect(closed.isClosed && closed.send("EHLO c\r\n") == "")
    }

    @Test("Policy may refuse EHLO and the start of content")
    func policyVerdicts() {
        var hello = SessionHarness(policy: TestPolicy(hello: .reject(.noService)))
        #expect(hello.codes("EHLO c\r\nMAIL FROM:<>\r\n") == [554, 503])
        var content = SessionHarness.greeted(policy: TestPolicy(content: .reject(.insufficientStorage)))
        #expect(content.codes(Self.envelope + "DATA\r\n") == [250, 250, 452])
        #expect(content.codes(Self.envelope + "BDAT 3\r\nabcBDAT 1 LAST\r\ndNOOP\r\n") == [250, 250, 452, 503, 250])
    }

    @Test("A timeout closes with 421, after the answer to a message that is being published")
    func interruption() {
        var idle = SessionHarness.greeted()
        #expect(idle.interrupted(by: .timedOut).hasPrefix("421 4.4.2"))
        #expect(idle.isClosed)
        var publishing = SessionHarness.greeted()
        publishing.holdsPublish = true
        _ = publishing.send(Self.envelope + "DATA\r\n.\r\n")
        #expect(publishing.interrupted(by: .shuttingDown) == "")
        #expect(publishing.published(as: "Z").hasPrefix("250 2.0.0 Ok: queued as Z\r\n421 4.3.2"))
        #expect(publishing.isClosed)
    }

    @Test("Random input never traps", arguments: 0..<200 as Range<UInt64>)
    func fuzz(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        let pieces = [
            "EHLO c\r\n", "HELO c\r\n", "MAIL FROM:<>\r\n", "MAIL FROM:<a@b.example> SMTPUTF8\r\n",
            "RCPT TO:<b@example.com>\r\n",
            "DATA\r\n", "BDAT 5\r\n", "BDAT 3 LAST\r\n", "BDAT 0 LAST\r\n", "RSET\r\n", "STARTTLS\r\n",
            "AUTH PLAIN\r\n",
            "AUTH LOGIN dXNlcg==\r\n", "AUTH SCRAM-SHA-256 biwsbj1hLHI9Yg==\r\n", "*\r\n", "AGEAYg==\r\n",
            "c=biws,r=b,p=\r\n", "\r\n.\r\n",
            ".", "\n", "\r", "abc", "\0", "\u{ff}", "QUIT", "\r\n",
        ]
        let limits = ServerConfiguration.Limits(
            errorCountMax: 1_000,
            junkCommandCountMax: 1_000,
            authenticationFailureCountMax: 100
        )
        let authentication = ServerConfiguration.Authentication(
            isRequired: false,
            isAllowedWithoutTLS: true,
            dummySecret: [1],
            dummyIterations: 1
        )
        let configuration = ServerConfiguration.test(
            authentication: authentication,
            limits: limits,
            rules: ContentRules(sizeMax: 50, discardCountMax: 100)
        )
        var harness = SessionHarness(configuration)
        var answers = ""
        for _ in 0..<60 where !harness.isClosed {
            let piece = Array((pieces.randomElement(using: &random) ?? "").utf8)
            let split = Int.random(in: 0...piece.count, using: &random)
            answers += harness.send(Array(piece[..<split])) + harness.send(Array(piece[split...]))
        }
        #expect(answers.isEmpty || answers.hasSuffix("\r\n"))
    }
}
