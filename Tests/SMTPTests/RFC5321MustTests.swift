import Mail
import SMTP
import Testing

/// What RFC 5321 says a server MUST do, with what is sent to see it done.
@Suite("RFC 5321: what a server MUST do")
struct RFC5321MustTests {
    /// One requirement: the lines sent to a fresh session after its greeting, and the codes that must come back.
    struct Must: Sendable, CustomTestStringConvertible {
        var section: String
        var requirement: String
        var sent: String
        var codes: [Int]

        init(_ section: String, _ requirement: String, _ sent: String, _ codes: [Int]) {
            self.section = section
            self.requirement = requirement
            self.sent = sent
            self.codes = codes
        }

        var testDescription: String { "§\(self.section) \(self.requirement)" }
    }

    private static let hello = "EHLO c.example\r\n"
    private static let open = hello + "MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\n"
    private static let longLocalPart = String(repeating: "l", count: 64)
    private static let longDomain =
        String(repeating: "d", count: 63) + "." + String(repeating: "e", count: 63) + ".example"

    private static let longPath = longLocalPart.dropLast(4) + "@" + String(repeating: "d.", count: 96)

    static let musts: [Must] = [
        Must(
            "2.3.8",
            "CR and LF alone are no line ends in content",
            open + "DATA\r\na\n.\r\nb\r\n.\r\n",
            [250, 250, 250, 354, 550]
        ),
        Must("2.3.8", "LF alone ends no command", "NOOP\n", [500]),
        Must(
            "2.4",
            "verbs are not case sensitive",
            "eHlO c.example\r\nmAiL fRoM:<a@b.example>\r\nrCpT tO:<b@example.com>\r\n",
            [250, 250, 250]
        ),
        Must(
            "3.1",
            "a server greets with 220 (checked by the other tests) and takes QUIT at any time",
            "QUIT\r\n",
            [221]
        ),
        Must("3.3", "MAIL is 503 while a transaction is open", open + "MAIL FROM:<>\r\n", [250, 250, 250, 503]),
        Must("3.3", "RCPT is 503 without MAIL", hello + "RCPT TO:<b@example.com>\r\n", [250, 503]),
        Must("3.3", "DATA is 503 without MAIL", hello + "DATA\r\n", [250, 503]),
        Must("3.3", "DATA fails without a valid recipient", hello + "MAIL FROM:<>\r\nDATA\r\n", [250, 250, 554]),
        Must(
            "3.3",
            "source routes are accepted",
            hello + "MAIL FROM:<@x.example:a@b.example>\r\nRCPT TO:<@x.example,@y.example:b@example.com>\r\n",
            [250, 250, 250]
        ),
        Must("3.5.3", "252 for VRFY that is not verified", "VRFY someone\r\n", [252]),
        Must(
            "3.6.1",
            "relaying may be refused, with 550",
            hello + "MAIL FROM:<>\r\nRCPT TO:<a@elsewhere.example>\r\n",
            [250, 250, 550]
        ),
        Must("4.1.1.1", "EHLO clears all state, as RSET", open + hello + "DATA\r\n", [250, 250, 250, 250, 503]),
        Must(
            "4.1.1.1",
            "HELO is supported",
            "HELO c.example\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n.\r\n",
            [250, 250, 250, 354, 250]
        ),
        Must("4.1.1.1", "the state is ready after EHLO, so that MAIL follows", hello + "MAIL FROM:<>\r\n", [250, 250]),
        Must("4.1.1.2", "the null reverse-path is accepted", hello + "MAIL FROM:<>\r\n", [250, 250]),
        Must(
            "4.1.1.3",
            "a bare Postmaster is accepted, in any case",
            hello + "MAIL FROM:<>\r\nRCPT TO:<PostMaster>\r\n",
            [250, 250, 250]
        ),
        Must(
            "4.1.1.4",
            "buffers are cleared after end of data",
            open + "DATA\r\n.\r\nRCPT TO:<b@example.com>\r\n",
            [250, 250, 250, 354, 250, 503]
        ),
        Must(
            "4.1.1.4",
            "only CRLF.CRLF ends content",
            open + "DATA\r\na.\r\n .\r\n.a\r\n..\r\n.\r\n",
            [250, 250, 250, 354, 250]
        ),
        Must(
            "4.1.1.5",
            "RSET discards the transaction and has no effect otherwise",
            open + "RSET\r\nRSET\r\nMAIL FROM:<>\r\n",
            [250, 250, 250, 250, 250, 250]
        ),
        Must("4.1.1.5", "RSET takes no arguments", "RSET x\r\n", [501]),
        Must(
            "4.1.1.9",
            "NOOP changes nothing, and its argument is ignored",
            open + "NOOP whatever <>\r\nDATA\r\n",
            [250, 250, 250, 250, 354]
        ),
        Must("4.1.1.10", "QUIT is answered 221 and the channel closes", open + "QUIT\r\n", [250, 250, 250, 221]),
        Must(
            "4.1.1.11",
            "parameters that are not known are 555",
            hello + "MAIL FROM:<> FOO=1\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.com> FOO\r\n",
            [250, 555, 250, 555]
        ),
        Must(
            "4.1.2",
            "quoted local parts are understood",
            hello + "MAIL FROM:<\"a b\"@b.example>\r\nRCPT TO:<\"x\\@y\"@example.com>\r\n",
            [250, 250, 250]
        ),
        Must(
            "4.1.2",
            "control characters in a command are 501",
            hello + "MAIL FROM:<a\u{1}b@c.example>\r\nVRFY \u{7f}\r\n",
            [250, 501, 501]
        ),
        Must(
            "4.1.2",
            "octets above 127 in a path are refused without SMTPUTF8, with the 553 of RFC 6531",
            hello + "MAIL FROM:<\u{fc}@b.example>\r\n",
            [250, 553]
        ),
        Must(
            "4.1.3",
            "address literals are understood",
            "EHLO [192.0.2.1]\r\nMAIL FROM:<a@[IPv6:2001:db8::1]>\r\n",
            [250, 250]
        ),
        Must("4.1.4", "a session without EHLO may not send mail", "MAIL FROM:<>\r\n", [503]),
        Must(
            "4.1.4",
            "NOOP, HELP, EXPN, VRFY, RSET need no EHLO",
            "NOOP\r\nHELP\r\nEXPN x\r\nVRFY x\r\nRSET\r\n",
            [250, 214, 502, 252, 250]
        ),
        Must(
            "4.1.4",
            "the name in EHLO is not verified to refuse mail",
            "EHLO does.not.resolve.invalid\r\nMAIL FROM:<>\r\n",
            [250, 250]
        ),
        Must(
            "4.1.4",
            "EHLO with a bad argument is 501 and leaves the state as it was",
            open + "EHLO\r\nDATA\r\n",
            [250, 250, 250, 501, 354]
        ),
        Must(
            "4.1.4",
            "MAIL with a bad argument is 501 and leaves the state as it was",
            hello + "MAIL FROM:<a@b@c>\r\nMAIL FROM:<>\r\n",
            [250, 501, 250]
        ),
        Must(
            "4.1.4",
            "commands out of order are 503 and leave the state as it was",
            hello + "RCPT TO:<b@example.com>\r\nDATA\r\nMAIL FROM:<>\r\nMAIL FROM:<>\r\n"
                + "RCPT TO:<b@example.com>\r\nDATA\r\n",
            [250, 503, 503, 250, 503, 250, 354]
        ),
        Must(
            "4.1.1.10",
            "an error does not close the channel",
            hello + "FOO\r\nMAIL\r\nDATA x\r\nNOOP\r\n",
            [250, 500, 501, 501, 250]
        ),
        Must(
            "4.2.4",
            "502 for a command known and not implemented, 500 for one unknown",
            "EXPN x\r\nTURN\r\n",
            [502, 500]
        ),
        Must(
            "4.3.2",
            "syntax errors in arguments are 501",
            hello + "MAIL FROM:a@b\r\nMAIL FROM:<a@b@c>\r\n",
            [250, 501, 501]
        ),
        Must(
            "4.5.1",
            "the minimum: EHLO, HELO, MAIL, RCPT, DATA, RSET, NOOP, QUIT, VRFY",
            open
                + "VRFY x\r\nNOOP\r\nRSET\r\nHELO c.example\r\nMAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n.\r\nQUIT\r\n",
            [250, 250, 250, 252, 250, 250, 250, 250, 250, 354, 250, 221]
        ),
        Must(
            "4.5.2",
            "a leading dot is removed, a lone one ends",
            open + "DATA\r\n..\r\n.\r\nNOOP\r\n",
            [250, 250, 250, 354, 250, 250]
        ),
        Must(
            "4.5.3.1.1",
            "local parts of 64 octets",
            hello + "MAIL FROM:<\(longLocalPart)@b.example>\r\nMAIL FROM:<\(longLocalPart)l@b.example>\r\n",
            [250, 250, 501]
        ),
        Must("4.5.3.1.2", "long domains", hello + "MAIL FROM:<a@\(longDomain)>\r\n", [250, 250]),
        Must(
            "4.5.3.1.3",
            "paths of 256 octets",
            hello + "MAIL FROM:<\(longPath)c>\r\nRSET\r\nMAIL FROM:<\(longPath)cc>\r\n",
            [250, 250, 250, 501]
        ),
        Must(
            "4.5.3.1.4",
            "command lines of 512 octets and more",
            "NOOP " + String(repeating: "x", count: 1_500) + "\r\n",
            [250]
        ),
        Must(
            "4.5.3.1.6",
            "text lines of 1,000 octets and more",
            open + "DATA\r\n" + String(repeating: "x", count: 5_000) + "\r\n.\r\n",
            [250, 250, 250, 354, 250]
        ),
        Must(
            "4.5.3.1.7",
            "content of 64K octets and more",
            open + "DATA\r\n" + String(repeating: String(repeating: "x", count: 70) + "\r\n", count: 1_000) + ".\r\n",
            [250, 250, 250, 354, 250]
        ),
        Must(
            "4.5.3.1.8",
            "at least 100 recipients",
            hello + "MAIL FROM:<>\r\n" + String(repeating: "RCPT TO:<b@example.com>\r\n", count: 100),
            [250, 250] + Array(repeating: 250, count: 100)
        ),
        Must(
            "4.5.3.1.10",
            "too many recipients are 452",
            hello + "MAIL FROM:<>\r\n" + String(repeating: "RCPT TO:<b@example.com>\r\n", count: 1_001),
            [250, 250] + Array(repeating: 250, count: 1_000) + [452]
        ),
        Must(
            "7.8",
            "a session may be refused mail for its errors with 421",
            String(repeating: "FOO\r\n", count: 20),
            Array(repeating: 500, count: 19) + [421]
        ),
    ]

    @Test("Requirement", arguments: musts)
    func requirement(_ must: Must) {
        var harness = SessionHarness()
        #expect(harness.codes(must.sent) == must.codes)
    }

    @Test("§3.1: 554 as greeting, then 503 to everything until QUIT")
    func refusedGreeting() {
        var harness = SessionHarness(policy: TestPolicy(connection: .reject(.noService)), isConnected: false)
        #expect(harness.connect().hasPrefix("554 "))
        #expect(harness.codes("EHLO c\r\nNOOP\r\nQUIT\r\n") == [503, 503, 221])
    }

    @Test("§4.1.1.4, §6.1: no 250 after end of data before the message is kept")
    func responsibility() {
        var harness = SessionHarness.greeted()
        harness.holdsPublish = true
        #expect(harness.codes("MAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n.\r\n") == [250, 250, 354])
        #expect(harness.published(as: "X").hasPrefix("250 "))
    }

    @Test("§2.4: the case of a local part is kept, that of a domain is not")
    func localPartCase() {
        var harness = SessionHarness.greeted()
        _ = harness.send("MAIL FROM:<Ab@Example.NET>\r\nRCPT TO:<\"X y\"@EXAMPLE.com>\r\nDATA\r\n.\r\n")
        #expect(harness.messages[0].transaction.reversePath?.description == "Ab@example.net")
        #expect(harness.messages[0].transaction.recipients[0].mailbox.description == "\"X y\"@example.com")
    }

    @Test("§4.2.1: all lines of a reply carry the same code, and only the last a space behind it")
    func multilineReplies() {
        var harness = SessionHarness()
        let lines = harness.send("EHLO c.example\r\n").split(separator: "\r\n")
        #expect(lines.count > 5)
        #expect(lines.dropLast().allSatisfy { $0.hasPrefix("250-") })
        #expect(lines.last?.hasPrefix("250 ") == true)
    }

    @Test("§3.2: HELO is answered in one line, without the extensions")
    func helo() {
        var harness = SessionHarness()
        #expect(harness.send("HELO c.example\r\n") == "250 mx.example.com\r\n")
    }

    /// IANA's registry "SMTP Service Extensions".
    @Test("§2.2.2: every extension that EHLO offers is a registered one")
    func registeredExtensions() {
        let registered: Set<Substring> = [
            "8BITMIME", "AUTH", "CHUNKING", "DSN", "ENHANCEDSTATUSCODES", "LIMITS", "PIPELINING", "SIZE", "SMTPUTF8",
            "STARTTLS",
        ]
        var harness = SessionHarness(.submission, tls: .test)
        let lines = harness.send("EHLO c.example\r\n").split(separator: "\r\n").dropFirst()
        let keywords = lines.map { $0.dropFirst(4).prefix { $0 != " " } }
        #expect(keywords.contains("AUTH") && keywords.contains("PIPELINING"))
        #expect(registered.isSuperset(of: keywords))
    }

    @Test("§4.5.3.1.5: no reply line is longer than 512 octets")
    func replyLines() {
        var harness = SessionHarness()
        let answer = harness.send("EHLO c.example\r\nHELP\r\nVRFY \(String(repeating: "v", count: 1_000))\r\n")
        #expect(answer.split(separator: "\r\n").allSatisfy { $0.utf8.count <= 510 })
    }
}
