import CRdKafka
import ClusterLog
import Foundation
import KafkaLog
import Logging
import Testing

@testable import posthorn

/// librdkafka's mock cluster, in this process, for a program in another. It has no admin API.
private final class MockBrokers {
    let bootstrap: String
    private let mock: OpaquePointer?
    private let host: OpaquePointer?

    init() {
        var text = [CChar](repeating: 0, count: 256)
        self.host = rd_kafka_new(RD_KAFKA_PRODUCER, rd_kafka_conf_new(), &text, text.count)
        self.mock = rd_kafka_mock_cluster_new(self.host, 3)
        self.bootstrap = rd_kafka_mock_cluster_bootstraps(self.mock).map { String(cString: $0) } ?? ""
    }

    deinit {
        if let mock { rd_kafka_mock_cluster_destroy(mock) }
        if let host { rd_kafka_destroy(host) }
    }

    func make(_ topic: String, partitionCount: Int32) {
        #expect(rd_kafka_mock_topic_create(self.mock, topic, partitionCount, 3) == RD_KAFKA_RESP_ERR_NO_ERROR)
    }
}

private struct Report: Decodable {
    struct Finding: Decodable, Equatable {
        struct Setting: Decodable, Equatable {
            var name: String
            var value: String
        }
        var severity: String
        var topic: String
        var remedy: String
        var setting: Setting?
    }
    struct Listed: Decodable {
        var topic: String
        var partitions: Int?
        var replicas: Int?
        var settings: [String: String]?
        var planned: Bool
    }
    var made: [String]?
    var findings: [Finding]?
    var topics: [Listed]?

    init(_ result: Program.Result) throws {
        self = try JSONDecoder().decode(Report.self, from: Data(result.output.utf8))
    }
}

@Suite("posthorn topics")
struct TopicsCommandTests {
    private static func run(_ command: String, _ bootstrap: String, _ more: [String] = []) throws -> Program.Result {
        try Program.run(["topics", command, "--bootstrap", bootstrap] + more)
    }

    private static func run(_ command: String, configuration: String) throws -> Program.Result {
        let directory = try Program.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let file = "\(directory)/posthorn.yaml"
        try configuration.write(toFile: file, atomically: true, encoding: .utf8)
        return try Program.run(["topics", command, "-c", file])
    }

    @Test("Without a cluster it says which setting is missing, and exits with 78")
    func noCluster() throws {
        let result = try Self.run("verify", configuration: "")
        #expect(result.code == 78)
        #expect(result.error.contains("kafka.bootstrap") && result.error.contains("--bootstrap"))
    }

    @Test("Too few replicas are refused unless it is a test cluster")
    func tooFewReplicas() throws {
        let result = try Self.run("verify", "127.0.0.1:1", ["--replication", "2"])
        #expect(result.code == 78)
        #expect(result.error.contains("test-cluster: true"), "\(result.error)")
    }

    @Test("A mock cluster makes no topics: apply says so, and exits with 69")
    func applyToMock() throws {
        let mock = MockBrokers()
        let result = try Self.run(
            "apply",
            configuration: "kafka: {bootstrap: \"\(mock.bootstrap)\", start-timeout: 2s}\n"
        )
        #expect(result.code == 69)
        #expect(result.error.contains("create topics") && result.error.contains("mock"), "\(result.error)")
        #expect(result.output == "")
    }

    @Test("Without brokers it names the settings to look at, and exits with 69")
    func noBrokers() throws {
        let result = try Self.run(
            "verify",
            configuration: "kafka: {bootstrap: \"127.0.0.1:1\", start-timeout: 1s}\n"
        )
        #expect(result.code == 69)
        #expect(result.error.contains("kafka.bootstrap") && result.error.contains("kafka.security"))
    }

    @Test("A setting that librdkafka does not know is refused by its name, and exits with 78")
    func unknownSetting() throws {
        let result = try Self.run(
            "verify",
            configuration: "kafka: {bootstrap: \"127.0.0.1:1\", settings: [no.such.setting=1]}\n"
        )
        #expect(result.code == 78)
        #expect(result.error.contains("no.such.setting"), "\(result.error)")
    }

    @Test("verify names missing topics and wrong partitions, by the cluster's own names, and exits with 1")
    func verifyMock() throws {
        let mock = MockBrokers()
        mock.make("lab.accepted", partitionCount: 4)
        mock.make("lab.content", partitionCount: 5)
        let options = ["--prefix", "lab", "--partitions", "4", "--test-cluster"]
        let result = try Self.run("verify", mock.bootstrap, options)
        #expect(result.code == 1)
        #expect(
            result.output.contains("error    lab.content: it has 5 partitions, and kafka.partitions says 4."),
            "\(result.output)"
        )
        #expect(result.output.contains("error    lab.outcomes: the topic does not exist. Run `posthorn topics apply`."))
        #expect(!result.output.contains("lab.accepted"))
        #expect(result.output.contains("A node refuses to start"))
        let report = try Report(try Self.run("verify", mock.bootstrap, options + ["--json"]))
        #expect(report.findings?.first { $0.topic == "lab.content" }?.severity == "error")
        let listed = try Report(try Self.run("describe", mock.bootstrap, options + ["--json"]))
        #expect(listed.topics?.first { $0.topic == "lab.accepted" }?.partitions == 4)
        #expect(listed.topics?.first { $0.topic == "lab.dead" }?.partitions == nil)
    }

    /// A cluster of three brokers to make topics on, and to delete them from.
    private static let realCluster = ProcessInfo.processInfo.environment["POSTHORN_TEST_KAFKA"] ?? ""

    @Test(
        "On a real cluster: apply makes what is missing, verify agrees, and what is changed is found",
        .enabled(if: !realCluster.isEmpty, "POSTHORN_TEST_KAFKA names no cluster")
    )
    func appliesToRealCluster() throws {
        let bootstrap = Self.realCluster
        let prefix = "t" + UUID().uuidString.prefix(8).lowercased()
        var configuration = KafkaConfiguration(bootstrap: bootstrap)
        configuration.prefix = prefix
        let topics = try KafkaTopics(configuration: configuration, logger: Logger(label: "test"))
        defer { _ = try? topics.delete(Array(topics.describe().keys)) }
        let directory = try Program.temporaryDirectory()
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let file = "\(directory)/posthorn.yaml"
        try "kafka: {bootstrap: \"\(bootstrap)\", prefix: \(prefix), partitions: 4}\n"
            .write(toFile: file, atomically: true, encoding: .utf8)
        func run(_ command: String, _ options: [String] = []) throws -> Program.Result {
            try Program.run(["topics", command, "-c", file] + options)
        }

        #expect(try Report(run("verify", ["--json"])).findings?.count == 14)
        // One that somebody else made, badly.
        var plan = TopicPlan(tiers: [60], lifetime: 86_400_000, partitionCount: 4, inSyncMin: 1)
        plan.entries.removeAll { $0.topic != .accepted }
        #expect(try topics.apply(plan) == [.accepted])

        let first = try run("apply", ["--json"])
        #expect(first.code == 1, "\(first)")
        let report = try Report(first)
        #expect(report.made?.count == 13 && report.made?.contains("\(prefix).accepted") == false)
        #expect(
            report.findings?.map(\.setting) == [
                .init(name: "min.insync.replicas", value: "2"), .init(name: "retention.ms", value: "691200000"),
            ]
        )
        let text = try run("verify")
        #expect(text.code == 1)
        #expect(
            text.output.contains(
                "--entity-name \(prefix).accepted --add-config min.insync.replicas=2,retention.ms=691200000"
            ),
            "\(text.output)"
        )

        try topics.delete([.accepted])
        try awaitAbsence(of: .accepted, topics)
        let second = try run("apply")
        #expect(second.code == 0, "\(second)")
        #expect(
            second.output
                == "made     \(prefix).accepted: 4 partitions, 3 replicas\n14 topics: all is well.\n"
        )
        let third = try run("apply")
        #expect(third.code == 0 && third.output == "14 topics: all is well.\n")
        #expect(try run("verify").code == 0)
        let listed = try Report(run("describe", ["--json"]))
        #expect(listed.topics?.count == 14)
        #expect(listed.topics?.allSatisfy { $0.partitions == 4 && $0.replicas == 3 && $0.planned } == true)
        let control = listed.topics?.first { $0.topic == "\(prefix).control" }
        #expect(control?.settings?["cleanup.policy"] == "compact")
        let other = try run("verify", ["--partitions", "8"])
        #expect(other.code == 1 && other.output.contains("it has 4 partitions, and kafka.partitions says 8"))
    }

    /// Deleting is asynchronous on the brokers, and they have no event for its end.
    private func awaitAbsence(of topic: Topic, _ topics: KafkaTopics) throws {
        let end = ContinuousClock.now + .seconds(10)
        while ContinuousClock.now < end {
            if let existing = try? topics.describe(), existing[topic] == nil { return }
            Thread.sleep(forTimeInterval: 0.1)
        }
        Issue.record("\(topic) is still there")
    }
}
