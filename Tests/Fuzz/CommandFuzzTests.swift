import Mail
import SMTP
import Testing

/// What a client sends, read by a server.
@Suite("Fuzz: SMTP commands, lines and proxy headers")
struct CommandFuzzTests {
    private static let lines = [
        "EHLO client.example", "HELO [IPv6:2001:db8::1]", "MAIL FROM:<>", "MAIL FROM:<a.b@example.net> SIZE=99999999",
        "MAIL FROM:<@x.example,@y.example:\"a \\\" b\"@[192.0.2.1]> BODY=8BITMIME RET=HDRS ENVID=a+20b+2B AUTH=<>",
        "MAIL FROM:<jürgen@bücher.example> SMTPUTF8 AUTH=e+3Dmc2@example.com", "RCPT TO:<postmaster>",
        "RCPT TO:<b@example.com> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;b+40example.com",
        "RCPT TO:<b@x.example> NOTIFY=NEVER ORCPT=utf-8;ü@example.com", "DATA", "BDAT 1000 LAST", "BDAT 0", "RSET",
        "NOOP x y z", "HELP", "QUIT", "VRFY someone", "EXPN list", "STARTTLS", "AUTH PLAIN AGEAYg==", "AUTH LOGIN =",
    ]

    /// Goal: no line traps, what is read is within bounds, and written again it reads the same.
    @Test("A command that is read, written again, is the same command", arguments: seeds)
    func commands(seed: UInt64) {
        forEachInput(seed: seed, like: Self.lines) { line in
            guard let command = Self.parse(line), let again = Self.line(command) else { return }
            #expect(Self.parse(Array(again.utf8)) == command, "\(shown(line)) was written \(again.debugDescription)")
            for mailbox in Self.mailboxes(command) {
                #expect(mailbox.localPart.utf8.count <= 64 && mailbox.domain.text.utf8.count <= 255)
                #expect(mailbox.description.utf8.count <= 254, "\(shown(line))")
            }
        }
    }

    private static func parse(_ line: [UInt8]) -> Command? {
        guard let command = try? line.withUnsafeBytes({ try Command(line: $0) }) else { return nil }
        // A domain may have been written with U-labels, and comes out with A-labels.
        switch command {
        case .mail(var arguments):
            arguments.isPathASCII = arguments.reversePath?.isASCII ?? true
            return .mail(arguments)
        case .rcpt(var arguments):
            if case .mailbox(let mailbox) = arguments.forwardPath { arguments.isPathASCII = mailbox.isASCII }
            return .rcpt(arguments)
        default:
            return command
        }
    }

    private static func mailboxes(_ command: Command) -> [Mailbox] {
        switch command {
        case .mail(let arguments): return [arguments.reversePath].compactMap { $0 }
        case .rcpt(let arguments):
            guard case .mailbox(let mailbox) = arguments.forwardPath else { return [] }
            return [mailbox]
        default: return []
        }
    }

    private static func line(_ command: Command) -> String? {
        switch command {
        case .ehlo(let name): return "EHLO \(name)"
        case .helo(let name): return "HELO \(name)"
        case .bdat(let size, let isLast): return "BDAT \(size)" + (isLast ? " LAST" : "")
        case .auth(let mechanism, let response):
            // What is no base 64 is refused later.
            guard mechanism.utf8.allSatisfy({ $0 < 0x80 }), response?.allSatisfy({ $0 < 0x80 }) ?? true else {
                return nil
            }
            return "AUTH \(mechanism)" + (response.map { " " + String(decoding: $0, as: UTF8.self) } ?? "")
        case .mail(let arguments):
            var line = "MAIL FROM:<\(arguments.reversePath?.description ?? "")>"
            if let size = arguments.size { line += " SIZE=\(size)" }
            if let type = arguments.bodyType { line += type == .eightBitMIME ? " BODY=8BITMIME" : " BODY=7BIT" }
            if arguments.isInternationalized { line += " SMTPUTF8" }
            if let content = arguments.returnContent { line += content == .full ? " RET=FULL" : " RET=HDRS" }
            if let id = arguments.envelopeID { line += " ENVID=\(XText.encode(id))" }
            if let submitter = arguments.submitter {
                line += submitter.isEmpty ? " AUTH=<>" : " AUTH=\(XText.encode(submitter))"
            }
            return line
        case .rcpt(let arguments):
            var line = "RCPT TO:<postmaster>"
            if case .mailbox(let mailbox) = arguments.forwardPath { line = "RCPT TO:<\(mailbox)>" }
            if let notify = arguments.notify { line += " NOTIFY=\(Self.words(notify))" }
            if let original = arguments.originalRecipient { line += " ORCPT=\(original)" }
            return line
        case .data, .rset, .noop, .quit, .vrfy, .expn, .help, .startTLS:
            return nil
        }
    }

    private static func words(_ notify: Recipient.Notify) -> String {
        if notify.contains(.never) { return "NEVER" }
        let names: [(Recipient.Notify, String)] = [(.success, "SUCCESS"), (.failure, "FAILURE"), (.delay, "DELAY")]
        return names.filter { notify.contains($0.0) }.map(\.1).joined(separator: ",")
    }

    /// Goal: where the network cuts what a client sends changes nothing, and what waits is bounded.
    @Test("Lines are the same however the octets were cut", arguments: seeds, [false, true])
    func lines(seed: UInt64, isBareLineFeedAllowed: Bool) {
        let vectors = [
            "NOOP\r\nQUIT\r\n", "A\nB\r\n\r\n\n", String(repeating: "x", count: 40) + "\r\nRSET\r\n", "\r\r\n",
        ]
        var random = FuzzRandom(seed: seed)
        forEachInput(seed: seed, like: vectors) { octets in
            let whole = Self.frames(octets, cuts: [], isBareLineFeedAllowed)
            let cuts = random.cuts(of: octets.count)
            #expect(Self.frames(octets, cuts: cuts, isBareLineFeedAllowed) == whole, "\(shown(octets)) at \(cuts)")
            #expect(
                Self.frames(octets, cuts: Array(0...octets.count), isBareLineFeedAllowed) == whole,
                "\(shown(octets))"
            )
        }
    }

    private static let lineCountMax = 32

    private static func frames(_ octets: [UInt8], cuts: [Int], _ isBareLineFeedAllowed: Bool) -> [String] {
        var decoder = CommandLineDecoder(isBareLineFeedAllowed: isBareLineFeedAllowed)
        var frames: [String] = []
        var waiting: [UInt8] = []
        var start = 0
        for end in cuts + [octets.count] {
            waiting += octets[start..<end]
            start = end
            reading: while true {
                switch waiting.withUnsafeBytes({ decoder.next($0, lineCountMax: Self.lineCountMax) }) {
                case .needsMore(let count):
                    waiting.removeFirst(count)
                    #expect(waiting.count < Self.lineCountMax)
                    break reading
                case .line(let count, let consumed):
                    frames.append(String(decoding: waiting[..<count], as: UTF8.self))
                    waiting.removeFirst(consumed)
                case .tooLong(let consumed):
                    frames.append("too long")
                    waiting.removeFirst(consumed)
                case .bareLineFeed(let consumed):
                    frames.append("bare line feed")
                    waiting.removeFirst(consumed)
                }
            }
        }
        return frames
    }

    private static let proxyHeaders: [[UInt8]] = {
        let signature: [UInt8] = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a]
        let addresses: [UInt8] = [192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x34, 0, 25]
        return [
            Array("PROXY TCP4 192.0.2.1 192.0.2.2 56324 25\r\nEHLO x\r\n".utf8),
            Array("PROXY TCP6 2001:db8::1 2001:db8::2 56324 25\r\n".utf8), Array("PROXY UNKNOWN what ever\r\n".utf8),
            signature + [0x21, 0x11, 0, 12] + addresses, signature + [0x20, 0x00, 0, 0],
            signature + [0x21, 0x21, 0, 36] + Array(repeating: 0x20, count: 36),
            signature + [0x21, 0x11, 0, 15] + addresses + [4, 0, 0],
        ]
    }()

    /// Goal: what is decided once is not decided otherwise when more comes, and nothing is taken that did not come.
    @Test("A proxy header is decided once, whatever follows", arguments: seeds)
    func proxyHeader(seed: UInt64) {
        forEachInput(seed: seed, like: Self.proxyHeaders, count: 60) { octets in
            var decided: ProxyHeader.Progress?
            for count in 0...octets.count {
                let progress = octets.withUnsafeBytes { ProxyHeader.parse(.init(rebasing: $0[..<count])) }
                if let decided { #expect(progress == decided, "\(shown(octets)), \(count) octets") }
                switch progress {
                case .needsMore: #expect(count < 4_096)
                case .malformed: decided = progress
                case .complete(let header, let consumedCount):
                    #expect(decided != nil || consumedCount == count, "\(shown(octets))")
                    #expect((header.source == nil) == (header.destination == nil))
                    decided = progress
                }
            }
        }
    }
}
