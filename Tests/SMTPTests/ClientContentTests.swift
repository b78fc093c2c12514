import SMTP
import Testing

@Suite("Content after DATA (RFC 5321 §4.5.2)")
struct ClientContentTests {
    static func sent(_ content: [UInt8]) -> [UInt8] {
        let layout = content.withUnsafeBytes { ClientContent($0) }
        var sent: [UInt8] = []
        for index in 0..<layout.segmentCount { sent += content[layout.segment(at: index, contentSize: content.count)] }
        layout.terminator.withUTF8Buffer { sent += $0 }
        return sent
    }

    @Test(
        "Dots that begin a line are doubled, an open last line is ended",
        arguments: [
            ("", ".\r\n"),
            ("a\r\n", "a\r\n.\r\n"),
            (".\r\n", "..\r\n.\r\n"),
            ("..\r\n", "...\r\n.\r\n"),
            (".", "..\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            ("a\n", "a\n\r\n.\r\n"),
            ("\n", "\n\r\n.\r\n"),
            ("a\r\n.b\r\n.\r\nc.\r\n", "a\r\n..b\r\n..\r\nc.\r\n.\r\n"),
            ("a\n.\r\nMAIL\r\n", "a\n..\r\nMAIL\r\n.\r\n"),
            ("a.b\r\n", "a.b\r\n.\r\n"),
            ("a\r\n\r\n.", "a\r\n\r\n..\r\n.\r\n"),
        ]
    )
    func stuffs(content: String, expected: String) {
        #expect(String(decoding: Self.sent(Array(content.utf8)), as: UTF8.self) == expected)
    }

    @Test("Content without such dots is one piece")
    func keepsWhole() {
        let content = Array(String(repeating: "line. with. dots.\r\n", count: 1000).utf8)
        #expect(content.withUnsafeBytes { ClientContent($0) }.segmentCount == 1)
        #expect(Self.sent(content).count == content.count + 3)
    }

    /// Goal: a receiver that unstuffs by the book gets the content back, and no earlier end.
    @Test("What is sent reads back as the content", arguments: UInt64(0)..<300)
    func readsBack(seed: UInt64) {
        var random = ClientRandom(seed: seed)
        let pieces = ["\r\n", ".", "..", "a", "\r\n.", "\r\n..\r\n", "longer text", "\u{e9}"]
        var content = ""
        for _ in 0..<Int.random(in: 0...40, using: &random) {
            content += pieces[Int.random(in: 0..<pieces.count, using: &random)]
        }
        if !content.isEmpty { content += "\r\n" }
        let sent = Self.sent(Array(content.utf8))
        var received: [UInt8] = []
        var lines: [[UInt8]] = [[]]
        for octet in sent {
            lines[lines.count - 1].append(octet)
            if octet == 0x0a { lines.append([]) }
        }
        #expect(lines.popLast() == [])
        #expect(lines.popLast() == Array(".\r\n".utf8))
        for line in lines {
            #expect(line != Array(".\r\n".utf8))
            received += line.first == UInt8(ascii: ".") ? line.dropFirst() : line[...]
        }
        #expect(received == Array(content.utf8))
    }
}
