import ClusterLog
import NIOCore
import Synchronization
import Testing

/// Partitions change hands while their records are read and stepped past: what the threads of a back end do at the same
/// time must not lose a record, give one twice to the same owner, or let two owners step past one.
@Suite("The log contract: members come and go", .timeLimit(.minutes(5)))
struct MovingPartitionsTests {
    private static let tier = Topic.deferred(delay: 60)
    private static let selection = TopicSelection(topics: [.accepted], prefixes: [Topic.deferredPrefix])

    /// What all members have stepped past, by the numbers of their outputs.
    private final class Ledger: Sendable {
        private let counts = Mutex<[Int: Int]>([:])

        func note(_ numbers: [Int]) {
            self.counts.withLock { counts in for number in numbers { counts[number, default: 0] += 1 } }
        }

        var count: Int { self.counts.withLock { $0.count } }
    }

    /// Goal: every record is stepped past exactly once, in the first topic and in one that follows it. Method: three
    /// members at a time, each leaving and joining again at random, while mail is appended; each accepted record becomes an
    /// outcome and a deferred record, each deferred one another outcome.
    @Test("Every record is stepped past once, whoever owns its partition", arguments: Backend.withSeveralMembers)
    func moves(_ backend: Backend) async throws {
        let count = 1_200
        let stays: ClosedRange<Int> = backend == .kafka ? 1_000...5_000 : 20...300
        let ledger = Ledger()
        try await backend.withLog { log in
            try await withThrowingTaskGroup(of: Void.self) { tasks in
                tasks.addTask {
                    for first in stride(from: 0, to: count, by: 8) {
                        let numbers = first..<first + 8
                        _ = try await log.append(numbers.map { .numbered($0, key: "k\($0 % 61)") })
                        try await Task.sleep(for: .milliseconds(8))
                    }
                }
                for _ in 0..<3 {
                    tasks.addTask {
                        while ledger.count < count * 2 {
                            try await Self.work(for: .milliseconds(Int.random(in: stays)), log, ledger)
                        }
                    }
                }
                try await tasks.waitForAll()
            }
            var found: [Int: Int] = [:]
            for partition in 0..<Int32(log.partitionCount) {
                for number in try await Self.numbers(in: TopicPartition(.outcomes, partition), log) {
                    found[number, default: 0] += 1
                }
            }
            #expect(found.count == count * 2)
            #expect(found.filter { $0.value != 1 } == [:])
            #expect(Set(found.keys) == Set(-count..<count))
        }
    }

    /// One member's life: it steps past what it is given until it leaves.
    private static func work(for stay: Duration, _ log: any RecordLog, _ ledger: Ledger) async throws {
        let member = try await log.join(delivery, topics: selection)
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask {
                try await Task.sleep(for: stay)
                await member.leave()
            }
            tasks.addTask {
                var next: [TopicPartition: Offset] = [:]
                while let event = try await member.next() {
                    switch event {
                    case .assigned(let assignments):
                        for assignment in assignments { next[assignment.partition] = assignment.progress.watermark }
                    case .revoked(let partitions), .lost(let partitions):
                        for partition in partitions { next[partition] = nil }
                    case .truncated(let partition, _, _):
                        Issue.record("Nothing was trimmed of \(partition).")
                    case .records(let partition, let records):
                        guard let expected = next[partition] else {
                            Issue.record("Records of \(partition), which is another's.")
                            continue
                        }
                        let offsets = records.map(\.position.offset)
                        #expect(offsets == offsets.sorted() && Set(offsets).count == offsets.count)
                        #expect(offsets[0] >= expected, "\(partition)")
                        if try await Self.step(past: records, of: partition, member, ledger) {
                            next[partition] = offsets[offsets.count - 1].advanced(by: 1)
                        }
                    }
                }
            }
            try await tasks.waitForAll()
        }
    }

    /// - Returns: whether the step counts; `false` when the partition is another's by now.
    private static func step(
        past records: [StoredRecord],
        of partition: TopicPartition,
        _ member: any GroupMember,
        _ ledger: Ledger
    ) async throws -> Bool {
        var outputs: [Record] = []
        var numbers: [Int] = []
        for record in records {
            let number = try #require(
                record.headers.first { $0.name == "number" }?.value.getInteger(at: 0, as: Int64.self)
            )
            let outcome = partition.topic == .accepted ? Int(number) : -Int(number) - 1
            numbers.append(outcome)
            outputs.append(.numbered(outcome, topic: .outcomes, key: record.key))
            if partition.topic == .accepted { outputs.append(.numbered(Int(number), topic: tier, key: record.key)) }
        }
        let last = records[records.count - 1].position.offset
        let step = Step(outputs: outputs, progress: [partition: Progress(watermark: last.advanced(by: 1))])
        while true {
            do throws(RecordLogError) {
                try await member.step(step)
                ledger.note(numbers)
                return true
            } catch {
                if error.code == .fenced { return false }
                guard error.isRetriable else { throw error }
                try await Task.sleep(for: .milliseconds(20))
            }
        }
    }

    private static func numbers(in partition: TopicPartition, _ log: any RecordLog) async throws -> [Int] {
        var numbers: [Int] = []
        var offset = Offset(0)
        while true {
            let records = try await log.scan(partition, from: offset, recordCountMax: 500)
            guard let last = records.last else { return numbers }
            numbers += records.compactMap { record in
                record.headers.first { $0.name == "number" }?.value.getInteger(at: 0, as: Int64.self).map { Int($0) }
            }
            offset = last.position.offset.advanced(by: 1)
        }
    }
}
