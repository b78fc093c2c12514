import CRdKafka
import ClusterLog
import Logging
import NIOCore
import Synchronization
import Testing

@testable import KafkaLog

/// What Kafka alone can do, against the mock or a real cluster.
@Suite("The Kafka log")
struct KafkaLogTests {
    private let cluster = KafkaCluster.shared

    private func withLog(
        _ configure: (inout KafkaConfiguration) -> Void = { _ in },
        _ body: (KafkaLog, KafkaConfiguration) async throws -> Void
    ) async throws {
        var configuration = self.cluster.configuration()
        configure(&configuration)
        let topics: [Topic] = [.accepted, .content, .outcomes]
        try self.cluster.create(topics, configuration)
        let log = try await self.cluster.open(configuration, topics)
        do {
            try await body(log, configuration)
        } catch {
            await log.close()
            throw error
        }
        await log.close()
        guard !self.cluster.isMock else { return }
        let tool = try KafkaTopics(configuration: configuration, logger: .quiet)
        try tool.delete(Array(tool.describe().keys))
    }

    @Test("A step with more outputs than the producer's queue holds is written")
    func stepsBeyondTheQueue() async throws {
        try await self.withLog({ $0.settings["queue.buffering.max.messages"] = "8" }) { log, _ in
            let partition = try #require(try await log.append([.numbered(0)]).first).partition
            let member = try await log.join(delivery, topics: accepted)
            _ = try await member.take(1)
            let outputs = (0..<100).map { Record.numbered($0, topic: .outcomes, key: "k\($0 % 7)") }
            let positions = try await member.step(Step(outputs: outputs, progress: [partition: .upTo(1)]))
            #expect(Set(positions).count == 100)
            #expect(try await log.progress(delivery, partition) == .upTo(1))
        }
    }

    /// The mock refuses the end of the transaction for good and shows its records, as brokers do whose answer was lost.
    @Test("A step of which nobody knows whether it was committed is looked up, and not written twice")
    func looksUpSteps() async throws {
        let cluster = KafkaCluster(isMock: true)
        let configuration = cluster.configuration()
        let topics: [Topic] = [.accepted, .outcomes]
        try cluster.create(topics, configuration)
        let log = try await cluster.open(configuration, topics)
        let partition = try #require(try await log.append([.numbered(0), .numbered(1)]).first).partition
        let member = try await log.join(delivery, topics: accepted)
        _ = try await member.take(2)
        try await member.step(Step(outputs: [.numbered(0, topic: .outcomes)], progress: [partition: .upTo(1)]))
        // Its progress is the one before: the group's commit would not tell them apart.
        let endTransaction: Int16 = 26
        let outputs = (1..<4).map { Record.numbered($0, topic: .outcomes) }
        cluster.failNext(endTransaction, with: [RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH])
        await #expect(throws: RecordLogError(.notDurable, isRetriable: true)) {
            try await member.step(Step(outputs: outputs, progress: [partition: .upTo(1)]))
        }
        // One that commits progress again does not use up what is known of it.
        await #expect(throws: RecordLogError(.notDurable, isRetriable: true)) { try await member.step(Step()) }
        // What is left of it comes again.
        let left = Step(outputs: Array(outputs.dropFirst()), progress: [partition: .upTo(1)])
        let positions = try await member.step(left)
        #expect(positions.map(\.offset) == [Offset(2), Offset(3)])
        let last = try #require(positions.last)
        #expect(try await log.bounds(last.partition).upperBound == Offset(4))
        // The next is another, and is written.
        let next = try await member.step(Step(outputs: outputs, progress: [partition: .upTo(2)]))
        #expect(next.map(\.offset) == [Offset(4), Offset(5), Offset(6)])
        #expect(try await log.progress(delivery, partition) == .upTo(2))
        await log.close()
    }

    @Test("A member that left is not kept")
    func forgetsMembers() async throws {
        try await self.withLog { log, _ in
            for _ in 0..<3 {
                let member = try await log.join(delivery, topics: accepted)
                #expect(log.memberCount == 1)
                await member.leave()
                #expect(log.memberCount == 0)
            }
        }
    }

    /// A member and what it owns.
    private final class Watched: Sendable {
        private let member: any GroupMember
        private let partitions = Mutex<Set<TopicPartition>>([])

        var owned: Set<TopicPartition> { self.partitions.withLock { $0 } }

        init(_ member: any GroupMember) { self.member = member }

        func watch() async throws {
            while let event = try await self.member.next() {
                self.partitions.withLock { owned in
                    switch event {
                    case .assigned(let assignments): owned.formUnion(assignments.map(\.partition))
                    case .revoked(let partitions), .lost(let partitions): owned.subtract(partitions)
                    case .records, .truncated: break
                    }
                }
            }
        }
    }

    @Test("Whoever owns a partition owns it in every topic, as evenly after a member joined")
    func topicsGoTogether() async throws {
        let tiers = [60, 300].map { Topic.deferred(delay: $0) }
        let selection = TopicSelection(topics: [.accepted, .held], prefixes: [Topic.deferredPrefix])
        let topics = [.accepted, .held] + tiers
        var configuration = self.cluster.configuration()
        configuration.partitionCount = 4
        configuration.followInterval = 300
        try self.cluster.create(topics, configuration)
        let log = try await self.cluster.open(configuration, topics)
        let watched = [
            Watched(try await log.join(delivery, topics: selection)),
            Watched(try await log.join(delivery, topics: selection)),
        ]
        let watches = watched.map { each in Task { try await each.watch() } }
        var isEven = false
        for _ in 0..<200 where !isEven {
            try await Task.sleep(for: .milliseconds(100))
            isEven = watched.allSatisfy { each in
                topics.allSatisfy { topic in each.owned.count(where: { $0.topic == topic }) == 2 }
            }
        }
        let found = watched.map(\.owned)
        #expect(isEven, "\(found)")
        for mine in found {
            let numbers = Dictionary(grouping: mine, by: \.topic).values.map { Set($0.map(\.partition)) }
            #expect(Set(numbers).count == 1, "\(mine)")
        }
        #expect(found[0].isDisjoint(with: found[1]))
        // A topic that is new goes with the others, without the group being asked.
        let late = Topic.deferred(delay: 900)
        try self.cluster.create([late], configuration)
        var isFollowed = false
        for _ in 0..<200 where !isFollowed {
            try await Task.sleep(for: .milliseconds(100))
            isFollowed = watched.allSatisfy { each in
                let numbers = { (topic: Topic) in Set(each.owned.filter { $0.topic == topic }.map(\.partition)) }
                return numbers(late) == numbers(.accepted)
            }
        }
        #expect(isFollowed, "\(watched.map(\.owned))")
        // The group does not subscribe to what follows: its progress is committed all the same, without any mail.
        for topic in [.held, late] + tiers {
            for number in 0..<Int32(4) {
                var progress: Progress?
                for _ in 0..<50 where progress == nil {
                    progress = try await log.progress(delivery, TopicPartition(topic, number))
                    if progress == nil { try await Task.sleep(for: .milliseconds(100)) }
                }
                #expect(progress == .upTo(0), "\(topic) \(number)")
            }
        }
        for watch in watches { watch.cancel() }
        await log.close()
        guard !self.cluster.isMock else { return }
        let tool = try KafkaTopics(configuration: configuration, logger: .quiet)
        try tool.delete(Array(tool.describe().keys))
    }

    @Test("A log that ends before the group's progress is an alarm, and what comes there is read")
    func readsOnAfterACut() async throws {
        try await self.withLog { log, _ in
            let partition = try #require(try await log.append((0..<10).map { .numbered($0) }).first).partition
            // As after an unclean election: the group has done what the log does not have.
            let incomplete = Progress(watermark: Offset(9), end: Offset(100), incomplete: [Offset(9)])
            for (name, progress) in [("one", .upTo(100)), ("other", incomplete)] {
                let group = GroupID(name)
                let writer = try await log.join(group, topics: accepted)
                _ = try await writer.assignment()
                try await writer.step(Step(progress: [partition: progress]))
                await writer.leave()
                let end = try await log.bounds(partition).upperBound
                let member = try await log.join(group, topics: accepted)
                var found: Offset?
                while found == nil, let event = try await member.next() {
                    if case .truncated(partition, Offset(100), let offset) = event { found = offset }
                }
                #expect(found == end)
                let left = try await member.assignment()
                #expect(left == [partition: progress.cut(at: end)])
                let appended = try await log.append([.numbered(77)])
                let records = try await member.take(1 + progress.cut(at: end).incomplete.count)
                #expect(records.last?.position == appended.first)
                await member.leave()
            }
        }
    }

    @Test("A topic that one answer about the cluster lacks is not gone", .enabled(if: KafkaCluster.shared.isMock))
    func survivesMissingMetadata() async throws {
        try await self.withLog { log, configuration in
            let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
            let positions = try await log.append((0..<200).map { .numbered($0, topic: .content, id: id) })
            let partition = try #require(positions.first).partition
            let stored = try await log.scan(partition, from: Offset(0), recordCountMax: 200)
            let first = Reference(to: stored[0], in: log.clusterID)
            let last = Reference(to: stored[199], in: log.clusterID)
            #expect(try await log.read(first) == stored[0])
            self.cluster.setError(RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, of: .content, configuration)
            await #expect(throws: RecordLogError(.unavailable, isRetriable: true)) {
                // Until the client has asked about the cluster again. Neither is kept of the other's read.
                while true {
                    _ = try await log.read(last)
                    _ = try await log.read(first)
                }
            }
            await #expect(throws: RecordLogError(.configuration, isRetriable: true)) {
                while true { _ = try await log.bounds(partition) }
            }
            self.cluster.setError(RD_KAFKA_RESP_ERR_NO_ERROR, of: .content, configuration)
            var record: StoredRecord?
            while record == nil {
                do throws(RecordLogError) {
                    record = try await log.read(first)
                } catch {
                    try #require(error.code == .unavailable)
                }
            }
            #expect(record == stored[0])
        }
    }

    @Test("A record that is waited for at the end is read as soon as it is there")
    func waitsForRecords() async throws {
        try await self.withLog({ $0.readTimeout = 30_000 }) { log, _ in
            let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
            let position = try #require(try await log.append([.numbered(0, topic: .content, id: id)]).first)
            let stored = try #require(
                try await log.scan(position.partition, from: position.offset, recordCountMax: 1).first
            )
            var next = Reference(to: stored, in: log.clusterID)
            next.position.offset = Offset(1)
            async let waiting = log.read(next)
            // Another that is there is read meanwhile.
            #expect(try await log.read(Reference(to: stored, in: log.clusterID)) == stored)
            _ = try await log.append([.numbered(0, topic: .content, id: id)])
            #expect(try await waiting.position.offset == Offset(1))
        }
    }

    @Test(
        "A scan sees nothing that was aborted and waits for what is undecided",
        .enabled(if: !KafkaCluster.shared.isMock, "the mock isolates nobody")
    )
    func scansWhatIsCommitted() async throws {
        try await self.withLog { log, configuration in
            let partition = TopicPartition(.outcomes, Partitioner(partitionCount: 4).partition(for: "k"))
            _ = try await log.append([.numbered(0, topic: .outcomes, key: "k")])
            let client = try KafkaClient(
                .producer,
                settings: configuration.stepping(transactionalID: "\(configuration.prefix)-test"),
                names: TopicNames(prefix: configuration.prefix)
            )
            try client.initTransactions(timeout: 10_000)
            try client.beginTransaction()
            let record = Record.numbered(1, topic: .outcomes, key: "k")
            try client.produce(record, to: partition.partition, owner: 0, index: 0)
            while client.queuedCount > 0 { _ = client.poll(timeout: 1_000) }
            #expect(try await log.bounds(partition).upperBound == Offset(2))
            #expect(try await log.scan(partition, from: Offset(0), recordCountMax: 9).map(\.number) == [0])
            async let rest = log.scan(partition, from: Offset(1), recordCountMax: 9)
            // What is appended behind is not seen before the transaction ends either.
            _ = try await log.append([.numbered(2, topic: .outcomes, key: "k")])
            try client.abortTransaction(timeout: 10_000)
            #expect(try await rest.map(\.number) == [2])
            #expect(try await log.bounds(partition).upperBound.rawValue == 4)
            #expect(try await log.scan(partition, from: Offset(4), recordCountMax: 9).isEmpty)
        }
    }
}
