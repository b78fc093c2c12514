import ClusterLog
import NIOCore
import Testing

@testable import KafkaLog

/// A partition as librdkafka gives it to a plan: records in batches from where it is assigned, its end once.
private struct PlannedPartition {
    static let name = TopicPartition(.content, 0)

    var plan = ReadPlan<Int>()
    var start: Int64 = 0
    /// Offsets that hold records.
    var offsets: [Int64]
    /// Where readers come to an end, and where the log does.
    var end: Int64
    var high: Int64
    var batch = 50
    /// What was fetched before an assignment comes after it, as its first events, so many; not after the same one again.
    var staleCount = 0
    private var assignedAt: Int64?
    private(set) var assignCount = 0
    private(set) var deliveredCount = 0
    private(set) var reads: [Int: Int64?] = [:]
    private(set) var scans: [Int: [Int64]] = [:]
    private(set) var position: Int64?
    private var endedAt: Int64?

    init(_ offsets: [Int64], end: Int64? = nil) {
        self.offsets = offsets
        self.end = end ?? (offsets.last ?? -1) + 1
        self.high = self.end
    }

    static func record(_ offset: Int64, size: Int = 100) -> StoredRecord {
        StoredRecord(
            position: Position(partition: Self.name, offset: Offset(offset)),
            timestamp: 0,
            key: "",
            headers: [],
            value: ByteBuffer(repeating: 0, count: size)
        )
    }

    mutating func read(_ offset: Int64, _ id: Int) {
        self.plan.read(Position(partition: Self.name, offset: Offset(offset)), for: id)
    }

    mutating func scan(_ offset: Int64, _ countMax: Int, _ id: Int) {
        self.plan.scan(Self.name, from: Offset(offset), countMax: countMax, for: id)
    }

    /// Performs commands, then gives the plan one batch. Returns whether anything happened.
    @discardableResult
    mutating func turn() -> Bool {
        let commands = self.plan.takeCommands()
        var stale: [Int64] = []
        for command in commands {
            switch command {
            case .assign(_, let offset):
                #expect(self.position == nil, "assigned twice")
                self.position = offset.rawValue
                self.endedAt = nil
                self.assignCount += 1
            case .unassign:
                if let position { stale = Array(self.offsets.drop { $0 < position }.prefix(self.staleCount)) }
                self.position = nil
            }
        }
        if let position {
            if position == self.assignedAt { stale = [] }
            if !commands.isEmpty { self.assignedAt = position }
        }
        for offset in stale where self.position != nil { self.plan.received(Self.record(offset)) }
        let hasCome = self.deliver()
        for answer in self.plan.takeAnswers() {
            switch answer {
            case .read(let id, let record):
                #expect(self.reads[id] == nil, "answered twice")
                self.reads[id] = .some(record?.position.offset.rawValue)
            case .scan(let id, let records):
                #expect(self.scans[id] == nil, "answered twice")
                self.scans[id] = records.map(\.position.offset.rawValue)
            }
        }
        return !commands.isEmpty || hasCome
    }

    private mutating func deliver() -> Bool {
        guard let position else { return false }
        if position < self.start || position > self.high {
            self.plan.bounded(Self.name, Offset(self.start)..<Offset(self.high))
            return true
        }
        var low = 0
        var high = self.offsets.count
        while low < high {
            let middle = (low + high) / 2
            if self.offsets[middle] < position { low = middle + 1 } else { high = middle }
        }
        let records = self.offsets[low...].prefix(self.batch).filter { $0 < self.end }
        if let last = records.last {
            self.position = last + 1
            self.deliveredCount += records.count
            for offset in records { self.plan.received(Self.record(offset)) }
            return true
        }
        self.position = max(position, self.end)
        guard self.endedAt != self.end, position <= self.end else { return false }
        self.endedAt = self.end
        self.plan.ended(Self.name, at: Offset(self.end), high: Offset(self.high))
        return true
    }

    mutating func settle(turnCountMax: Int = 10_000) {
        var count = 0
        while self.turn() {
            count += 1
            guard count < turnCountMax else {
                Issue.record("The plan does not come to rest.")
                return
            }
        }
    }
}

@Suite("The plan of a reader of references")
struct ReadPlanTests {
    @Test("Reads one after the other do not assign for each")
    func readsOnWhenIdle() {
        var partition = PlannedPartition(Array(0..<1_000))
        for offset in 0..<1_000 {
            partition.read(Int64(offset), offset)
            while partition.reads[offset] == nil, partition.turn() {}
            #expect(partition.reads[offset] == .some(.some(Int64(offset))))
            // The reader's thread takes more while the caller thinks.
            partition.turn()
        }
        #expect(partition.assignCount <= 1_000 / 64 + 2)
    }

    @Test("Reads asked for at once in any order are one or two passes", arguments: UInt64(0)..<20)
    func readsInOrder(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        var partition = PlannedPartition(Array(0..<1_000))
        for offset in (0..<1_000).shuffled(using: &random) { partition.read(Int64(offset), offset) }
        partition.settle()
        #expect((0..<1_000).allSatisfy { partition.reads[$0] == .some(.some(Int64($0))) })
        #expect(partition.assignCount <= 2)
    }

    @Test("A gap is sought across, and what lies in it is not read")
    func seeksAcrossGaps() {
        var partition = PlannedPartition(Array(0..<200_000))
        partition.read(5, 1)
        partition.read(150_000, 2)
        partition.read(150_100, 3)
        partition.settle()
        #expect(partition.reads == [1: 5, 2: 150_000, 3: 150_100])
        #expect(partition.deliveredCount < 1_000)
        #expect(partition.assignCount == 2)
    }

    @Test("A read behind is served although others come ahead of the cursor all the time")
    func servesBehind() {
        var partition = PlannedPartition(Array(0..<100_000))
        partition.read(50_000, -1)
        while partition.reads[-1] == nil, partition.turn() {}
        partition.read(10, -2)
        var count = 0
        while partition.reads[-2] == nil, count < 500 {
            partition.read(50_010 + Int64(count) * 40, count)
            partition.turn()
            count += 1
        }
        #expect(count < 20)
        partition.settle()
        #expect((0..<count).allSatisfy { partition.reads[$0] == .some(.some(50_010 + Int64($0) * 40)) })
    }

    @Test("What is not there yet is waited for, and is not gone")
    func waitsAtTheEnd() {
        var partition = PlannedPartition(Array(0..<10))
        partition.read(9, 1)
        partition.read(10, 2)
        partition.read(500, 3)
        partition.settle()
        #expect(partition.reads == [1: 9])
        // Those who wait at the end hold up nobody.
        partition.read(3, 4)
        partition.settle()
        #expect(partition.reads[4] == 3)
        partition.offsets.append(10)
        (partition.end, partition.high) = (11, 11)
        partition.settle()
        #expect(partition.reads[2] == 10)
        #expect(partition.reads[3] == nil)
        // Given up: nobody keeps the partition assigned.
        partition.plan.cancel(3)
        for _ in 0..<3 { partition.plan.tick() }
        partition.settle()
        #expect(partition.position == nil)
        #expect(partition.plan.isEmpty)
    }

    @Test("Far above the end is waited for too, without asking the brokers all the time")
    func waitsAboveTheEnd() {
        var partition = PlannedPartition(Array(0..<10))
        partition.read(1 << 60, 1)
        partition.settle()
        #expect(partition.reads.isEmpty)
        #expect(partition.assignCount <= 3)
        partition.read(4, 2)
        partition.settle()
        #expect(partition.reads == [2: 4])
    }

    @Test("Below the log's start is gone, and so is what the log was read past")
    func findsGone() {
        var partition = PlannedPartition([100, 101, 105, 106], end: 110)
        partition.start = 100
        for (id, offset) in [Int64(7), 100, 103, 106, 108].enumerated() { partition.read(offset, id) }
        partition.settle()
        #expect(partition.reads == [0: nil, 1: 100, 2: nil, 3: 106, 4: nil])
    }

    @Test("What was fetched before an assignment tells nobody that his record is gone")
    func looksTwice() {
        var partition = PlannedPartition(Array(0..<10_000))
        partition.staleCount = 3
        partition.read(6_000, 1)
        while partition.reads[1] == nil, partition.turn() {}
        partition.read(100, 2)
        partition.settle()
        #expect(partition.reads == [1: 6_000, 2: 100])
    }

    @Test("A partition that could not be assigned or bounded is tried again at a tick")
    func triesAgain() {
        var plan = ReadPlan<Int>()
        plan.read(Position(partition: PlannedPartition.name, offset: Offset(5)), for: 1)
        #expect(plan.takeCommands() == [.assign(PlannedPartition.name, Offset(5))])
        plan.failed(PlannedPartition.name)
        #expect(plan.takeCommands() == [.unassign(PlannedPartition.name)])
        #expect(plan.takeAnswers().isEmpty)
        plan.tick()
        #expect(plan.takeCommands() == [.assign(PlannedPartition.name, Offset(5))])
        plan.received(PlannedPartition.record(5))
        #expect(plan.takeAnswers().count == 1)
    }

    /// An end that librdkafka had found lies in its queue while a record is appended and a scan for it is asked for.
    @Test("A scan does not take an end for its own that was found before it was asked for")
    func asksForTheEndAgain() {
        let name = PlannedPartition.name
        var plan = ReadPlan<Int>()
        func scans() -> [Int: [Int64]] {
            plan.takeAnswers()
                .reduce(into: [:]) { scans, answer in
                    if case .scan(let id, let records) = answer { scans[id] = records.map(\.position.offset.rawValue) }
                }
        }
        plan.scan(name, from: Offset(5), countMax: 1, for: 1)
        _ = plan.takeCommands()
        plan.received(PlannedPartition.record(5))
        #expect(scans() == [1: [5]])
        plan.scan(name, from: Offset(6), countMax: 9, for: 2)
        let before = plan.takeCommands()
        plan.ended(name, at: Offset(6), high: Offset(6))
        #expect(before.isEmpty && scans().isEmpty)
        let commands = plan.takeCommands()
        #expect(commands == [.unassign(name), .assign(name, Offset(6))])
        plan.received(PlannedPartition.record(6))
        plan.ended(name, at: Offset(7), high: Offset(7))
        #expect(scans() == [2: [6]])
    }

    @Test("A scan ends where the log does, and not where a transaction is open")
    func scansToTheDecidedEnd() {
        var partition = PlannedPartition(Array(0..<10), end: 10)
        partition.high = 14
        partition.scan(7, 100, 1)
        partition.settle()
        #expect(partition.scans == [1: [7, 8, 9]])
        partition.scan(10, 100, 2)
        partition.settle()
        #expect(partition.scans[2] == nil)
        // Others are served meanwhile.
        partition.read(2, 3)
        partition.settle()
        #expect(partition.reads == [3: 2])
        // It was aborted: nothing is there up to the end that the scan came to.
        (partition.end, partition.high) = (14, 20)
        partition.settle()
        #expect(partition.scans[2] == [])
        // The end is asked for anew by who comes to it.
        (partition.end, partition.high) = (20, 20)
        partition.scan(20, 100, 4)
        partition.settle()
        #expect(partition.scans[4] == [])
        partition.scan(20, 100, 5)
        partition.settle()
        #expect(partition.scans[5] == [])
    }

    @Test("Scans one after the other go on where they were")
    func scansOn() {
        var partition = PlannedPartition(Array(0..<2_000))
        var next: Int64 = 0
        var id = 0
        while next < 2_000 {
            partition.scan(next, 100, id)
            while partition.scans[id] == nil, partition.turn() {}
            #expect(partition.scans[id] == Array(next..<(next + 100)))
            next += 100
            id += 1
        }
        #expect(partition.assignCount == 1)
    }

    @Test("Whatever is asked for in whatever order is answered with what is there", arguments: UInt64(0)..<60)
    func survivesRandomSequences(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        var offset: Int64 = 0
        let offsets = (0..<Int.random(in: 1...2_000, using: &random))
            .map { _ in
                let isGap = Int.random(in: 0..<100, using: &random) == 0
                offset += isGap ? 3_000 : Int64.random(in: 1...3, using: &random)
                return offset
            }
        var partition = PlannedPartition(offsets)
        partition.start = Bool.random(using: &random) ? 0 : offsets[offsets.count / 3]
        partition.batch = Int.random(in: 1...200, using: &random)
        partition.staleCount = Int.random(in: 0...4, using: &random)
        let present = Set(offsets.drop { $0 < partition.start })
        var wanted: [Int: Int64] = [:]
        var scanned: [Int: (from: Int64, count: Int)] = [:]
        let count = Int.random(in: 1...100, using: &random)
        for id in 0..<count {
            let offset = Int64.random(in: 0..<partition.end, using: &random)
            if Int.random(in: 0..<10, using: &random) == 0 {
                scanned[id] = (offset, Int.random(in: 1...300, using: &random))
                partition.scan(offset, scanned[id]?.count ?? 1, id)
            } else {
                wanted[id] = offset
                partition.read(offset, id)
            }
            for _ in 0..<Int.random(in: 0...3, using: &random) { partition.turn() }
            if Int.random(in: 0..<20, using: &random) == 0 { partition.plan.tick() }
        }
        partition.settle()
        for _ in 0..<3 where partition.reads.count + partition.scans.count < count {
            partition.plan.tick()
            partition.settle()
        }
        for (id, offset) in wanted {
            #expect(partition.reads[id] == .some(present.contains(offset) ? offset : nil), "read \(offset)")
        }
        for (id, scan) in scanned {
            let expected = Array(offsets.drop { $0 < max(scan.from, partition.start) }.prefix(scan.count))
            #expect(partition.scans[id] == expected, "scan \(scan)")
        }
        // One pass for each that comes behind, and one more where something was missing.
        #expect(partition.assignCount <= 3 * count)
        for _ in 0..<3 { partition.plan.tick() }
        partition.settle()
        #expect(partition.position == nil)
    }
}
