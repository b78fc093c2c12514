import Foundation
import Ingress
import NodeSupport
import SMTP
import Testing

@testable import posthorn

/// What people and programs give to the commands, and what a node answers them. The configuration file has its own suite
/// in NodeTests.
@Suite("Fuzz: sendmail, credentials, values, answers")
struct ProgramFuzzTests {
    private static let arguments = [
        "-t", "-i", "-oi", "-f", "<>", "a@example.net", "-Fname", "-N", "success,delay", "-R", "hdrs", "-V", "id",
        "-bs",
        "-bp", "-bm", "--", "--server", "--server=[::1]:25", "--config", "x", "-O", "IgnoreDots=false", "-ti", "-",
        "-odb",
        "-B", "8BITMIME", "--help", "-q1h", "-x", "",
    ]

    @Test("Any arguments are understood or refused with a sentence", arguments: seeds)
    func sendmailArguments(seed: UInt64) {
        var random = FuzzRandom(seed: seed)
        for _ in 0..<200 {
            var words = (0..<Int.random(in: 0...6, using: &random))
                .compactMap { _ in
                    Self.arguments.randomElement(using: &random)
                }
            if Bool.random(using: &random) { words.append("-" + random.text(0...3)) }
            do throws(SendmailArguments.UsageError) {
                let arguments = try SendmailArguments(parsing: words)
                #expect(arguments.recipients.allSatisfy { words.contains($0) })
            } catch {
                #expect(!error.description.isEmpty)
            }
        }
    }

    private static let messages = [
        "From: a@b.example\nTo: c@d.example\nBcc: hidden@example.com\nSubject: x\n\nHello\n.\nafter\n",
        "To: \"x, y\" <c@d.example>, (comment \\) d) e@f.example;\r\n\tgroup: g@h.example;\r\n\r\n..\r\n",
        "From mbox\nResent-Bcc: hidden@example.com\nResent-To: b@c.example\rx", "no header", "\n\n", ".", "é: x\n",
    ]

    /// Goal: whatever a program pipes in, a server reads one message with whole lines, and nobody learns who was in Bcc.
    /// Method: what is sent is read by the decoder of the server.
    @Test("Any input is one message of whole lines without Bcc", arguments: seeds, [false, true])
    func sendmailMessages(seed: UInt64, ignoresDots: Bool) {
        let context = SendmailMessage.Context(author: "u@example.net", fullName: "N \"N", date: "Mon", messageID: "i@x")
        forEachInput(seed: seed, like: Self.messages, count: 40) { input in
            let message = SendmailMessage(input, ignoresDots: ignoresDots, context: context)
            var decoder = ContentDecoder(rules: ContentRules(refusesNUL: false, sizeMax: 1 << 20))
            var received: [UInt8] = []
            let data = message.dataOctets
            let progress = data.withUnsafeBytes { decoder.next($0) { received += $0 } }
            #expect(progress.status == .ended && progress.consumedCount == data.count, "\(shown(input))")
            #expect(decoder.faults.isEmpty && received == message.octets, "\(shown(input))")
            let header = String(decoding: message.octets, as: UTF8.self).components(separatedBy: "\r\n\r\n")[0]
            for line in header.lowercased().components(separatedBy: "\r\n") {
                #expect(!line.hasPrefix("bcc:") && !line.hasPrefix("resent-bcc:"), "\(shown(input))")
            }
            #expect(message.hasEightBitContent == message.octets.contains { $0 >= 0x80 })
        }
    }

    @Test("An address list gives addresses without what stands around them", arguments: seeds)
    func addressLists(seed: UInt64) {
        let vectors = [
            "a@b.c, \"x, y\" <d@e.f>", "g: h@i.j, (c (d)) k@l.m;", "<@r:\"q\\\"\"@[IPv6:::1]>", "\"", "(", "<",
        ]
        forEachInput(seed: seed, like: vectors) { octets in
            let addresses = AddressList.parse(String(decoding: octets, as: UTF8.self))
            #expect(addresses.count <= octets.count + 1 && addresses.allSatisfy { !$0.isEmpty })
        }
    }

    /// Goal: a credentials file with a slip in it is refused as a whole, with the line, and lets nobody in.
    @Test("A credentials file is read whole or refused with its line", arguments: seeds)
    func credentialsFile(seed: UInt64) throws {
        let path = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString).path
        defer { try? FileManager.default.removeItem(atPath: path) }
        let record = CredentialRecord(userName: "u", password: "p", salt: [1, 2, 3, 4], iterations: 2)
        let other = CredentialRecord(userName: "v", password: "p", salt: [1, 2, 3, 4], iterations: 2)
        let vectors = ["# users\n\(record.line)\n\n\(other.line)\n"]
        try forEachInput(seed: seed, like: vectors, count: 8) { octets in
            // Every eighth truncation is enough: each is a file.
            guard octets.count % 8 == 0 || seed > 0 else { return }
            try Data(octets).write(to: URL(fileURLWithPath: path))
            do throws(CredentialError) {
                let store = try CredentialStore(path: path)
                let lines = octets.split(whereSeparator: { $0 == 0x0a }).count
                #expect(store.userCount <= max(lines, 8), "\(shown(octets))")
                #expect(store.record(for: "u").map { $0.userName == "u" } ?? true)
            } catch {
                #expect(error.reason.hasPrefix(path), "\(error)")
                #expect(!error.reason.contains("SCRAM-SHA-256$2:"), "a secret in \(error)")
            }
        }
    }

    @Test("Values of a configuration are within their bounds or refused", arguments: seeds)
    func values(seed: UInt64) {
        let vectors = [
            "1h30m", "500 ms", "9223372036854775807w", "64KiB", "1.5GB", "99999999999TiB", "smtp [::1]:25, b.example",
            "lmtp /run/x", "error 550 5.1.2 No", "error 450 5.1.2", "*.example.com", ".a", "*", "mx", "discard x",
        ]
        forEachInput(seed: seed, like: vectors) { octets in
            let text = String(decoding: octets, as: UTF8.self)
            if let duration = ConfigurationValue.duration().parse(text) { #expect(duration >= .milliseconds(1)) }
            if let size = ConfigurationValue.size(1...1 << 40).parse(text) { #expect((1...1 << 40).contains(size)) }
            if case .refuse(let reply)? = ConfigurationValue<NodeConfiguration.Route.NextHop>.nextHop.parse(text) {
                #expect((400...599).contains(reply.code) && reply.text.utf8.allSatisfy { $0 >= 0x20 && $0 < 0x7f })
                #expect(EnhancedStatusCode(reply.enhancedStatusCode).map { Int($0.classification) } == reply.code / 100)
            }
            _ = ConfigurationValue<DomainPattern>.domainPattern.parse(text)?.matches("mx.example.com")
        }
    }

    /// Goal: whatever listens on the admin port, the command says so.
    @Test("Any answer over HTTP is a status and content, or not HTTP", arguments: seeds)
    func adminAnswers(seed: UInt64) {
        let client = AdminClient(endpoint: Endpoint(host: "127.0.0.1", port: 1), token: nil)
        let vectors = [
            "HTTP/1.1 200 OK\r\nContent-Type: x\r\n\r\n{}", "HTTP/1.1 404\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\ntransfer-encoding:chunked\r\n\r\n7fffffffffffffff\r\nx", "\r\n\r\n",
        ]
        forEachInput(seed: seed, like: vectors) { octets in
            do throws(AdminClient.Failure) {
                let (_, content) = try client.parse(octets)
                #expect(content.count <= octets.count)
            } catch {
                #expect(!error.description.isEmpty)
            }
        }
    }
}
