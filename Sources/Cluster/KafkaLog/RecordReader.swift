import CRdKafka
import ClusterLog
import Dispatch
import Logging
import Synchronization

/// Reads records and scans partitions, through one consumer that belongs to no group and one thread.
final class RecordReader: Sendable {
    /// What of transactions it sees.
    enum Isolation: String, Sendable {
        /// What is referenced was acknowledged or committed: waiting for open transactions would only delay.
        case uncommitted = "read_uncommitted"
        /// Nothing that was aborted. What is undecided is waited for.
        case committed = "read_committed"
    }

    typealias ReadCompletion = @Sendable (Result<StoredRecord?, RecordLogError>) -> Void
    typealias ScanCompletion = @Sendable (Result<[StoredRecord], RecordLogError>) -> Void

    private enum Request: Sendable {
        case read(Position, ReadCompletion)
        case scan(TopicPartition, Offset, Int, ScanCompletion)

        func fail(_ error: RecordLogError) {
            switch self {
            case .read(_, let completion): completion(.failure(error))
            case .scan(_, _, _, let completion): completion(.failure(error))
            }
        }
    }

    private struct State {
        var requests: [Request] = []
        var isClosing = false
    }

    /// Waits in the plan by number, so that one can be given up when its time is over.
    private struct Waits {
        var requests: [Int: (request: Request, until: DispatchTime)] = [:]
        var next = 0
    }

    private static let boundsTimeout: Int32 = 2_000
    private static let tickInterval: DispatchTimeInterval = .seconds(1)
    private static let tickTimeout: Int32 = 1_000

    private let client: KafkaClient
    private let logger: Logger
    private let timeout: DispatchTimeInterval
    private let scanTimeout: DispatchTimeInterval
    private let state = Mutex(State())

    init(configuration: KafkaConfiguration, isolation: Isolation, logger: Logger) throws(KafkaError) {
        let names = TopicNames(prefix: configuration.prefix)
        self.client = try KafkaClient(.consumer, settings: configuration.reading(isolation), names: names)
        self.logger = logger
        self.timeout = .milliseconds(Int(configuration.readTimeout))
        self.scanTimeout = .milliseconds(Int(configuration.scanTimeout))
        OwnThread.start(name: "kafka-\(isolation)") { self.run() }
    }

    /// The record at a position; `nil` when the log begins after it, or was read past it. What lies at or above the
    /// end is waited for: a new leader may not know yet how far the log goes.
    func read(_ position: Position, completion: @escaping ReadCompletion) {
        self.submit(.read(position, completion))
    }

    /// Records from an offset on; none when all that the log had when it was asked is seen or decided.
    func scan(_ partition: TopicPartition, from offset: Offset, countMax: Int, completion: @escaping ScanCompletion) {
        self.submit(.scan(partition, offset, countMax, completion))
    }

    /// Whether a record is there. Blocks: only on a thread of the log's own.
    func holds(_ position: Position) throws(KafkaError) -> Bool {
        let answered = DispatchSemaphore(value: 0)
        let answer = Mutex<Result<StoredRecord?, RecordLogError>>(.success(nil))
        self.read(position) { result in
            answer.withLock { $0 = result }
            answered.signal()
        }
        answered.wait()
        do throws(RecordLogError) {
            return try answer.withLock { $0 }.get() != nil
        } catch {
            throw KafkaError(RD_KAFKA_RESP_ERR__TIMED_OUT, error.reason)
        }
    }

    /// The offsets of a partition, as this reader's isolation has it. Blocks.
    func bounds(_ partition: TopicPartition, timeout: Int32) throws(KafkaError) -> Range<Offset> {
        try self.client.bounds(partition, timeout: timeout)
    }

    func close() {
        self.state.withLock { $0.isClosing = true }
        self.client.wake()
    }

    private func submit(_ request: Request) {
        let isTaken = self.state.withLock { state in
            guard !state.isClosing else { return false }
            state.requests.append(request)
            return true
        }
        guard isTaken else { return request.fail(RecordLogError(.closed, isRetriable: false)) }
        self.client.wake()
    }

    // MARK: The thread

    private func run() {
        var plan = ReadPlan<Int>()
        var waits = Waits()
        var nextTick = DispatchTime.now() + Self.tickInterval
        while true {
            // Blocks until something comes or somebody wakes it; a wait that is owed an answer has a limit of time.
            let isIdle = waits.requests.isEmpty && plan.isEmpty
            let events = self.client.poll(timeout: isIdle ? -1 : Self.tickTimeout)
            let (requests, isClosing) = self.state.withLock { state in
                (exchange(&state.requests, with: []), state.isClosing)
            }
            for event in events { self.handle(event, &plan) }
            for request in requests { self.add(request, &plan, &waits) }
            let isTick = nextTick < .now()
            if isTick {
                nextTick = .now() + Self.tickInterval
                plan.tick()
            }
            self.perform(&plan)
            self.answer(&plan, &waits)
            if isClosing { break }
            // Looks at all that waits.
            if isTick { self.giveUp(&plan, &waits) }
        }
        for wait in waits.requests.values { wait.request.fail(RecordLogError(.closed, isRetriable: false)) }
    }

    private func add(_ request: Request, _ plan: inout ReadPlan<Int>, _ waits: inout Waits) {
        waits.next += 1
        switch request {
        case .read(let position, _):
            waits.requests[waits.next] = (request, .now() + self.timeout)
            plan.read(position, for: waits.next)
        case .scan(let partition, let offset, let countMax, _):
            waits.requests[waits.next] = (request, .now() + self.scanTimeout)
            plan.scan(partition, from: offset, countMax: countMax, for: waits.next)
        }
    }

    private func handle(_ event: KafkaEvent, _ plan: inout ReadPlan<Int>) {
        switch event {
        case .record(let record):
            plan.received(record)
        case .end(let partition, let offset):
            plan.ended(partition, at: offset, high: self.client.highWatermark(partition) ?? offset)
        case .partitionError(let partition, let error):
            self.logger.debug("Kafka: read", metadata: ["error": "\(error)", "partition": "\(partition)"])
            if error.is(RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET, RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE) {
                do throws(KafkaError) {
                    plan.bounded(partition, try self.client.bounds(partition, timeout: Self.boundsTimeout))
                } catch {
                    plan.failed(partition)
                }
            } else if error.is(
                RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION,
                RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
                RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
            ) {
                // librdkafka 2.0.2 says so when one answer about the cluster lacks the topic: nothing is gone.
                plan.failed(partition)
            }
        case .error(let error):
            self.logger.warning("Kafka", metadata: ["error": "\(error)", "client": "reader"])
        case .log(let level, let facility, let text):
            self.logger.kafka(level: level, facility: facility, text: text)
        case .reports, .assigned, .revoked:
            break
        }
    }

    private func perform(_ plan: inout ReadPlan<Int>) {
        for command in plan.takeCommands() {
            do throws(KafkaError) {
                switch command {
                case .assign(let partition, let offset): try self.client.assign([(partition, offset)])
                case .unassign(let partition): try self.client.unassign([partition])
                }
            } catch {
                self.logger.warning("Kafka: reader", metadata: ["error": "\(error)"])
                if case .assign(let partition, _) = command { plan.failed(partition) }
            }
        }
    }

    private func answer(_ plan: inout ReadPlan<Int>, _ waits: inout Waits) {
        for answer in plan.takeAnswers() {
            switch answer {
            case .read(let id, let record):
                guard case .read(_, let completion)? = waits.requests.removeValue(forKey: id)?.request else { continue }
                completion(.success(record))
            case .scan(let id, let records):
                guard case .scan(_, _, _, let completion)? = waits.requests.removeValue(forKey: id)?.request else {
                    continue
                }
                completion(.success(records))
            }
        }
    }

    private func giveUp(_ plan: inout ReadPlan<Int>, _ waits: inout Waits) {
        let now = DispatchTime.now()
        for (id, wait) in waits.requests where wait.until < now {
            waits.requests[id] = nil
            plan.cancel(id)
            let reason =
                switch wait.request {
                case .read(let position, _): "Nothing came of \(position): the log ends before, or no broker answers."
                case .scan(let partition, _, _, _): "No end came of \(partition): a step is open, or no broker answers."
                }
            wait.request.fail(RecordLogError(.unavailable, isRetriable: true, reason: reason))
        }
    }
}
