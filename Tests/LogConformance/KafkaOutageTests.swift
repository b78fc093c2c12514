import CRdKafka
import ClusterLog
import Foundation
import NIOCore
import Synchronization
import Testing

@testable import KafkaLog

/// Brokers that go away, come back, move their partitions or are slow, on the mock.
@Suite("Kafka: brokers down, moved and slow", .timeLimit(.minutes(5)))
struct KafkaOutageTests {
    /// Tells tasks to end.
    private final class Flag: Sendable {
        let isSet = Mutex(false)
    }

    /// Appends until one is acknowledged.
    private static func recover(_ log: any RecordLog, _ number: Int) async throws {
        try await eventually(within: .seconds(40), "an append again") {
            (try? await log.append([.numbered(number)])) != nil
        }
        try await eventually("the log says so") { log.condition.acceptsMail }
    }

    @Test("All brokers down: said within seconds, without an append; up again: it recovers by itself (G6)")
    func allDown() async throws {
        let cluster = KafkaCluster(isMock: true)
        try await cluster.withLog(topics: [.accepted], adjusting: { $0.appendTimeout = 3_000 }) { log in
            let position = try #require(try await log.append([.numbered(0)]).first)
            cluster.stop()
            try await eventually(within: .seconds(5), "the log says that it takes nothing") {
                !log.condition.acceptsMail
            }
            guard case .unavailable(let reason) = log.condition else { return }
            #expect(reason.contains("broker"), "\(reason)")
            await #expect(throws: RecordLogError.self) { try await log.append([.numbered(1)]) }
            cluster.start()
            try await Self.recover(log, 2)
            let numbers = try await log.scan(position.partition, from: Offset(0), recordCountMax: 10).map { $0.number }
            #expect(numbers.first == 0 && numbers.last == 2)
        }
    }

    @Test("A partition's leader is gone: the log says which; another leads: it recovers by itself")
    func leaderLost() async throws {
        let cluster = KafkaCluster(isMock: true)
        try await cluster.withLog(topics: [.accepted], adjusting: { $0.appendTimeout = 3_000 }) { log in
            let partition = try #require(try await log.append([.numbered(0)]).first).partition
            cluster.lead(partition, of: log, by: -1)
            try await eventually(within: .seconds(5), "the log says that it takes nothing") {
                !log.condition.acceptsMail
            }
            guard case .unavailable(let reason) = log.condition else { return }
            #expect(reason.contains("accepted/\(partition.partition) has no leader"), "\(reason)")
            cluster.lead(partition, of: log, by: 2)
            try await Self.recover(log, 1)
        }
    }

    /// Goal: no acknowledged record is lost, doubled or out of its place when leaders move under load. Method: fifty
    /// moves while appends run; all of them must be acknowledged, and what lies in the log is what was acknowledged.
    @Test("Leaders move under load: every append is acknowledged, once, in its place")
    func leadersMove() async throws {
        let cluster = KafkaCluster(isMock: true)
        try await cluster.withLog(topics: [.accepted]) { log in
            let end = Flag()
            let stored = try await withThrowingTaskGroup(of: [Position: Int].self) { group in
                for worker in 0..<4 {
                    group.addTask {
                        var stored: [Position: Int] = [:]
                        var number = worker
                        while !end.isSet.withLock({ $0 }) {
                            let positions = try await log.append([.numbered(number, key: "k\(number % 16)")])
                            for position in positions { stored[position] = number }
                            number += 4
                        }
                        return stored
                    }
                }
                for move in 0..<50 {
                    cluster.lead(TopicPartition(.accepted, Int32(move % 4)), of: log, by: Int32(move % 3) + 1)
                    try await Task.sleep(for: .milliseconds(20))
                }
                end.isSet.withLock { $0 = true }
                return try await group.reduce(into: [:]) { $0.merge($1) { old, _ in old } }
            }
            #expect(stored.count > 50)
            var found: [Position: Int] = [:]
            for partition in 0..<Int32(4) {
                let id = TopicPartition(.accepted, partition)
                for record in try await log.scan(id, from: Offset(0), recordCountMax: 1_000_000) {
                    found[record.position] = record.number
                }
            }
            #expect(found == stored)
        }
    }

    @Test("Answers that take longer than the breaker's age: said within seconds; quick again: it recovers")
    func slow() async throws {
        let cluster = KafkaCluster(isMock: true)
        try await cluster.withLog(topics: [.accepted]) { log in
            _ = try await log.append([.numbered(0)])
            cluster.delayAnswers(milliseconds: 4_000)
            async let late = log.append([.numbered(1)])
            try await eventually(within: .seconds(6), "the log says that it takes nothing") {
                !log.condition.acceptsMail
            }
            cluster.delayAnswers(milliseconds: 0)
            _ = try? await late
            try await Self.recover(log, 2)
        }
    }

    @Test("A step that the outage of all brokers interrupts is written afterwards, whole")
    func stepsThroughOutage() async throws {
        let cluster = KafkaCluster(isMock: true)
        try await cluster.withLog(topics: [.accepted, .outcomes]) { log in
            let partition = try #require(try await log.append([.numbered(0), .numbered(1)]).first).partition
            let member = try await log.join(delivery, topics: accepted)
            #expect(try await member.take(2).count == 2)
            cluster.stop()
            let step = Step(outputs: [.numbered(7, topic: .outcomes)], progress: [partition: .upTo(2)])
            async let first: Void = { _ = try await member.step(step) }()
            try await eventually("the log says that it takes nothing") { !log.condition.acceptsMail }
            cluster.start()
            var isWritten = (try? await first) != nil
            // The session may have ended meanwhile: then the partition comes back first.
            let events = Task { while try await member.next() != nil {} }
            try await eventually(within: .seconds(60), "the step is written") {
                if !isWritten { isWritten = (try? await member.step(step)) != nil }
                return isWritten
            }
            #expect(try await log.progress(delivery, partition) == .upTo(2))
            var numbers: [Int?] = []
            for number in 0..<Int32(4) {
                let outcomes = TopicPartition(.outcomes, number)
                numbers += try await log.scan(outcomes, from: Offset(0), recordCountMax: 10).map { $0.number }
            }
            // The mock shows readers what an aborted transaction wrote, too.
            #expect(Set(numbers) == [7])
            await member.leave()
            try await events.value
        }
    }
}

@Suite("Kafka: a log that was cut", .timeLimit(.minutes(2)))
struct KafkaCutTests {
    /// Goal: mail that is appended where lost records were is not taken for done, whoever reads it. Method: the group's
    /// progress is set beyond the end, as it is when the end has gone back; a new member finds it, steps nothing and leaves; the
    /// log grows past the old progress before the next member joins.
    @Test("The group's progress is taken back to the end at once, so that the next owner reads what is new")
    func takesProgressBack() async throws {
        try await KafkaCluster.shared.withLog(topics: [.accepted]) { log in
            let records = (0..<3).map { Record.numbered($0) }
            let partition = try #require(try await log.append(records).first).partition
            let first = try await log.join(delivery, topics: accepted)
            _ = try await first.assignment()
            try await first.step(Step(progress: [partition: .upTo(10)]))
            await first.leave()

            let second = try await log.join(delivery, topics: accepted)
            #expect(try await second.assignment()[partition] == .upTo(10))
            #expect(try await second.assignment() == [partition: .upTo(3)])
            try await eventually("the progress is taken back") {
                try await log.progress(delivery, partition) == .upTo(3)
            }
            await second.leave()
            _ = try await log.append((3..<20).map { .numbered($0) })
            let third = try await log.join(delivery, topics: accepted)
            #expect(try await third.take(17).compactMap { $0.number } == Array(3..<20))
            await third.leave()
        }
    }
}

@Suite("Kafka: the brokers' time")
struct BrokerClockTests {
    private let noon: Int64 = 1_800_000_000_000

    @Test("It is unknown until a broker has stamped a record, and goes on with the monotonic clock")
    func learns() {
        let clock = BrokerClock()
        #expect(clock.time(at: 5) == nil && clock.age(at: 5) == nil)
        clock.observe(self.noon, sentAt: 1_000, reportedAt: 1_010)
        #expect(abs((clock.time(at: 1_005) ?? 0) - self.noon) <= 1)
        #expect(clock.time(at: 3_601_005) == clock.time(at: 1_005).map { $0 + 3_600_000 })
        #expect(clock.age(at: 1_110) == 100)
    }

    @Test("A report that took long does not move it, one that rules it out does, as far as it must")
    func bounds() {
        let clock = BrokerClock()
        clock.observe(self.noon, sentAt: 1_000, reportedAt: 1_002)
        let before = clock.time(at: 10_000)
        // Stamped ten seconds after it was sent, reported at once: the brokers were slow, not their clock.
        clock.observe(self.noon + 10_000, sentAt: 1_000, reportedAt: 11_002)
        #expect(clock.time(at: 10_000) == before)
        // The broker's clock was set back by an hour.
        clock.observe(self.noon + 20_000 - 3_600_000, sentAt: 21_000, reportedAt: 21_002)
        let after = clock.time(at: 10_000) ?? 0
        #expect(abs((before ?? 0) - after - 3_600_000) <= 2)
    }

    @Test(
        "Stamps of a mock, or of a machine that has lost its time, count for nothing",
        arguments: [Int64(-1), 0, 1_234]
    )
    func ignores(_ timestamp: Int64) {
        let clock = BrokerClock()
        clock.observe(timestamp, sentAt: 1_000, reportedAt: 1_002)
        #expect(clock.time(at: 1_001) == nil)
    }
}
