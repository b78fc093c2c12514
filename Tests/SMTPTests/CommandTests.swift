import Mail
import SMTP
import Testing

private func parse(_ line: String) -> Result<Command, CommandError> {
    Array(line.utf8)
        .withUnsafeBytes { octets in
            do throws(CommandError) {
                return .success(try Command(line: octets))
            } catch {
                return .failure(error)
            }
        }
}

@Suite("Commands")
struct CommandTests {
    static let simple: [(String, Command)] = [
        ("EHLO client.example", .ehlo(clientName: "client.example")),
        ("ehlo [192.0.2.1]", .ehlo(clientName: "[192.0.2.1]")),
        ("HELO [IPv6:2001:db8::1]", .helo(clientName: "[IPv6:2001:db8::1]")),
        ("HeLo my_pc", .helo(clientName: "my_pc")),
        ("DATA", .data), ("data  ", .data), ("RSET", .rset), ("QUIT", .quit), ("STARTTLS", .startTLS),
        ("NOOP anything at all", .noop), ("HELP MAIL", .help), ("VRFY someone", .vrfy), ("EXPN list", .expn),
        ("BDAT 10", .bdat(size: 10, isLast: false)), ("BDAT 0 LAST", .bdat(size: 0, isLast: true)),
        ("bdat 86 last", .bdat(size: 86, isLast: true)),
        ("AUTH plain", .auth(mechanism: "PLAIN", initialResponse: nil)),
        ("AUTH PLAIN =", .auth(mechanism: "PLAIN", initialResponse: [0x3d])),
    ]

    @Test("Commands are read without regard to case", arguments: simple)
    func checkSimple(line: String, command: Command) {
        #expect(parse(line) == .success(command))
    }

    static let errors: [(String, String)] = [
        ("", "500 5.5.1"), ("FOO", "500 5.5.1"), ("LHLO a.example", "500 5.5.1"), ("MAILFROM:<a@b.c>", "500 5.5.1"),
        ("NOOP\0", "501 5.5.2"), ("NO\rOP", "501 5.5.2"), ("NOOP \u{7f}", "501 5.5.2"),
        ("EHLO", "501 "), ("EHLO a b", "501 "), ("EHLO \u{e4}.example", "501 "), ("EHLO []", "501 "),
        ("HELO a<b>", "501 "), ("EHLO " + String(repeating: "a", count: 256), "501 "),
        ("DATA now", "501 5.5.4"), ("QUIT now", "501 5.5.4"), ("RSET x", "501 5.5.4"), ("STARTTLS x", "501 5.5.4"),
        ("MAIL", "501 5.5.4"), ("MAIL FROM", "501 5.5.4"), ("MAIL FROM:", "501 5.1.7"),
        ("MAIL TO:<a@b.c>", "501 5.5.4"),
        ("MAIL FROM:a@b.example", "501 5.1.7"), ("MAIL FROM:<a@b.example", "501 5.1.7"),
        ("MAIL FROM:<a@b.example>SIZE=1", "501 5.5.4"), ("MAIL FROM:<Postmaster>", "501 5.1.7"),
        ("MAIL FROM:<a@b.example> SIZE", "501 5.5.4"), ("MAIL FROM:<a@b.example> SIZE=", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> SIZE=-1", "501 5.5.4"), ("MAIL FROM:<a@b.example> SIZE=1x", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> SIZE=999999999999999999999", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> SIZE=1 SIZE=1", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> BODY=BINARYMIME", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> SMTPUTF8=1", "501 5.5.4"), ("MAIL FROM:<a@b.example> FOO=1", "555 5.5.4"),
        ("MAIL FROM:<a@b.example> RET=ALL", "501 5.5.4"), ("MAIL FROM:<a@b.example> ENVID=a+2", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> ENVID=a+0A", "501 5.5.4"), ("MAIL FROM:<a@b.example> ENVID=a=b", "501 5.5.4"),
        ("MAIL FROM:<a@b.example> ENVID=" + String(repeating: "a", count: 101), "501 5.5.4"),
        ("MAIL FROM:<a@b.example> =1", "501 5.5.4"), ("MAIL FROM:<a@b.example> -A=1", "501 5.5.4"),
        ("RCPT TO:<>", "501 5.1.3"), ("RCPT TO:<a>", "501 5.1.3"), ("RCPT FROM:<a@b.c>", "501 5.5.4"),
        ("RCPT TO:<a@b.example> NOTIFY=NEVER,DELAY", "501 5.5.4"), ("RCPT TO:<a@b.example> NOTIFY=", "501 5.5.4"),
        ("RCPT TO:<a@b.example> NOTIFY=SUCCESS,", "501 5.5.4"), ("RCPT TO:<a@b.example> ORCPT=a@b", "501 5.5.4"),
        ("RCPT TO:<a@b.example> ORCPT=rfc822;a+zz", "501 5.5.4"), ("RCPT TO:<a@b.example> SIZE=1", "555 5.5.4"),
        ("BDAT", "501 5.5.4"), ("BDAT x", "501 5.5.4"), ("BDAT -1 LAST", "501 5.5.4"), ("BDAT 1 FIRST", "501 5.5.4"),
        ("BDAT 1 LAST x", "501 5.5.4"), ("BDAT 99999999999999999999999999 LAST", "552 5.3.4"),
        ("BDAT 9223372036854775807", "552 5.3.4"),
        ("AUTH", "501 5.5.4"), ("AUTH PLAIN a b", "501 5.5.4"),
    ]

    @Test("What is wrong with a command is answered precisely", arguments: errors)
    func checkErrors(line: String, expected: String) {
        guard case .failure(let error) = parse(line) else {
            Issue.record("\(line) was accepted")
            return
        }
        #expect("\(error.reply)".hasPrefix(expected), "\(error.reply)")
    }

    @Test("MAIL takes all parameters of its extensions")
    func mailParameters() throws {
        let line =
            "mail from:<a@b.example> size=99999999999999999999 BODY=8bitmime SMTPUTF8 RET=hdrs ENVID=a+2Bb+20c AUTH=<>"
        guard case .mail(let arguments) = try parse(line).get() else { throw Unexpected() }
        #expect(arguments.reversePath == Mailbox(parsing: "a@b.example"))
        #expect(arguments.size == Int.max)
        #expect(arguments.bodyType == .eightBitMIME)
        #expect(arguments.isInternationalized && arguments.hasParameters)
        #expect(arguments.returnContent == .headers)
        #expect(arguments.envelopeID == "a+b c")
        #expect(arguments.submitter == "")
    }

    @Test("RCPT takes the parameters of DSN")
    func rcptParameters() throws {
        let line = "RCPT TO: <a@b.example> NOTIFY=success,DELAY ORCPT=rfc822;a+2Bx@b.example"
        guard case .rcpt(let arguments) = try parse(line).get() else { throw Unexpected() }
        #expect(arguments.notify == [.success, .delay])
        #expect(arguments.originalRecipient == "rfc822;a+2Bx@b.example")
    }

    @Test("Postmaster needs no domain")
    func postmaster() throws {
        guard case .rcpt(let arguments) = try parse("RCPT TO:<pOSTMASTER>").get() else { throw Unexpected() }
        #expect(arguments.forwardPath == .postmaster)
    }

    static let paths: [(String, String?)] = [
        ("<a@b.example>", "a@b.example"),
        ("<@x.example,@y.example:a@b.example>", "a@b.example"),
        ("<@x.example:\"a>b\"@b.example>", "\"a>b\"@b.example"),
        ("<\"a\\\">b\"@b.example>", "\"a\\\">b\"@b.example"),
        ("<@x.example a@b.example>", nil), ("<@:a@b.example>", nil), ("<x.example:a@b.example>", nil),
        ("<@x.example,y.example:a@b.example>", nil), ("<a@b.example>>", nil), ("<<a@b.example>>", nil),
        (
            "<" + String(repeating: "a", count: 60) + "@" + String(repeating: "b.", count: 96) + "c>",
            String(repeating: "a", count: 60) + "@" + String(repeating: "b.", count: 96) + "c"
        ),
        ("<" + String(repeating: "a", count: 60) + "@" + String(repeating: "b.", count: 97) + "c>", nil),
        // 139 octets as they come, and 264 as A-labels.
        ("<" + String(repeating: "a", count: 60) + "@" + String(repeating: "\u{fc}.", count: 25) + "c>", nil),
    ]

    @Test("Source routes are dropped, quotes hide brackets, and paths have 256 octets at most", arguments: paths)
    func checkPaths(path: String, expected: String?) {
        var found: String?
        if case .success(.rcpt(let arguments)) = parse("RCPT TO:\(path)"),
            case .mailbox(let mailbox) = arguments.forwardPath
        {
            found = mailbox.description
        }
        #expect(found == expected)
    }

    @Test("Random octets never trap", arguments: 0..<500 as Range<UInt64>)
    func fuzz(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        let starts = [
            "", "MAIL FROM:<", "RCPT TO:<\"", "BDAT ", "AUTH ", "EHLO [", "MAIL FROM:<a@b.c> ", "RCPT TO:<a@[IPv6:",
        ]
        let alphabet = Array("<>@\"\\.:,[]= +;0123456789abIPv6:SIZE=ENVIDNOTIFY".utf8) + [0x80, 0xc3, 0xa4, 0xff]
        for start in starts {
            let tail = (0..<Int.random(in: 0...40, using: &random))
                .map { _ in alphabet.randomElement(using: &random) ?? 0 }
            let line = Array(start.utf8) + tail
            line.withUnsafeBytes { octets in
                do throws(CommandError) {
                    _ = try Command(line: octets)
                } catch {
                    #expect(error.reply.isPermanentNegative)
                }
            }
        }
    }
}

struct Unexpected: Error {}
