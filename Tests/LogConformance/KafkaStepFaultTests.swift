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
///
/// Nearly all of their time is waiting for time-outs and sessions: each kind of request has a mock cluster of its own,
/// and all of them run at once.
@Suite("Kafka: steps while brokers answer errors", .timeLimit(.minutes(15)))
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
        faults(.offsetCommit, group),
    ]

    /// Each costs a group of its own, and that some seconds.
    private static let membership = [
        RD_KAFKA_RESP_ERR_NOT_COORDINATOR, RD_KAFKA_RESP_ERR__TRANSPORT, RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID,
        RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS, RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
    ]

    static let ofMembership = [
        faults(.joinGroup, membership), faults(.syncGroup, membership), faults(.heartbeat, membership),
        faults(.offsetFetch, membership + [RD_KAFKA_RESP_ERR_UNSTABLE_OFFSET_COMMIT]),
    ]

    /// Goal: outputs and progress are both there or neither, and no error is the end. Method: for each error the request
    /// fails once or three times while a step is tried until it is written. What failed must not have moved the
    /// progress, unless the error says that this is not known; what was written is where it says, and the progress is the
    /// step's own.
    @Test("A step is written whole or not at all, and after the error it is written")
    func steps() async throws {
        try await Self.atOnce(Self.all, Self.steps)
    }

    private static func steps(_ faults: Faults) async throws {
        let cluster = KafkaCluster(isMock: true)
        try await cluster.withLog(topics: [.accepted, .outcomes], adjusting: Self.quick) { log in
            let records = (0...faults.errors.count * 2).map { Record.numbered($0) }
            let partition = try #require(try await log.append(records).first).partition
            try await Self.withMember(of: log, in: delivery) { follower in
                var done: Int64 = 0
                for error in faults.errors {
                    for count in [1, 3] {
                        cluster.fail(faults.request, with: Array(repeating: error, count: count))
                        if [.initProducerID, .findCoordinator].contains(faults.request) {
                            // The producer has to be made anew.
                            cluster.fail(.addOffsetsToTransaction, with: [RD_KAFKA_RESP_ERR_PRODUCER_FENCED])
                        }
                        done += 1
                        let what = "\(faults.request): \(KafkaFault.name(error)) x \(count)"
                        try await Self.step(partition, upTo: done, follower, log, what) {
                            cluster.clear(faults.request)
                            cluster.clear(.addOffsetsToTransaction)
                        }
                    }
                }
            }
        }
    }

    /// Goal: no error keeps a member from its partitions for good. Method: each error meets a group of its own, since the
    /// mock's coordinator sometimes never ends a later rebalance: once while the first member joins, or in a heartbeat
    /// before an error after which it joins again; then it steps.
    @Test("A member that is answered errors gets its partitions, and steps")
    func joins() async throws {
        try await Self.atOnce(Self.ofMembership, Self.joins)
    }

    private static func joins(_ faults: Faults) async throws {
        let cluster = KafkaCluster(isMock: true)
        try await cluster.withLog(topics: [.accepted, .outcomes], adjusting: Self.quick) { log in
            let partition = try #require(try await log.append([.numbered(0), .numbered(1)]).first).partition
            for error in faults.errors {
                let what = "\(faults.request)-\(KafkaFault.name(error))"
                let isLater = faults.request == .heartbeat
                if !isLater { cluster.fail(faults.request, with: [error]) }
                try await Self.withMember(of: log, in: GroupID("delivery-\(what)")) { follower in
                    if isLater {
                        try await eventually("it owns the partition before \(what)") { follower.owns(partition) }
                        cluster.fail(.heartbeat, with: [error, RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION])
                        try await eventually("the heartbeats failed with \(what)") { follower.takeLosses() > 0 }
                    }
                    try await Self.step(partition, upTo: 1, follower, log, what) { cluster.clear(faults.request) }
                }
            }
        }
    }

    private static func atOnce(
        _ all: [Faults],
        _ body: @escaping @Sendable (Faults) async throws -> Void
    ) async throws {
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            for faults in all { tasks.addTask { try await body(faults) } }
            try await tasks.waitForAll()
        }
    }

    private static func quick(_ configuration: inout KafkaConfiguration) {
        configuration.sessionTimeout = 2_500
        configuration.settings["heartbeat.interval.ms"] = "200"
    }

    private static func withMember(
        of log: any RecordLog,
        in group: GroupID,
        _ body: (Follower) async throws -> Void
    ) async throws {
        let follower = Follower(try await log.join(group, topics: accepted), in: group)
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            tasks.addTask { try await follower.run() }
            try await body(follower)
            await follower.member.leave()
            try await tasks.waitForAll()
        }
    }

    /// Steps past one more record, whatever it takes, and looks whether the step is there whole.
    ///
    /// - Parameter clear: ends the errors once it is written.
    private static func step(
        _ partition: TopicPartition,
        upTo done: Int64,
        _ follower: Follower,
        _ log: any RecordLog,
        _ what: String,
        clear: () -> Void
    ) async throws {
        let step = Step(
            outputs: [.numbered(Int(done), topic: .outcomes), .numbered(-Int(done), topic: .outcomes)],
            progress: [partition: .upTo(done)]
        )
        let positions = try await Self.write(step, partition, follower, log, what)
        #expect(positions.count == 2, "after \(what)")
        for (output, position) in zip(step.outputs, positions) {
            let read = try await log.scan(position.partition, from: position.offset, recordCountMax: 1)
            #expect(read.first?.value == output.value, "after \(what)")
        }
        clear()
        #expect(try await Self.progress(log, follower.group, partition) == .upTo(done), "after \(what)")
    }

    /// Tries a step until it is written, as delivery does.
    private static func write(
        _ step: Step,
        _ partition: TopicPartition,
        _ follower: Follower,
        _ log: any RecordLog,
        _ what: String
    ) async throws -> [Position] {
        let end = ContinuousClock.now + .seconds(90)
        while true {
            try await eventually(within: .seconds(60), "it owns the partition after \(what)") {
                follower.owns(partition)
            }
            do throws(RecordLogError) {
                return try await follower.member.step(step)
            } catch {
                guard ContinuousClock.now < end else {
                    Issue.record("not written after \(what): \(error)")
                    return []
                }
                // That it was not durable says that it may have been written.
                let progress = error.code == .notDurable ? nil : try await Self.progress(log, follower.group, partition)
                #expect(progress != step.progress[partition], "what failed was written after all: \(what), \(error)")
            }
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    private static func progress(
        _ log: any RecordLog,
        _ group: GroupID,
        _ partition: TopicPartition
    ) async throws -> Progress? {
        var found: Progress?
        try await eventually(within: .seconds(30), "the progress can be read") {
            do throws(RecordLogError) {
                found = try await log.progress(group, partition)
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
    let member: any GroupMember
    let group: GroupID
    private let state = Mutex<(owned: Set<TopicPartition>, losses: Int)>(([], 0))

    init(_ member: any GroupMember, in group: GroupID) {
        self.member = member
        self.group = group
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
