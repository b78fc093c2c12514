import ClusterLog
import EmbeddedLog
import Foundation
import KafkaLog
import Logging
import NIOCore
import Testing

/// The implementations that pass one suite.
enum Backend: String, CaseIterable, Sendable, CustomTestStringConvertible {
    case memory
    case embedded
    /// The cluster of `POSTHORN_TEST_KAFKA` (bootstrap servers), or librdkafka's mock of one.
    case kafka

    var testDescription: String { self.rawValue }

    /// Those that can be asked to rebalance: the mock's coordinator sometimes never ends it.
    static var withSeveralMembers: [Backend] {
        KafkaCluster.shared.isMock ? [.memory, .embedded] : Backend.allCases
    }

    /// Those that can be asked to trim: the mock has no admin API.
    static var thatTrim: [Backend] {
        KafkaCluster.shared.isMock ? [.memory, .embedded] : Backend.allCases
    }

    /// Runs a body with a fresh log, and closes it.
    ///
    /// - Parameter topics: those that exist from the beginning, where topics have to be made.
    func withLog(
        topics: [Topic] = [.accepted, .content, .outcomes, .deferred(delay: 60)],
        _ body: (any RecordLog) async throws -> Void
    ) async throws {
        switch self {
        case .memory:
            let log = InMemoryLog(partitionCount: 4)
            try await body(log)
            await log.close()
        case .embedded:
            try await withDirectory { directory in
                let log = try EmbeddedLog(configuration: .test(directory), logger: .quiet)
                try await body(log)
                await log.close()
            }
        case .kafka:
            try await KafkaCluster.shared.withLog(topics: topics, body)
        }
    }

    /// Makes a topic exist where an append does not.
    func create(_ topic: Topic, _ log: any RecordLog) async throws {
        switch self {
        case .memory, .embedded: break
        case .kafka: try await KafkaCluster.shared.create([topic], log)
        }
    }
}

extension Logger {
    static var quiet: Logger {
        Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
    }
}

extension EmbeddedLogConfiguration {
    /// Small, and without waits.
    static func test(_ directory: String) -> EmbeddedLogConfiguration {
        var configuration = EmbeddedLogConfiguration(directory: directory)
        configuration.partitionCount = 4
        configuration.reserveSize = 1 << 20
        configuration.finishedGrace = .zero
        configuration.maintenanceInterval = .seconds(3_600)
        return configuration
    }
}

/// Runs a body with a directory of its own, which is removed afterwards.
func withDirectory(_ body: (String) async throws -> Void) async throws {
    let directory = NSTemporaryDirectory() + "posthorn-log-" + UUID().uuidString
    defer { try? FileManager.default.removeItem(atPath: directory) }
    try await body(directory)
}

extension Record {
    /// A record of which the value tells which one it is.
    static func numbered(
        _ number: Int,
        topic: Topic = .accepted,
        key: String = "example.net",
        size: Int = 0,
        id: String = ""
    ) -> Record {
        var value = ByteBuffer(string: "value \(number)")
        value.writeRepeatingByte(0x2e, count: size)
        var headers = [RecordHeader("number", ByteBuffer(integer: Int64(number)))]
        if !id.isEmpty { headers.append(RecordHeader(Reference.messageIDHeader, ByteBuffer(string: id))) }
        return Record(topic: topic, key: key, headers: headers, value: value)
    }
}

extension StoredRecord {
    var number: Int? {
        self.header("number").flatMap { $0.getInteger(at: $0.readerIndex, as: Int64.self) }.map { Int($0) }
    }
}

extension GroupMember {
    /// The records of the next `count`, whatever else comes between.
    func take(_ count: Int) async throws -> [StoredRecord] {
        var taken: [StoredRecord] = []
        while taken.count < count, let event = try await self.next() {
            if case .records(_, let records) = event { taken += records }
        }
        return taken
    }

    /// The next assignment, whatever comes before.
    func assignment() async throws -> [TopicPartition: Progress] {
        while let event = try await self.next() {
            if case .assigned(let assignments) = event {
                return Dictionary(uniqueKeysWithValues: assignments.map { ($0.partition, $0.progress) })
            }
        }
        return [:]
    }
}

extension Progress {
    static func upTo(_ offset: Int64) -> Progress { Progress(watermark: Offset(offset)) }
}

typealias Progress = ClusterLog.Progress

let delivery = GroupID("delivery")
let accepted = TopicSelection(topics: [.accepted])
