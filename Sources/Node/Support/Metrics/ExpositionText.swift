/// Writes the Prometheus text format, version 0.0.4.
struct ExpositionText {
    private(set) var text = ""

    mutating func writeHead(name: String, kind: MetricsRegistry.Kind, help: String) {
        self.text += "# HELP \(name) \(Self.escapedHelp(help))\n# TYPE \(name) \(kind.rawValue)\n"
    }

    /// - Parameter labels: `a="b",c="d"`; may be empty.
    mutating func writeSample(_ name: String, _ labels: String, _ value: String) {
        self.text += labels.isEmpty ? "\(name) \(value)\n" : "\(name){\(labels)} \(value)\n"
    }

    mutating func writeHistogram(_ name: String, _ labels: String, _ histogram: HistogramReading) {
        let prefix = labels.isEmpty ? "" : labels + ","
        let counts = histogram.cumulativeCounts
        for (bound, count) in zip(histogram.bounds, counts) {
            self.writeSample("\(name)_bucket", "\(prefix)le=\"\(Self.number(bound))\"", "\(count)")
        }
        let total = counts.last ?? 0
        self.writeSample("\(name)_bucket", "\(prefix)le=\"+Inf\"", "\(total)")
        self.writeSample("\(name)_sum", labels, Self.number(histogram.sum))
        self.writeSample("\(name)_count", labels, "\(total)")
    }

    /// Whole numbers without a fraction.
    static func number(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
        if let whole = Int64(exactly: value) { return "\(whole)" }
        return "\(value)"
    }

    static func escapedValue(_ value: String) -> String {
        self.escaped(value, quotes: true)
    }

    static func escapedHelp(_ help: String) -> String {
        self.escaped(help, quotes: false)
    }

    private static func escaped(_ text: String, quotes: Bool) -> String {
        var escaped = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\\": escaped += "\\\\"
            case "\n": escaped += "\\n"
            case "\"" where quotes: escaped += "\\\""
            default: escaped.unicodeScalars.append(scalar)
            }
        }
        return escaped
    }

    static func isName(_ name: String) -> Bool {
        guard let first = name.utf8.first, !(0x30...0x39).contains(first) else { return false }
        return name.utf8.allSatisfy { octet in
            switch octet {
            case 0x30...0x39, 0x41...0x5a, 0x61...0x7a, UInt8(ascii: "_"): true
            default: false
            }
        }
    }
}
