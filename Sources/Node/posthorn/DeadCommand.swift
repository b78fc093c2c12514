import ArgumentParser
import Foundation
import NodeSupport

struct DeadCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "dead",
        abstract: "Look at records that could not be used, and put them back.",
        discussion: """
            A record that cannot be read, or whose content is gone or is not what it names, goes to posthorn.dead with \
            the reason, and blocks nobody. Asks a running node of any role through its admin listener.
            """,
        subcommands: [List.self, Show.self, Replay.self],
        defaultSubcommand: List.self
    )

    /// Which records.
    struct Filter: ParsableArguments {
        @Option(help: ArgumentHelp("Only what was in this topic, with or without “posthorn.”.", valueName: "topic"))
        var topic: String?

        @Option(
            help: ArgumentHelp("Only what came to posthorn.dead since then: 30m, 4h, 2d.", valueName: "duration"),
            transform: { text in
                guard let duration = ConfigurationValue<Duration>.duration().parse(text) else {
                    throw ValidationError("“\(text)” is no duration. Write a number with a unit, like 30m, 4h or 2d.")
                }
                return duration
            }
        )
        var since: Duration?

        var query: [(String, String)] {
            var query: [(String, String)] = []
            if let topic { query.append(("topic", topic.hasPrefix("posthorn.") ? topic : "posthorn.\(topic)")) }
            if let since {
                let now = Int64(Date().timeIntervalSince1970 * 1_000)
                query.append(("since", "\(now - since.components.seconds * 1_000)"))
            }
            return query
        }

        /// The newest records, of as many pages as it takes.
        ///
        /// - Parameter limit: `nil` for all there are.
        func records(_ client: AdminClient, limit: Int?) throws(AdminClient.Failure) -> AdminAPI.DeadList {
            var all = AdminAPI.DeadList(records: [], cursor: nil, replays: [])
            var marks: [AdminAPI.DeadPosition: AdminAPI.Instant] = [:]
            let query = self.query
            repeat {
                let count = min(DeadQuery.limitMax, limit.map { $0 - all.records.count } ?? DeadQuery.limitMax)
                var pageQuery = query + [("limit", "\(count)")]
                if let cursor = all.cursor { pageQuery.append(("cursor", cursor)) }
                let page: AdminAPI.DeadList = try client.get("/dead/records", query: pageQuery)
                for mark in page.replays where marks[mark.position] == nil { marks[mark.position] = mark.time }
                for var record in page.records {
                    record.replayed = record.replayed ?? marks[record.position]
                    all.records.append(record)
                }
                all.cursor = page.cursor
            } while all.cursor != nil && all.records.count < limit ?? .max
            return all
        }
    }

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "The newest records that could not be used.")
        @OptionGroup var connection: QueueCommand.Connection
        @OptionGroup var filter: Filter
        @Option(help: "At most so many.") var limit = DeadQuery.limitDefault

        func validate() throws {
            guard self.limit >= 1 else { throw ValidationError("--limit is a number from 1 on.") }
        }

        func run() throws {
            try self.connection.print({ try self.filter.records($0, limit: self.limit) }, format: DeadText.list)
        }
    }

    struct Show: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "One record: where it was, why it is here, its headers, its envelope."
        )
        @OptionGroup var connection: QueueCommand.Connection
        @Option(
            help: ArgumentHelp(
                "Write the record's value to a file, or to standard output for “-”.",
                discussion: "It is mail, as a rule: somebody's.",
                valueName: "file"
            ),
            completion: .file()
        )
        var value: String?
        @Argument(
            help: ArgumentHelp("PARTITION@OFFSET, as “dead list” shows it.", valueName: "position"),
            transform: DeadCommand.position
        )
        var position: AdminAPI.DeadPosition

        func run() throws {
            let path = "/dead/records/\(self.position)"
            guard let value else {
                return try self.connection.print({ try $0.get(path) }, format: DeadText.detail)
            }
            let octets: Data
            do {
                octets = try self.connection.client().octets("\(path)/value")
            } catch let failure as AdminClient.Failure {
                StandardError.write("posthorn: \(failure.description)")
                throw ExitCode(failure.status == 404 ? 1 : SystemExit.unavailable)
            }
            if value == "-" { return FileHandle.standardOutput.write(octets) }
            do {
                try octets.write(to: URL(fileURLWithPath: value))
            } catch {
                StandardError.write("posthorn: \(value) cannot be written: \(error.localizedDescription)")
                throw ExitCode(1)
            }
        }
    }

    struct Replay: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Put records back where they were.",
            discussion: """
                Each is appended to its topic again, with its key, headers and value; a delay begins anew. What was \
                replayed before, still cannot be read, has lost its content, or has its outcomes is refused.
                """
        )
        @OptionGroup var connection: QueueCommand.Connection
        @OptionGroup var filter: Filter
        @Flag(help: "All that were not replayed before, the oldest first.") var all = false
        @Flag(help: "Also what would be refused.") var force = false
        @Flag(name: .shortAndLong, help: "Do not ask when all are to be replayed.") var yes = false
        @Argument(
            help: ArgumentHelp("PARTITION@OFFSET, as “dead list” shows it.", valueName: "position"),
            transform: DeadCommand.position
        )
        var positions: [AdminAPI.DeadPosition] = []

        func validate() throws {
            guard self.all != !self.positions.isEmpty else {
                throw ValidationError("Say which: either positions, as “posthorn dead list” shows them, or --all.")
            }
            guard self.all || (self.filter.topic == nil && self.filter.since == nil) else {
                throw ValidationError("--topic and --since select among --all.")
            }
        }

        func run() throws {
            var isComplete = true
            try self.connection.print(
                { (client) throws -> AdminAPI.DeadReplayResult in
                    let result = try self.replay(client)
                    isComplete = result.items.allSatisfy { $0.refusal == nil }
                    return result
                },
                format: DeadText.result
            )
            if !isComplete { throw ExitCode(1) }
        }

        private func replay(_ client: AdminClient) throws -> AdminAPI.DeadReplayResult {
            var positions = self.positions
            if self.all {
                positions = try self.selected(client)
                if !positions.isEmpty, !self.yes {
                    StandardError.write("Put back \(positions.count) records? Type yes to go on.")
                    guard readLine()?.lowercased() == "yes" else { throw ExitCode(1) }
                }
            }
            var result = AdminAPI.DeadReplayResult(items: [])
            while !positions.isEmpty {
                let request = AdminAPI.DeadReplay(
                    positions: Array(positions.prefix(DeadCommand.batchCount)),
                    force: self.force ? true : nil,
                    marksAreKnown: self.all ? true : nil
                )
                positions.removeFirst(request.positions.count)
                let answer: AdminAPI.DeadReplayResult = try client.post("/dead/replay", request)
                result.items += answer.items
            }
            return result
        }

        /// The oldest first. What a step that was written again left twice is there once.
        private func selected(_ client: AdminClient) throws -> [AdminAPI.DeadPosition] {
            var origins: Set<String> = []
            return try self.filter.records(client, limit: nil).records
                .filter { record in
                    guard let from = record.from, self.force || record.replayed == nil else { return false }
                    return origins.insert(from).inserted
                }
                .map(\.position)
                .reversed()
        }
    }

    /// Records that are replayed in one request: each is read, appended and waited for.
    private static let batchCount = 20

    private static func position(_ text: String) throws -> AdminAPI.DeadPosition {
        guard let position = AdminAPI.DeadPosition(text) else {
            throw ValidationError("“\(text)” is no position: write PARTITION@OFFSET, as “posthorn dead list” shows it.")
        }
        return position
    }
}

/// Answers about dead records as text.
enum DeadText {
    static func list(_ list: AdminAPI.DeadList) -> String {
        guard !list.records.isEmpty else { return "Nothing is dead." }
        var table = TextTable(
            header: ["POSITION", "BURIED", "SIZE", "FROM", "KEY", "MESSAGE", "REPLAYED", "REASON"],
            numeric: [2]
        )
        for record in list.records {
            table.rows.append([
                record.position.description, Self.time(record.buried), Quantity.size(record.size),
                Self.shortened(record.from), Self.shortened(record.key), record.message ?? "-",
                record.replayed.map(Self.time) ?? "-", Self.shortened(record.reason),
            ])
        }
        return table.text + (list.cursor == nil ? "" : "\nThere are more: see --limit.")
    }

    static func detail(_ detail: AdminAPI.DeadDetail) -> String {
        let record = detail.record
        var lines = [
            "\(record.position) in posthorn.dead since \(Self.time(record.buried))",
            "  reason    \(Self.oneLine(record.reason))",
        ]
        if let from = record.from {
            let time = record.appended.map { ", from \(Self.time($0))" } ?? ""
            lines.append("  was       \(Self.oneLine(from))\(time)")
        }
        lines.append("  key       \(Self.oneLine(record.key ?? ""))")
        lines.append("  size      \(Quantity.size(record.size)), the value \(Quantity.size(detail.valueSize))")
        if let size = record.originalSize { lines.append("            cut: it had \(Quantity.size(size))") }
        if record.isConcluded == true { lines.append("  outcome   its recipients have one; their sender was told") }
        if let replayed = record.replayed { lines.append("  replayed  \(Self.time(replayed))") }
        if let envelope = detail.envelope {
            lines.append(
                "  message   \(envelope.message) from \(envelope.sender.isEmpty ? "<>" : Self.oneLine(envelope.sender))"
            )
            lines += envelope.recipients.map { "  to        \(Self.oneLine($0))" }
            lines.append(
                "            \(Quantity.size(envelope.octets)), accepted \(Self.time(envelope.accepted)), "
                    + "\(envelope.attempts) attempts"
            )
            if let content = envelope.content { lines.append("  content   \(content)") }
        } else if let error = detail.envelopeError {
            lines.append("  envelope  \(Self.oneLine(error))")
        }
        for header in detail.headers {
            let text = header.text.map(Self.oneLine) ?? "\(Quantity.size(header.size)), not text"
            lines.append("  header    \(Self.oneLine(header.name)): \(text)")
        }
        return lines.joined(separator: "\n")
    }

    static func result(_ result: AdminAPI.DeadReplayResult) -> String {
        guard !result.items.isEmpty else { return "There is nothing to put back." }
        let count = result.items.count { $0.refusal == nil }
        let lines = result.items.map { item in
            item.refusal.map { "\(item.position) was not put back: \(Self.oneLine($0))." }
                ?? "\(item.position) is \(item.to ?? "put back") now."
        }
        return (lines + ["\(count) of \(result.items.count) records put back."]).joined(separator: "\n")
    }

    private static func time(_ instant: AdminAPI.Instant) -> String {
        Date(timeIntervalSince1970: Double(instant / 1_000)).formatted(.iso8601)
    }

    private static func shortened(_ text: String?) -> String {
        text.map(ConfigurationItem.shortened) ?? "-"
    }

    /// Whatever somebody wrote: nothing of it moves the terminal's cursor.
    private static func oneLine(_ text: String) -> String {
        String(
            String.UnicodeScalarView(
                text.unicodeScalars.map { $0.properties.generalCategory == .control ? " " : $0 }
            )
        )
    }
}
