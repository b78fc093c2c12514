import ArgumentParser
import Foundation
import NodeSupport

struct TraceCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "trace",
        abstract: "What became of a message, or of the mail of an address.",
        discussion: "Asks a running node through its admin listener for every attempt and decision it knows of."
    )

    @OptionGroup var connection: QueueCommand.Connection
    @Option(help: "At most so many events, the newest.") var limit = TraceQuery.limitDefault
    @Argument(help: ArgumentHelp("A message's id, or an address.", valueName: "id|address")) var subject: String

    func validate() throws {
        guard (1...TraceQuery.limitMax).contains(self.limit) else {
            throw ValidationError("--limit is a number from 1 to \(TraceQuery.limitMax).")
        }
    }

    func run() throws {
        let name = self.subject.contains("@") ? "address" : "message"
        let query = [(name, self.subject), ("limit", "\(self.limit)")]
        try self.connection.print({ try $0.get("/trace", query: query) }, format: TraceText.text)
    }
}

/// Traces as text: messages, their recipients, and each recipient's events in order.
enum TraceText {
    static func text(_ trace: AdminAPI.Trace) -> String {
        var lines: [String] = []
        let messages = Dictionary(grouping: trace.events, by: \.messageID).sorted { $0.key < $1.key }
        for (id, events) in messages {
            guard let first = events.first else { continue }
            let sender = first.sender.isEmpty ? "<>" : first.sender
            lines.append(
                "\(id) from \(sender), \(Quantity.size(first.contentSize)), accepted \(Self.time(first.acceptedAt))"
            )
            let recipients = Dictionary(grouping: events, by: \.recipientIndex).sorted { $0.key < $1.key }
            for (_, events) in recipients {
                lines.append("  \(events.first?.recipient ?? "")")
                lines += events.map { "    " + Self.line($0) }
            }
        }
        if lines.isEmpty { lines.append("Nothing is known of it.") }
        if trace.isTruncated { lines.append("There is more: see --limit.") }
        return (lines + (trace.missing ?? []).map { "Not complete: \($0)." }).joined(separator: "\n")
    }

    private static func line(_ event: AdminAPI.TraceEvent) -> String {
        let delay = event.time.subtractingReportingOverflow(event.acceptedAt).partialValue
        var text = "\(Self.time(event.time)) after \(Self.delay(delay)): \(event.kind)"
        if event.attempt > 0 { text += ", attempt \(event.attempt)" }
        if let remote = event.remote {
            text += " at \(remote.host) (\(remote.address)"
            if let version = remote.tlsVersion {
                text += ", " + [version, remote.tlsCipherSuite].compactMap { $0 }.joined(separator: " with ")
                if remote.tlsVerified { text += ", verified" }
            }
            text += ")"
        } else {
            text += " for \(event.site)"
        }
        if let reply = event.reply {
            text += ": \(reply.code) \(reply.text)"
        } else if let reason = event.reason {
            text += ": \(event.status) \(reason)"
        }
        if let due = event.nextDueAt { text += "; next \(Self.time(due))" }
        return text
    }

    private static func time(_ instant: AdminAPI.Instant) -> String {
        Date(timeIntervalSince1970: Double(instant / 1_000)).formatted(.iso8601)
    }

    private static func delay(_ milliseconds: Int64) -> String {
        0..<1_000 ~= milliseconds ? "\(milliseconds)ms" : Quantity.span(milliseconds: milliseconds)
    }
}
