/// Takes message content sent with BDAT (RFC 3030 §2): chunks of announced size, nothing unstuffed.
///
/// One value lives for all chunks of one message, so that a `<CR>` at the end of one and a `<LF>` at the start of the
/// next are one line break. The result does not depend on how the octets were split.
public struct ChunkDecoder: Sendable {
    private var run: ContentRun
    private var remainingCount = 0
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
            self.run.passBareCarriageReturn(to: sink)
        }
    }

    private mutating func take(_ octets: UnsafeRawBufferPointer, _ sink: ContentRun.Sink) {
        var index = 0
        var runStart = 0
        if self.hasHeldCarriageReturn {
            self.hasHeldCarriageReturn = false
            if octets[0] == 0x0a {
                self.run.passLineBreak(to: sink)
                self.run.endLine()
                index = 1
                runStart = 1
            } else {
                self.run.passBareCarriageReturn(to: sink)
            }
        }
        while index < octets.count {
            self.run.text(octets, &index, &runStart, to: sink)
            guard index < octets.count else { break }
            if index + 1 == octets.count {
                self.hasHeldCarriageReturn = true
                break
            }
            if octets[index + 1] == 0x0a {
                self.run.endLine()
                index += 2
            } else {
                self.run.pass(octets, runStart..<index, to: sink)
                self.run.passBareCarriageReturn(to: sink)
                index += 1
                runStart = index
            }
        }
        self.run.pass(octets, runStart..<(self.hasHeldCarriageReturn ? octets.count - 1 : octets.count), to: sink)
    }
}
