import CRdKafka
import ClusterLog
import Dispatch
import Logging
import Synchronization

/// Writes one member's steps, each as a transaction that carries the member's group metadata (DESIGN §3).
///
/// All calls of a transaction block, so they run on one thread of its own. A transaction that is open when its node
/// dies is ended by the broker's timeout. Whether one that nobody knows the end of was committed is seen by whether its
/// records can be read.
final class StepWriter: Sendable {
    /// What the member answers and does for the writer, from the writer's thread.
    struct Membership: Sendable {
        /// The membership as it is now. Asked for before `vouched`: a newer one would vouch for what was lost.
        var metadata: @Sendable () -> GroupMetadata?
        /// What a step that was begun sends as progress; `nil` when it is not the member's any more.
        var vouched: @Sendable ([TopicPartition: Progress], MemberState.Epochs) -> [TopicPartition: Progress]?
        /// Whether a record that was written is there for readers of what is committed.
        var isStored: @Sendable (Position) throws(KafkaError) -> Bool
        var commit: @Sendable ([TopicPartition: Progress]) throws(KafkaError) -> Void
    }

    private final class Producer {
        var client: KafkaClient?
        /// Reports of an earlier transaction are told apart by it.
        var transactionCount = 0
        /// The last step, when it was being committed as its producer was given up.
        var uncertain: Uncertain?
    }

    /// A step of which the end is not known, and where its outputs are if it was committed.
    private struct Uncertain {
        var step: Step
        var positions: [Position]

        /// The record to look for: one that nobody trims, and that no newer one of its key replaces, if there is one.
        var witness: Position? {
            let compacted: [Topic] = [.control, .suppression]
            return self.positions.first { $0.partition.topic == .outcomes }
                ?? self.positions.first { !compacted.contains($0.partition.topic) } ?? self.positions.first
        }

        /// Where the outputs of a step are that is this one again, or what its caller has left of it: partitions may have
        /// been lost. `nil` when it is another.
        func positions(of step: Step) -> [Position]? {
            guard step.progress.allSatisfy({ self.step.progress[$0.key] == $0.value }) else { return nil }
            var found: [Position] = []
            for (output, position) in zip(self.step.outputs, self.positions)
            where found.count < step.outputs.count && output == step.outputs[found.count] {
                found.append(position)
            }
            return found.count == step.outputs.count ? found : nil
        }
    }

    /// The outputs of a step under way.
    private struct Filling {
        var positions: [Position?]
        var missing: Int

        init(count: Int) {
            self.positions = Array(repeating: nil, count: count)
            self.missing = count
        }
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
    private let clock: BrokerClock
    private let partitioner: Partitioner
    private let logger: Logger
    private let thread = WorkThread<Producer>()
    private let isClosing = Mutex(false)

    init(
        configuration: KafkaConfiguration,
        transactionalID: String,
        membership: Membership,
        clock: BrokerClock,
        logger: Logger
    ) {
        self.configuration = configuration
        self.transactionalID = transactionalID
        self.membership = membership
        self.clock = clock
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

    /// - Parameter epochs: what the step was begun under.
    func write(_ step: Step, _ epochs: MemberState.Epochs, completion: @escaping GroupMember.StepCompletion) {
        let isTaken = self.thread.submit { completion(self.perform(step, epochs, $0)) }
        if !isTaken { completion(.failure(RecordLogError(.closed, isRetriable: false))) }
    }

    /// Ends what was submitted, without trying again.
    func close() async {
        self.isClosing.withLock { $0 = true }
        await self.thread.stop()
    }

    // MARK: The thread

    private func perform(
        _ step: Step,
        _ epochs: MemberState.Epochs,
        _ producer: Producer
    ) -> Result<[Position], RecordLogError> {
        let deadline = DispatchTime.now() + Self.patience
        while true {
            do throws(KafkaError) {
                return try self.attempt(step, epochs, producer)
            } catch {
                let isMoving = error.is(
                    RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
                    RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS,
                    RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID,
                    RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID
                )
                self.logger.info("A step was not written", metadata: ["error": "\(error)"])
                guard isMoving, DispatchTime.now() < deadline, !self.isClosing.withLock({ $0 }) else {
                    guard producer.uncertain == nil else {
                        let reason = "step: \(error); it is not known whether it was committed"
                        return .failure(RecordLogError(.notDurable, isRetriable: true, reason: reason))
                    }
                    return .failure(RecordLogError(error, while: "step"))
                }
                // A rebalance is under way: the membership changes, or the partitions go (2.0.2 gives no event for it).
                OwnThread.pause(milliseconds: Self.retryPause)
            }
        }
    }

    private func attempt(
        _ step: Step,
        _ epochs: MemberState.Epochs,
        _ producer: Producer
    ) throws(KafkaError) -> Result<[Position], RecordLogError> {
        // It would use up what is known of the step before, which comes again and would be written twice.
        if producer.uncertain != nil, step.outputs.isEmpty, step.progress.isEmpty {
            let reason = "The step before is to come again first."
            return .failure(RecordLogError(.notDurable, isRetriable: true, reason: reason))
        }
        let client = try self.client(producer)
        if let positions = try self.settle(step, producer) { return .success(positions) }
        let metadata = self.membership.metadata()
        guard let progress = self.membership.vouched(step.progress, epochs) else {
            let reason = "The member does not own the partition."
            return .failure(RecordLogError(.fenced, isRetriable: false, reason: reason))
        }
        var committing: [Position]?
        do throws(KafkaError) {
            try client.beginTransaction()
            producer.transactionCount += 1
            let positions = try self.fill(step.outputs, progress, metadata, client, producer.transactionCount)
            committing = positions
            try self.finish(client)
            try self.commitApart(progress)
            return .success(positions)
        } catch {
            self.recover(from: error, producer)
            // Without outputs there is nothing that could be there twice: it is written again.
            if let committing, !committing.isEmpty, producer.client == nil {
                producer.uncertain = Uncertain(step: step, positions: committing)
            }
            throw error
        }
    }

    /// Finds out whether the last step was committed, if that is not known. Making the next producer has ended its
    /// transaction one way or the other.
    ///
    /// - Returns: where the outputs of this step are, when it is that one again and it was.
    private func settle(_ step: Step, _ producer: Producer) throws(KafkaError) -> [Position]? {
        guard let uncertain = producer.uncertain, let witness = uncertain.witness else { return nil }
        let isCommitted = try self.membership.isStored(witness)
        producer.uncertain = nil
        self.logger.notice("A step of which the end was not known", metadata: ["committed": "\(isCommitted)"])
        guard isCommitted, let positions = uncertain.positions(of: step) else { return nil }
        try self.commitApart(step.progress)
        return positions
    }

    /// Produces the outputs and adds the progress, and waits until every output has its place.
    private func fill(
        _ outputs: [Record],
        _ progress: [TopicPartition: Progress],
        _ metadata: GroupMetadata?,
        _ client: KafkaClient,
        _ owner: Int
    ) throws(KafkaError) -> [Position] {
        var filling = Filling(count: outputs.count)
        for (index, record) in outputs.enumerated() {
            let partition = self.partitioner.partition(for: record.key)
            while true {
                do throws(KafkaError) {
                    try client.produce(record, to: partition, owner: owner, index: index)
                    break
                } catch {
                    guard error.is(RD_KAFKA_RESP_ERR__QUEUE_FULL), client.queuedCount > 0 else { throw error }
                    // There is room once reports have been taken.
                    try self.takeReports(client, owner, &filling)
                }
            }
        }
        guard let metadata else { throw KafkaError(RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID) }
        try self.retrying { () throws(KafkaError) in
            try client.sendOffsets(progress, of: metadata, timeout: Self.callTimeout)
        }
        while filling.missing > 0 { try self.takeReports(client, owner, &filling) }
        return filling.positions.compactMap { $0 }
    }

    /// Waits for what the client says. Every record has its report within message.timeout.ms.
    private func takeReports(_ client: KafkaClient, _ owner: Int, _ filling: inout Filling) throws(KafkaError) {
        for event in client.poll(timeout: -1) {
            switch event {
            case .reports(let reports):
                for report in reports where report.owner == owner {
                    filling.positions[report.index] = try report.result.get()
                    filling.missing -= 1
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

    private func finish(_ client: KafkaClient) throws(KafkaError) {
        try self.retrying { () throws(KafkaError) in try client.commitTransaction(timeout: Self.callTimeout) }
    }

    /// The mock cluster answers TxnOffsetCommit and keeps nothing of it.
    private func commitApart(_ progress: [TopicPartition: Progress]) throws(KafkaError) {
        guard self.configuration.commitsApart, !progress.isEmpty else { return }
        let deadline = DispatchTime.now() + Self.patience
        while DispatchTime.now() < deadline {
            do {
                return try self.membership.commit(progress)
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

    private func client(_ producer: Producer) throws(KafkaError) -> KafkaClient {
        if let client = producer.client { return client }
        let client = try KafkaClient(
            .producer,
            settings: self.configuration.stepping(transactionalID: self.transactionalID),
            names: TopicNames(prefix: self.configuration.prefix),
            clock: self.clock
        )
        try self.retrying { () throws(KafkaError) in try client.initTransactions(timeout: Self.callTimeout) }
        producer.client = client
        return client
    }
}
