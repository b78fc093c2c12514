import ClusterLog
import DequeModule

/// Which partitions a reader reads, from where, for whom. Sans-IO.
///
/// References are read as forward scans: one cursor a partition, moved only when what is wanted lies behind it or far
/// ahead (DESIGN §2; to assign and poll for each reference alone was measured at 20 to 120 reads a second). A cursor
/// goes up through what is wanted and starts again at the bottom, as an elevator does: what comes behind it waits for
/// the pass to end, and a pass does not grow while somebody waits behind.
///
/// A wait ends with `nil` only when the log has nothing there: it begins after the offset, or was read past it. What
/// lies at or above the end may come yet, so it waits until the driver gives it up (``cancel(_:)``).
struct ReadPlan<Wait: Hashable> {
    enum Command: Equatable {
        case assign(TopicPartition, Offset)
        case unassign(TopicPartition)
    }

    /// What a wait ended with.
    enum Answer {
        case read(Wait, StoredRecord?)
        case scan(Wait, [StoredRecord])
    }

    private struct ScanWait {
        var wait: Wait
        /// The first offset that it has not seen.
        var from: Offset
        var countMax: Int
        var records: [StoredRecord] = []
        /// Where the log ended when the scan came to what it can see of it: below that, something is undecided yet.
        var goal: Offset?
        /// The cursor was reading already: an end that comes may have been found before the scan was asked for.
        var isUnsure: Bool
    }

    private struct Cursor {
        /// Everything below was read past, or is not what the cursor is for.
        var next: Offset
        var isAssigned = false
        /// Commands wait to be performed: what comes until then is from before.
        var isMoving = false
        /// Nothing has come since it was assigned.
        var isFresh = false
        /// Assigned again to look a second time whether something is missing.
        var isConfirming = false
        /// Something has come since the last tick.
        var hasMoved = false
        /// It could not be assigned or read; tried again at the next tick.
        var hasFailed = false
        /// It was outside of the log since the last tick. What the broker says may change, and must not keep us busy.
        var wasOutside = false
        /// Where the log ended, as it last said; `nil` once it has grown.
        var end: Offset?
        /// The highest offset that this pass goes to while somebody waits behind.
        var passEnd: Offset
        /// What is waited for, ascending, and by whom.
        var offsets: [Offset] = []
        var reads: [Offset: [Wait]] = [:]
        var scans: [ScanWait] = []
        /// The last records that were read: all that lie in `aheadStart..<next`.
        var ahead: Deque<StoredRecord> = []
        var aheadStart: Offset
        var aheadSize = 0
        /// Records and octets that came while nobody waited, and ticks without anybody.
        var idleCount = 0
        var idleSize = 0
        var idleTicks = 0

        init(next: Offset) {
            self.next = next
            self.passEnd = next
            self.aheadStart = next
        }

        var isIdle: Bool { self.offsets.isEmpty && self.scans.isEmpty }
        var isAtEnd: Bool { self.isAssigned && !self.isMoving && self.end == self.next }
        var hasBegunScan: Bool { self.scans.contains { $0.from == self.next && !$0.records.isEmpty } }

        var lowest: Offset? {
            [self.offsets.first, self.scans.map(\.from).min()].compactMap(\.self).min()
        }

        var highest: Offset? {
            [self.offsets.last, self.scans.map(\.from).max()].compactMap(\.self).max()
        }

        /// The lowest offset that somebody waits for and the cursor will come to.
        var target: Offset? {
            let index = self.index(of: self.next)
            let read = index < self.offsets.count ? self.offsets[index] : nil
            let scan = self.scans.map(\.from).filter { $0 >= self.next }.min()
            return [read, scan].compactMap(\.self).min()
        }

        /// Where an offset stands, or would stand, in ``offsets``.
        func index(of offset: Offset) -> Int {
            var low = 0
            var high = self.offsets.count
            while low < high {
                let middle = (low + high) / 2
                if self.offsets[middle] < offset { low = middle + 1 } else { high = middle }
            }
            return low
        }

        mutating func add(_ wait: Wait, at offset: Offset) {
            if self.reads[offset] == nil { self.offsets.insert(offset, at: self.index(of: offset)) }
            self.reads[offset, default: []].append(wait)
        }

        /// What lies at an offset that was read past a moment ago. What lies behind it is what is still ahead.
        mutating func takeAhead(_ position: Position) -> StoredRecord? {
            let behind = self.ahead.lazy.filter { $0.position.offset > position.offset }
            self.idleCount = behind.count
            self.idleSize = behind.reduce(0) { $0 + $1.size }
            return self.ahead.first { $0.position == position }
        }

        /// Takes those out who wait for offsets of a range.
        mutating func takeReads(_ range: Range<Offset>) -> [Wait] {
            let indices = self.index(of: range.lowerBound)..<self.index(of: range.upperBound)
            let waits = self.offsets[indices].flatMap { self.reads.removeValue(forKey: $0) ?? [] }
            self.offsets.removeSubrange(indices)
            return waits
        }
    }

    /// Records that are read over rather than skipped by a seek.
    static var gapMax: Int64 { 2_000 }
    /// Records that are kept of the last ones read, and that an idle cursor reads on: reads come one after the other too.
    static var aheadCountMax: Int { 64 }
    static var aheadSizeMax: Int { 256 << 10 }
    /// Ticks that a cursor stays without anybody waiting.
    static var idleTickMax: Int { 2 }

    private var cursors: [TopicPartition: Cursor] = [:]
    private var places: [Wait: TopicPartition] = [:]
    private(set) var commands: [Command] = []
    private(set) var answers: [Answer] = []

    /// Whether nobody waits and nothing is assigned: then no tick is needed.
    var isEmpty: Bool { self.cursors.isEmpty }

    // MARK: What is wanted

    mutating func read(_ position: Position, for wait: Wait) {
        let partition = position.partition
        var cursor = self.cursors.removeValue(forKey: partition) ?? Cursor(next: position.offset)
        if position.offset >= cursor.aheadStart, position.offset < cursor.next {
            self.answers.append(.read(wait, cursor.takeAhead(position)))
        } else {
            cursor.add(wait, at: position.offset)
            self.places[wait] = partition
            self.direct(&cursor, partition)
        }
        cursor.idleTicks = 0
        self.cursors[partition] = cursor
    }

    mutating func scan(_ partition: TopicPartition, from offset: Offset, countMax: Int, for wait: Wait) {
        var cursor = self.cursors.removeValue(forKey: partition) ?? Cursor(next: offset)
        let isUnsure = cursor.isAssigned && !cursor.isMoving
        var scan = ScanWait(wait: wait, from: offset, countMax: countMax, isUnsure: isUnsure)
        if offset >= cursor.aheadStart, offset < cursor.next {
            scan.records = Array(cursor.ahead.lazy.filter { $0.position.offset >= offset }.prefix(countMax))
            scan.from = cursor.next
        }
        if scan.records.count >= countMax {
            self.answers.append(.scan(wait, scan.records))
        } else {
            cursor.scans.append(scan)
            self.places[wait] = partition
            // librdkafka says once that the log ends here. Whether it still does is only known by asking again.
            if cursor.isAtEnd, scan.from >= cursor.next { self.move(&cursor, partition, to: cursor.next) }
            self.direct(&cursor, partition)
        }
        cursor.idleTicks = 0
        self.cursors[partition] = cursor
    }

    /// Nobody waits any more.
    mutating func cancel(_ wait: Wait) {
        guard let partition = self.places.removeValue(forKey: wait),
            var cursor = self.cursors.removeValue(forKey: partition)
        else { return }
        cursor.scans.removeAll { $0.wait == wait }
        for (offset, waits) in cursor.reads where waits.contains(wait) {
            let rest = waits.filter { $0 != wait }
            cursor.reads[offset] = rest.isEmpty ? nil : rest
            if rest.isEmpty { cursor.offsets.remove(at: cursor.index(of: offset)) }
        }
        self.direct(&cursor, partition)
        self.cursors[partition] = cursor
    }

    // MARK: What comes

    mutating func received(_ record: StoredRecord) {
        let partition = record.position.partition
        let offset = record.position.offset
        guard var cursor = self.takeCursor(partition, at: offset) else { return }
        self.answer(cursor.takeReads(cursor.next..<offset), with: nil)
        self.answer(cursor.takeReads(offset..<offset.advanced(by: 1)), with: record)
        // Before the first record there may be some that were not seen.
        if cursor.isFresh { cursor.aheadStart = offset }
        var scans: [ScanWait] = []
        for var scan in cursor.scans {
            if scan.from >= cursor.next, scan.from <= offset {
                scan.records.append(record)
                scan.from = offset.advanced(by: 1)
            }
            if scan.records.count >= scan.countMax { self.answer(scan) } else { scans.append(scan) }
        }
        cursor.scans = scans
        cursor.next = offset.advanced(by: 1)
        cursor.hasMoved = true
        cursor.isFresh = false
        cursor.isConfirming = false
        if let end = cursor.end, offset >= end { cursor.end = nil }
        self.keep(record, &cursor)
        if cursor.isIdle {
            cursor.idleCount += 1
            cursor.idleSize += record.size
            if cursor.idleCount >= Self.aheadCountMax || cursor.idleSize >= Self.aheadSizeMax {
                self.unassign(&cursor, partition)
            }
        }
        self.direct(&cursor, partition)
        self.cursors[partition] = cursor
    }

    /// Nothing can be seen from `offset` on, for now. The log goes to `high`: what lies between is undecided yet.
    mutating func ended(_ partition: TopicPartition, at offset: Offset, high: Offset) {
        guard var cursor = self.takeCursor(partition, at: offset) else { return }
        self.answer(cursor.takeReads(cursor.next..<offset), with: nil)
        var scans: [ScanWait] = []
        var isUnsure = false
        for var scan in cursor.scans {
            guard scan.from >= cursor.next else {
                scans.append(scan)
                continue
            }
            // That there is nothing more is asked once again.
            if scan.isUnsure, scan.records.isEmpty, scan.from >= max(high, offset) {
                isUnsure = true
                scan.isUnsure = false
                scans.append(scan)
                continue
            }
            let goal = scan.goal ?? max(high, offset)
            scan.goal = goal
            scan.from = max(scan.from, offset)
            // What a scan has found is not kept for what may come.
            if !scan.records.isEmpty || scan.from >= goal { self.answer(scan) } else { scans.append(scan) }
        }
        cursor.scans = scans
        if cursor.isFresh { cursor.aheadStart = offset }
        cursor.next = offset
        cursor.hasMoved = true
        cursor.isFresh = false
        cursor.isConfirming = false
        cursor.end = offset
        if isUnsure { self.move(&cursor, partition, to: offset) }
        self.direct(&cursor, partition)
        self.cursors[partition] = cursor
    }

    /// What was to be read lies outside of the log, which holds these offsets.
    mutating func bounded(_ partition: TopicPartition, _ bounds: Range<Offset>) {
        guard self.cursors[partition]?.isMoving == false, var cursor = self.cursors.removeValue(forKey: partition)
        else { return }
        self.answer(cursor.takeReads(Offset(.min)..<bounds.lowerBound), with: nil)
        var scans: [ScanWait] = []
        for var scan in cursor.scans {
            scan.from = max(scan.from, bounds.lowerBound)
            if scan.from >= bounds.upperBound { self.answer(scan) } else { scans.append(scan) }
        }
        cursor.scans = scans
        cursor.end = bounds.upperBound
        cursor.next = min(cursor.next, bounds.upperBound)
        self.unassign(&cursor, partition)
        cursor.hasFailed = cursor.wasOutside
        cursor.wasOutside = true
        self.direct(&cursor, partition)
        self.cursors[partition] = cursor
    }

    /// The partition cannot be read now: tried again at the next tick.
    mutating func failed(_ partition: TopicPartition) {
        guard var cursor = self.cursors.removeValue(forKey: partition) else { return }
        self.unassign(&cursor, partition)
        cursor.hasFailed = true
        self.cursors[partition] = cursor
    }

    /// Some time has passed.
    mutating func tick() {
        for (partition, var cursor) in self.cursors {
            self.cursors[partition] = nil
            cursor.hasFailed = false
            cursor.wasOutside = false
            // Where nothing comes, as behind an open transaction, nobody who waits behind is held up.
            if cursor.isAssigned, !exchange(&cursor.hasMoved, with: false) {
                cursor.passEnd = cursor.next.advanced(by: -1)
            }
            if cursor.isIdle {
                cursor.idleTicks += 1
                if cursor.idleTicks >= Self.idleTickMax {
                    self.unassign(&cursor, partition)
                    continue
                }
            }
            self.direct(&cursor, partition)
            self.cursors[partition] = cursor
        }
    }

    /// The commands, which are performed before anything else that comes is told.
    mutating func takeCommands() -> [Command] {
        for command in self.commands {
            if case .assign(let partition, _) = command { self.cursors[partition]?.isMoving = false }
        }
        return exchange(&self.commands, with: [])
    }

    mutating func takeAnswers() -> [Answer] { exchange(&self.answers, with: []) }

    // MARK: Private

    /// Lets the cursor go on, or moves it to where it is needed.
    private mutating func direct(_ cursor: inout Cursor, _ partition: TopicPartition) {
        guard let lowest = cursor.lowest, let highest = cursor.highest else { return }
        cursor.idleCount = 0
        cursor.idleSize = 0
        guard !cursor.hasFailed else { return }
        var target = cursor.target
        if lowest < cursor.next, !cursor.hasBegunScan {
            // A pass ends where the log does: nobody waits behind for what has not come.
            let isOver = cursor.end == cursor.next || target.map { $0 > cursor.passEnd } ?? true
            if isOver { target = nil }
        }
        guard let target else {
            cursor.passEnd = highest
            return self.move(&cursor, partition, to: lowest)
        }
        if lowest >= cursor.next { cursor.passEnd = highest }
        // No further than the log goes: there the rest comes, when it does.
        let reach = max(cursor.next, cursor.end.map { min(target, $0) } ?? target)
        if !cursor.isAssigned || reach.rawValue - cursor.next.rawValue > Self.gapMax {
            self.move(&cursor, partition, to: reach)
        }
    }

    private mutating func move(_ cursor: inout Cursor, _ partition: TopicPartition, to offset: Offset) {
        self.unassign(&cursor, partition)
        self.commands.append(.assign(partition, offset))
        cursor.isAssigned = true
        cursor.isMoving = true
        cursor.isFresh = true
        cursor.isConfirming = false
        cursor.next = offset
        cursor.ahead = []
        cursor.aheadStart = offset
        cursor.aheadSize = 0
        if let end = cursor.end, offset > end { cursor.end = nil }
    }

    private mutating func unassign(_ cursor: inout Cursor, _ partition: TopicPartition) {
        if cursor.isAssigned { self.commands.append(.unassign(partition)) }
        cursor.isAssigned = false
    }

    /// Takes the cursor that has come to `offset`; `nil` when what comes is not for it.
    ///
    /// What comes first after an assignment could be from before it. When it would tell somebody that his record is
    /// gone, which is final, the cursor is assigned once more; then it is believed.
    private mutating func takeCursor(_ partition: TopicPartition, at offset: Offset) -> Cursor? {
        guard var cursor = self.cursors.removeValue(forKey: partition) else { return nil }
        guard cursor.isAssigned, !cursor.isMoving, offset >= cursor.next else {
            self.cursors[partition] = cursor
            return nil
        }
        if cursor.isFresh, !cursor.isConfirming, let target = cursor.target, target < offset {
            self.move(&cursor, partition, to: cursor.next)
            cursor.isConfirming = true
            self.cursors[partition] = cursor
            return nil
        }
        return cursor
    }

    private func keep(_ record: StoredRecord, _ cursor: inout Cursor) {
        cursor.ahead.append(record)
        cursor.aheadSize += record.size
        while cursor.ahead.count > Self.aheadCountMax || cursor.aheadSize > Self.aheadSizeMax {
            guard cursor.ahead.count > 1, let first = cursor.ahead.popFirst() else { return }
            cursor.aheadSize -= first.size
            cursor.aheadStart = first.position.offset.advanced(by: 1)
        }
    }

    private mutating func answer(_ waits: [Wait], with record: StoredRecord?) {
        for wait in waits {
            self.places[wait] = nil
            self.answers.append(.read(wait, record))
        }
    }

    private mutating func answer(_ scan: ScanWait) {
        self.places[scan.wait] = nil
        self.answers.append(.scan(scan.wait, scan.records))
    }
}
