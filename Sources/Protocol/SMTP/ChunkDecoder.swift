/// Takes message content sent with BDAT (RFC 3030 §2): chunks of announced size, nothing unstuffed.
///
/// One value lives for all chunks of one message, so that a `<CR>` at the end of one and a `<LF>` at the start of the
/// next are one line break. The result does not depend on how the octets were split.
public struct ChunkDecoder: Sendable {
    private var run: ContentRun
    private var remainingCount = 0
    private var lineCount = 0
    /// The last octet was `<CR>`, and it is held back.
    private var hasHeldCarriageReturn = false

    public init(rules: ContentRules) {
        self.run = ContentRun(rules: rules)
    }

    /// Octets of content so far.
    public var size: Int { self.run.size }
    public var faults: ContentFaults { self.run.faults }
    /// Whether the whole of the current chunk has been fed.
    public var isChunkComplete: Bool { self.remainingCount == 0 }
    /// More was swallowed than ``ContentRules/discardCountMax`` allows: close.
    public var isAbandoned: Bool { self.run.isBeyondDiscard }

    /// A BDAT command announced `size` octets.
    public mutating func beginChunk(size: Int) {
        precondition(size >= 0 && self.remainingCount == 0, "A chunk begins inside another.")
        self.remainingCount = size
    }

    /// Feeds the next octets and returns how many belong to the chunk. Content goes to `sink` while it is free of
    /// faults.
    public mutating func next(_ octets: UnsafeRawBufferPointer, sink: (UnsafeRawBufferPointer) -> Void) -> Int {
        let count = min(octets.count, self.remainingCount)
        guard count > 0 else { return 0 }
        self.remainingCount -= count
        self.take(UnsafeRawBufferPointer(rebasing: octets[..<count]), sink)
        return count
    }

    /// The last chunk is complete: settles a `<CR>` at the very end.
    public mutating func finish(sink: (UnsafeRawBufferPointer) -> Void) {
        precondition(self.remainingCount == 0, "Content ends inside a chunk.")
        if self.hasHeldCarriageReturn {
            self.hasHeldCarriageReturn = false
            self.bareCarriageReturn(sink)
        }
    }

    private mutating func take(_ octets: UnsafeRawBufferPointer, _ sink: ContentRun.Sink) {
        var index = 0
        var runStart = 0
        if self.hasHeldCarriageReturn {
            self.hasHeldCarriageReturn = false
            if octets[0] == 0x0a {
                self.run.passLineBreak(to: sink)
                self.lineCount = 0
                index = 1
                runStart = 1
            } else {
                self.bareCarriageReturn(sink)
            }
        }
        while index < octets.count {
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
            index = end
            guard end < octets.count else { break }
            if end + 1 == octets.count {
                self.hasHeldCarriageReturn = true
                break
            }
            if octets[end + 1] == 0x0a {
                self.lineCount = 0
                index = end + 2
            } else {
                self.pass(octets, runStart..<end, sink)
                self.bareCarriageReturn(sink)
                runStart = end + 1
                index = end + 1
            }
        }
        self.pass(octets, runStart..<(self.hasHeldCarriageReturn ? octets.count - 1 : octets.count), sink)
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
