import ArgumentParser
import Foundation
import NodeSupport

struct QueueCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "queue",
        abstract: "Look at what waits, and decide about it.",
        discussion: "Asks a running node through its admin listener.",
        subcommands: [
            Summary.self, List.self, Show.self, Flush.self, Hold.self, Release.self, Remove.self,
        ],
        defaultSubcommand: Summary.self
    )

    /// How to reach the node.
    struct Connection: ParsableArguments {
        @OptionGroup var configuration: ConfigurationOption

        @Option(
            help: ArgumentHelp(
                "The node's admin listener.",
                discussion: "Default: admin.address.",
                valueName: "host:port"
            )
        )
        var admin: String?

        @Option(
            help: ArgumentHelp(
                "The file with the token.",
                discussion: "Default: admin.token-file, or what the node keeps in its data directory.",
                valueName: "file"
            ),
            completion: .file()
        )
        var tokenFile: String?

        @Flag(help: "Print JSON.")
        var json = false

        func client() throws -> AdminClient {
            // A node elsewhere needs no configuration here.
            let isHere = self.admin == nil || self.configuration.config != nil
            let settings = isHere ? try self.configuration.load() : nil
            var endpoint = settings?.admin.address
            if let admin {
                endpoint = Endpoint(admin, defaultPort: 9925)
                if endpoint == nil { throw ValidationError("“\(admin)” is not a host and port.") }
            }
            guard let endpoint else { throw ValidationError("The node has no admin listener (admin.address: none).") }
            return AdminClient(endpoint: endpoint, token: try self.token(settings))
        }

        private func token(_ settings: NodeConfiguration?) throws -> String? {
            guard let file = self.tokenFile ?? settings?.adminTokenFile else { return nil }
            do {
                let line = try firstLine(ofFile: file).trimmingSpaces()
                if line.isEmpty { throw ValidationError("\(file) is empty: the node's token should be in it.") }
                return String(line)
            } catch let error as CocoaError where error.code == .fileReadNoSuchFile && self.tokenFile == nil {
                // The node has not run yet; that it does not answer says so.
                return nil
            } catch let error as CocoaError {
                throw ValidationError(
                    "\(file) cannot be read (\(error.localizedDescription)): be the user that runs the node, or give "
                        + "--token-file."
                )
            }
        }

        /// Asks, and prints the answer as JSON or as the text that `format` makes of it.
        func print<Answer: Codable>(
            _ ask: (AdminClient) throws -> Answer,
            format: (Answer) -> String
        ) throws {
            do {
                let answer = try ask(self.client())
                if self.json {
                    let encoder = JSONEncoder()
                    encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
                    Swift.print(String(decoding: try encoder.encode(answer), as: UTF8.self))
                } else {
                    Swift.print(format(answer))
                }
            } catch let failure as AdminClient.Failure {
                StandardError.write("posthorn: \(failure.description)")
                throw ExitCode(failure.status == 404 ? 1 : SystemExit.unavailable)
            }
        }
    }

    /// What a command is about.
    struct Selection: ParsableArguments {
        @Option(help: "Recipients of this domain.") var domain: String?
        @Option(help: "Recipients that go to this site.") var site: String?
        @Option(help: "Messages from this sender; '<>' is the null sender.") var sender: String?
        @Option(help: "This recipient.") var recipient: String?
        @Option(help: "This message, by id.") var message: String?
        @Flag(help: "Everything.") var all = false

        var predicate: AdminAPI.QueuePredicate {
            AdminAPI.QueuePredicate(
                domain: self.domain?.lowercased(),
                site: self.site,
                sender: self.sender,
                recipient: self.recipient,
                message: self.message,
                all: self.all ? true : nil
            )
        }

        func validate() throws {
            let predicate = self.predicate
            if predicate.isEmpty {
                throw ValidationError(
                    "Say what it is about: --domain, --site, --sender, --recipient, --message or --all."
                )
            }
            if self.all, predicate != AdminAPI.QueuePredicate(all: true) {
                throw ValidationError("--all leaves nothing to select with the other options.")
            }
        }
    }

    struct Summary: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "How much waits, by site.")
        @OptionGroup var connection: Connection

        func run() throws {
            try self.connection.print({ try $0.get("/queue/summary") }, format: QueueText.summary)
        }
    }

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "The messages that wait.")
        @OptionGroup var connection: Connection
        @Option(help: "Only recipients that go to this site.") var site: String?
        @Option(help: "Only recipients of this domain.") var domain: String?
        @Option(help: "Only messages from this sender.") var sender: String?
        @Option(help: "At most so many.") var limit = 100

        func run() throws {
            var query = [("limit", "\(self.limit)")]
            if let site { query.append(("site", site)) }
            if let domain { query.append(("domain", domain.lowercased())) }
            if let sender { query.append(("sender", sender)) }
            try self.connection.print({ try $0.get("/queue/messages", query: query) }, format: QueueText.list)
        }
    }

    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "One message, with all its recipients.")
        @OptionGroup var connection: Connection
        @Argument(help: "The message's id.") var message: String

        func run() throws {
            let path = "/queue/messages/\(AdminClient.escaped(self.message))"
            try self.connection.print({ try $0.get(path) }, format: QueueText.message)
        }
    }

    struct Flush: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Try now what waits.")
        @OptionGroup var connection: Connection
        @OptionGroup var selection: Selection

        func run() throws { try QueueCommand.send(.flush, self.selection, self.connection, "will be tried now") }
    }

    struct Hold: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Stop trying until released.")
        @OptionGroup var connection: Connection
        @OptionGroup var selection: Selection

        func run() throws { try QueueCommand.send(.hold, self.selection, self.connection, "will be held") }
    }

    struct Release: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Try again what was held.")
        @OptionGroup var connection: Connection
        @OptionGroup var selection: Selection

        func run() throws { try QueueCommand.send(.release, self.selection, self.connection, "will be released") }
    }

    struct Remove: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Give up mail without telling its sender.",
            discussion: "This cannot be undone. Each recipient's final state becomes “removed”."
        )
        @OptionGroup var connection: Connection
        @OptionGroup var selection: Selection
        @Flag(name: .shortAndLong, help: "Do not ask when everything is to be removed.") var yes = false

        func run() throws {
            if self.selection.all, !self.yes {
                StandardError.write("Remove everything that waits? Type yes to go on.")
                guard readLine()?.lowercased() == "yes" else { throw ExitCode(1) }
            }
            try QueueCommand.send(.remove, self.selection, self.connection, "will be removed")
        }
    }

    private static func send(
        _ command: AdminAPI.Command,
        _ selection: Selection,
        _ connection: Connection,
        _ consequence: String
    ) throws {
        try connection.print(
            { try $0.post("/queue/\(command.rawValue)", selection.predicate) },
            format: { (result: AdminAPI.QueueCommandResult) in
                let others = result.toldOthers == true ? " on this node; the other nodes were told" : ""
                return "\(result.matched) recipient\(result.matched == 1 ? "" : "s") \(consequence)\(others)."
            }
        )
    }
}

/// Queue answers as text.
enum QueueText {
    static func summary(_ summary: AdminAPI.QueueSummary) -> String {
        let notes = Self.notes(summary)
        guard summary.messages > 0 || !summary.sites.isEmpty else {
            return (notes.isEmpty ? ["Nothing waits."] : notes).joined(separator: "\n")
        }
        var table = TextTable(
            header: ["SITE", "ACTIVE", "DEFERRED", "HELD", "OLDEST", "CONNECTIONS", "LAST ERROR"],
            numeric: [1, 2, 3, 4, 5]
        )
        for site in summary.sites {
            var error = site.lastError.map(ConfigurationItem.shortened) ?? ""
            if let until = site.suspendedUntil { error = "suspended for \(Self.from(until)); \(error)" }
            table.rows.append([
                ConfigurationItem.shortened(site.site), "\(site.active)", "\(site.deferred)", "\(site.held)",
                site.oldest.map(Self.from) ?? "-", "\(site.connections)/\(site.connectionMax)", error,
            ])
        }
        let oldest = summary.oldest.map { ", the oldest from \(Self.from($0)) ago" } ?? ""
        let total =
            Self.counted(summary.messages, "message") + " to " + Self.counted(summary.recipients, "recipient")
            + ", \(Quantity.size(summary.octets))\(oldest)"
        return ([table.text, total] + notes).joined(separator: "\n")
    }

    private static func counted(_ count: Int, _ what: String) -> String { "\(count) \(what)\(count == 1 ? "" : "s")" }

    /// What a cluster's answer says besides its table.
    private static func notes(_ summary: AdminAPI.QueueSummary) -> [String] {
        var notes: [String] = []
        if let count = summary.notAttempted, count > 0 { notes.append("\(count) accepted and not attempted yet") }
        let tiers = (summary.tiers ?? []).filter { $0.records > 0 }.map { "\($0.topic): \($0.records)" }
        if !tiers.isEmpty { notes.append("records that wait in \(tiers.joined(separator: ", "))") }
        return notes + Self.missing(summary.missing)
    }

    private static func missing(_ missing: [String]?) -> [String] {
        (missing ?? []).map { "Not complete: \($0)." }
    }

    static func list(_ list: AdminAPI.QueueList) -> String {
        let missing = Self.missing(list.missing)
        guard !list.messages.isEmpty else { return (["Nothing waits."] + missing).joined(separator: "\n") }
        var table = TextTable(
            header: ["ID", "AGE", "SIZE", "SENDER", "RECIPIENT", "STATE", "TRIES", "NEXT", "LAST REPLY"],
            numeric: [1, 2, 6, 7]
        )
        for message in list.messages {
            for recipient in message.recipients {
                table.rows.append(
                    [message.id, Self.from(message.accepted), Quantity.size(message.octets), Self.sender(message)]
                        + Self.cells(recipient)
                )
            }
        }
        let more = list.isTruncated ? ["There are more: see --limit."] : []
        return ([table.text] + more + missing).joined(separator: "\n")
    }

    static func message(_ message: AdminAPI.QueuedMessage) -> String {
        var table = TextTable(header: ["RECIPIENT", "STATE", "TRIES", "NEXT", "LAST REPLY"], numeric: [2, 3])
        table.rows = message.recipients.map(Self.cells)
        let expires = message.expires.map { ", expires in \(Self.from($0))" } ?? ""
        let missing = Self.missing(message.missing).map { "\n\($0)" }.joined()
        return """
            \(message.id) from \(Self.sender(message)), \(Quantity.size(message.octets)), \
            accepted \(Self.from(message.accepted)) ago\(expires)
            \(table.text)\(missing)
            """
    }

    private static func cells(_ recipient: AdminAPI.QueuedMessage.Recipient) -> [String] {
        [
            ConfigurationItem.shortened(recipient.address), recipient.state.rawValue, "\(recipient.attempts)",
            recipient.nextAttempt.map(Self.from) ?? "-", recipient.lastReply.map(ConfigurationItem.shortened) ?? "",
        ]
    }

    private static func sender(_ message: AdminAPI.QueuedMessage) -> String {
        message.sender.isEmpty ? "<>" : ConfigurationItem.shortened(message.sender)
    }

    /// The time between now and then.
    private static func from(_ instant: AdminAPI.Instant) -> String {
        let now = Int64(Date().timeIntervalSince1970 * 1000)
        return Quantity.span(milliseconds: now.subtractingReportingOverflow(instant).partialValue)
    }
}
