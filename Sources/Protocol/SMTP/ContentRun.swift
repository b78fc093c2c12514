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

/// Passes clean content on in runs as long as possible, counting and checking them: what both ways of sending content
/// (DATA and BDAT) share.
///
/// Once a fault is known nothing more is passed on; counting goes on, so that the faults found do not depend on how
/// the octets were split.
struct ContentRun {
    typealias Sink = (UnsafeRawBufferPointer) -> Void

    let rules: ContentRules
    private(set) var faults: ContentFaults = []
    /// Octets of content so far, those not passed on included.
    private(set) var size = 0
    /// Octets of the line so far.
    private var lineCount = 0

    init(rules: ContentRules) {
        self.rules = rules
    }

    var isBeyondDiscard: Bool { self.size > self.rules.sizeMax &+ self.rules.discardCountMax }

    /// Moves `index` to the next `<CR>` or to the end, and settles each `<LF>` alone on the way. Afterwards
    /// `octets[runStart..<index]` wait to be passed on.
    mutating func text(
        _ octets: UnsafeRawBufferPointer,
        _ index: inout Int,
        _ runStart: inout Int,
        to sink: Sink
    ) {
        let end = find(0x0d, in: octets, index, octets.count) ?? octets.count
        while let lineFeed = find(0x0a, in: octets, index, end) {
            self.count(lineFeed - index)
            self.lineCount = 0
            switch self.rules.bareNewline {
            case .refuse:
                self.faults.insert(.bareNewline)
            case .normalise:
                self.pass(octets, runStart..<lineFeed, to: sink)
                self.passLineBreak(to: sink)
                runStart = lineFeed + 1
            }
            index = lineFeed + 1
        }
        self.count(end - index)
        index = end
    }

    /// What comes next is a line of its own.
    mutating func endLine() {
        self.lineCount = 0
    }

    mutating func passBareCarriageReturn(to sink: Sink) {
        self.lineCount = 0
        switch self.rules.bareNewline {
        case .refuse:
            self.faults.insert(.bareNewline)
            self.passCarriageReturn(to: sink)
        case .normalise:
            self.passLineBreak(to: sink)
        }
    }

    mutating func pass(_ octets: UnsafeRawBufferPointer, _ range: Range<Int>, to sink: Sink) {
        self.pass(UnsafeRawBufferPointer(rebasing: octets[range]), to: sink)
    }

    private mutating func pass(_ octets: UnsafeRawBufferPointer, to sink: Sink) {
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

    private mutating func count(_ octetCount: Int) {
        guard let max = self.rules.lineOctetCountMax else { return }
        self.lineCount += octetCount
        if self.lineCount > max { self.faults.insert(.lineTooLong) }
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
