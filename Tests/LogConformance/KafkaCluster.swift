import CRdKafka
import ClusterLog
import Foundation
import KafkaLog
import Logging
import Testing

/// The Kafka that tests run against: the one named by `POSTHORN_TEST_KAFKA`, or librdkafka's mock, in this process.
///
/// The mock keeps no offsets that are committed in transactions, isolates no reader from open ones, and has no admin
/// API: tests that need them run against a real cluster only.
final class KafkaCluster: @unchecked Sendable {
    // Sendable: the mock cluster has its own thread and locks, and its pointers never change.
    static let shared = KafkaCluster()

    let bootstrap: String
    let isMock: Bool
    let mock: OpaquePointer?
    private let host: OpaquePointer?

    init(brokerCount: Int32 = 3, isMock: Bool? = nil) {
        let named = ProcessInfo.processInfo.environment["POSTHORN_TEST_KAFKA"]
        if let named, !named.isEmpty, isMock != true {
            self.bootstrap = named
            self.isMock = false
            self.mock = nil
            self.host = nil
            return
        }
        var text = [CChar](repeating: 0, count: 256)
        let host = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), &text, text.count)
        let mock = rd_kafka_mock_cluster_new(host, brokerCount)
        self.host = host
        self.mock = mock
        self.isMock = true
        self.bootstrap = rd_kafka_mock_cluster_bootstraps(mock).map { String(cString: $0) } ?? ""
    }

    deinit {
        if let mock { rd_kafka_mock_cluster_destroy(mock) }
        if let host { rd_kafka_destroy(host) }
    }

    /// Settings for a cluster of its own on these brokers.
    func configuration(prefix: String = "t" + UUID().uuidString.prefix(8).lowercased()) -> KafkaConfiguration {
        var configuration = KafkaConfiguration(bootstrap: self.bootstrap)
        configuration.prefix = prefix
        configuration.partitionCount = 4
        configuration.isTestCluster = true
        configuration.readTimeout = 4_000
        configuration.commitsApart = self.isMock
        configuration.followInterval = 500
        configuration.settings["topic.metadata.refresh.interval.ms"] = "500"
        return configuration
    }

    func plan(_ topics: [Topic]) -> TopicPlan {
        var plan = TopicPlan(tiers: [60], lifetime: 432_000_000, partitionCount: 4)
        if self.isMock { plan.replicationFactor = 1 }
        plan.entries = topics.map { topic in
            plan.entries.first { $0.topic == topic }
                ?? TopicPlan.Entry(topic: topic, cleanup: .delete, retention: 800_000_000, sizeMax: nil)
        }
        return plan
    }

    func withLog(
        topics: [Topic],
        adjusting adjust: (inout KafkaConfiguration) -> Void = { _ in },
        _ body: (any RecordLog) async throws -> Void
    ) async throws {
        var configuration = self.configuration()
        adjust(&configuration)
        try self.create(topics, configuration)
        let log = try await self.open(configuration, topics)
        do {
            try await body(log)
        } catch {
            await log.close()
            throw error
        }
        await log.close()
        if !self.isMock {
            let tool = try KafkaTopics(configuration: configuration, logger: .quiet)
            try tool.delete(Array(tool.describe().keys))
        }
    }

    func open(_ configuration: KafkaConfiguration, _ topics: [Topic]) async throws -> KafkaLog {
        try await KafkaLog.open(
            configuration: configuration,
            plan: self.plan(topics),
            timeout: .seconds(10),
            logger: ProcessInfo.processInfo.environment["POSTHORN_TEST_VERBOSE"] == nil
                ? .quiet : Logger(label: "kafka")
        )
    }

    /// What the mock's brokers say of a topic from now on; they know it again with `RD_KAFKA_RESP_ERR_NO_ERROR`.
    func setError(_ error: rd_kafka_resp_err_t, of topic: Topic, _ configuration: KafkaConfiguration) {
        rd_kafka_mock_topic_set_error(
            self.mock,
            configuration.prefix + topic.name.dropFirst("posthorn".utf8.count),
            error
        )
    }

    /// What the mock's brokers answer to the next requests of a kind, by Kafka's number of it.
    func failNext(_ request: Int16, with errors: [rd_kafka_resp_err_t]) {
        rd_kafka_mock_push_request_errors_array(self.mock, request, errors.count, errors)
    }

    func create(_ topics: [Topic], _ log: any RecordLog) async throws {
        let prefix = log.clusterID.name.split(separator: "/").last.map { String($0) } ?? "posthorn"
        try self.create(topics, self.configuration(prefix: prefix))
    }

    func create(_ topics: [Topic], _ configuration: KafkaConfiguration) throws {
        guard let mock else {
            _ = try KafkaTopics(configuration: configuration, logger: .quiet).apply(self.plan(topics))
            // Brokers learn of them one after the other, and a log of a test cluster does not wait for that.
            usleep(300_000)
            return
        }
        for topic in topics {
            let name = configuration.prefix + topic.name.dropFirst("posthorn".utf8.count)
            let error = rd_kafka_mock_topic_create(mock, name, Int32(configuration.partitionCount), 1)
            #expect(error == RD_KAFKA_RESP_ERR_NO_ERROR)
        }
    }
}
