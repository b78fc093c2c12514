/// Finds command lines in what a client sent (RFC 5321 §2.3.8, §4.1.1).
public struct CommandLineDecoder: Sendable {
    public enum Frame: Hashable, Sendable {
        /// No complete line yet. `consumedCount` octets of an overlong line were swallowed.
        case needsMore(consumedCount: Int)
        /// A line: the first `count` octets. Its end is included in `consumedCount`.
        case line(count: Int, consumedCount: Int)
        /// A line longer than allowed has been swallowed to its end.
        case tooLong(consumedCount: Int)
        /// A line ended in `<LF>` alone, which is not allowed.
        case bareLineFeed(consumedCount: Int)
    }

    /// Whether `<LF>` alone ends a line.
    public let isBareLineFeedAllowed: Bool
    private var isSwallowing = false

    public init(isBareLineFeedAllowed: Bool = false) {
        self.isBareLineFeedAllowed = isBareLineFeedAllowed
    }

    /// Looks at all octets that wait; the caller drops what was consumed and calls again with the rest.
    ///
    /// - Parameter lineCountMax: octets in a line, `<CR><LF>` included.
    public mutating func next(_ octets: UnsafeRawBufferPointer, lineCountMax: Int) -> Frame {
        guard let lineFeed = find(0x0a, in: octets, 0, octets.count) else {
            // A line of the longest length could still end with the two next octets.
            guard self.isSwallowing || octets.count >= lineCountMax else { return .needsMore(consumedCount: 0) }
            self.isSwallowing = true
            return .needsMore(consumedCount: octets.count)
        }
        let consumedCount = lineFeed + 1
        if self.isSwallowing || consumedCount > lineCountMax {
            self.isSwallowing = false
            return .tooLong(consumedCount: consumedCount)
        }
        if lineFeed > 0, octets[lineFeed - 1] == 0x0d {
            return .line(count: lineFeed - 1, consumedCount: consumedCount)
        }
        return self.isBareLineFeedAllowed
            ? .line(count: lineFeed, consumedCount: consumedCount) : .bareLineFeed(consumedCount: consumedCount)
    }
}
