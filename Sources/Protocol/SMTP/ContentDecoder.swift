#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// How message content is checked on its way in.
public struct ContentRules: Hashable, Sendable {
    /// What a `<CR>` or `<LF>` alone means (RFC 5321 §2.3.8: a client must not send one).
    public enum BareNewline: Hashable, Sendable {
        /// The content is swallowed to its true end, then refused.
        case refuse
        /// It becomes `<CR><LF>`; a `.` after it never ends the content and is never unstuffed.
        case normalise
    }

    public var bareNewline: BareNewline
    public var refusesNUL: Bool
    /// Octets in the longest line without its `<CR><LF>`; `nil` takes any (RFC 5321 §4.5.3.1.6 asks for at least 998).
    public var lineOctetCountMax: Int?
    /// Octets of content taken; what exceeds it is swallowed and refused.
    public var sizeMax: Int
    /// Octets swallowed beyond `sizeMax` before the session is given up.
    public var discardCountMax: Int

    public init(
        bareNewline: BareNewline = .refuse,
        refusesNUL: Bool = true,
        lineOctetCountMax: Int? = nil,
        sizeMax: Int,
        discardCountMax: Int = 1 << 28
    ) {
        precondition(sizeMax > 0 && discardCountMax >= 0 && (lineOctetCountMax ?? 998) >= 998)
        self.bareNewline = bareNewline
        self.refusesNUL = refusesNUL
        self.lineOctetCountMax = lineOctetCountMax
        self.sizeMax = sizeMax
        self.discardCountMax = discardCountMax
    }
}

/// What is wrong with content.
public struct ContentFaults: OptionSet, Hashable, Sendable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }
    public static let bareNewline = ContentFaults(rawValue: 1)
    public static let nul = ContentFaults(rawValue: 2)
    public static let tooLarge = ContentFaults(rawValue: 4)
    public static let lineTooLong = ContentFaults(rawValue: 8)
}

/// Passes clean content on in runs as long as possible, counting and checking them.
///
/// Once a fault is known nothing more is passed on; counting goes on, so that the faults found do not depend on how
/// the octets were split.
struct ContentRun {
    typealias Sink = (UnsafeRawBufferPointer) -> Void

    let rules: ContentRules
    private(set) var faults: ContentFaults = []
    /// Octets of content so far, those not passed on included.
    private(set) var size = 0

    init(rules: ContentRules) {
        self.rules = rules
    }

    var isBeyondDiscard: Bool { self.size > self.rules.sizeMax &+ self.rules.discardCountMax }

    mutating func pass(_ octets: UnsafeRawBufferPointer, to sink: Sink) {
        guard octets.count > 0 else { return }
        self.size += octets.count
        if self.size > self.rules.sizeMax { self.faults.insert(.tooLarge) }
        if self.rules.refusesNUL, find(0, in: octets, 0, octets.count) != nil { self.faults.insert(.nul) }
        if self.faults.isEmpty { sink(octets) }
    }

    mutating func passLineBreak(to sink: Sink) {
        withUnsafeBytes(of: (UInt8(0x0d), UInt8(0x0a))) { self.pass($0, to: sink) }
    }

    mutating func passCarriageReturn(to sink: Sink) {
        withUnsafeBytes(of: UInt8(0x0d)) { self.pass($0, to: sink) }
    }

    mutating func note(_ fault: ContentFaults) {
        self.faults.insert(fault)
    }
}

/// The first place of an octet in `octets[start..<end]`.
@inline(__always)
func find(_ octet: UInt8, in octets: UnsafeRawBufferPointer, _ start: Int, _ end: Int) -> Int? {
    guard start < end, let base = octets.baseAddress, let hit = memchr(base + start, Int32(octet), end - start) else {
        return nil
    }
    return UnsafeRawPointer(hit) - base
}

/// Finds the end of message content sent with DATA and undoes its dot stuffing (RFC 5321 §4.1.1.4, §4.5.2).
///
/// Content ends at `<CR><LF>.<CR><LF>` and at nothing else; the `<CR><LF>` of the DATA line counts as the first one.
/// The result does not depend on how the octets were split.
public struct ContentDecoder: Sendable {
    public struct Progress: Hashable, Sendable {
        public enum Status: Hashable, Sendable {
            case needsMore
            /// The end was found; what follows `consumedCount` are commands.
            case ended
            /// More was swallowed than ``ContentRules/discardCountMax`` allows: close.
            case abandoned
        }

        public var consumedCount: Int
        public var status: Status
    }

    private enum Place: Sendable {
        /// After `<CR><LF>`, or at the very start.
        case lineStart
        /// After a `.` at the start of a line; the dot is held back.
        case dot
        /// After a `.` at the start of a line and `<CR>`; both are held back.
        case dotCarriageReturn
        case text
        /// After `<CR>` within a line; it is held back.
        case carriageReturn
    }

    private var place: Place = .lineStart
    private var run: ContentRun
    private var lineCount = 0

    public init(rules: ContentRules) {
        self.run = ContentRun(rules: rules)
    }

    /// Octets of content so far, without stuffing and end.
    public var size: Int { self.run.size }
    public var faults: ContentFaults { self.run.faults }

    /// Feeds the next octets. Content goes to `sink` in runs, while it is free of faults.
    public mutating func next(
        _ octets: UnsafeRawBufferPointer,
        sink: (UnsafeRawBufferPointer) -> Void
    ) -> Progress {
        var index = 0
        // [runStart, index) waits to be passed on.
        var runStart = 0
        while index < octets.count {
            switch self.place {
            case .lineStart:
                self.lineCount = 0
                guard octets[index] == UInt8(ascii: ".") else {
                    self.place = .text
                    continue
                }
                self.pass(octets, runStart..<index, sink)
                index += 1
                runStart = index
                self.place = .dot
            case .dot:
                if octets[index] == 0x0d {
                    index += 1
                    runStart = index
                    self.place = .dotCarriageReturn
                } else {
                    self.place = .text
                }
            case .dotCarriageReturn:
                if octets[index] == 0x0a {
                    return Progress(consumedCount: index + 1, status: .ended)
                }
                self.bareCarriageReturn(sink)
                self.place = .text
            case .carriageReturn:
                if octets[index] == 0x0a {
                    // The held <CR> is in this buffer, or was in the last one.
                    if index == 0 { self.run.passCarriageReturn(to: sink) }
                    index += 1
                    self.place = .lineStart
                } else {
                    self.pass(octets, runStart..<max(index - 1, runStart), sink)
                    runStart = index
                    self.bareCarriageReturn(sink)
                    self.place = .text
                }
            case .text:
                self.text(octets, &index, &runStart, sink)
            }
        }
        let heldCount = self.place == .carriageReturn && index > runStart ? 1 : 0
        self.pass(octets, runStart..<(index - heldCount), sink)
        return Progress(consumedCount: index, status: self.run.isBeyondDiscard ? .abandoned : .needsMore)
    }

    /// Moves to the octet after the next `<CR>`, or to the end.
    private mutating func text(
        _ octets: UnsafeRawBufferPointer,
        _ index: inout Int,
        _ runStart: inout Int,
        _ sink: ContentRun.Sink
    ) {
        let end = find(0x0d, in: octets, index, octets.count) ?? octets.count
        while let lineFeed = find(0x0a, in: octets, index, end) {
            self.count(lineFeed - index)
            self.lineCount = 0
            switch self.run.rules.bareNewline {
            case .refuse:
                self.run.note(.bareNewline)
            case .normalise:
                self.pass(octets, runStart..<lineFeed, sink)
                self.run.passLineBreak(to: sink)
                runStart = lineFeed + 1
            }
            index = lineFeed + 1
        }
        self.count(end - index)
        if end < octets.count {
            index = end + 1
            self.place = .carriageReturn
        } else {
            index = end
        }
    }

    private mutating func count(_ octetCount: Int) {
        guard let max = self.run.rules.lineOctetCountMax else { return }
        self.lineCount += octetCount
        if self.lineCount > max { self.run.note(.lineTooLong) }
    }

    private mutating func bareCarriageReturn(_ sink: ContentRun.Sink) {
        self.lineCount = 0
        switch self.run.rules.bareNewline {
        case .refuse:
            self.run.note(.bareNewline)
            self.run.passCarriageReturn(to: sink)
        case .normalise:
            self.run.passLineBreak(to: sink)
        }
    }

    private mutating func pass(_ octets: UnsafeRawBufferPointer, _ range: Range<Int>, _ sink: ContentRun.Sink) {
        guard !range.isEmpty else { return }
        self.run.pass(UnsafeRawBufferPointer(rebasing: octets[range]), to: sink)
    }
}
