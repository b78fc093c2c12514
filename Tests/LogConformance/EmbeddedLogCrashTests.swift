import ClusterLog
import EmbeddedLog
import Foundation
import Logging
import NIOCore
import Synchronization
import Testing

/// Goal: no point at which a process may end loses, doubles or tears anything.
/// Method: a fault plan abandons the instance at a point, without commits or checkpoints; another one opens the files.
@Suite("The embedded log after a crash")
struct EmbeddedLogCrashTests {
    /// Reaches a point a number of times, then crashes or fails there once.
    private final class Trigger: Sendable {
        private let left: Mutex<Int?>
        private let point: FaultPlan.Point
        private let action: FaultPlan.Action

        init(_ point: FaultPlan.Point, after count: Int, _ action: FaultPlan.Action = .crash) {
            self.point = point
            self.action = action
            self.left = Mutex(count)
        }

        var plan: FaultPlan {
            FaultPlan { point in
                guard point == self.point else { return .proceed }
                return self.left.withLock { left in
                    guard let count = left else { return .proceed }
                    left = count == 0 ? nil : count - 1
                    return count == 0 ? self.action : .proceed
                }
            }
        }

        var hasFired: Bool { self.left.withLock { $0 == nil } }
    }

    /// Appends, consumes and steps until the log stops; every record leads to one outcome of the same number.
    private func work(_ log: EmbeddedLog, from first: Int) async throws -> (appended: Set<Int>, tried: Set<Int>) {
        let consumer = try await Consumer(log)
        var appended: Set<Int> = []
        var tried: Set<Int> = []
        for round in 0..<40 {
            let numbers = (0..<5).map { first + round * 5 + $0 }
            let records = numbers.map { Record.numbered($0, key: "k\($0 % 3)", size: 3_000) }
            tried.formUnion(numbers)
            do throws(RecordLogError) {
                _ = try await log.append(records)
                appended.formUnion(numbers)
            } catch {
                if error.code == .unavailable { break }
                continue
            }
            // What is left at first keeps its segments, rewritten; later ones are finished as a whole and go.
            if round % 4 == 3, try await !consumer.drain(isLeavingSome: round < 16) { break }
            if round % 8 == 7 {
                await log.roll()
                await log.maintain()
            }
        }
        await consumer.member.leave()
        return (appended, tried)
    }

    /// A member that steps what is there, and leaves each ninth record incomplete unless told otherwise.
    private final class Consumer {
        let log: EmbeddedLog
        let member: any GroupMember
        /// The next offset that the member is to be given, by partition.
        var next: [TopicPartition: Offset] = [:]

        init(_ log: EmbeddedLog) async throws {
            self.log = log
            self.member = try await log.join(delivery, topics: accepted)
        }

        /// - Returns: false when the log or a step failed.
        func drain(isLeavingSome: Bool) async throws -> Bool {
            while try await self.isBehind() {
                guard let event = try await self.member.next() else { return false }
                switch event {
                case .assigned(let assignments):
                    for assignment in assignments {
                        let progress = assignment.progress
                        self.next[assignment.partition] = progress.incomplete.first ?? progress.end
                    }
                case .records(let partition, let records):
                    guard try await self.step(partition, records, isLeavingSome) else { return false }
                case .revoked, .lost, .truncated:
                    Issue.record("\(event)")
                }
            }
            return true
        }

        private func isBehind() async throws -> Bool {
            for number in 0..<4 {
                let partition = TopicPartition(.accepted, Int32(number))
                guard let next = self.next[partition] else { return true }
                if try await next < self.log.bounds(partition).upperBound { return true }
            }
            return false
        }

        private func step(
            _ partition: TopicPartition,
            _ records: [StoredRecord],
            _ isLeavingSome: Bool
        ) async throws -> Bool {
            guard let last = records.last?.position.offset else { return true }
            let done = isLeavingSome ? records.filter { ($0.number ?? 0) % 9 != 0 } : records
            let old = try await self.log.progress(delivery, partition) ?? .upTo(0)
            let end = max(old.end, last.advanced(by: 1))
            var open = Set(old.incomplete).union(records.map { $0.position.offset })
            open.subtract(done.map { $0.position.offset })
            let incomplete = open.sorted()
            let progress = Progress(watermark: incomplete.first ?? end, end: end, incomplete: incomplete)
            let numbers = done.compactMap { $0.number }
            let outputs = numbers.map { Record.numbered($0, topic: .outcomes, key: "k\($0 % 3)") }
            do throws(RecordLogError) {
                try await self.member.step(Step(outputs: outputs, progress: [partition: progress]))
            } catch {
                return false
            }
            self.next[partition] = incomplete.first { $0 > last } ?? end
            return true
        }
    }

    private func numbers(_ log: EmbeddedLog, _ topic: Topic) async throws -> [Int] {
        var numbers: [Int] = []
        for number in 0..<4 {
            let partition = TopicPartition(topic, Int32(number))
            var offset = Offset(0)
            while true {
                let records = try await log.scan(partition, from: offset, recordCountMax: 100)
                guard let last = records.last else { break }
                #expect(zip(records, records.dropFirst()).allSatisfy { $0.position.offset < $1.position.offset })
                numbers += records.compactMap { $0.number }
                offset = last.position.offset.advanced(by: 1)
            }
        }
        return numbers
    }

    @Test(
        "Nothing acknowledged is lost and nothing is done twice",
        arguments: FaultPlan.Point.allCases.filter { $0 != .reopen },
        [0, 1, 3, 9]
    )
    func survives(_ point: FaultPlan.Point, after count: Int) async throws {
        try await withDirectory { directory in
            let trigger = Trigger(point, after: count)
            var configuration = EmbeddedLogConfiguration.test(directory)
            configuration.segmentSize = 200 << 10
            configuration.tailCacheSize = 64 << 10
            configuration.faults = trigger.plan
            var appended: Set<Int> = []
            var tried: Set<Int> = []
            // The very first segment is made by opening.
            if let log = try? EmbeddedLog(configuration: configuration, logger: .quiet) {
                let result = try await self.work(log, from: 1)
                appended = result.appended
                tried = result.tried
                await log.close()
            }
            if count <= 3 { #expect(trigger.hasFired, "The point is reached.") }
            configuration.faults = .none
            let log = try EmbeddedLog(configuration: configuration, logger: .quiet)
            let result = try await self.work(log, from: 10_000)
            #expect(result.appended.count == 200, "The log works as ever.")
            let isDrained = try await Consumer(log).drain(isLeavingSome: false)
            #expect(isDrained)
            await log.roll()
            await log.maintain()
            let outcomes = try await self.numbers(log, .outcomes)
            #expect(Set(outcomes).isSuperset(of: appended.union(result.appended)), "Nothing acknowledged is lost.")
            #expect(Set(outcomes).isSubset(of: tried.union(result.tried)))
            #expect(outcomes.count == Set(outcomes).count, "Nothing is done twice.")
            await log.close()
        }
    }

    @Test(
        "An error of the disk fails those it concerns, and the log goes on",
        arguments: [FaultPlan.Point.beforeCommit, .afterCommit],
        [Int32(10), 13, 778]
    )
    func recovers(at point: FaultPlan.Point, from code: Int32) async throws {
        try await withDirectory { directory in
            let trigger = Trigger(point, after: 2, .fail(code))
            var configuration = EmbeddedLogConfiguration.test(directory)
            configuration.faults = trigger.plan
            let log = try EmbeddedLog(configuration: configuration, logger: .quiet)
            var failures: [RecordLogError] = []
            var failed: Set<Int> = []
            for number in 0..<10 {
                do throws(RecordLogError) {
                    _ = try await log.append([.numbered(number)])
                } catch {
                    failures.append(error)
                    failed.insert(number)
                    await log.maintain()
                }
            }
            #expect(trigger.hasFired)
            // After the commit it had become durable, which was looked up.
            let error = RecordLogError(code == 13 ? .noSpace : .notDurable, isRetriable: true)
            #expect(failures == (point == .afterCommit ? [] : [error]))
            let found = try await self.numbers(log, .accepted)
            #expect(found.count == Set(found).count)
            #expect(Set(found) == Set(0..<10).subtracting(failed))
            #expect(log.condition == .writable)
            await log.close()
            let again = try EmbeddedLog(configuration: .test(directory), logger: .quiet)
            #expect(try await self.numbers(again, .accepted) == found)
            await again.close()
        }
    }

    /// Goal: a step whose commit failed is in the log once, whatever became of the commit, when its caller repeats it.
    /// Method: the commit is reported as failed after it was made, or before; reading the segment again fails that often.
    @Test(
        "A step whose commit failed is looked up: it is there once, with the positions it was first given",
        arguments: [FaultPlan.Point.beforeCommit, .afterCommit],
        [0, 1, 2]
    )
    func looksUpSteps(at point: FaultPlan.Point, reopenFailures: Int) async throws {
        try await withDirectory { directory in
            let left = Mutex<(isArmed: Bool, reopens: Int)>((false, reopenFailures))
            var configuration = EmbeddedLogConfiguration.test(directory)
            configuration.faults = FaultPlan { reached in
                left.withLock { left in
                    if reached == point, left.isArmed {
                        left.isArmed = false
                        return .fail(10)
                    }
                    guard reached == .reopen, left.reopens > 0 else { return .proceed }
                    left.reopens -= 1
                    return .fail(10)
                }
            }
            let log = try EmbeddedLog(configuration: configuration, logger: .quiet)
            let partition = try #require(try await log.append((0..<3).map { .numbered($0) }).first).partition
            let member = try await log.join(delivery, topics: accepted)
            #expect(try await member.take(3).count == 3)
            try await member.step(Step(outputs: [.numbered(0, topic: .outcomes)], progress: [partition: .upTo(1)]))
            left.withLock { $0.isArmed = true }
            let step = Step(
                outputs: [.numbered(1, topic: .outcomes), .numbered(2, topic: .outcomes)],
                progress: [partition: .upTo(3)]
            )
            var positions: [Position] = []
            var failureCount = 0
            while positions.isEmpty, failureCount < 9 {
                do throws(RecordLogError) {
                    positions = try await member.step(step)
                } catch {
                    #expect(error == RecordLogError(.notDurable, isRetriable: true))
                    failureCount += 1
                }
            }
            #expect(failureCount == reopenFailures + (point == .beforeCommit ? 1 : 0))
            #expect(positions.map(\.offset) == [Offset(1), Offset(2)])
            #expect(try await self.numbers(log, .outcomes) == [0, 1, 2])
            #expect(try await log.progress(delivery, partition) == .upTo(3))
            // Another step with the same outputs is another one.
            _ = try await log.append([.numbered(3)])
            #expect(try await member.take(1).compactMap { $0.number } == [3])
            try await member.step(Step(outputs: step.outputs, progress: [partition: .upTo(4)]))
            #expect(try await self.numbers(log, .outcomes) == [0, 1, 2, 1, 2])
            await log.close()
            let again = try EmbeddedLog(configuration: .test(directory), logger: .quiet)
            #expect(try await self.numbers(again, .outcomes) == [0, 1, 2, 1, 2])
            #expect(try await again.progress(delivery, partition) == .upTo(4))
            await again.close()
        }
    }

    /// Method: many appenders fail in the same transaction; those that were told so and only those may be missing.
    @Test("A failed transaction is tried again item by item, so that each is told what became of it")
    func retriesOneByOne() async throws {
        try await withDirectory { directory in
            let trigger = Trigger(.beforeCommit, after: 3, .fail(10))
            var configuration = EmbeddedLogConfiguration.test(directory)
            configuration.faults = trigger.plan
            let log = try EmbeddedLog(configuration: configuration, logger: .quiet)
            _ = try await log.append([.numbered(-1)])
            let told = try await withThrowingTaskGroup(of: Int?.self) { group in
                for number in 0..<300 {
                    group.addTask { (try? await log.append([.numbered(number)])) != nil ? number : nil }
                }
                return try await group.reduce(into: Set<Int>()) { if let number = $1 { $0.insert(number) } }
            }
            let found = try await self.numbers(log, .accepted)
            #expect(found.count == Set(found).count)
            #expect(Set(found) == told.union([-1]))
            await log.close()
        }
    }
}
