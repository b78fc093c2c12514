import CRdKafka
import ClusterLog
import Dispatch
import Logging
import Synchronization

/// Reads references and scans partitions, through one consumer that belongs to no group and one thread.
final class RecordReader: Sendable {
    typealias ReadContinuation = CheckedContinuation<Result<StoredRecord?, RecordLogError>, Never>
    typealias ScanContinuation = CheckedContinuation<Result<[StoredRecord], RecordLogError>, Never>

    private enum Request: Sendable {
        case read(Position, ReadContinuation)
        case scan(TopicPartition, Offset, Int, ScanContinuation)
    }

    private struct State {
        var requests: [Request] = []
        var isClosing = false
    }

    /// Waits in the plan by number, so that one can be given up when its time is over.
    private struct Waits {
        var reads: [Int: (ReadContinuation, until: DispatchTime)] = [:]
        var scans: [Int: (ScanContinuation, until: DispatchTime)] = [:]
        var next = 0
        var isEmpty: Bool { self.reads.isEmpty && self.scans.isEmpty }
    }

    private static let timeout: DispatchTimeInterval = .seconds(20)

    private let client: KafkaClient
    private let logger: Logger
    private let state = Mutex(State())

    init(configuration: KafkaConfiguration, logger: Logger) throws(KafkaError) {
        let names = TopicNames(prefix: configuration.prefix)
        self.client = try KafkaClient(.consumer, settings: configuration.reading, names: names)
        self.logger = logger
        OwnThread.start(name: "kafka-reader") { self.run() }
    }

    /// The record at a position; `nil` when there is none.
    func read(_ position: Position) async -> Result<StoredRecord?, RecordLogError> {
        await withCheckedContinuation { continuation in
            if !self.submit(.read(position, continuation)) {
                continuation.resume(returning: .failure(RecordLogError(.closed, isRetriable: false)))
            }
        }
    }

    func scan(
        _ partition: TopicPartition,
        from offset: Offset,
        countMax: Int
    ) async -> Result<[StoredRecord], RecordLogError> {
        await withCheckedContinuation { continuation in
            if !self.submit(.scan(partition, offset, countMax, continuation)) {
                continuation.resume(returning: .failure(RecordLogError(.closed, isRetriable: false)))
            }
        }
    }

    func close() {
        self.state.withLock { $0.isClosing = true }
        self.client.wake()
    }

    private func submit(_ request: Request) -> Bool {
        let isTaken = self.state.withLock { state in
            guard !state.isClosing else { return false }
            state.requests.append(request)
            return true
        }
        if isTaken { self.client.wake() }
        return isTaken
    }

    // MARK: The thread

    private func run() {
        var plan = ReadPlan<Int, Int>()
        var waits = Waits()
        while true {
            // Blocks until something comes or somebody wakes it; a wait that is owed an answer has a limit of time.
            let events = self.client.poll(timeout: waits.isEmpty ? -1 : 1_000)
            let (requests, isClosing) = self.state.withLock { state in
                (exchange(&state.requests, with: []), state.isClosing)
            }
            for event in events { self.handle(event, &plan) }
            for request in requests { self.add(request, &plan, &waits) }
            self.perform(&plan)
            self.answer(&plan, &waits)
            if isClosing { break }
            self.giveUp(&waits)
        }
        let closed = RecordLogError(.closed, isRetriable: false)
        for wait in waits.reads.values { wait.0.resume(returning: .failure(closed)) }
        for wait in waits.scans.values { wait.0.resume(returning: .failure(closed)) }
    }

    private func add(_ request: Request, _ plan: inout ReadPlan<Int, Int>, _ waits: inout Waits) {
        waits.next += 1
        switch request {
        case .read(let position, let continuation):
            waits.reads[waits.next] = (continuation, .now() + Self.timeout)
            plan.read(position, for: waits.next)
        case .scan(let partition, let offset, let countMax, let continuation):
            waits.scans[waits.next] = (continuation, .now() + Self.timeout)
            plan.scan(partition, from: offset, countMax: countMax, for: waits.next)
        }
    }

    private func handle(_ event: KafkaEvent, _ plan: inout ReadPlan<Int, Int>) {
        switch event {
        case .record(let record):
            plan.received(record)
        case .end(let partition, let offset):
            plan.ended(partition, at: offset)
        case .partitionError(let partition, let error):
            self.logger.debug("Kafka: read", metadata: ["error": "\(error)", "partition": "\(partition)"])
            if error.is(
                RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET,
                RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE
            ) {
                guard let bounds = try? self.client.bounds(partition, timeout: 5_000) else { return }
                plan.bounded(partition, bounds)
            } else if error.is(
                RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION,
                RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
                RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
            ) {
                plan.bounded(partition, Offset(0)..<Offset(0))
            }
        case .error(let error):
            self.logger.warning("Kafka", metadata: ["error": "\(error)", "client": "reader"])
        case .log(let level, let facility, let text):
            self.logger.kafka(level: level, facility: facility, text: text)
        case .reports, .assigned, .revoked:
            break
        }
    }

    private func perform(_ plan: inout ReadPlan<Int, Int>) {
        for command in plan.takeCommands() {
            do throws(KafkaError) {
                switch command {
                case .assign(let partition, let offset): try self.client.assign([(partition, offset)])
                case .unassign(let partition): try self.client.unassign([partition])
                }
            } catch {
                self.logger.warning("Kafka: reader", metadata: ["error": "\(error)"])
            }
        }
    }

    private func answer(_ plan: inout ReadPlan<Int, Int>, _ waits: inout Waits) {
        for answer in plan.takeAnswers() {
            switch answer {
            case .read(let id, let record):
                waits.reads.removeValue(forKey: id)?.0.resume(returning: .success(record))
            case .scan(let id, let records):
                waits.scans.removeValue(forKey: id)?.0.resume(returning: .success(records))
            }
        }
    }

    private func giveUp(_ waits: inout Waits) {
        guard !waits.isEmpty else { return }
        let now = DispatchTime.now()
        let late = RecordLogError(.unavailable, isRetriable: true, reason: "The brokers did not answer a read in time.")
        for (id, wait) in waits.reads where wait.until < now {
            waits.reads[id] = nil
            wait.0.resume(returning: .failure(late))
        }
        for (id, wait) in waits.scans where wait.until < now {
            waits.scans[id] = nil
            wait.0.resume(returning: .failure(late))
        }
    }
}
