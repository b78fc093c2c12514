public import Logging

/// Writes each event as one line, redacted as ``LogKeys/addressKeys`` say.
public struct LineLogHandler: LogHandler {
    public enum Format: Hashable, Sendable {
        /// One object per line: `time` (RFC 3339), `level`, `logger`, `message` and the metadata, nested only where its
        /// values are dictionaries or arrays themselves. Metadata named like one of the fixed fields is written with
        /// an underscore before it.
        case json
        /// For people: `2026-11-23T23:10:00.000Z info posthorn: Accepted message message_id=01AB... size=1234`.
        /// Values with blanks or quotes in them are written as JSON strings, so that a line stays one line.
        case text
    }

    public var metadata: Logger.Metadata = [:]
    public var logLevel: Logger.Level = .info
    public var metadataProvider: Logger.MetadataProvider?

    private let label: String
    private let format: Format
    private let output: LogOutput
    private let clock: any NodeClock
    private let redactsAddresses: Bool

    public init(
        label: String,
        format: Format,
        output: LogOutput = .standardError,
        redactsAddresses: Bool = true,
        clock: any NodeClock = SystemClock()
    ) {
        self.label = label
        self.format = format
        self.output = output
        self.redactsAddresses = redactsAddresses
        self.clock = clock
    }

    public subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { self.metadata[key] }
        set { self.metadata[key] = newValue }
    }

    public func log(event: LogEvent) {
        let metadata = LogLine.merged(self.metadata, self.metadataProvider, event, redacts: self.redactsAddresses)
        var line = LogLine()
        switch self.format {
        case .json: self.writeJSON(event, metadata, to: &line)
        case .text: self.writeText(event, metadata, to: &line)
        }
        self.output.append(line.octets)
    }

    private func writeJSON(_ event: LogEvent, _ metadata: LogLine.SortedMetadata, to line: inout LogLine) {
        line.append(literal: "{\"time\":\"")
        line.append(rfc3339: self.clock.milliseconds)
        line.append(literal: "\",\"level\":\"")
        line.append(event.level.rawValue)
        line.append(literal: "\",\"logger\":")
        line.append(json: self.label)
        line.append(literal: ",\"message\":")
        line.append(json: event.message.description)
        for (key, value) in metadata {
            line.append(literal: ",")
            line.append(json: Self.fixedKeys.contains(key) ? "_" + key : key)
            line.append(literal: ":")
            line.append(json: value)
        }
        line.append(literal: "}\n")
    }

    private static let fixedKeys: Set<String> = ["time", "level", "logger", "message"]

    private func writeText(_ event: LogEvent, _ metadata: LogLine.SortedMetadata, to line: inout LogLine) {
        line.append(rfc3339: self.clock.milliseconds)
        line.append(literal: " ")
        line.append(event.level.rawValue)
        line.append(literal: " ")
        line.append(self.label)
        line.append(literal: ": ")
        line.append(plain: event.message.description)
        for (key, value) in metadata {
            line.append(literal: " ")
            line.append(key)
            line.append(literal: "=")
            switch value {
            case .string(let text): line.append(token: text)
            case .stringConvertible(let value): line.append(token: value.description)
            case .array, .dictionary: line.append(json: value)
            }
        }
        line.append(literal: "\n")
    }
}
