import CRdKafka
import ClusterLog
import Dispatch
import Logging
import Synchronization

/// Writes one member's steps, each as a transaction that carries the member's group metadata (DESIGN §3).
///
/// All calls of a transaction block, so they run on one thread of its own. A transaction that is open when its node
/// dies is ended by the broker's timeout; what nobody knows the end of is looked up in the group's commits.
final class StepWriter: Sendable {
    /// What the member answers and does for the writer, from the writer's thread.
    struct Membership: Sendable {
        /// Whether these partitions are still the member's for a step that was begun.
        var mayStep: @Sendable ([TopicPartition]) -> Bool
        /// The membership as it is now. Asked for before `mayStep`: a newer one would vouch for what was lost.
        var metadata: @Sendable () -> GroupMetadata?
        var committed: @Sendable ([TopicPartition]) throws(KafkaError) -> [CommittedOffset]
        var commit: @Sendable ([TopicPartition: Progress]) throws(KafkaError) -> Void
    }

    private final class Producer {
        var client: KafkaClient?
        /// Reports of an earlier transaction are told apart by it.
        var transactionCount = 0
        /// Whether the last step was being committed when its producer was given up: then its end is not known.
        var isUncertain = false
    }

    /// How long a step is tried again while a rebalance is under way.
    private static let patience = 10.0
    private static let retryPause = 20
    private static let callTimeout: Int32 = 5_000
    private static let abortTimeout: Int32 = 1_000
    /// Tenths of seconds without a report before an abort is tried again all the same.
    private static let reportWaitCountMax = 50

    private let configuration: KafkaConfiguration
    private let transactionalID: String
    private let membership: Membership
    private let partitioner: Partitioner
    private let logger: Logger
    private let thread = WorkThread<Producer>()
    private let isClosing = Mutex(false)

    init(configuration: KafkaConfiguration, transactionalID: String, membership: Membership, logger: Logger) {
        self.configuration = configuration
        self.transactionalID = transactionalID
        self.membership = membership
        self.partitioner = Partitioner(partitionCount: configuration.partitionCount)
        self.logger = logger
        self.thread.start(
            name: "kafka-steps",
            interval: nil,
            make: { Producer() },
            idle: { _ in },
            end: { $0.client = nil }
        )
        // The first step need not wait for it.
        self.thread.submit { producer in _ = try? self.client(producer) }
    }

    func write(_ step: Step, completion: @escaping GroupMember.StepCompletion) {
        let isTaken = self.thread.submit { completion(self.perform(step, $0)) }
        if !isTaken { completion(.failure(RecordLogError(.closed, isRetriable: false))) }
    }

    /// Ends what was submitted, without trying again.
    func close() async {
        self.isClosing.withLock { $0 = true }
        await self.thread.stop()
    }

    // MARK: The thread

    private func perform(_ step: Step, _ producer: Producer) -> Result<[Position], RecordLogError> {
        let deadline = DispatchTime.now() + Self.patience
        while true {
            do throws(KafkaError) {
                return try self.attempt(step, producer)
            } catch {
                let isMoving = error.is(
                    RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
                    RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS,
                    RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID,
                    RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID
                )
                self.logger.info("A step was not written", metadata: ["error": "\(error)"])
                guard isMoving, DispatchTime.now() < deadline, !self.isClosing.withLock({ $0 }) else {
                    return .failure(RecordLogError(error, while: "step"))
                }
                // A rebalance is under way: the membership changes, or the partitions go (2.0.2 gives no event for it).
                OwnThread.pause(milliseconds: Self.retryPause)
            }
        }
    }

    private func attempt(_ step: Step, _ producer: Producer) throws(KafkaError) -> Result<[Position], RecordLogError> {
        let client = try self.client(producer)
        if producer.isUncertain {
            let wasCommitted = try self.wasCommitted(step)
            producer.isUncertain = false
            if wasCommitted { return .success([]) }
        }
        let metadata = self.membership.metadata()
        guard self.membership.mayStep(Array(step.progress.keys)) else {
            let reason = "The member does not own the partition."
            return .failure(RecordLogError(.fenced, isRetriable: false, reason: reason))
        }
        var isCommitting = false
        do throws(KafkaError) {
            try client.beginTransaction()
            producer.transactionCount += 1
            let positions = try self.fill(step, metadata, client, producer.transactionCount)
            isCommitting = true
            try self.finish(client)
            try self.commitApart(step)
            return .success(positions)
        } catch {
            self.recover(from: error, producer)
            producer.isUncertain = isCommitting && producer.client == nil
            throw error
        }
    }

    /// Produces the outputs and adds the progress, and waits until every output has its place.
    private func fill(
        _ step: Step,
        _ metadata: GroupMetadata?,
        _ client: KafkaClient,
        _ owner: Int
    ) throws(KafkaError) -> [Position] {
        for (index, record) in step.outputs.enumerated() {
            try client.produce(record, to: self.partitioner.partition(for: record.key), owner: owner, index: index)
        }
        if !step.progress.isEmpty {
            guard let metadata else { throw KafkaError(RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID) }
            try self.retrying { () throws(KafkaError) in
                try client.sendOffsets(step.progress, of: metadata, timeout: Self.callTimeout)
            }
        }
        var positions = [Position?](repeating: nil, count: step.outputs.count)
        var missing = step.outputs.count
        while missing > 0 {
            // Every record has its report within message.timeout.ms.
            for event in client.poll(timeout: -1) {
                switch event {
                case .reports(let reports):
                    for report in reports where report.owner == owner {
                        positions[report.index] = try report.result.get()
                        missing -= 1
                    }
                case .error(let error):
                    if error.isFatal { throw error }
                    self.logger.warning("Kafka", metadata: ["error": "\(error)", "client": "steps"])
                case .log(let level, let facility, let text):
                    self.logger.kafka(level: level, facility: facility, text: text)
                case .record, .assigned, .revoked, .end, .partitionError:
                    break
                }
            }
        }
        return positions.compactMap { $0 }
    }

    private func finish(_ client: KafkaClient) throws(KafkaError) {
        try self.retrying { () throws(KafkaError) in try client.commitTransaction(timeout: Self.callTimeout) }
    }

    /// The mock cluster answers TxnOffsetCommit and keeps nothing of it.
    private func commitApart(_ step: Step) throws(KafkaError) {
        guard self.configuration.commitsApart, !step.progress.isEmpty else { return }
        for _ in 0..<500 {
            do {
                return try self.membership.commit(step.progress)
            } catch {
                OwnThread.pause(milliseconds: Self.retryPause)
            }
        }
        throw KafkaError(RD_KAFKA_RESP_ERR__NO_OFFSET, "The mock cluster took no commit.")
    }

    private func retrying(_ body: () throws(KafkaError) -> Void) throws(KafkaError) {
        let deadline = DispatchTime.now() + 2 * Self.patience
        while true {
            do throws(KafkaError) {
                return try body()
            } catch {
                guard error.isRetriable, DispatchTime.now() < deadline, !self.isClosing.withLock({ $0 }) else {
                    throw error
                }
                OwnThread.pause(milliseconds: Self.retryPause)
            }
        }
    }

    /// Leaves no transaction open: aborts it, or gives the producer up when it cannot go on.
    private func recover(from error: KafkaError, _ producer: Producer) {
        guard let client = producer.client else { return }
        if !error.isFatal {
            do throws(KafkaError) {
                try self.retrying { () throws(KafkaError) in
                    // An abort waits for every report to have been taken, and only this thread takes them.
                    var waits = 0
                    while client.queuedCount > 0, waits < Self.reportWaitCountMax {
                        if client.poll(timeout: 100).isEmpty { waits += 1 }
                    }
                    try client.abortTransaction(timeout: Self.abortTimeout)
                }
                return
            } catch {
                self.logger.warning("Kafka: a transaction could not be aborted", metadata: ["error": "\(error)"])
            }
        }
        producer.client = nil
    }

    /// Making the next producer has ended the old transaction one way or the other.
    private func wasCommitted(_ step: Step) throws(KafkaError) -> Bool {
        guard let (partition, progress) = step.progress.first else { return false }
        let committed = try self.membership.committed([partition])
        return committed.first?.offset == progress.watermark && committed.first?.metadata == progress.metadata
    }

    private func client(_ producer: Producer) throws(KafkaError) -> KafkaClient {
        if let client = producer.client { return client }
        let client = try KafkaClient(
            .producer,
            settings: self.configuration.stepping(transactionalID: self.transactionalID),
            names: TopicNames(prefix: self.configuration.prefix)
        )
        try self.retrying { () throws(KafkaError) in try client.initTransactions(timeout: Self.callTimeout) }
        producer.client = client
        return client
    }
}
