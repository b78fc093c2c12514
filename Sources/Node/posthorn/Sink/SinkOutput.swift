import Foundation
import Synchronization

/// What a sink has seen, counted from any event loop.
final class SinkCounters: Sendable {
    let connections = Atomic<Int>(0)
    private let open = Atomic<Int>(0)
    private let openMax = Atomic<Int>(0)
    let messages = Atomic<Int>(0)
    /// Accepted with a message that was accepted.
    let recipients = Atomic<Int>(0)
    /// Of content, as transferred.
    let octets = Atomic<Int>(0)
    let temporaryFailures = Atomic<Int>(0)
    let permanentFailures = Atomic<Int>(0)
    let drops = Atomic<Int>(0)
    let tlsSessions = Atomic<Int>(0)

    /// A connection is there. Returns its number, from 1.
    func opened() -> Int {
        let open = self.open.wrappingAdd(1, ordering: .relaxed).newValue
        var most = self.openMax.load(ordering: .relaxed)
        while open > most {
            let (isExchanged, current) = self.openMax.weakCompareExchange(
                expected: most,
                desired: open,
                ordering: .relaxed
            )
            if isExchanged { break }
            most = current
        }
        return self.connections.wrappingAdd(1, ordering: .relaxed).newValue
    }

    func closed() {
        self.open.wrappingSubtract(1, ordering: .relaxed)
    }

    func snapshot(elapsed: Duration) -> SinkSummary {
        let seconds = Double(elapsed.components.seconds) + Double(elapsed.components.attoseconds) * 1e-18
        let messages = self.messages.load(ordering: .relaxed)
        return SinkSummary(
            connections: self.connections.load(ordering: .relaxed),
            connectionsAtOnce: self.openMax.load(ordering: .relaxed),
            messages: messages,
            recipients: self.recipients.load(ordering: .relaxed),
            octets: self.octets.load(ordering: .relaxed),
            temporaryFailures: self.temporaryFailures.load(ordering: .relaxed),
            permanentFailures: self.permanentFailures.load(ordering: .relaxed),
            drops: self.drops.load(ordering: .relaxed),
            tlsSessions: self.tlsSessions.load(ordering: .relaxed),
            seconds: seconds,
            messagesPerSecond: seconds > 0 ? Double(messages) / seconds : 0
        )
    }
}

/// The counts as printed and as JSON.
struct SinkSummary: Codable, Sendable {
    var connections: Int
    /// The most that were open at one time.
    var connectionsAtOnce: Int
    var messages: Int
    var recipients: Int
    var octets: Int
    var temporaryFailures: Int
    var permanentFailures: Int
    var drops: Int
    var tlsSessions: Int
    /// Since the first connection.
    var seconds: Double
    var messagesPerSecond: Double

    var text: String {
        "\(self.messages) messages, \(self.recipients) recipients, \(self.octets) octets, "
            + "\(self.connections) connections (\(self.connectionsAtOnce) at once), \(self.temporaryFailures) temporary and "
            + "\(self.permanentFailures) permanent failures, \(self.drops) drops in "
            + String(format: "%.1f s (%.0f messages/s)", self.seconds, self.messagesPerSecond)
    }
}

/// Writes what was accepted to files, each message in one system call so that lines never mix.
final class SinkFiles: Sendable {
    private let record: FileHandle?
    private let dumpDirectory: String?
    private let dumpCount = Atomic<Int>(0)

    /// The content's beginning is enough to find its id.
    var needsHeader: Bool { self.record != nil || self.dumpDirectory != nil }
    var needsContent: Bool { self.dumpDirectory != nil }

    init(recordPath: String?, dumpDirectory: String?) throws {
        if let recordPath {
            let descriptor = open(recordPath, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o644)
            guard descriptor >= 0 else { throw CocoaError(.fileWriteNoPermission) }
            self.record = FileHandle(fileDescriptor: descriptor, closeOnDealloc: true)
        } else {
            self.record = nil
        }
        if let dumpDirectory {
            try FileManager.default.createDirectory(atPath: dumpDirectory, withIntermediateDirectories: true)
        }
        self.dumpDirectory = dumpDirectory
    }

    /// - Throws: when the disk does; the sink then answers 452.
    func accepted(reversePath: String, recipients: [String], content: [UInt8]) throws {
        if let record {
            let id = Self.messageID(content)
            let lines = recipients.map { "\(id)\t\($0)\n" }.joined()
            try record.write(contentsOf: Data(lines.utf8))
        }
        if let dumpDirectory {
            let number = self.dumpCount.wrappingAdd(1, ordering: .relaxed).newValue
            var data = Data("# MAIL FROM:<\(reversePath)>\n".utf8)
            for recipient in recipients { data.append(Data("# RCPT TO:<\(recipient)>\n".utf8)) }
            data.append(contentsOf: content)
            let name = String(format: "%@/%08d.eml", dumpDirectory, number)
            try data.write(to: URL(fileURLWithPath: name))
        }
    }

    /// `X-Test-Id`, else `Message-ID` without its brackets, else `-`.
    static func messageID(_ content: [UInt8]) -> String {
        var messageID: String?
        for line in content.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false) {
            let line = line.last == UInt8(ascii: "\r") ? line.dropLast() : line
            if line.isEmpty { break }
            guard let colon = line.firstIndex(of: UInt8(ascii: ":")) else { continue }
            let name = line[..<colon]
            guard name.count == 9 || name.count == 10 else { continue }
            let value = String(decoding: line[(colon + 1)...], as: UTF8.self).trimmingSpaces()
            switch String(decoding: name, as: UTF8.self).lowercased() {
            case "x-test-id": return String(value)
            case "message-id": messageID = messageID ?? String(value.filter { $0 != "<" && $0 != ">" })
            default: break
            }
        }
        return messageID ?? "-"
    }
}
