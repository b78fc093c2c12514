import CRdKafka
import ClusterLog
import DequeModule
import Dispatch
import Logging
import Synchronization

/// Appends of all sessions through one idempotent producer and one thread, which answers whole batches at once.
final class AppendProducer: Sendable {
    private struct Pending {
        var positions: [Position?]
        var missing: Int
        var failure: RecordLogError?
        var size: Int
        var completion: RecordLog.AppendCompletion
    }

    private struct State {
        var pending: [Int: Pending] = [:]
        /// Ids in the order of the calls with the time of each, to know the oldest.
        var started: Deque<(id: Int, at: DispatchTime)> = []
        var size = 0
        var nextID = 0
        var isClosing = false
        var client: KafkaClient?
        var areBrokersDown = false
        var lastError: KafkaError?
        /// An append was not acknowledged in time: until then no other is let to try.
        var suspectUntil = DispatchTime(uptimeNanoseconds: 0)
    }

    /// How long nothing is accepted after an append that was not acknowledged; the next one tries again.
    private static let suspicion: DispatchTimeInterval = .seconds(5)
    /// A producer that fails for good sooner than this after the one before (milliseconds) is not replaced at once.
    private static let replacementInterval: Int64 = 10_000
    private static let replacementPause = 1_000

    private let configuration: KafkaConfiguration
    private let partitioner: Partitioner
    private let clock: BrokerClock
    private let logger: Logger
    private let state: Mutex<State>
    private let ended = DispatchSemaphore(value: 0)

    init(configuration: KafkaConfiguration, clock: BrokerClock, logger: Logger) throws(KafkaError) {
        self.configuration = configuration
        self.clock = clock
        self.partitioner = Partitioner(partitionCount: configuration.partitionCount)
        self.logger = logger
        self.state = Mutex(State())
        let client = try self.makeClient()
        self.state.withLock { $0.client = client }
        OwnThread.start(name: "kafka-appends") { self.run() }
    }

    private func makeClient() throws(KafkaError) -> KafkaClient {
        try KafkaClient(
            .producer,
            settings: self.configuration.appending,
            names: TopicNames(prefix: self.configuration.prefix),
            clock: self.clock
        )
    }

    /// The client as it is now, for questions to the cluster.
    var client: KafkaClient? { self.state.withLock { $0.client } }

    /// No broker can be reached, as librdkafka last said; cleared by whoever reaches one.
    var areBrokersDown: Bool {
        get { self.state.withLock { $0.areBrokersDown } }
        set { self.state.withLock { $0.areBrokersDown = newValue } }
    }

    /// What librdkafka last complained about, other than that no broker is left.
    var lastError: KafkaError? { self.state.withLock { $0.lastError } }

    /// The last append that was answered was not acknowledged, a moment ago.
    var isSuspect: Bool { self.state.withLock { $0.suspectUntil > .now() } }

    /// Milliseconds that the oldest append has been waiting.
    var oldestAge: Int64 {
        self.state.withLock { state in
            while let first = state.started.first, state.pending[first.id] == nil { state.started.removeFirst() }
            guard let first = state.started.first else { return 0 }
            return Int64((DispatchTime.now().uptimeNanoseconds - first.at.uptimeNanoseconds) / 1_000_000)
        }
    }

    func append(_ records: [Record], completion: @escaping RecordLog.AppendCompletion) {
        if records.isEmpty { return completion(.success([])) }
        if let error = self.refusal(records) { return completion(.failure(error)) }
        let size = records.reduce(0) { $0 + $1.size }
        let admitted = self.state.withLock { state -> Result<(KafkaClient, Int), RecordLogError> in
            guard !state.isClosing, let client = state.client else {
                return .failure(RecordLogError(.closed, isRetriable: false))
            }
            guard state.size + size <= self.configuration.appendSizeMax || state.pending.isEmpty else {
                return .failure(
                    RecordLogError(.queueFull, isRetriable: true, reason: "Too much waits for the brokers.")
                )
            }
            let id = state.nextID
            state.nextID += 1
            state.size += size
            state.started.append((id, .now()))
            state.pending[id] = Pending(
                positions: Array(repeating: nil, count: records.count),
                missing: records.count,
                size: size,
                completion: completion
            )
            return .success((client, id))
        }
        switch admitted {
        case .failure(let error):
            completion(.failure(error))
        case .success(let (client, id)):
            for (index, record) in records.enumerated() {
                do throws(KafkaError) {
                    try client.produce(record, to: self.partitioner.partition(for: record.key), owner: id, index: index)
                } catch {
                    let report = DeliveryReport(owner: id, index: index, result: .failure(error))
                    for complete in self.finish([report]) { complete() }
                }
            }
        }
    }

    private func refusal(_ records: [Record]) -> RecordLogError? {
        guard let large = records.first(where: { $0.size > self.configuration.valueSizeMax + 70_000 }) else {
            return nil
        }
        let reason = "A record of \(large.size) octets for \(large.topic); kafka.value-size is its limit."
        return RecordLogError(.recordTooLarge, isRetriable: false, reason: reason)
    }

    /// Books the reports.
    ///
    /// - Returns: the completions of the appends that are answered whole, to be called without the lock.
    private func finish(_ reports: [DeliveryReport]) -> [() -> Void] {
        self.state.withLock { state in
            var completions: [() -> Void] = []
            for report in reports {
                guard var pending = state.pending[report.owner] else { continue }
                state.pending[report.owner] = nil
                pending.missing -= 1
                switch report.result {
                case .success(let position):
                    pending.positions[report.index] = position
                    state.suspectUntil = DispatchTime(uptimeNanoseconds: 0)
                case .failure(let error):
                    pending.failure = RecordLogError(error, while: "append")
                    if error.is(
                        RD_KAFKA_RESP_ERR__MSG_TIMED_OUT,
                        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
                        RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND
                    ) {
                        state.suspectUntil = .now() + Self.suspicion
                    }
                }
                guard pending.missing == 0 else {
                    state.pending[report.owner] = pending
                    continue
                }
                state.size -= pending.size
                let completion = pending.completion
                let result: Result<[Position], RecordLogError> =
                    pending.failure.map { .failure($0) } ?? .success(pending.positions.compactMap { $0 })
                completions.append { completion(result) }
            }
            while let first = state.started.first, state.pending[first.id] == nil { state.started.removeFirst() }
            return completions
        }
    }

    // MARK: The thread

    private func run() {
        var replacedAt: Int64?
        while let client = self.client {
            var completions: [() -> Void] = []
            var isBroken = false
            for event in client.poll(timeout: -1) {
                switch event {
                case .reports(let reports):
                    completions += self.finish(reports)
                case .error(let error):
                    isBroken = isBroken || error.isFatal
                    self.state.withLock { state in
                        if error.is(RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN) {
                            state.areBrokersDown = true
                        } else {
                            state.lastError = error
                        }
                    }
                    self.logger.warning("Kafka", metadata: ["error": "\(error)", "client": "appends"])
                case .log(let level, let facility, let text):
                    self.logger.kafka(level: level, facility: facility, text: text)
                case .record, .assigned, .revoked, .end, .partitionError:
                    break
                }
            }
            for complete in completions { complete() }
            if isBroken {
                let now = BrokerClock.monotonic
                let isAgain = replacedAt.map { now - $0 < Self.replacementInterval } ?? false
                self.replace(client, isAgain: isAgain)
                replacedAt = BrokerClock.monotonic
            }
            let isDone = self.state.withLock { $0.isClosing && $0.pending.isEmpty }
            if isDone { break }
        }
        self.state.withLock { $0.client = nil }
        self.ended.signal()
    }

    /// An idempotent producer that failed for good is made anew (librdkafka 2.0.2: after a disconnect a sequence can be
    /// lost for ever). What it had not answered is possibly stored: its callers are told that it is not durable.
    ///
    /// - Parameter isAgain: the one before failed a moment ago, as when the brokers refuse this node: then it takes its
    ///   time, and no mail is let in meanwhile.
    private func replace(_ old: KafkaClient, isAgain: Bool) {
        self.logger.error("Kafka: the producer failed for good and is replaced")
        old.purge()
        var completions: [() -> Void] = []
        while old.queuedCount > 0 {
            for case .reports(let reports) in old.poll(timeout: 100) { completions += self.finish(reports) }
        }
        for complete in completions { complete() }
        if isAgain { self.waitToReplace() }
        while !self.state.withLock({ $0.isClosing }) {
            do throws(KafkaError) {
                let client = try self.makeClient()
                return self.state.withLock { $0.client = client }
            } catch {
                self.logger.critical("Kafka: no producer could be made", metadata: ["error": "\(error)"])
                self.waitToReplace()
            }
        }
    }

    /// The old producer refuses whatever comes meanwhile.
    private func waitToReplace() {
        self.state.withLock { $0.suspectUntil = .now() + Self.suspicion }
        OwnThread.pause(milliseconds: Self.replacementPause)
    }

    /// Refuses what comes after.
    func beginClosing() {
        let client = self.state.withLock { state in
            state.isClosing = true
            return state.client
        }
        client?.wake()
    }

    /// Refuses what comes after, waits for what was appended (at most the append timeout), ends the thread.
    func close() async {
        self.beginClosing()
        await withCheckedContinuation { continuation in
            OwnThread.start(name: "kafka-close") {
                self.ended.wait()
                self.ended.signal()
                continuation.resume()
            }
        }
    }
}

extension Logger {
    /// librdkafka's own log line; its levels are syslog's.
    func kafka(level: Int32, facility: String, text: String) {
        let metadata: Logger.Metadata = ["facility": "\(facility)", "text": "\(text)"]
        switch level {
        // Said at each refresh to brokers that are older than the question, and asked for by nobody.
        case _ where facility == "AUTOCREATE": self.trace("librdkafka", metadata: metadata)
        case ...3: self.error("librdkafka", metadata: metadata)
        case 4: self.warning("librdkafka", metadata: metadata)
        default: self.debug("librdkafka", metadata: metadata)
        }
    }
}
