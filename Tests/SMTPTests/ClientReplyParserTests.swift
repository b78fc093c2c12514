import SMTP
import Testing

@Suite("Replies of other servers (RFC 5321 §4.2)")
struct ClientReplyParserTests {
    enum Parsed: Equatable {
        case reply(RemoteReply)
        case error(ClientReplyError)
    }

    /// Everything in `octets`, cut into pieces of the given sizes.
    static func parse(_ octets: [UInt8], cuts: [Int] = []) -> [Parsed] {
        var parser = ClientReplyParser()
        var parsed: [Parsed] = []
        var start = 0
        for end in cuts + [octets.count] {
            let isBroken = octets[start..<end]
                .withUnsafeBytes { piece in
                    var position = 0
                    while true {
                        switch parser.parse(piece, at: &position) {
                        case .needsMore:
                            return false
                        case .reply:
                            parsed.append(.reply(parser.makeReply()))
                        case .malformed(let error):
                            parsed.append(.error(error))
                            return true
                        }
                    }
                }
            if isBroken { return parsed }
            start = end
        }
        return parsed
    }

    static let table: [(String, [Parsed])] = [
        ("250 Ok\r\n", [.reply(RemoteReply(250, "Ok"))]),
        ("250\r\n", [.reply(RemoteReply(250, ""))]),
        ("250 \n", [.reply(RemoteReply(250, ""))]),
        ("250\n", [.reply(RemoteReply(250, ""))]),
        ("250 2.0.0 Ok: queued\n", [.reply(RemoteReply(250, "2.0.0 Ok: queued"))]),
        ("550 5.1.1 <a@b>: no such user\r\n", [.reply(RemoteReply(550, "5.1.1 <a@b>: no such user"))]),
        // Classes that do not agree: the enhanced code is text.
        ("450 5.1.1 x\r\n", [.reply(RemoteReply(code: 450, lines: ["5.1.1 x"]))]),
        ("250-one\r\n250-two\r\n250 three\r\n", [.reply(RemoteReply(250, "one", "two", "three"))]),
        ("250-one\n250 two\n", [.reply(RemoteReply(250, "one", "two"))]),
        ("250-one\r\n251 two\r\n", [.reply(RemoteReply(251, "one", "two"))]),
        ("250 a\r\n354 b\r\n", [.reply(RemoteReply(250, "a")), .reply(RemoteReply(354, "b"))]),
        ("250 a\tb\u{1b}[31m\u{7f}\r\r\n", [.reply(RemoteReply(250, "a b?[31m??"))]),
        ("250 gr\u{fc}n\r\n", [.reply(RemoteReply(250, "gr\u{fc}n"))]),
        ("250-one\r\n550 two\r\n", [.error(.mismatchedCodes)]),
        ("199 x\r\n", [.error(.notAReply)]),
        ("600 x\r\n", [.error(.notAReply)]),
        ("25x x\r\n", [.error(.notAReply)]),
        ("2500 x\r\n", [.error(.notAReply)]),
        ("\r\n", [.error(.notAReply)]),
        ("SSH-2.0-OpenSSH\r\n", [.error(.notAReply)]),
        ("250 Ok\r\n\r\n", [.reply(RemoteReply(250, "Ok")), .error(.notAReply)]),
        ("250 Ok", []),
        ("", []),
    ]

    @Test("A reply is read as it is meant, or is an error", arguments: Self.table)
    func reads(text: String, expected: [Parsed]) {
        #expect(Self.parse(Array(text.utf8)) == expected)
    }

    @Test("Where the octets are cut makes no difference", arguments: Self.table)
    func survivesEverySplit(text: String, expected: [Parsed]) {
        let octets = Array(text.utf8)
        for cut in 0...octets.count {
            #expect(Self.parse(octets, cuts: [cut]) == expected)
            for second in cut...octets.count { #expect(Self.parse(octets, cuts: [cut, second]) == expected) }
        }
        #expect(Self.parse(octets, cuts: Array(0...octets.count)) == expected)
    }

    @Test("A long line is kept in part and read whole")
    func boundsText() throws {
        let text = "250 " + String(repeating: "x", count: 20_000) + "\r\n250 next\r\n"
        let parsed = Self.parse(Array(text.utf8))
        #expect(parsed.count == 2)
        guard case .reply(let reply) = try #require(parsed.first) else { return }
        #expect(reply.lines == [String(repeating: "x", count: ClientReplyParser.keptTextSizeMax)])
    }

    @Test("A reply without end is an error, by octets and by lines")
    func boundsReply() {
        let octets = Array(("250 " + String(repeating: "x", count: 70_000)).utf8)
        #expect(Self.parse(octets) == [.error(.tooLong)])
        let lines = String(repeating: "250-x\r\n", count: 1000)
        #expect(Self.parse(Array(lines.utf8)) == [.error(.tooLong)])
    }

    @Test("Random octets never trap, and every cut gives the same", arguments: UInt64(0)..<200)
    func survivesFuzz(seed: UInt64) {
        var random = ClientRandom(seed: seed)
        let alphabet = Array("0123456789 -\r\n.abc".utf8) + [0, 0x80, 0xff, 0xc3, 0xa9]
        let codes = ["250 ", "250-", "550 5.1.1 ", "354\r\n", "421-\n"].map { Array($0.utf8) }
        var octets: [UInt8] = []
        for _ in 0..<Int.random(in: 0...60, using: &random) {
            if Int.random(in: 0..<4, using: &random) == 0 {
                octets += codes[Int.random(in: 0..<codes.count, using: &random)]
            } else {
                octets.append(alphabet[Int.random(in: 0..<alphabet.count, using: &random)])
            }
        }
        let whole = Self.parse(octets)
        #expect(Self.parse(octets, cuts: Array(0...octets.count)) == whole)
    }
}
