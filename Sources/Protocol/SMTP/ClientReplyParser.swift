/// Reads replies from the octets of a server, however they are cut (RFC 5321 §4.2.1).
///
/// It is liberal where servers are known to be sloppy: a bare line feed ends a line, the space after the last code may
/// be missing, and the last line's code wins over other codes of the same class (Postfix does the same). Text beyond
/// what is kept is read and dropped. No octets make it trap or grow without bound.
public struct ClientReplyParser: Sendable {
    public enum Result: Hashable, Sendable {
        /// All octets are taken; the reply goes on in the next ones.
        case needsMore
        /// A reply is complete: ``makeReply()`` gives it whole until the next call of `parse`.
        case reply(code: Int)
        /// This is no reply; nothing sensible can follow.
        case malformed(ClientReplyError)
    }

    /// Octets of text kept for one reply.
    public static let keptTextSizeMax = 8192
    /// Octets in one reply, all lines together.
    public static let sizeMax = 65536
    /// Lines in one reply.
    public static let lineCountMax = 512

    private enum State {
        case code
        case separator
        case text
        /// After the reply's last line; the next octet begins another reply.
        case complete
    }

    private var state = State.code
    private var digitCount = 0
    /// The code of the line being read.
    private var lineCode = 0
    /// The code of the lines before, 0 in the first.
    private var previousCode = 0
    private var isLastLine = false
    private var size = 0
    /// The text of all lines, one after the other.
    private var text: [UInt8] = []
    /// Where each finished line ends in `text`.
    private var lineEnds: [Int] = []

    public init() {
        self.text.reserveCapacity(256)
        self.lineEnds.reserveCapacity(8)
    }

    /// The lines of the reply that `parse` returned last, as octets.
    public var lineCount: Int { self.lineEnds.count }

    /// Takes octets from `position` on, up to the end of one reply at most, and moves `position` behind them.
    public mutating func parse(_ octets: UnsafeRawBufferPointer, at position: inout Int) -> Result {
        if self.state == .complete { self.restart() }
        while position < octets.count {
            let octet = octets[position]
            position += 1
            self.size += 1
            guard self.size <= Self.sizeMax else { return .malformed(.tooLong) }
            switch self.state {
            case .code:
                guard octet >= 0x30, octet <= 0x39 else { return .malformed(.notAReply) }
                self.lineCode = self.lineCode * 10 + Int(octet - 0x30)
                self.digitCount += 1
                if self.digitCount == 3 {
                    guard self.lineCode >= 200, self.lineCode <= 599 else { return .malformed(.notAReply) }
                    guard self.previousCode == 0 || self.previousCode / 100 == self.lineCode / 100 else {
                        return .malformed(.mismatchedCodes)
                    }
                    self.state = .separator
                }
            case .separator:
                self.state = .text
                switch octet {
                case UInt8(ascii: " "): self.isLastLine = true
                case UInt8(ascii: "-"): self.isLastLine = false
                case 0x0d: self.isLastLine = true
                case 0x0a:
                    self.isLastLine = true
                    if let result = self.endLine() { return result }
                default: return .malformed(.notAReply)
                }
            case .text:
                if octet == 0x0a {
                    if let result = self.endLine() { return result }
                } else if self.text.count < Self.keptTextSizeMax {
                    self.text.append(octet)
                }
            case .complete:
                return .malformed(.notAReply)
            }
        }
        return .needsMore
    }

    /// The reply that `parse` returned last, with its text made safe to log.
    public func makeReply() -> RemoteReply {
        var lines: [String] = []
        lines.reserveCapacity(self.lineEnds.count)
        self.forEachLine { lines.append(Self.sanitised($0)) }
        var enhanced: EnhancedStatusCode?
        if let first = lines.first {
            let word = first.utf8.prefix { $0 != 0x20 }
            if let code = EnhancedStatusCode(Substring(word)), Int(code.classification) == self.lineCode / 100 {
                enhanced = code
            }
        }
        return RemoteReply(code: self.lineCode, enhancedStatusCode: enhanced, lines: lines)
    }

    /// The text of each line, as the server sent it.
    func forEachLine(_ body: (UnsafeRawBufferPointer) -> Void) {
        self.text.withUnsafeBytes { text in
            var start = 0
            for end in self.lineEnds {
                body(UnsafeRawBufferPointer(rebasing: text[start..<end]))
                start = end
            }
        }
    }

    private mutating func endLine() -> Result? {
        if let last = self.text.last, last == 0x0d, self.text.count > (self.lineEnds.last ?? 0) {
            self.text.removeLast()
        }
        self.lineEnds.append(self.text.count)
        if self.isLastLine {
            self.state = .complete
            return .reply(code: self.lineCode)
        }
        guard self.lineEnds.count < Self.lineCountMax else { return .malformed(.tooLong) }
        self.previousCode = self.lineCode
        self.lineCode = 0
        self.digitCount = 0
        self.state = .code
        return nil
    }

    private mutating func restart() {
        self.state = .code
        self.digitCount = 0
        self.lineCode = 0
        self.previousCode = 0
        self.size = 0
        self.text.removeAll(keepingCapacity: true)
        self.lineEnds.removeAll(keepingCapacity: true)
    }

    private static func sanitised(_ octets: UnsafeRawBufferPointer) -> String {
        let text = String(decoding: octets, as: UTF8.self)
        guard octets.contains(where: { $0 < 0x20 || $0 >= 0x7f }) else { return text }
        var safe = String.UnicodeScalarView()
        for scalar in text.unicodeScalars {
            switch scalar.value {
            case 0x09: safe.append(" ")
            case 0..<0x20, 0x7f..<0xa0, 0x2028, 0x2029, 0x202a...0x202e, 0x2066...0x2069: safe.append("?")
            default: safe.append(scalar)
            }
        }
        return String(safe)
    }
}

/// Why octets are no reply.
public enum ClientReplyError: Hashable, Sendable {
    /// A line does not begin with a code of 200 to 599 and a separator.
    case notAReply
    /// The lines of one reply have codes of different classes.
    case mismatchedCodes
    /// More octets or lines than any server has reason to send.
    case tooLong
}
