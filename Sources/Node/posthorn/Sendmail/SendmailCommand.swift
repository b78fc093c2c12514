import ArgumentParser
import Foundation
import NodeSupport

struct SendmailCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sendmail",
        abstract: "Take a message from a program, as Sendmail does.",
        discussion: SendmailCommand.help
    )

    private static let help = """
        Reads a message from standard input and hands it to the node. Also the program's name, by a symbolic link.

        sendmail [options] [recipient ...]

          -t            take recipients from To, Cc and Bcc
          -i, -oi       a line with a dot alone does not end the message
          -f address    the envelope sender; -f '<>' is the null sender
          -F name       the full name, for a From that is missing
          -N when       never, or some of success,failure,delay
          -R what       full or hdrs: what notifications return
          -V id         the envelope id that notifications name
          -bs           speak SMTP on standard input and output
          --server host:port
                        the node (default: $POSTHORN_SERVER, else its first relay listener, else 127.0.0.1:25)

        Other options of Sendmail are accepted and have no effect. Exit codes are those of sysexits.h: 75 means \
        that the same command may succeed later. Either all recipients are accepted or none.
        """

    @Argument(parsing: .captureForPassthrough, help: "Options and recipients.")
    var arguments: [String] = []

    func run() throws {
        let code = Self.run(self.arguments)
        if code != SystemExit.ok { throw ExitCode(code) }
    }

    /// - Returns: the exit code.
    static func run(_ arguments: [String], environment: [String: String] = ProcessInfo.processInfo.environment) -> Int32
    {
        let parsed: SendmailArguments
        do {
            parsed = try SendmailArguments(parsing: arguments)
        } catch {
            StandardError.write("sendmail: \(error.description)")
            return SystemExit.usage
        }
        switch parsed.mode {
        case .help:
            print(Self.help)
            return SystemExit.ok
        case .aliases, .runQueue:
            return SystemExit.ok
        case .printQueue:
            StandardError.write("sendmail: see “posthorn queue list”.")
            return SystemExit.unavailable
        case .deliver, .smtp:
            return Self.submit(parsed, environment)
        }
    }

    private static func submit(_ arguments: SendmailArguments, _ environment: [String: String]) -> Int32 {
        let (server, hostname): (Endpoint, String)
        do {
            (server, hostname) = try Self.node(arguments, environment)
        } catch {
            StandardError.write("sendmail: \(error.description)")
            return error.exitCode
        }
        if arguments.mode == .smtp { return SendmailRelay.run(server) }
        let input: [UInt8]
        do {
            input = [UInt8](try FileHandle.standardInput.readToEnd() ?? Data())
        } catch {
            StandardError.write("sendmail: the message cannot be read: \(error)")
            return SystemExit.osError
        }
        do throws(SendmailClient.Failure) {
            let transaction = try Self.transaction(arguments, input: input, hostname: hostname)
            try SendmailClient(server: server, hostname: hostname).send(transaction)
            return SystemExit.ok
        } catch {
            StandardError.write("sendmail: \(error.description)")
            return error.exitCode
        }
    }

    /// What is sent to whom.
    static func transaction(
        _ arguments: SendmailArguments,
        input: [UInt8],
        hostname: String
    ) throws(SendmailClient.Failure) -> SendmailClient.Transaction {
        let user = "\(NSUserName())@\(hostname)"
        let sender = try arguments.sender.map { (text) throws(SendmailClient.Failure) in
            text.isEmpty ? "" : try Self.address(text, hostname)
        }
        let author = sender.flatMap { $0.isEmpty ? nil : $0 } ?? user
        let message = SendmailMessage(
            input,
            ignoresDots: arguments.ignoresDots,
            context: .init(
                author: author,
                fullName: arguments.fullName,
                date: Self.date(Date()),
                messageID: "\(UUID().uuidString.lowercased())@\(hostname)"
            )
        )
        var recipients: [String] = []
        for text in arguments.recipients {
            for address in AddressList.parse(text) { recipients.append(try Self.address(address, hostname)) }
        }
        if arguments.readsRecipients {
            for address in message.headerRecipients { recipients.append(try Self.address(address, hostname)) }
        }
        guard !recipients.isEmpty else {
            throw SendmailClient.Failure(
                exitCode: SystemExit.usage,
                description: arguments.readsRecipients
                    ? "there are no recipients in the header section" : "name recipients, or take them from it with -t"
            )
        }
        var seen: Set<String> = []
        return .init(
            sender: sender ?? user,
            recipients: recipients.filter { seen.insert($0).inserted },
            message: message,
            notify: arguments.notify,
            returnContent: arguments.returnContent,
            envelopeID: arguments.envelopeID
        )
    }

    /// An address fit for an SMTP command, with this machine's name if it has none.
    private static func address(_ text: String, _ hostname: String) throws(SendmailClient.Failure) -> String {
        // Before anything is taken apart: no line end may reach the SMTP connection.
        let hasControls = text.unicodeScalars.contains { $0.value < 0x20 || $0.value == 0x7f }
        let address = AddressList.parse(text).first ?? text
        let isClean =
            address.hasPrefix("\"") || address.unicodeScalars.allSatisfy { $0 != " " && $0 != "<" && $0 != ">" }
        guard !hasControls, isClean, !address.isEmpty, address.utf8.count <= 320, address.first != "@",
            address.last != "@"
        else {
            let shown = ConfigurationItem.shortened(text)
            throw SendmailClient.Failure(
                exitCode: SystemExit.dataError,
                description: "“\(shown)” is not an address"
            )
        }
        return address.contains("@") ? address : "\(address)@\(hostname)"
    }

    /// RFC 5322 §3.3.
    static func date(_ date: Date) -> String {
        let formatter = DateFormatter()
        formatter.locale = Locale(identifier: "en_US_POSIX")
        formatter.dateFormat = "EEE, d MMM yyyy HH:mm:ss Z"
        return formatter.string(from: date)
    }

    /// Where the node is and what this machine is called. A configuration that cannot be read by this user is no
    /// reason to fail: mail programs run as anybody.
    private static func node(
        _ arguments: SendmailArguments,
        _ environment: [String: String]
    ) throws(SendmailClient.Failure) -> (Endpoint, String) {
        var loader = ConfigurationLoader()
        loader.environment = environment
        loader.files = FileProbe(problem: { _ in nil })
        let configuration = try? loader.load(path: arguments.configuration)
        let hostname = configuration?.hostname ?? loader.systemHostname()
        if let text = arguments.server ?? environment["POSTHORN_SERVER"], !text.isEmpty {
            guard let endpoint = Endpoint(text, defaultPort: 25) else {
                throw .init(exitCode: SystemExit.usage, description: "“\(text)” is not a host and port")
            }
            return (endpoint, hostname)
        }
        guard let listener = configuration?.listeners.first(where: { $0.kind == .relay && $0.port != 0 }) else {
            return (Endpoint(host: "127.0.0.1", port: 25), hostname)
        }
        let isWildcard = listener.address == "::" || listener.address == "0.0.0.0"
        return (Endpoint(host: isWildcard ? "127.0.0.1" : listener.address, port: listener.port), hostname)
    }
}

/// `-bs`: the program speaks SMTP itself, this only carries it.
enum SendmailRelay {
    /// - Returns: the exit code.
    static func run(_ server: Endpoint) -> Int32 {
        let connection: BlockingConnection
        do {
            connection = try BlockingConnection(server, timeoutSeconds: 600)
        } catch {
            print("421 4.3.0 \(error.description)\r")
            return SystemExit.temporaryFailure
        }
        var polls = [
            pollfd(fd: STDIN_FILENO, events: Int16(POLLIN), revents: 0),
            pollfd(fd: connection.descriptor, events: Int16(POLLIN), revents: 0),
        ]
        var buffer = [UInt8](repeating: 0, count: 65536)
        while poll(&polls, nfds_t(polls.count), 600_000) > 0 {
            if polls[0].revents != 0 {
                let count = read(STDIN_FILENO, &buffer, buffer.count)
                if count > 0 {
                    guard (try? connection.write(Array(buffer.prefix(count)))) != nil else { break }
                } else {
                    shutdown(connection.descriptor, Int32(SHUT_WR))
                    polls[0].fd = -1
                }
            }
            if polls[1].revents != 0 {
                guard let octets = try? connection.readSome(), !octets.isEmpty else { return SystemExit.ok }
                FileHandle.standardOutput.write(Data(octets))
            }
        }
        return SystemExit.temporaryFailure
    }
}
