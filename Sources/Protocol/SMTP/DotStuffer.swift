/// Turns content into what is sent after DATA (RFC 5321 §4.5.2): lines that start with `.` get a second one, and the
/// end `<CR><LF>.<CR><LF>` follows.
public enum DotStuffer {
    /// Whether any line starts with `.`; if none does, the content can be sent as it is, followed by its ``ending(of:)``.
    public static func needsStuffing(_ content: UnsafeRawBufferPointer) -> Bool {
        guard let first = content.first else { return false }
        return first == UInt8(ascii: ".") || self.stuffedLine(content, from: 0) != nil
    }

    /// What follows the content: `.<CR><LF>`, after a `<CR><LF>` when the content does not end with one.
    public static func ending(of content: UnsafeRawBufferPointer) -> StaticString {
        let count = content.count
        let isComplete = count == 0 || (count >= 2 && content[count - 2] == 0x0d && content[count - 1] == 0x0a)
        return isComplete ? ".\r\n" : "\r\n.\r\n"
    }

    /// Passes the stuffed content and its end to `sink`, in runs as long as possible.
    public static func stuff(_ content: UnsafeRawBufferPointer, sink: (UnsafeRawBufferPointer) -> Void) {
        let dot = UInt8(ascii: ".")
        var runStart = 0
        if content.first == dot {
            withUnsafeBytes(of: dot) { sink($0) }
        }
        while let lineStart = self.stuffedLine(content, from: runStart) {
            sink(UnsafeRawBufferPointer(rebasing: content[runStart..<lineStart]))
            withUnsafeBytes(of: dot) { sink($0) }
            runStart = lineStart
        }
        if runStart < content.count {
            sink(UnsafeRawBufferPointer(rebasing: content[runStart...]))
        }
        let ending = self.ending(of: content)
        sink(UnsafeRawBufferPointer(start: ending.utf8Start, count: ending.utf8CodeUnitCount))
    }

    /// The place of the next `.` that follows a `<LF>`.
    ///
    /// After a bare `<LF>` too, should content from elsewhere hold one: a peer that takes it for a line break would
    /// otherwise be smuggled an end.
    private static func stuffedLine(_ content: UnsafeRawBufferPointer, from start: Int) -> Int? {
        var index = start
        while let lineFeed = find(0x0a, in: content, index, content.count - 1) {
            if content[lineFeed + 1] == UInt8(ascii: ".") { return lineFeed + 1 }
            index = lineFeed + 1
        }
        return nil
    }
}
