import Testing

@testable import posthorn

@Suite("sendmail: what programs say and mean")
struct SendmailTests {
    private static let context = SendmailMessage.Context(
        author: "u@h.example",
        fullName: nil,
        date: "D",
        messageID: "i@h.example"
    )
    private static let complete = "From: a@b.example\nDate: D\nMessage-ID: <i>\n"

    private static func message(_ text: String, ignoresDots: Bool = false) -> SendmailMessage {
        SendmailMessage(Array(text.utf8), ignoresDots: ignoresDots, context: Self.context)
    }

    @Test(
        "Recipients are found in every form of RFC 5322",
        arguments: [
            ("a@b.example", ["a@b.example"]),
            (" A B <a@b.example>, c@d.example", ["a@b.example", "c@d.example"]),
            ("\"Last, First\" <a@b.example>", ["a@b.example"]),
            ("a@b.example (one, (two) \\) three), c@d.example", ["a@b.example", "c@d.example"]),
            ("friends: a@b.example, c@d.example;, e@f.example", ["a@b.example", "c@d.example", "e@f.example"]),
            ("undisclosed-recipients:;", []),
            ("\"a, b\"@c.example", ["\"a, b\"@c.example"]),
            ("<@one.example,@two.example:a@b.example>", ["a@b.example"]),
            ("a@[IPv6:::1]", ["a@[IPv6:::1]"]),
            (",, ,", []), ("<", []), ("((((", []), ("\"", ["\""]),
        ]
    )
    func addresses(text: String, expected: [String]) {
        #expect(AddressList.parse(text) == expected)
    }

    @Test("-t reads To, Cc and Bcc, folded lines too, and Bcc does not travel")
    func headerRecipients() {
        let message = Self.message(
            Self.complete
                + "To: a@b.example,\n\tc@d.example\nBcc: secret@e.example,\n more@e.example\nCC: f@g.example\n\nx\n"
        )
        #expect(
            message.headerRecipients
                == ["a@b.example", "c@d.example", "f@g.example", "secret@e.example", "more@e.example"]
        )
        let text = String(decoding: message.octets, as: UTF8.self)
        #expect(!text.contains("e.example"))
        #expect(text.contains("To: a@b.example,\r\n\tc@d.example\r\n"))
    }

    @Test("A resent message goes to its Resent recipients")
    func resent() {
        let message = Self.message(Self.complete + "To: a@b.example\nResent-To: c@d.example\n\nx\n")
        #expect(message.headerRecipients == ["c@d.example"])
    }

    @Test("From, Date and Message-ID are added when they lack, and lines end in CRLF")
    func missingFields() {
        let message = Self.message("Subject: s\n\nbody\rmore\r\n")
        #expect(
            String(decoding: message.octets, as: UTF8.self)
                == "From: u@h.example\r\nDate: D\r\nMessage-ID: <i@h.example>\r\nSubject: s\r\n\r\nbody\r\nmore\r\n"
        )
    }

    @Test("Text without a header section is content")
    func noHeader() {
        let text = String(decoding: Self.message("hello there\nworld\n").octets, as: UTF8.self)
        #expect(text.hasSuffix("\r\n\r\nhello there\r\nworld\r\n"))
    }

    @Test("A dot alone ends the message, unless told otherwise; dots are doubled for DATA")
    func dots() {
        let input = Self.complete + "\none\n.\ntwo\n"
        #expect(String(decoding: Self.message(input).octets, as: UTF8.self).hasSuffix("\r\n\r\none\r\n"))
        let whole = Self.message(input, ignoresDots: true)
        #expect(String(decoding: whole.dataOctets, as: UTF8.self).hasSuffix("\r\none\r\n..\r\ntwo\r\n.\r\n"))
    }

    @Test("The classic command lines are understood")
    func arguments() throws {
        let parsed = try SendmailArguments(parsing: ["-oi", "-t", "-fa@b.example", "-F", "A B", "c@d.example"])
        #expect(parsed.ignoresDots && parsed.readsRecipients && parsed.sender == "a@b.example")
        #expect(parsed.fullName == "A B" && parsed.recipients == ["c@d.example"])
        let more = try SendmailArguments(parsing: [
            "-ti", "-f", "<>", "-N", "success,Delay", "-Rhdrs", "-V", "e", "--", "-x",
        ])
        #expect(more.ignoresDots && more.readsRecipients && more.sender == "" && more.recipients == ["-x"])
        #expect(more.notify == "SUCCESS,DELAY" && more.returnContent == "HDRS" && more.envelopeID == "e")
        let old = try SendmailArguments(parsing: ["-bm", "-odi", "-oem", "-B8BITMIME", "-v", "-U", "x"])
        #expect(old.mode == .deliver && old.recipients == ["x"] && !old.ignoresDots)
        let together = try SendmailArguments(parsing: ["-vt", "-mni", "-Ufa@b.example"])
        #expect(together.readsRecipients && together.ignoresDots && together.sender == "a@b.example")
        #expect(try SendmailArguments(parsing: ["-q30m"]).mode == .runQueue)
        #expect(try SendmailArguments(parsing: ["-I"]).mode == .aliases)
    }

    @Test(
        "What cannot be honoured is a usage error",
        arguments: [
            ["-f"], ["-N", "maybe"], ["-R", "some"], ["--nope"], ["-bd"], ["-bq"], ["-Z"],
        ]
    )
    func usageErrors(arguments: [String]) {
        #expect(throws: SendmailArguments.UsageError.self) { try SendmailArguments(parsing: arguments) }
        #expect(SendmailCommand.run(arguments, environment: [:]) == 64)
    }

    @Test("Addresses get this machine's name, and cannot carry commands")
    func transaction() throws {
        var arguments = SendmailArguments()
        arguments.recipients = ["root", "A <a@b.example>", "root"]
        let transaction = try SendmailCommand.transaction(arguments, input: [], hostname: "h.example")
        #expect(transaction.recipients == ["root@h.example", "a@b.example"])
        #expect(transaction.sender.hasSuffix("@h.example"))
        arguments.sender = "a@b.example>\r\nRCPT TO:<x@y.example"
        #expect(throws: SendmailClient.Failure.self) {
            try SendmailCommand.transaction(arguments, input: [], hostname: "h.example")
        }
        arguments = SendmailArguments()
        #expect(throws: SendmailClient.Failure.self) {
            try SendmailCommand.transaction(arguments, input: [], hostname: "h.example")
        }
    }

    @Test("75 when there is no node to talk to")
    func noNode() {
        let code = SendmailCommand.run(
            ["--server", "127.0.0.1:1", "--config", "/nonexistent", "-bs"],
            environment: [:]
        )
        #expect(code == 75)
    }
}
