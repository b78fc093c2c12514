import NodeSupport

/// Hands one message to the node by SMTP: all of its recipients, or none.
struct SendmailClient {
    /// Why it was not taken, with the exit code that says so.
    struct Failure: Error, Equatable, CustomStringConvertible {
        var exitCode: Int32
        var description: String
    }

    struct Transaction {
        /// Empty is the null reverse-path.
        var sender: String
        var recipients: [String]
        var message: SendmailMessage
        var notify: String?
        var returnContent: String?
        var envelopeID: String?
    }

    private struct Reply {
        var code: Int
        var lines: [String]
        var text: String { "\(self.code) \(self.lines.joined(separator: " "))" }
        /// The enhanced status code's last two numbers, as `1.1`.
        var detail: String? {
            guard let word = self.lines.first?.split(separator: " ").first else { return nil }
            let parts = word.split(separator: ".")
            return parts.count == 3 ? "\(parts[1]).\(parts[2])" : nil
        }
    }

    let server: Endpoint
    let hostname: String

    func send(_ transaction: Transaction) throws(Failure) {
        let connection: BlockingConnection
        do throws(BlockingConnection.Failure) {
            // The reply to end of data may take ten minutes (RFC 5321 §4.5.3.2.6).
            connection = try BlockingConnection(self.server, timeoutSeconds: 600)
        } catch {
            throw Failure(exitCode: SystemExit.temporaryFailure, description: "\(error). Is the node running?")
        }
        try Self.expect(2, try self.reply(connection), "the connection")
        let hello = try self.exchange(connection, "EHLO \(self.hostname)")
        try Self.expect(2, hello, "EHLO")
        let extensions = Set(hello.lines.dropFirst().compactMap { $0.split(separator: " ").first?.uppercased() })
        try self.sendEnvelope(connection, transaction, extensions)
        try Self.expect(3, try self.exchange(connection, "DATA"), "DATA")
        try self.write(connection, transaction.message.dataOctets)
        try Self.expect(2, try self.reply(connection), "the message")
        // It is accepted: whatever becomes of QUIT changes nothing.
        _ = try? self.exchange(connection, "QUIT")
    }

    private func sendEnvelope(
        _ connection: BlockingConnection,
        _ transaction: Transaction,
        _ extensions: Set<String>
    ) throws(Failure) {
        let isASCII = ([transaction.sender] + transaction.recipients).allSatisfy { $0.utf8.allSatisfy { $0 < 0x80 } }
        if !isASCII, !extensions.contains("SMTPUTF8") {
            throw Failure(
                exitCode: SystemExit.unavailable,
                description: "an address is not ASCII, and the node does not offer SMTPUTF8"
            )
        }
        var mail = "MAIL FROM:<\(transaction.sender)>"
        if extensions.contains("SIZE") { mail += " SIZE=\(transaction.message.octets.count)" }
        if extensions.contains("8BITMIME"), transaction.message.hasEightBitContent { mail += " BODY=8BITMIME" }
        if extensions.contains("SMTPUTF8"), !isASCII || transaction.message.hasEightBitHeader { mail += " SMTPUTF8" }
        if extensions.contains("DSN") {
            if let content = transaction.returnContent { mail += " RET=\(content)" }
            if let id = transaction.envelopeID { mail += " ENVID=\(Self.xtext(id))" }
        }
        try Self.expect(2, try self.exchange(connection, mail), "the sender")
        for recipient in transaction.recipients {
            var line = "RCPT TO:<\(recipient)>"
            if extensions.contains("DSN"), let notify = transaction.notify { line += " NOTIFY=\(notify)" }
            try Self.expect(2, try self.exchange(connection, line), recipient)
        }
    }

    /// RFC 3461 §4.
    private static func xtext(_ text: String) -> String {
        var result = ""
        for octet in text.utf8 {
            if (0x21...0x7e).contains(octet), octet != UInt8(ascii: "+"), octet != UInt8(ascii: "=") {
                result.unicodeScalars.append(UnicodeScalar(octet))
            } else {
                let digits = String(octet, radix: 16, uppercase: true)
                result += octet < 16 ? "+0\(digits)" : "+\(digits)"
            }
        }
        return result
    }

    /// The exit code for a reply that is not the expected one.
    private static func expect(_ kind: Int, _ reply: Reply, _ what: String) throws(Failure) {
        if reply.code / 100 == kind { return }
        var exitCode = SystemExit.unavailable
        if reply.code / 100 != 5 {
            exitCode = SystemExit.temporaryFailure
        } else {
            switch reply.detail {
            case "1.1", "1.10", "2.1": exitCode = SystemExit.noUser
            case "1.2", "4.4": exitCode = SystemExit.noHost
            case "1.3", "1.7", "3.4", "5.2", "6.0": exitCode = SystemExit.dataError
            default: break
            }
        }
        throw Failure(exitCode: exitCode, description: "\(what): \(reply.text)")
    }

    private func exchange(_ connection: BlockingConnection, _ line: String) throws(Failure) -> Reply {
        try self.write(connection, Array((line + "\r\n").utf8))
        return try self.reply(connection)
    }

    private func write(_ connection: BlockingConnection, _ octets: [UInt8]) throws(Failure) {
        do throws(BlockingConnection.Failure) {
            try connection.write(octets)
        } catch {
            throw Failure(exitCode: SystemExit.temporaryFailure, description: "\(self.server): \(error)")
        }
    }

    private func reply(_ connection: BlockingConnection) throws(Failure) -> Reply {
        var lines: [String] = []
        while lines.count < 200 {
            let line: String?
            do throws(BlockingConnection.Failure) {
                line = try connection.readLine()
            } catch {
                throw Failure(exitCode: SystemExit.temporaryFailure, description: "\(self.server): \(error)")
            }
            guard let line else {
                throw Failure(exitCode: SystemExit.temporaryFailure, description: "\(self.server) hung up")
            }
            guard line.utf8.count >= 3, let code = Int(line.prefix(3)), 200...599 ~= code else { break }
            let rest = line.dropFirst(3)
            lines.append(String(rest.dropFirst()))
            if rest.first != "-" { return Reply(code: code, lines: lines) }
        }
        throw Failure(exitCode: SystemExit.temporaryFailure, description: "\(self.server) does not speak SMTP")
    }
}
