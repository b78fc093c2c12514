/// How far a group has come in a partition: a watermark plus the *incomplete* offsets above it (DESIGN §3).
///
/// Everything below ``watermark`` is done, everything from ``end`` on has not been looked at, and of what lies between
/// only ``incomplete`` is not done.
public struct Progress: Hashable, Sendable {
    public var watermark: Offset
    public var end: Offset
    /// Ascending, each in `watermark..<end`; at most ``incompleteCountMax``.
    public var incomplete: [Offset]

    public static let incompleteCountMax = 1_000
    /// What Kafka allows in a commit's metadata by default (`offset.metadata.max.bytes`).
    public static let metadataSizeMax = 4_096

    public init(watermark: Offset, end: Offset? = nil, incomplete: [Offset] = []) {
        let end = end ?? watermark
        precondition(watermark <= end && incomplete.count <= Self.incompleteCountMax)
        self.watermark = watermark
        self.end = end
        self.incomplete = incomplete
    }

    /// Whether the record at `offset` needs no more work from this group.
    public func isDone(_ offset: Offset) -> Bool {
        if offset < self.watermark { return true }
        if offset >= self.end { return false }
        var low = 0
        var high = self.incomplete.count
        while low < high {
            let middle = (low + high) / 2
            if self.incomplete[middle] < offset { low = middle + 1 } else { high = middle }
        }
        return !(low < self.incomplete.count && self.incomplete[low] == offset)
    }

    /// What is left of it in a log that ends at `end`: nothing from there on has been looked at.
    public func cut(at end: Offset) -> Progress {
        guard end < self.end else { return self }
        return Progress(
            watermark: min(self.watermark, end),
            end: end,
            incomplete: Array(self.incomplete.prefix { $0 < end })
        )
    }

    /// The part above the watermark as ASCII: `v1;` the distance to ``end``, then the incomplete offsets, each as the
    /// distance to the one before (the first to the watermark), in base 36. Empty when nothing lies above.
    public var metadata: String {
        if self.end == self.watermark { return "" }
        var text = "v1;" + String(self.end.rawValue - self.watermark.rawValue, radix: 36)
        var previous = self.watermark
        var separator = ":"
        for offset in self.incomplete {
            text += separator
            text += String(offset.rawValue - previous.rawValue, radix: 36)
            previous = offset
            separator = ","
        }
        return text
    }

    /// Reads what ``metadata`` wrote; `nil` when it is something else.
    public init?(watermark: Offset, metadata: String) {
        if metadata.isEmpty {
            self.init(watermark: watermark)
            return
        }
        guard metadata.hasPrefix("v1;"), metadata.utf8.count <= Self.metadataSizeMax else { return nil }
        let parts = metadata.dropFirst(3).split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        guard let first = parts.first, let distance = Self.distance(first) else { return nil }
        let (end, overflow) = watermark.rawValue.addingReportingOverflow(distance)
        guard !overflow else { return nil }
        var incomplete: [Offset] = []
        var previous = watermark.rawValue
        if parts.count == 2 {
            for (index, digits) in parts[1].split(separator: ",", omittingEmptySubsequences: false).enumerated() {
                guard incomplete.count < Self.incompleteCountMax, let delta = Self.distance(digits) else { return nil }
                let (offset, overflow) = previous.addingReportingOverflow(delta)
                guard !overflow, offset < end, delta > 0 || index == 0 else { return nil }
                incomplete.append(Offset(offset))
                previous = offset
            }
        }
        self.init(watermark: watermark, end: Offset(end), incomplete: incomplete)
    }

    private static func distance(_ digits: some StringProtocol) -> Int64? {
        // Int64 would read a sign.
        guard digits.utf8.first != UInt8(ascii: "+"), let value = Int64(digits, radix: 36), value >= 0 else {
            return nil
        }
        return value
    }
}
