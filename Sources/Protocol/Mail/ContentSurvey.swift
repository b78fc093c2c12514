/// What one fast pass over content says about the extensions its next hop must offer.
public struct ContentSurvey: Hashable, Sendable {
    /// The longest line SMTP allows, without its line ending (RFC 5321 §4.5.3.1.6).
    public static let lineSizeMax = 998

    /// The header section has octets above 127: the content needs SMTPUTF8 (RFC 6531 §3.4).
    public var hasEightBitHeader: Bool
    /// The body has octets above 127: the content needs 8BITMIME (RFC 6152).
    public var hasEightBitBody: Bool
    /// Some line is longer than 998 octets.
    public var hasLongLine: Bool

    public init(hasEightBitHeader: Bool = false, hasEightBitBody: Bool = false, hasLongLine: Bool = false) {
        self.hasEightBitHeader = hasEightBitHeader
        self.hasEightBitBody = hasEightBitBody
        self.hasLongLine = hasLongLine
    }

    /// - Parameter bodyOffset: ``HeaderSection/bodyOffset``.
    public init(_ content: UnsafeRawBufferPointer, bodyOffset: Int) {
        let bodyOffset = min(max(0, bodyOffset), content.count)
        self.hasEightBitHeader = content.hasEightBit(0..<bodyOffset)
        self.hasEightBitBody = content.hasEightBit(bodyOffset..<content.count)
        self.hasLongLine = Self.hasLongLine(content)
    }

    /// Looks for a line feed backwards from the furthest place the next one may stand, so most octets are skipped.
    private static func hasLongLine(_ content: UnsafeRawBufferPointer) -> Bool {
        var start = 0
        while content.count - start > Self.lineSizeMax {
            // A line of 998 octets has its line feed at most 999 further on, after its carriage return.
            let furthest = start + Self.lineSizeMax + 1
            var position = min(furthest, content.count - 1)
            if position == furthest, content[position - 1] != UInt8.carriageReturn { position -= 1 }
            while position >= start, content[position] != UInt8.lineFeed { position -= 1 }
            guard position >= start else { return true }
            start = position + 1
        }
        return false
    }
}
