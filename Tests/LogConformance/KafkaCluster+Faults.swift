import CRdKafka
import ClusterLog
import Testing

/// Requests that the mock can be told to fail, by the protocol's numbers.
enum KafkaRequest: Int16, Sendable, CustomTestStringConvertible {
    case produce = 0
    case fetch = 1
    case listOffsets = 2
    case metadata = 3
    case offsetCommit = 8
    case offsetFetch = 9
    case findCoordinator = 10
    case joinGroup = 11
    case heartbeat = 12
    case syncGroup = 14
    case apiVersion = 18
    case initProducerID = 22
    case addPartitionsToTransaction = 24
    case addOffsetsToTransaction = 25
    case endTransaction = 26
    case transactionOffsetCommit = 28

    var testDescription: String { "\(self)" }
}

/// What can be done to the mock.
extension KafkaCluster {
    private static func name(of topic: Topic, _ prefix: String) -> String {
        prefix + topic.name.dropFirst("posthorn".utf8.count)
    }

    /// The next requests of this kind are answered with these errors, one each.
    func fail(_ request: KafkaRequest, with errors: [rd_kafka_resp_err_t]) {
        self.failNext(request.rawValue, with: errors)
    }

    /// Forgets what is left of ``fail(_:with:)``.
    func clear(_ request: KafkaRequest) {
        rd_kafka_mock_clear_request_errors(self.mock, request.rawValue)
    }

    /// - Parameter broker: -1 for all of them.
    func stop(_ broker: Int32 = -1) {
        #expect(rd_kafka_mock_broker_set_down(self.mock, broker) == RD_KAFKA_RESP_ERR_NO_ERROR)
    }

    func start(_ broker: Int32 = -1) {
        #expect(rd_kafka_mock_broker_set_up(self.mock, broker) == RD_KAFKA_RESP_ERR_NO_ERROR)
    }

    /// Every answer of every broker takes so long.
    func delayAnswers(milliseconds: Int32) {
        #expect(rd_kafka_mock_broker_set_rtt(self.mock, -1, milliseconds) == RD_KAFKA_RESP_ERR_NO_ERROR)
    }

    /// - Parameter leader: -1 for none.
    func lead(_ partition: TopicPartition, of log: any RecordLog, by leader: Int32) {
        let prefix = log.clusterID.name.split(separator: "/").last.map { String($0) } ?? ""
        let name = Self.name(of: partition.topic, prefix)
        let error = rd_kafka_mock_partition_set_leader(self.mock, name, partition.partition, leader)
        #expect(error == RD_KAFKA_RESP_ERR_NO_ERROR)
    }
}

/// Waits until a condition holds.
func eventually(
    within limit: Duration = .seconds(20),
    _ what: String,
    _ condition: () async throws -> Bool
) async throws {
    let end = ContinuousClock.now + limit
    while true {
        if try await condition() { return }
        guard ContinuousClock.now < end else {
            Issue.record("not within \(limit): \(what)")
            return
        }
        try await Task.sleep(for: .milliseconds(20))
    }
}
