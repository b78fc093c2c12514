import Logging

/// The octets of one log line in the making.
struct LogLine {
    typealias SortedMetadata = [(key: String, value: Logger.Metadata.Value)]

    private(set) var octets: [UInt8] = []

    init() {
        self.octets.reserveCapacity(256)
    }

    /// The event's metadata over the provider's over the handler's, sorted by key, addresses redacted if asked.
    static func merged(
        _ base: Logger.Metadata,
        _ provider: Logger.MetadataProvider?,
        _ event: LogEvent,
        redacts: Bool
    ) -> SortedMetadata {
        var metadata = base
        if let provided = provider?.get() { metadata.merge(provided) { $1 } }
        if let own = event.metadata { metadata.merge(own) { $1 } }
        if let error = event.error, metadata[LogKeys.error] == nil { metadata[LogKeys.error] = "\(error)" }
        if redacts {
            for key in LogKeys.addressKeys {
                if let value = metadata[key] { metadata[key] = Self.redacted(value) }
            }
        }
        return metadata.sorted { $0.key < $1.key }
    }

    private static func redacted(_ value: Logger.Metadata.Value) -> Logger.Metadata.Value {
        switch value {
        case .string(let text): .string(redact(text))
        case .stringConvertible(let value): .string(redact(value.description))
        case .array(let values): .array(values.map(Self.redacted))
        case .dictionary(let values): .dictionary(values.mapValues(Self.redacted))
        }
    }

    mutating func append(_ text: String) {
        self.octets.append(contentsOf: text.utf8)
    }

    mutating func append(literal: StaticString) {
        literal.withUTF8Buffer { self.octets.append(contentsOf: $0) }
    }

    /// Control characters become blanks: nobody's text can begin a line of ours.
    mutating func append(plain text: String) {
        for octet in text.utf8 { self.octets.append(octet < 0x20 || octet == 0x7f ? 0x20 : octet) }
    }

    /// As it is when it is one word, as a JSON string otherwise.
    mutating func append(token text: String) {
        let isWord = !text.isEmpty && text.utf8.allSatisfy { $0 > 0x20 && $0 != 0x22 && $0 != 0x5c && $0 != 0x7f }
        if isWord { self.append(text) } else { self.append(json: text) }
    }

    mutating func append(json text: String) {
        self.octets.append(UInt8(ascii: "\""))
        for octet in text.utf8 {
            switch octet {
            case UInt8(ascii: "\""): self.append(literal: "\\\"")
            case UInt8(ascii: "\\"): self.append(literal: "\\\\")
            case UInt8(ascii: "\n"): self.append(literal: "\\n")
            case UInt8(ascii: "\r"): self.append(literal: "\\r")
            case UInt8(ascii: "\t"): self.append(literal: "\\t")
            case 0..<0x20, 0x7f:
                self.append(literal: "\\u00")
                self.octets.append(Self.hexDigit(octet >> 4))
                self.octets.append(Self.hexDigit(octet & 15))
            default: self.octets.append(octet)
            }
        }
        self.octets.append(UInt8(ascii: "\""))
    }

    /// Whole numbers and booleans are written as such, so that machines can compute with them.
    mutating func append(json value: Logger.Metadata.Value) {
        switch value {
        case .string(let text):
            self.append(json: text)
        case .stringConvertible(let value):
            switch value {
            case let number as any FixedWidthInteger: self.append(String(describing: number))
            case let flag as Bool: self.append(flag ? "true" : "false")
            default: self.append(json: value.description)
            }
        case .array(let values):
            self.append(literal: "[")
            for (index, value) in values.enumerated() {
                if index > 0 { self.append(literal: ",") }
                self.append(json: value)
            }
            self.append(literal: "]")
        case .dictionary(let values):
            self.append(literal: "{")
            for (index, pair) in values.sorted(by: { $0.key < $1.key }).enumerated() {
                if index > 0 { self.append(literal: ",") }
                self.append(json: pair.key)
                self.append(literal: ":")
                self.append(json: pair.value)
            }
            self.append(literal: "}")
        }
    }

    /// `2026-11-23T23:10:00.000Z` (RFC 3339 §5.6).
    ///
    /// - Parameter milliseconds: since 1970.
    mutating func append(rfc3339 milliseconds: Int64) {
        let milliseconds = min(max(milliseconds, 0), 253_402_300_799_999)
        let days = milliseconds / 86_400_000
        let rest = milliseconds % 86_400_000
        // A Gregorian date from days, by eras of 400 years counted from 1 March 0000.
        let shifted = days + 719_468
        let era = shifted / 146_097
        let dayOfEra = shifted % 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let monthFromMarch = (5 * dayOfYear + 2) / 153
        let month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
        self.append(decimal: yearOfEra + era * 400 + (month <= 2 ? 1 : 0), width: 4)
        self.append(literal: "-")
        self.append(decimal: month, width: 2)
        self.append(literal: "-")
        self.append(decimal: dayOfYear - (153 * monthFromMarch + 2) / 5 + 1, width: 2)
        self.append(literal: "T")
        self.append(decimal: rest / 3_600_000, width: 2)
        self.append(literal: ":")
        self.append(decimal: rest / 60_000 % 60, width: 2)
        self.append(literal: ":")
        self.append(decimal: rest / 1_000 % 60, width: 2)
        self.append(literal: ".")
        self.append(decimal: rest % 1_000, width: 3)
        self.append(literal: "Z")
    }

    private mutating func append(decimal value: Int64, width: Int) {
        var divisor: Int64 = 1
        for _ in 1..<width { divisor *= 10 }
        while divisor > 0 {
            self.octets.append(0x30 + UInt8(truncatingIfNeeded: value / divisor % 10))
            divisor /= 10
        }
    }

    private static func hexDigit(_ value: UInt8) -> UInt8 {
        value < 10 ? 0x30 + value : 0x61 + value - 10
    }
}
