import ClusterLog
import DequeModule

/// The records of one partition that are being worked on, and the progress that follows from them (DESIGN §5).
///
/// Offsets enter in log order and finish in any order. What has finished counts in ``progress`` at once, so the owner
/// finishes an offset only together with putting its outputs into the step that is written next.
struct PartitionWindow: Sendable {
    private struct Slot {
        var offset: Offset
        var isDone: Bool
    }

    private var slots: Deque<Slot> = []
    private(set) var openCount = 0
    private(set) var watermark: Offset
    private(set) var end: Offset

    init(progress: Progress) {
        self.watermark = progress.watermark
        self.end = progress.end
        // What an earlier owner left open comes again as records; until then it keeps the watermark down.
        for offset in progress.incomplete {
            self.slots.append(Slot(offset: offset, isDone: false))
            self.openCount += 1
        }
        self.advanceWatermark()
    }

    /// Offsets between the watermark and the end, done or not: what a stuck head costs in memory.
    var span: Int { self.slots.count }

    /// Whether the record at `offset` is still to be worked on: new, or left incomplete by an earlier owner.
    func isOpen(_ offset: Offset) -> Bool {
        guard offset < self.end else { return true }
        return self.index(of: offset).map { !self.slots[$0].isDone } ?? false
    }

    /// What lies below `start` is gone from the log: nothing waits for it any more.
    mutating func drop(below start: Offset) {
        for index in self.slots.indices where self.slots[index].offset < start && !self.slots[index].isDone {
            self.slots[index].isDone = true
            self.openCount -= 1
        }
        self.end = max(self.end, start)
        self.advanceWatermark()
    }

    /// The record at `offset` is being worked on from now on.
    mutating func open(_ offset: Offset) {
        guard offset >= self.end else {
            // One that an earlier owner left incomplete: it is in the slots already.
            precondition(self.index(of: offset) != nil, "An offset below the end was opened twice.")
            return
        }
        self.slots.append(Slot(offset: offset, isDone: false))
        self.openCount += 1
        self.end = offset.advanced(by: 1)
    }

    mutating func finish(_ offset: Offset) {
        guard let index = self.index(of: offset), !self.slots[index].isDone else {
            preconditionFailure("An offset was finished that was not open.")
        }
        self.slots[index].isDone = true
        self.openCount -= 1
        self.advanceWatermark()
    }

    var progress: Progress {
        Progress(
            watermark: self.watermark,
            end: self.end,
            incomplete: self.openOffsets
        )
    }

    /// Those being worked on, ascending.
    var openOffsets: [Offset] { self.slots.lazy.filter { !$0.isDone }.map(\.offset) }

    private mutating func advanceWatermark() {
        while let first = self.slots.first, first.isDone {
            self.slots.removeFirst()
        }
        self.watermark = self.slots.first?.offset ?? self.end
    }

    private func index(of offset: Offset) -> Int? {
        var low = 0
        var high = self.slots.count
        while low < high {
            let middle = (low + high) / 2
            if self.slots[middle].offset < offset { low = middle + 1 } else { high = middle }
        }
        return low < self.slots.count && self.slots[low].offset == offset ? low : nil
    }
}
