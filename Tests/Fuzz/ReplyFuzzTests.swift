import Mail
import Testing

@testable import SMTP

/// What a server answers, read by a client.
@Suite("Fuzz: replies and what they say")
struct ReplyFuzzTests {
    private static let hellos = [
        "250-mx.example greets\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-AUTH PLAIN LOGIN SCRAM-SHA-256\r\n250 DSN\r\n",
        "250-mx\r\n250-SIZE 99999999999999999999\r\n250-LIMITS RCPTMAX=20 MAILMAX=0 X=\r\n250 AUTH=LOGIN PLAIN\r\n",
        "250-mx\n250-8BITMIME\n250-STARTTLS\n250 SMTPUTF8\n", "250 \r\n", "250\r\n",
    ]

    /// Goal: no answer to EHLO traps or gives a bound of nothing, and the case of its words means nothing.
    @Test("Capabilities are within bounds, in any case and any cut", arguments: seeds)
    func capabilities(seed: UInt64) {
        var random = FuzzRandom(seed: seed)
        forEachInput(seed: seed, like: Self.hellos, count: 80) { octets in
            guard let capabilities = Self.capabilities(octets, cuts: []) else { return }
            #expect(capabilities.contentSizeMax.map { $0 > 0 } ?? true)
            #expect(capabilities.recipientCountMax.map { $0 > 0 } ?? true)
            #expect(capabilities.transactionCountMax.map { $0 > 0 } ?? true)
            #expect(Self.capabilities(octets, cuts: random.cuts(of: octets.count)) == capabilities, "\(shown(octets))")
            let lower = octets.map { $0 >= 0x41 && $0 <= 0x5a ? $0 | 0x20 : $0 }
            #expect(Self.capabilities(lower, cuts: []) == capabilities, "\(shown(octets))")
        }
    }

    private static func capabilities(_ octets: [UInt8], cuts: [Int]) -> ClientCapabilities? {
        var parser = ClientReplyParser()
        var start = 0
        for end in cuts + [octets.count] {
            let piece = Array(octets[start..<end])
            start = end
            var position = 0
            switch piece.withUnsafeBytes({ parser.parse($0, at: &position) }) {
            case .needsMore: continue
            case .malformed: return nil
            case .reply: return ClientCapabilities(parser)
            }
        }
        return nil
    }

    @Test("An enhanced status code that is read, written again, is the same code", arguments: seeds)
    func enhancedStatusCodes(seed: UInt64) {
        forEachInput(seed: seed, like: ["2.0.0", "5.7.999", "4.04.1", "5.1.1 No such user"]) { octets in
            guard let code = EnhancedStatusCode(String(decoding: octets, as: UTF8.self)) else { return }
            #expect(EnhancedStatusCode(code.description) == code)
            #expect([2, 4, 5].contains(code.classification) && code.subject <= 999 && code.detail <= 999)
        }
    }

    /// Goal: what a client writes is what a server reads. Method: random envelopes, written by the client's session,
    /// and read as commands.
    @Test("What a client session writes reads as what was to be sent", arguments: seeds)
    func clientCommands(seed: UInt64) throws {
        var random = FuzzRandom(seed: seed)
        let choices: [Recipient.Notify?] = [nil, .never, [.success, .delay], .failure]
        let mailboxes = ["a@example.net", "\"a b\"@[192.0.2.1]", "jürgen@example.org", "x+y=z@xn--bcher-kva.example"]
        for _ in 0..<30 {
            let text = mailboxes.randomElement(using: &random) ?? ""
            let mailbox = try #require(Mailbox(parsing: text))
            let printable = random.text(0...30).unicodeScalars.filter { $0.value >= 32 && $0.value <= 126 }
            let id = String(String.UnicodeScalarView(printable))
            let notify = choices.randomElement(using: &random) ?? nil
            let transaction = ClientTransaction(
                reversePath: Bool.random(using: &random) ? nil : mailbox,
                recipients: [Recipient(mailbox: mailbox, index: 0, notify: notify, originalRecipient: "rfc822;a+20b")],
                contentSize: Int.random(in: 0...Int.max, using: &random),
                envelopeID: id.isEmpty ? nil : id
            )
            let lines = Self.written(transaction)
            guard case .mail(let mail)? = try? Self.parse(lines.first),
                case .rcpt(let rcpt)? = try? Self.parse(lines.last)
            else {
                Issue.record("\(lines)")
                continue
            }
            #expect(mail.reversePath == transaction.reversePath && mail.size == transaction.contentSize)
            #expect(mail.envelopeID == transaction.envelopeID)
            #expect(rcpt.forwardPath == .mailbox(mailbox) && rcpt.notify == notify)
            #expect(rcpt.originalRecipient == "rfc822;a+20b")
        }
    }

    private static func parse(_ line: Substring?) throws -> Command {
        try Array((line ?? "").utf8).withUnsafeBytes { try Command(line: $0) }
    }

    /// MAIL and RCPT as a session that was offered everything writes them.
    private static func written(_ transaction: ClientTransaction) -> [Substring] {
        var session = ClientSession(configuration: ClientConfiguration(name: "relay.example", tls: .never))
        _ = session.connected()
        let hello = "250-mx\r\n250-PIPELINING\r\n250-SIZE\r\n250-DSN\r\n250-SMTPUTF8\r\n250 8BITMIME\r\n"
        for reply in ["220 mx\r\n", hello] {
            let octets = Array(reply.utf8)
            var position = 0
            _ = octets.withUnsafeBytes { session.received($0, at: &position) }
        }
        session.clearOutbound()
        _ = session.begin(transaction)
        return String(decoding: session.outbound, as: UTF8.self).split(separator: "\r\n")
            .filter {
                $0.hasPrefix("MAIL") || $0.hasPrefix("RCPT")
            }
    }
}
