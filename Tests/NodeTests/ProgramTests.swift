import Foundation
import NodeSupport
import Testing

@testable import posthorn

/// The built program, run as users run it.
enum Program {
    struct Result {
        var code: Int32
        var output: String
        var error: String
    }

    static var path: String {
        URL(fileURLWithPath: CommandLine.arguments[0]).deletingLastPathComponent()
            .appendingPathComponent("posthorn").path
    }

    static func process(_ program: String, _ arguments: [String]) -> (Process, Pipe, Pipe, Pipe) {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        let (input, output, error) = (Pipe(), Pipe(), Pipe())
        process.standardInput = input
        process.standardOutput = output
        process.standardError = error
        return (process, input, output, error)
    }

    static func run(_ arguments: [String], input text: String = "", program: String = Program.path) throws -> Result {
        let (process, input, output, error) = Self.process(program, arguments)
        try process.run()
        try input.fileHandleForWriting.write(contentsOf: Data(text.utf8))
        try input.fileHandleForWriting.close()
        let printed = try output.fileHandleForReading.readToEnd() ?? Data()
        let complained = try error.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        return Result(
            code: process.terminationStatus,
            output: String(decoding: printed, as: UTF8.self),
            error: String(decoding: complained, as: UTF8.self)
        )
    }

    /// Runs a sink while `body` runs, and returns what it counted.
    static func withSink(_ options: [String], _ body: (_ server: String) throws -> Void) throws -> SinkSummary {
        let (process, _, output, error) = Self.process(
            Self.path,
            ["sink", "--listen", "127.0.0.1:0", "--json", "--quiet"] + options
        )
        try process.run()
        defer { if process.isRunning { process.terminate() } }
        var line = ""
        while !line.hasSuffix("\n") {
            let data = error.fileHandleForReading.availableData
            if data.isEmpty { break }
            line += String(decoding: data, as: UTF8.self)
        }
        let server = try #require(line.split(whereSeparator: \.isWhitespace).last.map(String.init))
        try body(server)
        process.interrupt()
        let printed = try output.fileHandleForReading.readToEnd() ?? Data()
        process.waitUntilExit()
        return try JSONDecoder().decode(SinkSummary.self, from: printed)
    }

    static func temporaryDirectory() throws -> String {
        let path = NSTemporaryDirectory() + "posthorn-\(UUID().uuidString)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        return path
    }
}

@Suite("posthorn: the program")
struct ProgramTests {
    /// A script that sends with smtplib and prints what it was told, one line each.
    private static func python(_ server: String, _ body: String) throws -> [String] {
        let port = server.split(separator: ":").last.map(String.init) ?? ""
        let script = """
            import smtplib, sys, socket
            def told(f):
                try:
                    print("ok", f())
                except smtplib.SMTPResponseException as e:
                    print(e.smtp_code)
                except smtplib.SMTPRecipientsRefused as e:
                    print(sorted(r[0] for r in e.recipients.values()))
                except (smtplib.SMTPServerDisconnected, ConnectionError):
                    print("gone")
            port = \(port)
            \(body)
            """
        let result = try Program.run(["-c", script], program: "/usr/bin/python3")
        try #require(result.code == 0, "\(result.error)")
        return result.output.split(separator: "\n").map(String.init)
    }

    @Test("The sink takes mail by DATA, counts it, records it and dumps it without stuffing")
    func sinkTakesMail() throws {
        let directory = try Program.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let options = ["--record", "\(directory)/record", "--dump", "\(directory)/dump"]
        let summary = try Program.withSink(options) { server in
            let lines = try Self.python(
                server,
                """
                s = smtplib.SMTP("127.0.0.1", port)
                told(lambda: s.sendmail("a@x.example", ["b@y.example", "c@y.example"], "X-Test-Id: 7\\r\\n\\r\\n.dot\\r\\n"))
                told(lambda: s.sendmail("", ["d@y.example"], "Message-ID: <m@x>\\r\\n\\r\\nhi\\r\\n"))
                told(lambda: s.docmd("BDAT", "x")[0])
                s.close()
                """
            )
            #expect(lines == ["ok {}", "ok {}", "ok 501"])
        }
        #expect(summary.messages == 2 && summary.recipients == 3)
        let record = try String(contentsOfFile: "\(directory)/record", encoding: .utf8)
        #expect(record == "7\tb@y.example\n7\tc@y.example\nm@x\td@y.example\n")
        let dump = try String(contentsOfFile: "\(directory)/dump/00000001.eml", encoding: .utf8)
        #expect(
            dump == "# MAIL FROM:<a@x.example>\n# RCPT TO:<b@y.example>\n# RCPT TO:<c@y.example>\n"
                + "X-Test-Id: 7\r\n\r\n.dot\r\n"
        )
    }

    @Test("The sink takes chunks, whole and in pieces")
    func sinkTakesChunks() throws {
        let summary = try Program.withSink([]) { server in
            let lines = try Self.python(
                server,
                """
                s = smtplib.SMTP("127.0.0.1", port); s.ehlo()
                s.docmd("MAIL", "FROM:<>"); s.docmd("RCPT", "TO:<a@b>")
                s.send("BDAT 3\\r\\n"); s.send("a\\r"); s.send("\\n"); print(s.getreply()[0])
                s.send("BDAT 2 LAST\\r\\n\\r\\nNOOP\\r\\n"); print(s.getreply()[0], s.getreply()[0])
                print(s.has_extn("chunking"), s.has_extn("smtputf8"))
                """
            )
            #expect(lines == ["250", "250 250", "True True"])
        }
        #expect(summary.messages == 1 && summary.octets == 5)
    }

    @Test("End of data is found at every split point")
    func sinkSplits() throws {
        let summary = try Program.withSink([]) { server in
            _ = try Self.python(
                server,
                """
                import time
                s = smtplib.SMTP("127.0.0.1", port); s.ehlo()
                s.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                text = b"x\\r\\n..\\r\\n.y\\r\\n.\\r\\n"
                for n in range(1, len(text)):
                    s.docmd("MAIL", "FROM:<>"); s.docmd("RCPT", "TO:<a@b>"); s.docmd("DATA")
                    s.sock.sendall(text[:n]); time.sleep(0.002); s.sock.sendall(text[n:])
                    assert s.getreply()[0] == 250
                s.docmd("MAIL", "FROM:<>"); s.docmd("RCPT", "TO:<a@b>"); s.docmd("DATA")
                s.sock.sendall(b"."); time.sleep(0.002); s.sock.sendall(b"\\r\\n"); assert s.getreply()[0] == 250
                """
            )
        }
        #expect(summary.messages == 14)
    }

    @Test(
        "The sink refuses and hangs up where it is told to",
        arguments: [
            (["--tempfail", "1"], "[4", 0), (["--permfail", "dot=1"], "5", 0), (["--permfail", "mail=1"], "5", 0),
            (["--drop", "dot=1"], "gone", 1), (["--drop", "content=1"], "gone", 1), (["--drop", "rcpt=1"], "gone", 1),
            (["--fail-recipient", "*@y.example=550 5.1.1 No"], "[550", 0),
            (["--fail-recipient", "x*@y.example=550 5.1.1 No"], "ok", 0), (["--delay", "dot=50ms"], "ok", 0),
        ]
    )
    func sinkRefuses(options: [String], prefix: String, drops: Int) throws {
        let summary = try Program.withSink(options) { server in
            let lines = try Self.python(
                server,
                """
                s = smtplib.SMTP("127.0.0.1", port)
                told(lambda: s.sendmail("a@x.example", ["b@y.example"], "S: s\\r\\n\\r\\nx\\r\\n"))
                """
            )
            #expect(lines.first?.hasPrefix(prefix) == true, "\(lines)")
        }
        #expect(summary.drops == drops)
        #expect(summary.messages == (prefix == "ok" ? 1 : 0))
    }

    @Test("The sink leaves out extensions, and answers each recipient as LMTP")
    func sinkLMTP() throws {
        let summary = try Program.withSink(["--lmtp", "--no-chunking", "--no-dsn", "--no-8bitmime"]) { server in
            let lines = try Self.python(
                server,
                """
                s = smtplib.LMTP("127.0.0.1", port); s.ehlo()
                print(s.has_extn("chunking"), s.has_extn("dsn"), s.has_extn("8bitmime"), s.has_extn("pipelining"))
                told(lambda: s.sendmail("a@x.example", ["b@y.example", "c@y.example"], "S: s\\r\\n\\r\\nx\\r\\n"))
                """
            )
            #expect(lines == ["False False False True", "ok {}"])
        }
        #expect(summary.messages == 1 && summary.recipients == 2)
    }

    @Test("sendmail hands a message to the node, all recipients or none")
    func sendmail() throws {
        let directory = try Program.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let options = ["--dump", directory, "--fail-recipient", "nobody@*=550 5.1.1 No"]
        let summary = try Program.withSink(options) { server in
            let link = "\(directory)/sendmail"
            try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: Program.path)
            let message = "To: a@b.example\nBcc: c@d.example\nSubject: s\n\n.\nx\n"
            let good = try Program.run(
                ["--server", server, "-t", "-oi", "-f", "me@x.example"],
                input: message,
                program: link
            )
            #expect(good.code == 0, "\(good.error)")
            let bad = try Program.run(
                ["sendmail", "--server", server, "a@b.example", "nobody@b.example"],
                input: message
            )
            #expect(bad.code == 67)
            #expect(bad.error == "sendmail: nobody@b.example: 550 5.1.1 No\n")
        }
        #expect(summary.messages == 1 && summary.recipients == 2)
        let dump = try String(contentsOfFile: "\(directory)/00000001.eml", encoding: .utf8)
        #expect(
            dump.hasPrefix(
                "# MAIL FROM:<me@x.example>\n# RCPT TO:<a@b.example>\n# RCPT TO:<c@d.example>\nFrom: me@x.example\r\nDate: "
            )
        )
        #expect(dump.hasSuffix("\r\n\r\n.\r\nx\r\n") && !dump.contains("Bcc"))
    }

    @Test("Credentials are added, verified, listed and removed, and the file is private")
    func credentials() throws {
        let directory = try Program.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let file = "\(directory)/users"
        try "# ours\n".write(toFile: file, atomically: true, encoding: .utf8)
        #expect(try Program.run(["credentials", "add", "-f", file, "ann"], input: "secret\n").code == 0)
        #expect(try Program.run(["credentials", "verify", "-f", file, "ann"], input: "secret\n").code == 0)
        #expect(try Program.run(["credentials", "verify", "-f", file, "ann"], input: "guess\n").code == 1)
        #expect(try Program.run(["credentials", "verify", "-f", file, "bob"], input: "x\n").code == 67)
        #expect(try Program.run(["credentials", "list", "-f", file]).output == "ann\n")
        let mode = try FileManager.default.attributesOfItem(atPath: file)[.posixPermissions] as? Int
        #expect(mode == 0o600)
        let text = try String(contentsOfFile: file, encoding: .utf8)
        #expect(text.hasPrefix("# ours\nann:SCRAM-SHA-256$4096:") && !text.contains("secret"))
        #expect(try Program.run(["credentials", "remove", "-f", file, "ann"]).code == 0)
        #expect(try Program.run(["credentials", "remove", "-f", file, "ann"]).code == 67)
    }

    @Test("check-config reads what a start would read, and says all that is wrong with it")
    func readsFiles() throws {
        let directory = try Program.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        func write(_ name: String, _ text: String) throws -> String {
            try text.write(toFile: "\(directory)/\(name)", atomically: true, encoding: .utf8)
            return "\(directory)/\(name)"
        }
        let file = try write("no.pem", "no certificate\n")
        let empty = try write("empty", "\n")
        let users = try write("users", "ann:plain words\n")
        let path = try write(
            "p.yaml",
            """
            hostname: relay.example
            data-directory: \(directory)/data
            credentials-file: \(users)
            listeners:
              - {name: mail, kind: submissions, port: 4650, tls: {certificate: \(file), key: \(file)}}
            routes:
              - {match: "*", via: smtps 127.0.0.1:465, auth: {user: u, password-file: \(empty)}}
            admin: {address: "127.0.0.1:9090", token-file: \(empty)}
            """
        )
        let bad = try Program.run(["check-config", "-c", path])
        #expect(bad.code == 78)
        let lines = bad.error.split(separator: "\n")
        for name in ["listener mail: \(file)", users, "password-file: \(empty)", "\(empty), is empty"] {
            #expect(lines.contains { $0.contains(name) }, "\(name) in \(bad.error)")
        }
        #expect(lines.count == 4)
        #expect(!FileManager.default.fileExists(atPath: "\(directory)/data"))
    }

    @Test("check-config exits with 78 and says why; wrong options exit with 64")
    func exitCodes() throws {
        let directory = try Program.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        try "hostnam: x\n".write(toFile: "\(directory)/p.yaml", atomically: true, encoding: .utf8)
        let bad = try Program.run(["check-config", "-c", "\(directory)/p.yaml"])
        #expect(bad.code == 78)
        #expect(bad.error == "\(directory)/p.yaml:1: hostnam: There is no such key. Did you mean “hostname”?\n")
        #expect(try Program.run(["sink", "--tempfail", "2"]).code == 64)
        #expect(try Program.run(["queue", "flush", "--admin", "127.0.0.1:1"]).code == 64)
        #expect(try Program.run(["queue", "flush", "--admin", "127.0.0.1:1", "--all"]).code == 69)
        #expect(try Program.run(["--generate-completion-script", "bash"]).code == 0)
    }
}
