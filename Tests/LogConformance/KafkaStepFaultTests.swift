import CRdKafka
import ClusterLog
import KafkaLog
import NIOCore
import Synchronization
import Testing

/// Steps while the mock answers errors for each kind of request of a transaction and of a group.
///
/// The mock keeps no offsets that are committed in transactions: they are committed beside them (`commitsApart`), once
/// the transaction is, and show whether a step counts.
@Suite("Kafka: steps while brokers answer errors", .timeLimit(.minutes(5)))
struct KafkaStepFaultTests {
    /// What any request to a coordinator can be answered.
    private static let coordinator = [
        RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE, RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
        RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS, RD_KAFKA_RESP_ERR__TRANSPORT,
    ]
    /// What any request of a transaction can be answered besides.
    private static let transaction =
        Self.coordinator + [
            RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS, RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH,
            RD_KAFKA_RESP_ERR_PRODUCER_FENCED, RD_KAFKA_RESP_ERR_INVALID_PRODUCER_ID_MAPPING,
            RD_KAFKA_RESP_ERR_INVALID_TXN_STATE, RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        ]
    /// What any request of a member can be answered besides.
    private static let group =
        Self.coordinator + [
            RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID, RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
            RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS, RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
        ]

    private static func faults(_ request: KafkaRequest, _ errors: [rd_kafka_resp_err_t]) -> Faults {
        var faults = Faults(request)
        faults.errors = errors
        return faults
    }

    static let all = [
        faults(
            .produce,
            [
                RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
                RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
                RD_KAFKA_RESP_ERR_INVALID_MSG, RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
                RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER, RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID,
                RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
                RD_KAFKA_RESP_ERR__TRANSPORT,
            ]
        ),
        faults(
            .addPartitionsToTransaction,
            transaction + [
                RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
                RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID,
            ]
        ),
        faults(
            .addOffsetsToTransaction,
            transaction + [RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED, RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID]
        ),
        faults(.transactionOffsetCommit, transaction + group + [RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID]),
        faults(.endTransaction, transaction + [RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID]),
        faults(.initProducerID, transaction),
        faults(.findCoordinator, coordinator + [RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED]),
    ]

    /// Goal: outputs and progress are both there or neither, and no error is the end. Method: for each error the request
    /// fails once or three times while a step is tried until it is written. What failed must not have moved the
    /// progress; what was written is where it says, and the progress is the step's own.
    @Test("A step is written whole or not at all, and after the error it is written", arguments: all)
    func steps(_ faults: Faults) async throws {
        let cluster = KafkaCluster(isMock: true)
        try await cluster.withLog(
            topics: [.accepted, .outcomes],
            adjusting: { configuration in
                configuration.sessionTimeout = 2_500
                configuration.settings["heartbeat.interval.ms"] = "200"
            }
        ) { log in
            let total = faults.errors.count * 2
            let records = (0..<total + 1).map { Record.numbered($0) }
            let partition = try #require(try await log.append(records).first).partition
            let member = try await log.join(delivery, topics: accepted)
            let follower = Follower(member)
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask { try await follower.run() }
                var done: Int64 = 0
                for (number, error) in faults.errors.enumerated() {
                    for count in [1, 3] {
                        let what = "\(KafkaFault.name(error)) x \(count)"
                        cluster.fail(faults.request, with: Array(repeating: error, count: count))
                        if faults.request == .heartbeat {
                            // Whatever the errors lead to, the one after them says that they have been answered.
                            cluster.fail(.heartbeat, with: [RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID])
                            try await eventually("the heartbeats failed with \(what)") { follower.takeLosses() > 0 }
                        }
                        if [.joinGroup, .syncGroup, .offsetFetch].contains(faults.request) {
                            // The member has to join anew.
                            cluster.fail(.heartbeat, with: [RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID])
                            try await eventually("it is fenced before \(what)") { follower.takeLosses() > 0 }
                        }
                        if [.initProducerID, .findCoordinator].contains(faults.request) {
                            // The producer has to be made anew.
                            cluster.fail(.addOffsetsToTransaction, with: [RD_KAFKA_RESP_ERR_PRODUCER_FENCED])
                        }
                        done += 1
                        let step = Step(
                            outputs: [.numbered(Int(done), topic: .outcomes), .numbered(-number, topic: .outcomes)],
                            progress: [partition: .upTo(done)]
                        )
                        let positions = try await Self.write(step, member, follower, log, what)
                        for (index, position) in positions.enumerated() {
                            let read = try await log.scan(position.partition, from: position.offset, recordCountMax: 1)
                            #expect(read.first?.value == step.outputs[index].value, "\(what)")
                        }
                        for request in [faults.request, .heartbeat, .addOffsetsToTransaction] { cluster.clear(request) }
                        let progress = try await Self.progress(log, partition)
                        #expect(progress == .upTo(done), "after \(what)")
                    }
                }
                await member.leave()
                try await group.waitForAll()
            }
        }
    }

    /// Tries a step until it is written, as delivery does.
    private static func write(
        _ step: Step,
        _ member: any GroupMember,
        _ follower: Follower,
        _ log: any RecordLog,
        _ what: String
    ) async throws -> [Position] {
        let partition = try #require(step.progress.keys.first)
        let end = ContinuousClock.now + .seconds(90)
        while true {
            try await eventually(within: .seconds(60), "it owns the partition after \(what)") {
                follower.owns(partition)
            }
            do throws(RecordLogError) {
                return try await member.step(step)
            } catch {
                guard ContinuousClock.now < end else {
                    Issue.record("not written after \(what): \(error)")
                    return []
                }
                let progress = try await Self.progress(log, partition)
                #expect(progress != step.progress[partition], "what failed was written after all: \(what), \(error)")
            }
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    private static func progress(_ log: any RecordLog, _ partition: TopicPartition) async throws -> Progress? {
        var found: Progress?
        try await eventually(within: .seconds(30), "the progress can be read") {
            do throws(RecordLogError) {
                found = try await log.progress(delivery, partition)
                return true
            } catch {
                return false
            }
        }
        return found
    }
}

/// Takes a member's events, as a service does, and knows what it owns.
private final class Follower: Sendable {
    private let member: any GroupMember
    private let state = Mutex<(owned: Set<TopicPartition>, losses: Int)>(([], 0))

    init(_ member: any GroupMember) {
        self.member = member
    }

    func run() async throws {
        while let event = try await self.member.next() {
            self.state.withLock { state in
                switch event {
                case .assigned(let assignments): state.owned.formUnion(assignments.map { $0.partition })
                case .revoked(let partitions), .lost(let partitions):
                    state.owned.subtract(partitions)
                    state.losses += 1
                case .records, .truncated: break
                }
            }
        }
    }

    func owns(_ partition: TopicPartition) -> Bool { self.state.withLock { $0.owned.contains(partition) } }

    func takeLosses() -> Int { self.state.withLock { exchange(&$0.losses, with: 0) } }
}
