import ClusterLog
import Foundation
import Mail
import NIOCore
import NodeSupport
import Records
import Testing

@testable import Ingress

@Suite("Ingress: transactions as clients send them", .serialized)
struct TransactionTests {
    @Test("A pipelined group is answered in order, with nothing left out (RFC 2920)")
    func answersPipelinedGroup() async throws {
        try await TestServer.run { server in
            let client = try TestClient(port: server.port)
            try client.hello()
            client.send(
                "MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nRCPT TO:<nonsense\r\nDATA\r\n"
            )
            #expect(try client.reply() == "250 2.1.0 Ok")
            #expect(try client.reply() == "250 2.1.5 Ok")
            #expect(try client.reply().hasPrefix("501 5.1.3"))
            #expect(try client.reply().hasPrefix("354"))
            client.send("x\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<c@example.com>\r\nDATA\r\ny\r\n.\r\nQUIT\r\n")
            #expect(try client.reply().hasPrefix("250 2.0.0 Ok: queued as "))
            #expect(try client.reply() == "250 2.1.0 Ok")
            #expect(try client.reply() == "250 2.1.5 Ok")
            #expect(try client.reply().hasPrefix("354"))
            #expect(try client.reply().hasPrefix("250 2.0.0 Ok: queued as "))
            #expect(try client.reply().hasPrefix("221"))
            let messages = try server.accepted()
            #expect(messages.count == 2)
            #expect(messages.contains { $0.entry.envelope.reversePath == nil })
        }
    }

    /// Goal: one domain is spread by message, several domains are one record under the message's id.
    @Test("Mail for a domain that is spread is keyed by its bucket; aliases share a key")
    func spreadsDomains() async throws {
        var keys = KeySpreading.Configuration(partitionCount: 8)
        keys.bucketCounts = ["big.example": 8]
        keys.aliases = ["also.example": "big.example"]
        try await TestServer.run(log: InMemoryLog(partitionCount: 8), keys: keys) { server in
            let client = try TestClient(port: server.port)
            try client.hello()
            for number in 0..<24 {
                _ = try client.sendMessage(to: [number % 2 == 0 ? "b@big.example" : "b@also.example"])
            }
            _ = try client.sendMessage(to: ["b@small.example"])
            _ = try client.sendMessage(to: ["b@big.example", "b@small.example"])
            let messages = try server.accepted()
            let spread = messages.filter { SpreadKey($0.record.key).name == "big.example" }
            #expect(spread.count == 24)
            #expect(Set(spread.map(\.record.key)).count >= 4)
            #expect(Set(spread.map(\.record.position.partition)).count == Set(spread.map(\.record.key)).count)
            let others = Set(messages.map(\.record.key)).subtracting(spread.map(\.record.key))
            let several = messages.first { $0.entry.envelope.recipients.count == 2 }
            #expect(others == ["small.example", several?.entry.envelope.messageID.description ?? ""])
        }
    }

    @Test("A session sent octet by octet is the same session")
    func acceptsSingleOctets() async throws {
        try await TestServer.run { server in
            let client = try TestClient(port: server.port)
            _ = try client.reply()
            let session =
                "EHLO c\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n..\r\n.a\r\n\r\n.\r\nQUIT\r\n"
            for octet in session.utf8 { client.send([octet]) }
            let rest = client.rest()
            #expect(rest.contains("250 2.0.0 Ok: queued as "))
            #expect(try server.accepted().first?.text.hasSuffix("\r\n.\r\na\r\n\r\n") == true)
        }
    }

    @Test("Content split at every octet arrives whole")
    func acceptsContentSplitAnywhere() async throws {
        let content = "Subject: x\r\n\r\n..stuffed\r\n.\r"
        try await TestServer.run { server in
            let client = try TestClient(port: server.port)
            try client.hello()
            let octets = Array((content + "\n").utf8)
            for index in 1..<octets.count {
                try client.beginMessage()
                client.send(Array(octets[..<index]))
                await Task.yield()
                client.send(Array(octets[index...]))
                #expect(try client.reply().hasPrefix("250 "))
            }
            let messages = try server.accepted()
            #expect(messages.count == octets.count - 1)
            #expect(messages.allSatisfy { $0.text.hasSuffix("\r\nSubject: x\r\n\r\n.stuffed\r\n") })
        }
    }

    @Test("Chunks are put together, whatever octets they hold (RFC 3030)")
    func acceptsChunks() async throws {
        try await TestServer.run { server in
            let client = try TestClient(port: server.port)
            try client.hello()
            client.send(
                "MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nBDAT 10\r\nSubject: xBDAT 4\r\n\r\n\r\n"
                    + "BDAT 5 LAST\r\n.\r\n.\r"
            )
            #expect(try client.reply() == "250 2.1.0 Ok")
            #expect(try client.reply() == "250 2.1.5 Ok")
            #expect(try client.reply().hasPrefix("250 2.0.0 "))
            #expect(try client.reply().hasPrefix("250 2.0.0 "))
            #expect(try client.reply().hasPrefix("550 5.6.0"))
            client.send(
                "MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nBDAT 10\r\nSubject: xBDAT 4\r\n\r\n\r\n"
                    + "BDAT 6 LAST\r\n.\r\n.\r\n"
            )
            for _ in 0..<4 { #expect(try client.reply().hasPrefix("250 2.")) }
            #expect(try client.reply().hasPrefix("250 2.0.0 Ok: queued as "))
            #expect(try server.accepted().map(\.text).first?.hasSuffix("\r\nSubject: x\r\n\r\n.\r\n.\r\n") == true)
            #expect(try server.accepted().count == 1)
        }
    }

    @Test(
        "What could be taken for an end of data by another server is refused, and no second message appears",
        arguments: [
            "\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r.\r\n", "\n.\r", "\r\n\u{0}.\r\n",
        ]
    )
    func refusesSmuggling(ending: String) async throws {
        try await TestServer.run { server in
            let client = try TestClient(port: server.port)
            try client.hello()
            try client.beginMessage()
            let inner = "MAIL FROM:<evil@example.org>\r\nRCPT TO:<v@example.com>\r\nDATA\r\nevil\r\n.\r\n"
            client.send("Subject: x\r\n\r\nhello" + ending + inner)
            #expect(try client.reply().hasPrefix("550 5.6.0"))
            #expect(try client.ask("NOOP").hasPrefix("250"))
            #expect(try server.accepted().isEmpty)
        }
    }

    @Test("Bare newlines become CRLF where configured, and still end nothing")
    func normalisesNewlines() async throws {
        try await TestServer.with({ $0.smtp.bareNewlines = .normalise })
            .run { server in
                let client = try TestClient(port: server.port)
                try client.hello()
                #expect(try client.sendMessage("a\n.\nb\r\n").hasPrefix("250 "))
                #expect(try server.accepted().map(\.text).first?.hasSuffix("\r\na\r\n.\r\nb\r\n") == true)
            }
    }

    @Test("Recipients of several domains are one record under the message's id")
    func keysSeveralDomains() async throws {
        try await TestServer.run { server in
            let client = try TestClient(port: server.port)
            try client.hello()
            _ = try client.sendMessage(to: ["a@one.example", "b@two.example", "a@one.example"])
            let message = try #require(try server.accepted().first)
            #expect(try server.accepted().count == 1)
            #expect(message.record.key == message.entry.envelope.messageID.description)
            #expect(message.entry.envelope.recipients.map(\.mailbox.description) == ["a@one.example", "b@two.example"])
            #expect(!message.text.contains("for <"))
        }
    }

    @Test("250 recipients are three records of one append, their indices continuing")
    func splitsRecipients() async throws {
        try await TestServer.run { server in
            let client = try TestClient(port: server.port)
            try client.hello()
            _ = try client.sendMessage(to: (0..<250).map { "u\($0)@example.com" })
            let entries = try server.accepted().map(\.entry)
            #expect(entries.map(\.envelope.recipients.count).sorted() == [50, 100, 100])
            #expect(entries.flatMap { $0.envelope.recipients.map(\.index) }.sorted() == (0..<250).map { UInt32($0) })
            #expect(Set(entries.map(\.envelope.messageID)).count == 1)
        }
    }

    /// Method: a log that takes 2 MiB at a time, and a message of which ten copies would be 4 MB.
    @Test("Large content for many recipients is appended once and named by each record; small content is copied")
    func sharesContent() async throws {
        var limits = InMemoryLog.Limits()
        limits.queueSizeMax = 2 << 20
        try await TestServer.run(log: InMemoryLog(limits: limits)) { server in
            let client = try TestClient(port: server.port)
            try client.hello()
            let recipients = (0..<1_000).map { "u\($0)@example.com" }
            let content = String(repeating: String(repeating: "x", count: 98) + "\r\n", count: 4_000)
            #expect(try client.sendMessage("\r\n" + content, to: recipients).hasPrefix("250 "))
            let messages = try server.accepted()
            #expect(messages.count == 10 && messages.allSatisfy { $0.text.isEmpty && $0.entry.isContentShared })
            #expect(messages.flatMap { $0.entry.envelope.recipients.map(\.index) }.sorted() == (0..<1_000).map { $0 })
            let references = Set(messages.compactMap { $0.entry.content })
            #expect(references.count == 1)
            let stored = try await server.log.read(try #require(references.first))
            #expect(String(buffer: stored.value).hasSuffix("\r\n\r\n" + content))

            #expect(try client.sendMessage(to: Array(recipients.prefix(200))).hasPrefix("250 "))
            #expect(try server.accepted().count { $0.text.hasSuffix("hello\r\n") } == 2)
            #expect(server.log.records(of: .content).count == 1)
        }
    }

    @Test("554 5.4.6 for a message that has been through more relays than allowed")
    func refusesLoops() async throws {
        try await TestServer.with({ $0.limits.hopCountMax = 5 })
            .run { server in
                let client = try TestClient(port: server.port)
                try client.hello()
                let hop = "Received: from a by b; Mon, 23 Nov 2026 23:10:00 +0000\r\n"
                #expect(try client.sendMessage(String(repeating: hop, count: 6) + "\r\nx\r\n").hasPrefix("554 5.4.6"))
                #expect(try client.sendMessage(String(repeating: hop, count: 5) + "\r\nx\r\n").hasPrefix("250 "))
            }
    }

    @Test("552 for content or a header section that is too large; the session goes on")
    func refusesLargeContent() async throws {
        try await TestServer.with({
            $0.limits.messageSizeMax = 100_000
            $0.limits.headerSizeMax = 10_000
        })
        .run { server in
            let client = try TestClient(port: server.port)
            try client.hello()
            #expect(try client.ask("MAIL FROM:<a@example.org> SIZE=100001").hasPrefix("552 5.3.4"))
            let line = String(repeating: "x", count: 98) + "\r\n"
            #expect(try client.sendMessage("\r\n" + String(repeating: line, count: 1_001)).hasPrefix("552 5.3.4"))
            #expect(
                try client.sendMessage("A: b\r\n" + String(repeating: " " + line, count: 200)).hasPrefix("552 5.3.4")
            )
            #expect(try client.sendMessage().hasPrefix("250 "))
            #expect(try server.accepted().count == 1)
        }
    }

    @Test("A client that ends its input after QUIT gets every answer")
    func answersHalfClosedClient() async throws {
        try await TestServer.run { server in
            let client = try TestClient(port: server.port)
            client.send("HELO c\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n")
            #expect(client.rest().contains("221 2.0.0"))
            #expect(try server.accepted().first?.text.contains("with SMTP\r\n") == true)
        }
    }

    @Test("A client that goes away within its content leaves nothing, and undoes nothing (RFC 5321 §4.1.1.10)")
    func forgetsLostClient() async throws {
        try await TestServer.run { server in
            let client = try TestClient(port: server.port)
            try client.hello()
            #expect(try client.sendMessage().hasPrefix("250 "))
            try client.beginMessage(to: ["c@example.com"])
            client.send("half of a message\r\n")
            client.endOfInput()
            _ = client.rest()
            let messages = try server.accepted()
            #expect(messages.map { $0.entry.envelope.recipients.map(\.mailbox.localPart) } == [["b"]])
        }
    }

    @Test("200 sessions at once, three messages each: every 250 is in the log")
    func servesManySessions() async throws {
        try await TestServer.with({ $0.limits.sessionCountPerAddressMax = 1_000 })
            .run { server in
                let clients = try (0..<200).map { _ in try TestClient(port: server.port) }
                for client in clients { client.send("EHLO c\r\n") }
                for _ in 0..<3 {
                    for client in clients {
                        client.send("MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nx\r\n.\r\n")
                    }
                }
                var count = 0
                for client in clients {
                    client.send("QUIT\r\n")
                    count += client.rest().components(separatedBy: "queued as").count - 1
                }
                #expect(count == 600)
                #expect(try server.accepted().count == 600)
            }
    }
}
