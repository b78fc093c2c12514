import Mail

/// Where content must change to be sent after DATA (RFC 5321 §4.5.2): mostly nowhere.
///
/// Nothing is copied: the driver sends the segments of its own buffer one after the other.
public struct ClientContent: Hashable, Sendable {
    /// What ends the content, when that ends with a line ending of its own.
    public static let terminator: StaticString = ".\r\n"
    /// What ends the content when it stops within a line.
    public static let terminatorAfterOpenLine: StaticString = "\r\n.\r\n"

    /// The offsets of the dots that begin a line, each of which is sent twice.
    public var dots: [Int]
    /// The content does not end with `<CR><LF>`.
    public var endsWithinLine: Bool

    /// Looks through the content. A dot after a bare line feed is doubled too: servers that take that for a line
    /// ending must not take the dot for the end.
    public init(_ content: UnsafeRawBufferPointer) {
        var dots: [Int] = []
        let count = content.count
        if count > 0, content[0] == UInt8(ascii: ".") { dots.append(0) }
        var position = 0
        while let lineFeed = content.firstLineFeed(from: position, to: count) {
            position = lineFeed + 1
            if position < count, content[position] == UInt8(ascii: ".") { dots.append(position) }
        }
        self.dots = dots
        self.endsWithinLine = count > 0 && !(count >= 2 && content[count - 1] == 0x0a && content[count - 2] == 0x0d)
    }

    public var terminator: StaticString {
        self.endsWithinLine ? Self.terminatorAfterOpenLine : Self.terminator
    }

    /// How many pieces the content is sent in.
    public var segmentCount: Int { self.dots.count + 1 }

    /// The piece at `index`: each one ends with a dot that the next one begins with again.
    public func segment(at index: Int, contentSize: Int) -> Range<Int> {
        let start = index == 0 ? 0 : self.dots[index - 1]
        let end = index < self.dots.count ? self.dots[index] + 1 : contentSize
        return start..<max(start, end)
    }
}
