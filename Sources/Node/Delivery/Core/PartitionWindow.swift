import ClusterLog
import DequeModule

/// The records of one partition that are being worked on, and the progress that follows from them (DESIGN §5).
///
/// Offsets enter in log order and finish in any order. What has finished counts in ``progress`` at once, so the owner
/// finishes an offset only together with putting its outputs into the step that is written next.
struct PartitionWindow: Sendable {
    private enum State {
        /// Left incomplete by an earlier owner, and not worked on here yet. Next: `open`.
        case inherited
        /// Being worked on. Next: `done`.
        case open
        case done
    }

    private struct Slot {
        var offset: Offset
        var state: State
    }

    private var slots: Deque<Slot> = []
    /// Offsets that are not done: being worked on, or left by an earlier owner.
    private(set) var incompleteCount = 0
    /// Of these, what an earlier owner left and that has not come yet.
    private(set) var inheritedCount = 0
    private(set) var watermark: Offset
    private(set) var end: Offset

    init(progress: Progress) {
        self.watermark = progress.watermark
        self.end = progress.end
        // What an earlier owner left open comes again as records; until then it keeps the watermark down.
        for offset in progress.incomplete {
            self.slots.append(Slot(offset: offset, state: .inherited))
        }
        self.incompleteCount = self.slots.count
        self.inheritedCount = self.slots.count
        self.advanceWatermark()
    }

    /// Offsets between the watermark and the end, done or not: what a stuck head costs in memory.
    var span: Int { self.slots.count }

    /// Whether the record at `offset` is still to be worked on: new, or left incomplete by an earlier owner.
    func isWanted(_ offset: Offset) -> Bool { offset >= self.end || self.isInherited(offset) }

    /// Whether an earlier owner left the record at `offset` incomplete and it has not been worked on here.
    func isInherited(_ offset: Offset) -> Bool {
        guard offset < self.end, let index = self.index(of: offset), case .inherited = self.slots[index].state else {
            return false
        }
        return true
    }

    func isDone(_ offset: Offset) -> Bool {
        guard offset < self.end else { return false }
        return self.index(of: offset).map { Self.isDone(self.slots[$0]) } ?? true
    }

    /// What lies below `start` is gone from the log: nothing waits for it any more.
    mutating func drop(below start: Offset) {
        for index in self.slots.indices where self.slots[index].offset < start { self.setDone(index) }
        self.end = max(self.end, start)
        self.advanceWatermark()
    }

    /// The record at `offset` is being worked on from now on.
    mutating func open(_ offset: Offset) {
        guard offset >= self.end else {
            guard self.isInherited(offset), let index = self.index(of: offset) else {
                preconditionFailure("An offset below the end was opened twice.")
            }
            self.slots[index].state = .open
            self.inheritedCount -= 1
            return
        }
        self.slots.append(Slot(offset: offset, state: .open))
        self.incompleteCount += 1
        self.end = offset.advanced(by: 1)
    }

    mutating func finish(_ offset: Offset) {
        guard let index = self.index(of: offset), case .open = self.slots[index].state else {
            preconditionFailure("An offset was finished that was not open.")
        }
        self.setDone(index)
        self.advanceWatermark()
    }

    private mutating func setDone(_ index: Int) {
        switch self.slots[index].state {
        case .inherited: self.inheritedCount -= 1
        case .open: break
        case .done: return
        }
        self.slots[index].state = .done
        self.incompleteCount -= 1
    }

    var progress: Progress {
        Progress(
            watermark: self.watermark,
            end: self.end,
            incomplete: self.incompleteOffsets
        )
    }

    /// Those that are not done, ascending.
    var incompleteOffsets: [Offset] { self.slots.lazy.filter { !Self.isDone($0) }.map(\.offset) }

    private mutating func advanceWatermark() {
        while let first = self.slots.first, Self.isDone(first) {
            self.slots.removeFirst()
        }
        self.watermark = self.slots.first?.offset ?? self.end
    }

    private static func isDone(_ slot: Slot) -> Bool {
        if case .done = slot.state { true } else { false }
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
