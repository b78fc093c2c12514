import CRdKafka
import ClusterLog
import Foundation
import KafkaLog
import Logging
import Synchronization
import Testing

/// One kind of request, and the errors that brokers answer it with.
struct Faults: Sendable, CustomTestStringConvertible {
    var request: KafkaRequest
    var errors: [rd_kafka_resp_err_t]

    init(_ request: KafkaRequest, _ errors: rd_kafka_resp_err_t...) {
        self.request = request
        self.errors = errors
    }

    var testDescription: String { "\(self.request)" }

    /// It is made when a connection or a client is made.
    var isOfNewConnections: Bool { self.request == .apiVersion || self.request == .metadata }
}

/// The mock answers errors for each kind of request in turn.
@Suite("Kafka: brokers that answer errors", .timeLimit(.minutes(5)))
struct KafkaFaultTests {
    static let ofAppends = [
        Faults(
            .produce,
            RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
            RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
            RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
            RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
            RD_KAFKA_RESP_ERR_INVALID_MSG,
            RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
            RD_KAFKA_RESP_ERR__TRANSPORT
        ),
        Faults(
            .produce,
            RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
            RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER,
            RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID,
            RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH,
            RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
            RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
            RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
            RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP,
            RD_KAFKA_RESP_ERR_UNKNOWN
        ),
        Faults(
            .metadata,
            RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
            RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
            RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
            RD_KAFKA_RESP_ERR__TRANSPORT
        ),
        Faults(.apiVersion, RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION, RD_KAFKA_RESP_ERR__TRANSPORT),
        Faults(
            .initProducerID,
            RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
            RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
            RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
            RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
            RD_KAFKA_RESP_ERR__TRANSPORT
        ),
    ]

    /// Goal: an append never claims what is not there, and no error is the end. Method: eight appends at once while the
    /// next one or four requests fail; then the log has to take appends again without anyone's help, and all that was
    /// completed is read back from where it was said to be.
    @Test("An append is there where it says, or fails; then the log recovers", arguments: ofAppends)
    func appends(_ faults: Faults) async throws {
        let cluster = KafkaCluster(isMock: true)
        try await cluster.withLog(topics: [.accepted], adjusting: { $0.appendTimeout = 3_000 }) { log in
            var stored: [Int: Position] = [:]
            var next = 0
            func appendOne() async -> Bool {
                defer { next += 1 }
                guard let positions = try? await log.append([.numbered(next, key: "k\(next % 8)")]) else {
                    return false
                }
                stored[next] = positions.first
                return true
            }
            for error in faults.errors {
                for count in [1, 4] {
                    cluster.fail(faults.request, with: Array(repeating: error, count: count))
                    if faults.request == .initProducerID {
                        // The producer asks for a new id.
                        cluster.fail(.produce, with: [RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID])
                    }
                    if faults.isOfNewConnections {
                        cluster.stop()
                        cluster.start()
                    }
                    let numbers = next..<next + 8
                    next += 8
                    let results = await withTaskGroup(of: (Int, Position?).self) { group in
                        for number in numbers {
                            group.addTask {
                                let positions = try? await log.append([.numbered(number, key: "k\(number % 8)")])
                                return (number, positions?.first)
                            }
                        }
                        return await group.reduce(into: [Int: Position]()) { $0[$1.0] = $1.1 }
                    }
                    stored.merge(results) { old, _ in old }
                    cluster.clear(faults.request)
                    cluster.clear(.produce)
                    try await eventually("an append after \(KafkaFault.name(error))") { await appendOne() }
                    try await eventually("the log says so") { log.condition.acceptsMail }
                }
            }
            for (number, position) in stored {
                let read = try await log.scan(position.partition, from: position.offset, recordCountMax: 1)
                #expect(read.first?.position == position && read.first?.number == number, "append \(number)")
            }
        }
    }

    static let ofReads = [
        Faults(
            .fetch,
            RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
            RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE,
            RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
            RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
            RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE,
            RD_KAFKA_RESP_ERR_INVALID_MSG,
            RD_KAFKA_RESP_ERR__TRANSPORT
        ),
        Faults(
            .listOffsets,
            RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
            RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
            RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
            RD_KAFKA_RESP_ERR__TRANSPORT
        ),
        Faults(
            .metadata,
            RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
            RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
            RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
            RD_KAFKA_RESP_ERR__TRANSPORT
        ),
    ]

    /// Goal: an error is never taken for an absence: what is not found goes to `posthorn.dead`, and an end that is taken
    /// for 0 hides mail from commands. Method: ask while requests fail, until the right answer comes; a wrong one is a
    /// failure of the test, an error that says to ask again is not. A member meanwhile gets every record once.
    @Test("A read is right, or says to ask again; a member misses nothing", arguments: ofReads)
    func reads(_ faults: Faults) async throws {
        let cluster = KafkaCluster(isMock: true)
        try await cluster.withLog(topics: [.accepted]) { log in
            let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
            let position = try #require(try await log.append([.numbered(0, id: id)]).first)
            let partition = position.partition
            let stored = try #require(try await log.scan(partition, from: Offset(0), recordCountMax: 1).first)
            let reference = Reference(to: stored, in: log.clusterID)
            let member = try await log.join(delivery, topics: accepted)
            var seen = try await member.take(1).compactMap { $0.number }
            for (round, error) in faults.errors.enumerated() {
                let name = KafkaFault.name(error)
                _ = try await log.append([.numbered(round + 1)])
                cluster.fail(faults.request, with: [error, error, error])
                try await eventually(within: .seconds(60), "a read after \(name)") {
                    do throws(RecordLogError) {
                        return try await log.read(reference) == stored
                    } catch {
                        #expect(error.isRetriable, "\(name) was taken for \(error)")
                        return false
                    }
                }
                try await eventually(within: .seconds(60), "the bounds after \(name)") {
                    do throws(RecordLogError) {
                        let bounds = try await log.bounds(partition)
                        #expect(bounds == Offset(0)..<Offset(Int64(round + 2)), "after \(name)")
                        return true
                    } catch {
                        #expect(error.isRetriable, "\(name) was taken for \(error)")
                        return false
                    }
                }
                seen += try await member.take(1).compactMap { $0.number }
                cluster.clear(faults.request)
            }
            #expect(seen == Array(0...faults.errors.count))
        }
    }

    @Test(
        "An error that somebody has to mend says what: the setting, the right, the topic",
        arguments: [
            (RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, RecordLogError.Code.configuration, "kafka.username"),
            (RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, .recordTooLarge, "max.message.bytes"),
            (RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS, .notDurable, "min.insync.replicas"),
        ]
    )
    func explains(_ error: rd_kafka_resp_err_t, code: RecordLogError.Code, setting: String) async throws {
        let cluster = KafkaCluster(isMock: true)
        try await cluster.withLog(topics: [.accepted], adjusting: { $0.appendTimeout = 1_000 }) { log in
            _ = try await log.append([.numbered(0)])
            cluster.fail(.produce, with: Array(repeating: error, count: 200))
            let failure = await #expect(throws: RecordLogError.self) { try await log.append([.numbered(1)]) }
            #expect(failure?.code == code)
            #expect(failure?.reason.contains(setting) == true, "\(failure?.reason ?? "")")
        }
    }

    @Test("A producer that is refused for good is made anew at a pace, not in a loop, and says so")
    func replacesAtAPace() async throws {
        let cluster = KafkaCluster(isMock: true)
        let configuration = cluster.configuration()
        try cluster.create([.accepted], configuration)
        let lines = CountingLogHandler()
        let log = try await KafkaLog.open(
            configuration: configuration,
            plan: cluster.plan([.accepted]),
            timeout: .seconds(10),
            logger: Logger(label: "kafka") { _ in lines }
        )
        _ = try await log.append([.numbered(0)])
        cluster.fail(
            .initProducerID,
            with: Array(repeating: RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, count: 10_000)
        )
        cluster.fail(.produce, with: [RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER])
        await #expect(throws: RecordLogError.self) { try await log.append([.numbered(1)]) }
        try await eventually("it was replaced again and again") { lines.count(of: "replaced") >= 3 }
        #expect(!log.condition.acceptsMail)
        // A loop without a pause makes thousands; the pauses since the first are a second each.
        #expect(lines.count(of: "replaced") <= 4)
        cluster.clear(.initProducerID)
        try await eventually("an append again") { (try? await log.append([.numbered(2)])) != nil }
        try await eventually("the log says so") { log.condition.acceptsMail }
        await log.close()
    }
}

/// Keeps what was logged.
private struct CountingLogHandler: LogHandler {
    private final class Lines: Sendable { let texts = Mutex<[String]>([]) }
    private let lines = Lines()
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.info

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { self.metadata[key] }
        set { self.metadata[key] = newValue }
    }

    func count(of word: String) -> Int { self.lines.texts.withLock { $0.count(where: { $0.contains(word) }) } }

    func log(event: LogEvent) {
        self.lines.texts.withLock { $0.append("\(event.message)") }
    }
}

enum KafkaFault {
    /// As the protocol calls it.
    static func name(_ error: rd_kafka_resp_err_t) -> String { String(cString: rd_kafka_err2name(error)) }
}
