import ClusterLog

/// Which partitions the reader reads, from where, for whom. Sans-IO.
///
/// References are read as forward scans: one cursor a partition, moved only when what is wanted lies behind it or far
/// ahead (DESIGN §2; to assign and poll for each reference alone was measured at 20 to 120 reads a second).
struct ReadPlan<Read, Scan> {
    enum Command {
        case assign(TopicPartition, Offset)
        case unassign(TopicPartition)
    }

    /// What a wait ended with.
    enum Answer {
        case read(Read, StoredRecord?)
        case scan(Scan, [StoredRecord])
    }

    private struct ScanWait {
        var scan: Scan
        var from: Offset
        var countMax: Int
        var records: [StoredRecord] = []
    }

    private struct Cursor {
        /// Assigned from here, or read up to here.
        var next: Offset
        var reads: [Offset: [Read]] = [:]
        var scans: [ScanWait] = []
        var isIdle: Bool { self.reads.isEmpty && self.scans.isEmpty }
        /// The lowest offset that somebody waits for.
        var lowest: Offset? {
            let read = self.reads.keys.min()
            let scan = self.scans.map { $0.from }.min()
            return [read, scan].compactMap { $0 }.min()
        }
    }

    /// Records that are read over rather than skipped by a seek.
    static var gapMax: Int64 { 2_000 }

    private var cursors: [TopicPartition: Cursor] = [:]
    private(set) var commands: [Command] = []
    private(set) var answers: [Answer] = []

    mutating func read(_ position: Position, for read: Read) {
        self.want(position.partition, position.offset) { $0.reads[position.offset, default: []].append(read) }
    }

    mutating func scan(_ partition: TopicPartition, from offset: Offset, countMax: Int, for scan: Scan) {
        self.want(partition, offset) { $0.scans.append(ScanWait(scan: scan, from: offset, countMax: countMax)) }
    }

    private mutating func want(_ partition: TopicPartition, _ offset: Offset, _ add: (inout Cursor) -> Void) {
        guard var cursor = self.cursors[partition] else {
            var cursor = Cursor(next: offset)
            add(&cursor)
            self.cursors[partition] = cursor
            self.commands.append(.assign(partition, offset))
            return
        }
        let isFar = cursor.isIdle && offset.rawValue - cursor.next.rawValue > Self.gapMax
        add(&cursor)
        if offset < cursor.next || isFar {
            cursor.next = offset
            self.commands.append(.unassign(partition))
            self.commands.append(.assign(partition, offset))
        }
        self.cursors[partition] = cursor
    }

    mutating func received(_ record: StoredRecord) {
        let partition = record.position.partition
        let offset = record.position.offset
        guard var cursor = self.cursors[partition], offset >= cursor.next else { return }
        self.cursors[partition] = nil
        cursor.next = offset.advanced(by: 1)
        if let reads = cursor.reads.removeValue(forKey: offset) {
            for read in reads { self.answers.append(.read(read, record)) }
        }
        self.dropMissed(&cursor, below: offset)
        var scans: [ScanWait] = []
        for var wait in cursor.scans {
            if offset >= wait.from { wait.records.append(record) }
            if wait.records.count >= wait.countMax {
                self.answers.append(.scan(wait.scan, wait.records))
            } else {
                scans.append(wait)
            }
        }
        cursor.scans = scans
        self.keepOrDrop(partition, cursor)
    }

    /// Nothing lies from `offset` on, for now.
    mutating func ended(_ partition: TopicPartition, at offset: Offset) {
        guard var cursor = self.cursors.removeValue(forKey: partition) else { return }
        cursor.next = max(cursor.next, offset)
        for reads in cursor.reads.values {
            for read in reads { self.answers.append(.read(read, nil)) }
        }
        for wait in cursor.scans { self.answers.append(.scan(wait.scan, wait.records)) }
        cursor.reads = [:]
        cursor.scans = []
        self.keepOrDrop(partition, cursor)
    }

    /// The partition holds these offsets, and what was asked for is not all among them.
    mutating func bounded(_ partition: TopicPartition, _ bounds: Range<Offset>) {
        guard var cursor = self.cursors.removeValue(forKey: partition) else { return }
        for (offset, reads) in cursor.reads where !bounds.contains(offset) {
            cursor.reads[offset] = nil
            for read in reads { self.answers.append(.read(read, nil)) }
        }
        var scans: [ScanWait] = []
        for var wait in cursor.scans {
            wait.from = max(wait.from, bounds.lowerBound)
            if wait.from >= bounds.upperBound {
                self.answers.append(.scan(wait.scan, wait.records))
            } else {
                scans.append(wait)
            }
        }
        cursor.scans = scans
        self.commands.append(.unassign(partition))
        guard let lowest = cursor.lowest else { return }
        cursor.next = lowest
        self.cursors[partition] = cursor
        self.commands.append(.assign(partition, lowest))
    }

    mutating func takeCommands() -> [Command] { exchange(&self.commands, with: []) }
    mutating func takeAnswers() -> [Answer] { exchange(&self.answers, with: []) }

    private mutating func dropMissed(_ cursor: inout Cursor, below offset: Offset) {
        guard cursor.reads.contains(where: { $0.key < offset }) else { return }
        for (missed, reads) in cursor.reads where missed < offset {
            cursor.reads[missed] = nil
            for read in reads { self.answers.append(.read(read, nil)) }
        }
    }

    private mutating func keepOrDrop(_ partition: TopicPartition, _ cursor: Cursor) {
        if cursor.isIdle {
            // An assigned partition would be read on for nobody.
            self.commands.append(.unassign(partition))
        } else {
            self.cursors[partition] = cursor
        }
    }
}
