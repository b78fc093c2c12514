// The only file that touches librdkafka's C API. Each call that passes memory says who owns it.
import CRdKafka
import ClusterLog
import NIOCore
import Synchronization

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// What librdkafka answered instead of doing what it was asked.
struct KafkaError: Error, Hashable, CustomStringConvertible {
    var code: Int32
    var text: String
    /// The client cannot go on and has to be made anew.
    var isFatal = false
    var isRetriable = false
    /// The transaction has to be aborted before anything else.
    var requiresAbort = false

    init(_ code: rd_kafka_resp_err_t, _ text: String = "") {
        self.code = code.rawValue
        // Static text of the library: not ours to free.
        let name = String(cString: rd_kafka_err2str(code))
        self.text = text.isEmpty ? name : "\(name): \(text)"
    }

    /// Takes over the error object and destroys it.
    init(owning error: OpaquePointer) {
        self.init(rd_kafka_error_code(error), String(cString: rd_kafka_error_string(error)))
        self.isFatal = rd_kafka_error_is_fatal(error) != 0
        self.isRetriable = rd_kafka_error_is_retriable(error) != 0
        self.requiresAbort = rd_kafka_error_txn_requires_abort(error) != 0
        rd_kafka_error_destroy(error)
    }

    var description: String { "\(self.text) (\(self.code))" }

    func `is`(_ codes: rd_kafka_resp_err_t...) -> Bool { codes.contains { $0.rawValue == self.code } }
}

/// One record on its way to the brokers: keeps the octets that librdkafka reads from until the delivery report.
final class Produced {
    let record: Record
    /// For the owner of the report: which append or step, and which of its records.
    let owner: Int
    let index: Int
    let handedOverAt = BrokerClock.monotonic

    init(_ record: Record, owner: Int, index: Int) {
        self.record = record
        self.owner = owner
        self.index = index
    }
}

/// What became of a produced record.
struct DeliveryReport {
    var owner: Int
    var index: Int
    var result: Result<Position, KafkaError>
}

/// What a client's queue gave.
enum KafkaEvent {
    case record(StoredRecord)
    case reports([DeliveryReport])
    case assigned([TopicPartition])
    case revoked([TopicPartition], isLost: Bool)
    case end(TopicPartition, Offset)
    case partitionError(TopicPartition, KafkaError)
    case error(KafkaError)
    case log(level: Int32, facility: String, text: String)
}

struct CommittedOffset: Hashable {
    var partition: TopicPartition
    /// `nil` when the group never committed there.
    var offset: Offset?
    var metadata: String
}

/// A librdkafka client: a producer or a consumer.
///
/// Sendable because librdkafka's own objects are thread-safe; what is ours beside them (the topic handles) is behind
/// a mutex, and the pointers never change between `init` and `deinit`.
final class KafkaClient: @unchecked Sendable {
    enum Kind {
        case producer
        case consumer
    }

    private let client: OpaquePointer
    /// The queue that events come from: the main queue of a producer, the consumer queue of a consumer.
    private let queue: OpaquePointer
    let names: TopicNames
    /// Told when brokers stamped what this client produced.
    private let clock: BrokerClock?
    private let topics = Mutex<[Topic: Handle]>([:])
    private let membership = Mutex(Membership.none)
    /// Between two questions to a partition whose leader is moving, microseconds.
    private static let leaderWait: UInt32 = 100_000

    private enum Membership {
        case none
        case joining
        /// It was told an assignment, be it of nothing.
        case joined
    }

    /// A pointer of librdkafka's for another thread: a `rd_kafka_topic_t *`, destroyed with the client, or the client.
    private struct Handle: @unchecked Sendable {
        var pointer: OpaquePointer
    }

    /// - Parameter settings: librdkafka's own names and values; a later one overrides an earlier one.
    /// - Throws: ``KafkaError`` that names the setting at fault.
    init(
        _ kind: Kind,
        settings: [(name: String, value: String)],
        names: TopicNames,
        clock: BrokerClock? = nil
    ) throws(KafkaError) {
        guard let configuration = rd_kafka_conf_new() else { throw KafkaError(RD_KAFKA_RESP_ERR__FAIL) }
        var text = [CChar](repeating: 0, count: 512)
        for (name, value) in settings {
            guard rd_kafka_conf_set(configuration, name, value, &text, text.count) == RD_KAFKA_CONF_OK else {
                rd_kafka_conf_destroy(configuration)
                throw KafkaError(RD_KAFKA_RESP_ERR__INVALID_ARG, "kafka.settings.\(name): \(Self.string(text))")
            }
        }
        let events =
            switch kind {
            case .producer: RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG
            case .consumer:
                RD_KAFKA_EVENT_FETCH | RD_KAFKA_EVENT_REBALANCE | RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG
            }
        rd_kafka_conf_set_events(configuration, events)
        // The new client takes over the configuration, unless it fails.
        let type = kind == .producer ? RD_KAFKA_PRODUCER : RD_KAFKA_CONSUMER
        guard let client = rd_kafka_new(type, configuration, &text, text.count) else {
            rd_kafka_conf_destroy(configuration)
            throw KafkaError(rd_kafka_last_error(), Self.string(text))
        }
        rd_kafka_set_log_queue(client, nil)
        let queue: OpaquePointer?
        switch kind {
        case .producer:
            queue = rd_kafka_queue_get_main(client)
        case .consumer:
            rd_kafka_poll_set_consumer(client)
            queue = rd_kafka_queue_get_consumer(client)
        }
        guard let queue else {
            rd_kafka_destroy(client)
            throw KafkaError(RD_KAFKA_RESP_ERR__UNKNOWN_GROUP, "A consumer needs group.id.")
        }
        self.client = client
        self.queue = queue
        self.names = names
        self.clock = clock
    }

    deinit {
        rd_kafka_queue_destroy(self.queue)
        self.topics.withLock { topics in
            for handle in topics.values { rd_kafka_topic_destroy(handle.pointer) }
        }
        // Destroying a member that has joined and was not told its first assignment ends the process (librdkafka below
        // 2.3.0, #4381): it is left as it is, out of the group.
        guard self.membership.withLock({ $0 }) != .joining || rd_kafka_version() >= 0x02_03_00_00 else { return }
        let client = Handle(pointer: self.client)
        // Blocks until the client's own threads have ended, which some never do: a broker's thread waits for references
        // that were lost when brokers failed (#4674; seen with a producer whose transaction met errors). Steps, which make
        // their producer anew after an error, and tasks must not wait for that; such a client is left behind.
        // Without a consumer close: a member leaves by `beginClose`, and one that was not left is dead by intent.
        OwnThread.start(name: "kafka-destroy") {
            rd_kafka_destroy_flags(client.pointer, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE)
        }
    }

    // MARK: Events

    /// Waits for events: all that are there, at most `countMax`. Blocks: only on a thread of ours.
    func poll(timeout: Int32, countMax: Int = 512) -> [KafkaEvent] {
        var events: [KafkaEvent] = []
        var wait = timeout
        while events.count < countMax, let event = rd_kafka_queue_poll(self.queue, wait) {
            wait = 0
            self.convert(event, to: &events)
            // The event owns its messages, partitions and texts; all have been copied.
            rd_kafka_event_destroy(event)
        }
        return events
    }

    /// Makes a ``poll(timeout:countMax:)`` that is blocked return now.
    func wake() {
        rd_kafka_queue_yield(self.queue)
    }

    private func convert(_ event: OpaquePointer, to events: inout [KafkaEvent]) {
        switch rd_kafka_event_type(event) {
        case RD_KAFKA_EVENT_FETCH:
            while let message = rd_kafka_event_message_next(event) {
                if let record = self.record(message) { events.append(.record(record)) }
            }
        case RD_KAFKA_EVENT_DR:
            events.append(.reports(self.reports(event)))
        case RD_KAFKA_EVENT_REBALANCE:
            let partitions = rd_kafka_event_topic_partition_list(event).map { self.partitions($0) } ?? []
            if rd_kafka_event_error(event) == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
                self.membership.withLock { $0 = .joined }
                events.append(.assigned(partitions))
            } else {
                events.append(.revoked(partitions, isLost: rd_kafka_assignment_lost(self.client) != 0))
            }
        case RD_KAFKA_EVENT_ERROR:
            events.append(self.error(event))
        case RD_KAFKA_EVENT_LOG:
            var facility: UnsafePointer<CChar>?
            var text: UnsafePointer<CChar>?
            var level: Int32 = 0
            guard rd_kafka_event_log(event, &facility, &text, &level) == 0, let facility, let text else { return }
            events.append(.log(level: level, facility: String(cString: facility), text: String(cString: text)))
        default:
            break
        }
    }

    private func error(_ event: OpaquePointer) -> KafkaEvent {
        let code = rd_kafka_event_error(event)
        var error = KafkaError(code, rd_kafka_event_error_string(event).map { String(cString: $0) } ?? "")
        if rd_kafka_event_error_is_fatal(event) != 0 || code == RD_KAFKA_RESP_ERR__FATAL {
            var text = [CChar](repeating: 0, count: 512)
            error = KafkaError(rd_kafka_fatal_error(self.client, &text, text.count), Self.string(text))
            error.isFatal = true
            return .error(error)
        }
        guard let place = rd_kafka_event_topic_partition(event) else { return .error(error) }
        // A copy made for us.
        defer { rd_kafka_topic_partition_destroy(place) }
        let name = self.names.topic(named: String(cString: place.pointee.topic))
        let partition = TopicPartition(name, place.pointee.partition)
        if code == RD_KAFKA_RESP_ERR__PARTITION_EOF { return .end(partition, Offset(place.pointee.offset)) }
        return .partitionError(partition, error)
    }

    private func reports(_ event: OpaquePointer) -> [DeliveryReport] {
        var reports: [DeliveryReport] = []
        var unplaced: [TopicPartition: Int64] = [:]
        reports.reserveCapacity(rd_kafka_event_message_count(event))
        while let message = rd_kafka_event_message_next(event) {
            guard let opaque = message.pointee._private else { continue }
            // Balances the retain of `produce`: the octets are ours again.
            let produced = Unmanaged<Produced>.fromOpaque(opaque).takeRetainedValue()
            let result = self.result(message, of: produced, &unplaced)
            if reports.isEmpty, case .success = result { self.observeStamp(of: message, produced) }
            reports.append(DeliveryReport(owner: produced.owner, index: produced.index, result: result))
        }
        return reports
    }

    /// - Parameter unplaced: by partition, the offset that the next record of a batch without a place would seem to have.
    private func result(
        _ message: UnsafePointer<rd_kafka_message_t>,
        of produced: Produced,
        _ unplaced: inout [TopicPartition: Int64]
    ) -> Result<Position, KafkaError> {
        guard message.pointee.err == RD_KAFKA_RESP_ERR_NO_ERROR else {
            let text = rd_kafka_message_errstr(message).map { String(cString: $0) } ?? ""
            return .failure(KafkaError(message.pointee.err, text))
        }
        // After a lost connection a later answer can vouch for a batch without saying where it is (-1001 each), and so does
        // that for a sequence which the broker has seen before (-1, 0, 1, ... as librdkafka 2.0.2 counts). Nothing can
        // refer to such a record: it counts as not durable.
        let partition = TopicPartition(produced.record.topic, message.pointee.partition)
        let offset = message.pointee.offset
        guard offset >= 0, unplaced[partition] != offset else {
            unplaced[partition] = offset + 1
            return .failure(KafkaError(RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER, "stored, and nobody says where"))
        }
        if !unplaced.isEmpty { unplaced[partition] = nil }
        return .success(Position(partition: partition, offset: Offset(offset)))
    }

    private func observeStamp(of message: UnsafePointer<rd_kafka_message_t>, _ produced: Produced) {
        guard let clock else { return }
        var type = RD_KAFKA_TIMESTAMP_NOT_AVAILABLE
        let timestamp = rd_kafka_message_timestamp(message, &type)
        guard type == RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME else { return }
        clock.observe(timestamp, sentAt: produced.handedOverAt, reportedAt: BrokerClock.monotonic)
    }

    /// Copies a message: one that is held would keep the whole fetch response it came in (librdkafka 2.0.2).
    private func record(_ message: UnsafePointer<rd_kafka_message_t>) -> StoredRecord? {
        guard message.pointee.err == RD_KAFKA_RESP_ERR_NO_ERROR, let topic = message.pointee.rkt else { return nil }
        let name = self.names.topic(named: String(cString: rd_kafka_topic_name(topic)))
        var type = RD_KAFKA_TIMESTAMP_NOT_AVAILABLE
        let timestamp = rd_kafka_message_timestamp(message, &type)
        let key = UnsafeRawBufferPointer(start: message.pointee.key, count: message.pointee.key_len)
        let value = UnsafeRawBufferPointer(start: message.pointee.payload, count: message.pointee.len)
        var headers: [RecordHeader] = []
        var list: OpaquePointer?
        // The headers stay the message's.
        if rd_kafka_message_headers(message, &list) == RD_KAFKA_RESP_ERR_NO_ERROR, let list {
            var index = 0
            var headerName: UnsafePointer<CChar>?
            var start: UnsafeRawPointer?
            var size = 0
            while rd_kafka_header_get_all(list, index, &headerName, &start, &size) == RD_KAFKA_RESP_ERR_NO_ERROR {
                index += 1
                guard let headerName else { continue }
                let octets = UnsafeRawBufferPointer(start: start, count: start == nil ? 0 : size)
                headers.append(RecordHeader(String(cString: headerName), ByteBuffer(bytes: octets)))
            }
        }
        return StoredRecord(
            position: Position(
                partition: TopicPartition(name, message.pointee.partition),
                offset: Offset(message.pointee.offset)
            ),
            timestamp: timestamp,
            key: String(decoding: key, as: UTF8.self),
            headers: headers,
            value: ByteBuffer(bytes: value)
        )
    }

    // MARK: Producing

    /// Hands a record over without copying its value; its report comes as an event.
    func produce(_ record: Record, to partition: Int32, owner: Int, index: Int) throws(KafkaError) {
        let topic = try self.handle(record.topic)
        let headers = rd_kafka_headers_new(record.headers.count)
        for header in record.headers {
            _ = header.value.withUnsafeReadableBytes { octets in
                // Copies name and value.
                rd_kafka_header_add(headers, header.name, -1, octets.baseAddress, octets.count)
            }
        }
        let produced = Produced(record, owner: owner, index: index)
        // librdkafka holds this reference, and through it the value's octets, until the report.
        let opaque = Unmanaged.passRetained(produced)
        var key = record.key
        let error = key.withUTF8 { key in
            record.value.withUnsafeReadableBytes { value in
                var fields = [rd_kafka_vu_t](repeating: rd_kafka_vu_t(), count: 6)
                fields[0].vtype = RD_KAFKA_VTYPE_RKT
                fields[0].u.rkt = topic
                fields[1].vtype = RD_KAFKA_VTYPE_PARTITION
                fields[1].u.i32 = partition
                fields[2].vtype = RD_KAFKA_VTYPE_KEY
                // Copied by librdkafka.
                fields[2].u.mem.ptr = UnsafeMutableRawPointer(mutating: UnsafeRawPointer(key.baseAddress))
                fields[2].u.mem.size = key.count
                fields[3].vtype = RD_KAFKA_VTYPE_VALUE
                // Neither copied nor freed (no flag is set): `Produced` keeps the buffer, which nobody changes in
                // place while it is shared. An empty value is null: a tombstone where the topic is compacted.
                fields[3].u.mem.ptr =
                    value.isEmpty ? nil : UnsafeMutableRawPointer(mutating: value.baseAddress)
                fields[3].u.mem.size = value.count
                fields[4].vtype = RD_KAFKA_VTYPE_OPAQUE
                fields[4].u.ptr = opaque.toOpaque()
                fields[5].vtype = RD_KAFKA_VTYPE_HEADERS
                // Taken over, unless the call fails.
                fields[5].u.headers = headers
                return rd_kafka_produceva(self.client, fields, fields.count)
            }
        }
        if let error {
            rd_kafka_headers_destroy(headers)
            opaque.release()
            throw KafkaError(owning: error)
        }
    }

    /// Fails what has not been answered; the reports come as events.
    func purge() {
        _ = rd_kafka_purge(self.client, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT)
    }

    /// Messages that have no report yet.
    var queuedCount: Int { Int(rd_kafka_outq_len(self.client)) }

    private func handle(_ topic: Topic) throws(KafkaError) -> OpaquePointer {
        let handle = self.topics.withLock { topics -> Handle? in
            if let handle = topics[topic] { return handle }
            guard let pointer = rd_kafka_topic_new(self.client, self.names.name(of: topic), nil) else { return nil }
            topics[topic] = Handle(pointer: pointer)
            return Handle(pointer: pointer)
        }
        guard let handle else { throw KafkaError(rd_kafka_last_error(), topic.name) }
        return handle.pointer
    }

    // MARK: Transactions. All of these block: only on a thread of ours.

    func initTransactions(timeout: Int32) throws(KafkaError) {
        try Self.check(rd_kafka_init_transactions(self.client, timeout))
    }

    func beginTransaction() throws(KafkaError) {
        try Self.check(rd_kafka_begin_transaction(self.client))
    }

    /// - Parameter member: the consumer on whose membership, as of now, the offsets depend.
    func sendOffsets(
        _ progress: [TopicPartition: Progress],
        of metadata: GroupMetadata,
        timeout: Int32
    ) throws(KafkaError) {
        let list = self.list(progress.keys)
        defer { rd_kafka_topic_partition_list_destroy(list) }
        self.write(progress, to: list)
        try Self.check(rd_kafka_send_offsets_to_transaction(self.client, list, metadata.pointer, timeout))
    }

    func commitTransaction(timeout: Int32) throws(KafkaError) {
        try Self.check(rd_kafka_commit_transaction(self.client, timeout))
    }

    func abortTransaction(timeout: Int32) throws(KafkaError) {
        try Self.check(rd_kafka_abort_transaction(self.client, timeout))
    }

    // MARK: Consuming

    func subscribe(_ names: [String]) throws(KafkaError) {
        let list = rd_kafka_topic_partition_list_new(Int32(truncatingIfNeeded: names.count))
        defer { rd_kafka_topic_partition_list_destroy(list) }
        for name in names { rd_kafka_topic_partition_list_add(list, name, -1) }
        self.membership.withLock { $0 = .joining }
        try Self.check(rd_kafka_subscribe(self.client, list))
    }

    func unsubscribe() throws(KafkaError) {
        try Self.check(rd_kafka_unsubscribe(self.client))
    }

    func assign(_ starts: [(partition: TopicPartition, offset: Offset)]) throws(KafkaError) {
        let list = self.list(starts.map { $0.partition }, offsets: starts.map { $0.offset })
        defer { rd_kafka_topic_partition_list_destroy(list) }
        try Self.check(rd_kafka_incremental_assign(self.client, list))
    }

    func unassign(_ partitions: [TopicPartition]) throws(KafkaError) {
        let list = self.list(partitions)
        defer { rd_kafka_topic_partition_list_destroy(list) }
        try Self.check(rd_kafka_incremental_unassign(self.client, list))
    }

    /// Gives all partitions up at once, whatever the protocol.
    func unassignAll() {
        _ = rd_kafka_assign(self.client, nil)
    }

    func pause(_ partitions: [TopicPartition]) {
        let list = self.list(partitions)
        defer { rd_kafka_topic_partition_list_destroy(list) }
        _ = rd_kafka_pause_partitions(self.client, list)
    }

    func resume(_ partitions: [TopicPartition]) {
        let list = self.list(partitions)
        defer { rd_kafka_topic_partition_list_destroy(list) }
        _ = rd_kafka_resume_partitions(self.client, list)
    }

    /// Blocks until the consumer has dropped what it had fetched.
    func seek(_ partition: TopicPartition, to offset: Offset, timeout: Int32) throws(KafkaError) {
        let list = self.list([partition], offsets: [offset])
        defer { rd_kafka_topic_partition_list_destroy(list) }
        try Self.check(rd_kafka_seek_partitions(self.client, list, timeout))
        let code = list.pointee.elems[0].err
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else { throw KafkaError(code, "\(partition)") }
    }

    /// What the consumer's group committed. Blocks.
    func committed(_ partitions: [TopicPartition], timeout: Int32) throws(KafkaError) -> [CommittedOffset] {
        let list = self.list(partitions)
        defer { rd_kafka_topic_partition_list_destroy(list) }
        let code = rd_kafka_committed(self.client, list, timeout)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else { throw KafkaError(code) }
        var offsets: [CommittedOffset] = []
        for index in 0..<Int(list.pointee.cnt) {
            let element = list.pointee.elems[index]
            guard element.err == RD_KAFKA_RESP_ERR_NO_ERROR else { throw KafkaError(element.err) }
            // The metadata stays the list's.
            let metadata = element.metadata.map {
                String(decoding: UnsafeRawBufferPointer(start: $0, count: element.metadata_size), as: UTF8.self)
            }
            offsets.append(
                CommittedOffset(
                    partition: partitions[index],
                    offset: element.offset >= 0 ? Offset(element.offset) : nil,
                    metadata: metadata ?? ""
                )
            )
        }
        return offsets
    }

    /// Commits outside a transaction. Blocks: at most `timeout`, unlike librdkafka's own call, which waits for the end of a
    /// rebalance, and that may wait for this thread.
    func commit(_ progress: [TopicPartition: Progress], timeout: Int32) throws(KafkaError) {
        let list = self.list(progress.keys)
        defer { rd_kafka_topic_partition_list_destroy(list) }
        self.write(progress, to: list)
        try self.administer(timeout: timeout) { client, queue in
            // The list is copied; its result comes as an event.
            _ = rd_kafka_commit_queue(client, list, queue, nil, nil)
        } result: { (_: OpaquePointer) throws(KafkaError) in
        }
    }

    /// The consumer's membership as it is now; `nil` when it has none.
    var groupMetadata: GroupMetadata? {
        rd_kafka_consumer_group_metadata(self.client).map { GroupMetadata($0) }
    }

    /// Begins to leave the group; events go on coming until ``isClosed``.
    func beginClose() {
        if let error = rd_kafka_consumer_close_queue(self.client, self.queue) { rd_kafka_error_destroy(error) }
    }

    var isClosed: Bool { rd_kafka_consumer_closed(self.client) != 0 }

    /// The offsets of a partition. Blocks.
    func bounds(_ partition: TopicPartition, timeout: Int32) throws(KafkaError) -> Range<Offset> {
        var (low, high): (Int64, Int64) = (0, 0)
        var seen: Int64?
        let name = self.names.name(of: partition.topic)
        let end = ContinuousClock.now + .milliseconds(Int64(timeout))
        var code = RD_KAFKA_RESP_ERR_NO_ERROR
        while true {
            code = rd_kafka_query_watermark_offsets(self.client, name, partition.partition, &low, &high, timeout)
            // librdkafka 2.0.2 asks twice and takes it for an empty log when one answer is an error: then again.
            if code == RD_KAFKA_RESP_ERR_NO_ERROR, low >= high, seen != high {
                seen = high
                continue
            }
            // The leader is moving, as after a broker's start. librdkafka asks the brokers who leads now, and does not
            // repeat the request itself; this thread may wait.
            let isMoving =
                code == RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION || code == RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE
            guard isMoving, ContinuousClock.now < end else { break }
            usleep(Self.leaderWait)
        }
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else { throw KafkaError(code, "\(partition)") }
        return Offset(low)..<Offset(max(low, high))
    }

    /// Where a partition's log ended when it was last fetched from, open transactions included; `nil` before that.
    func highWatermark(_ partition: TopicPartition) -> Offset? {
        var (low, high): (Int64, Int64) = (0, 0)
        let name = self.names.name(of: partition.topic)
        let code = rd_kafka_get_watermark_offsets(self.client, name, partition.partition, &low, &high)
        return code == RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0 ? Offset(high) : nil
    }

    // MARK: The cluster

    /// All topics of the cluster. Blocks.
    func metadata(timeout: Int32) throws(KafkaError) -> ClusterMetadata {
        var pointer: UnsafePointer<rd_kafka_metadata_t>?
        let code = rd_kafka_metadata(self.client, 1, nil, &pointer, timeout)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR, let metadata = pointer?.pointee else { throw KafkaError(code) }
        defer { rd_kafka_metadata_destroy(pointer) }
        let topics = UnsafeBufferPointer(start: metadata.topics, count: Int(metadata.topic_cnt))
            .map { topic in
                TopicMetadata(
                    name: String(cString: topic.topic),
                    partitions: UnsafeBufferPointer(start: topic.partitions, count: Int(topic.partition_cnt))
                        .map { partition in
                            TopicMetadata.Partition(
                                id: partition.id,
                                leader: partition.leader,
                                replicas: Array(
                                    UnsafeBufferPointer(start: partition.replicas, count: Int(partition.replica_cnt))
                                ),
                                inSync: Array(UnsafeBufferPointer(start: partition.isrs, count: Int(partition.isr_cnt)))
                            )
                        },
                    error: topic.err == RD_KAFKA_RESP_ERR_NO_ERROR ? nil : KafkaError(topic.err)
                )
            }
        let brokers = UnsafeBufferPointer(start: metadata.brokers, count: Int(metadata.broker_cnt)).map { $0.id }
        return ClusterMetadata(brokers: brokers, topics: topics)
    }

    /// The cluster's own id. Blocks; `nil` when no broker answered in time.
    func clusterID(timeout: Int32) -> String? {
        guard let text = rd_kafka_clusterid(self.client, timeout) else { return nil }
        // Allocated for us.
        defer { rd_kafka_mem_free(self.client, text) }
        return String(cString: text)
    }

    /// Starts an operation that answers into a queue and waits for its result, which `body` reads and does not keep.
    func administer<Value>(
        timeout: Int32,
        start: (_ client: OpaquePointer, _ queue: OpaquePointer) -> Void,
        result: (_ event: OpaquePointer) throws(KafkaError) -> Value
    ) throws(KafkaError) -> Value {
        guard let queue = rd_kafka_queue_new(self.client) else { throw KafkaError(RD_KAFKA_RESP_ERR__FAIL) }
        defer { rd_kafka_queue_destroy(queue) }
        start(self.client, queue)
        guard let event = rd_kafka_queue_poll(queue, timeout) else {
            throw KafkaError(RD_KAFKA_RESP_ERR__TIMED_OUT)
        }
        defer { rd_kafka_event_destroy(event) }
        let code = rd_kafka_event_error(event)
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else {
            throw KafkaError(code, rd_kafka_event_error_string(event).map { String(cString: $0) } ?? "")
        }
        return try result(event)
    }

    // MARK: Conversions

    private static func check(_ error: OpaquePointer?) throws(KafkaError) {
        if let error { throw KafkaError(owning: error) }
    }

    private static func check(_ code: rd_kafka_resp_err_t) throws(KafkaError) {
        guard code == RD_KAFKA_RESP_ERR_NO_ERROR else { throw KafkaError(code) }
    }

    private static func string(_ text: [CChar]) -> String {
        String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// A list that the caller destroys.
    func list(
        _ partitions: some Collection<TopicPartition>,
        offsets: [Offset]? = nil
    ) -> UnsafeMutablePointer<rd_kafka_topic_partition_list_t> {
        // Never nil: librdkafka aborts when it is out of memory.
        let list: UnsafeMutablePointer<rd_kafka_topic_partition_list_t> = rd_kafka_topic_partition_list_new(
            Int32(truncatingIfNeeded: partitions.count)
        )
        for (index, partition) in partitions.enumerated() {
            let name = self.names.name(of: partition.topic)
            let element = rd_kafka_topic_partition_list_add(list, name, partition.partition)
            if let offsets { element?.pointee.offset = offsets[index].rawValue }
        }
        return list
    }

    private func write(
        _ progress: [TopicPartition: Progress],
        to list: UnsafeMutablePointer<rd_kafka_topic_partition_list_t>
    ) {
        for index in 0..<Int(list.pointee.cnt) {
            let name = self.names.topic(named: String(cString: list.pointee.elems[index].topic))
            let partition = TopicPartition(name, list.pointee.elems[index].partition)
            guard let value = progress[partition] else { continue }
            list.pointee.elems[index].offset = value.watermark.rawValue
            let metadata = value.metadata
            guard !metadata.isEmpty else { continue }
            // The list takes over memory from malloc and frees it.
            list.pointee.elems[index].metadata = UnsafeMutableRawPointer(strdup(metadata))
            list.pointee.elems[index].metadata_size = metadata.utf8.count
        }
    }

    private func partitions(_ list: UnsafeMutablePointer<rd_kafka_topic_partition_list_t>) -> [TopicPartition] {
        (0..<Int(list.pointee.cnt))
            .map { index in
                let element = list.pointee.elems[index]
                return TopicPartition(self.names.topic(named: String(cString: element.topic)), element.partition)
            }
    }
}

/// A consumer's group, member id and generation, for ``KafkaClient/sendOffsets(_:of:timeout:)``. Destroyed with the object.
final class GroupMetadata {
    fileprivate let pointer: OpaquePointer

    fileprivate init(_ pointer: OpaquePointer) {
        self.pointer = pointer
    }

    deinit {
        rd_kafka_consumer_group_metadata_destroy(self.pointer)
    }
}
