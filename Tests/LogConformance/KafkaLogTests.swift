import CRdKafka
import ClusterLog
import Logging
import NIOCore
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
