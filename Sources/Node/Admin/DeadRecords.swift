public import ClusterLog
import Mail
public import NIOCore
public import NodeSupport
import Records

/// Looks through `posthorn.dead`, and puts records back where they were.
///
/// Every node can: it reads the log itself, forwards and backwards, and keeps nothing. A request reads a bounded number
/// of records and octets for a bounded time; what is left is for the next, which begins at the answer's cursor.
public struct DeadRecords: Sendable {
    /// Of one request.
    public struct Limits: Sendable {
        public var recordCountMax = 5_000
        public var octetsMax = 64 << 20
        public var timeMax: Duration = .seconds(15)

        public init() {}
    }

    /// Records read at a time: each may have a value of the largest size, which is dropped at once.
    static let chunkCount = 32
    /// Octets of a header's value that is shown as text.
    private static let headerTextSizeMax = 200

    let log: any RecordLog
    let limits: Limits
    let replayedCount: Counter
    private let clock: any NodeClock

    public init(
        log: any RecordLog,
        clock: any NodeClock = SystemClock(),
        metrics: MetricsRegistry,
        limits: Limits = Limits()
    ) {
        self.log = log
        self.clock = clock
        self.limits = limits
        self.replayedCount = metrics.counter(
            "posthorn_dead_replayed_total",
            help: "Records of posthorn.dead that were put back into their topics."
        )
    }

    /// What a request has read, and when it began.
    struct Spent {
        var records = 0
        var octets = 0
        let start: Int64

        mutating func add(_ read: [StoredRecord]) {
            self.records += read.count
            self.octets += read.reduce(0) { $0 + $1.size }
        }
    }

    func begin() -> Spent { Spent(start: self.clock.monotonicNanoseconds) }

    func isOver(_ spent: Spent) -> Bool {
        spent.records >= self.limits.recordCountMax || spent.octets >= self.limits.octetsMax
            || Duration.nanoseconds(self.clock.monotonicNanoseconds - spent.start) >= self.limits.timeMax
    }

    // MARK: Lists

    /// A partition on the way back from its end.
    private struct Lane {
        var partition: TopicPartition
        var rest: Range<Offset>
        /// Read and not told of yet, oldest first.
        var ready: [AdminAPI.DeadRecord] = []

        /// Everything from here on was told of.
        var end: Offset { self.ready.last.map { Offset($0.position.offset + 1) } ?? self.rest.upperBound }
        var isOver: Bool { self.ready.isEmpty && self.rest.isEmpty }
    }

    /// The newest records that match, and a cursor for older ones. A page may be short of its limit, even empty, when
    /// much had to be read for it.
    public func list(_ query: DeadQuery) async throws(QueueAdministrationError) -> AdminAPI.DeadList {
        do throws(RecordLogError) {
            if var lanes = try await self.lanes(query) { return try await self.page(query, &lanes) }
        } catch {
            throw Self.unavailable(error)
        }
        throw QueueAdministrationError(.invalidRequest, reason: "that is no cursor of an answer")
    }

    private func page(_ query: DeadQuery, _ lanes: inout [Lane]) async throws(RecordLogError) -> AdminAPI.DeadList {
        var spent = self.begin()
        var records: [AdminAPI.DeadRecord] = []
        var marks: [AdminAPI.DeadPosition: AdminAPI.Instant] = [:]
        pages: while records.count < query.limit {
            for index in lanes.indices {
                while lanes[index].ready.isEmpty, !lanes[index].rest.isEmpty {
                    // Which record is the newest is known only when each partition's next one is.
                    if self.isOver(spent) { break pages }
                    try await self.readBack(&lanes[index], since: query.since, &marks, &spent)
                }
            }
            let newest = lanes.indices.filter { !lanes[$0].ready.isEmpty }
                .max { (lanes[$0].ready.last?.buried ?? 0, $1) < (lanes[$1].ready.last?.buried ?? 0, $0) }
            guard let newest, var record = lanes[newest].ready.popLast() else { break }
            if let topic = query.topic, record.topic != topic { continue }
            record.replayed = marks[record.position]
            records.append(record)
        }
        return AdminAPI.DeadList(
            records: records,
            cursor: Self.cursor(lanes),
            replays: marks.map { AdminAPI.DeadReplayMark(position: $0.key, time: $0.value) }
                .sorted { ($0.time, $0.position.offset) > ($1.time, $1.position.offset) }
        )
    }

    /// The partitions to read, each from where the page before ended; `nil` for a cursor that is none.
    private func lanes(_ query: DeadQuery) async throws(RecordLogError) -> [Lane]? {
        var ends: [Int32: Offset]?
        if let cursor = query.cursor {
            guard let given = Self.ends(cursor) else { return nil }
            ends = given
        }
        var numbers = (0..<self.log.partitionCount).map { Int32($0) }
        // The key of a dead record is its topic.
        if let topic = query.topic {
            numbers = [Partitioner(partitionCount: self.log.partitionCount).partition(for: topic)]
        }
        var lanes: [Lane] = []
        for number in numbers where ends == nil || ends?[number] != nil {
            let partition = TopicPartition(.dead, number)
            let bounds = try await self.log.bounds(partition)
            let end = min(bounds.upperBound, ends?[number] ?? bounds.upperBound)
            guard bounds.lowerBound < end else { continue }
            lanes.append(Lane(partition: partition, rest: bounds.lowerBound..<end))
        }
        return lanes
    }

    private static func cursor(_ lanes: [Lane]) -> String? {
        let rests = lanes.filter { !$0.isOver }
        guard !rests.isEmpty else { return nil }
        return rests.map { "\($0.partition.partition):\($0.end)" }.joined(separator: ",")
    }

    private static func ends(_ cursor: String) -> [Int32: Offset]? {
        var ends: [Int32: Offset] = [:]
        for part in cursor.split(separator: ",", omittingEmptySubsequences: false) {
            let numbers = part.split(separator: ":", omittingEmptySubsequences: false)
            guard numbers.count == 2, let partition = Int32(numbers[0]), let offset = Int64(numbers[1]), offset >= 0
            else { return nil }
            ends[partition] = Offset(offset)
        }
        return ends
    }

    /// Takes the last records off the lane's rest.
    private func readBack(
        _ lane: inout Lane,
        since: Int64?,
        _ marks: inout [AdminAPI.DeadPosition: AdminAPI.Instant],
        _ spent: inout Spent
    ) async throws(RecordLogError) {
        let end = lane.rest.upperBound
        let from = max(lane.rest.lowerBound, end.advanced(by: -Int64(Self.chunkCount)))
        var next = from
        lane.rest = lane.rest.lowerBound..<from
        while next < end {
            let read = try await self.log.scan(lane.partition, from: next, recordCountMax: Self.chunkCount)
            spent.add(read)
            guard let last = read.last else { break }
            next = last.position.offset.advanced(by: 1)
            for record in read where record.position.offset < end {
                if let since, record.timestamp < since {
                    // The log's time does not go back in a partition: what lies before is older still.
                    lane.rest = from..<from
                } else if let offset = Records.DeadRecord.replayed(by: record) {
                    let position = AdminAPI.DeadPosition(
                        partition: lane.partition.partition,
                        offset: offset.rawValue
                    )
                    marks[position] = max(marks[position] ?? 0, record.timestamp)
                } else {
                    lane.ready.append(Self.summary(record))
                }
            }
        }
    }

    // MARK: One record

    /// All that can be read of a record but its value; `nil` when there is none at the position.
    public func show(
        _ position: AdminAPI.DeadPosition
    ) async throws(QueueAdministrationError) -> AdminAPI.DeadDetail? {
        do throws(RecordLogError) {
            guard let stored = try await self.record(at: position) else { return nil }
            var summary = Self.summary(stored)
            var spent = self.begin()
            summary.replayed = try await self.marks(behind: stored.position, &spent).found[position]
            let dead = Records.DeadRecord(stored)
            let headers = (dead?.headers ?? stored.headers)
                .map { header in
                    AdminAPI.DeadDetail.Header(
                        name: header.name,
                        size: header.value.readableBytes,
                        text: Self.text(header.value)
                    )
                }
            var detail = AdminAPI.DeadDetail(
                record: summary,
                valueSize: stored.value.readableBytes,
                headers: headers,
                envelope: nil,
                envelopeError: nil
            )
            do throws(RecordLogError) {
                detail.envelope = AdminAPI.DeadDetail.Envelope(try QueueEntry(stored))
            } catch {
                detail.envelopeError = error.reason
            }
            return detail
        } catch {
            throw Self.unavailable(error)
        }
    }

    /// The record's value: mail, as a rule. `nil` when there is no record at the position.
    public func value(
        _ position: AdminAPI.DeadPosition
    ) async throws(QueueAdministrationError) -> ByteBuffer? {
        do throws(RecordLogError) {
            return try await self.record(at: position)?.value
        } catch {
            throw Self.unavailable(error)
        }
    }

    func record(at position: AdminAPI.DeadPosition) async throws(RecordLogError) -> StoredRecord? {
        let partition = TopicPartition(.dead, position.partition)
        guard position.partition < self.log.partitionCount,
            try await self.log.bounds(partition).contains(Offset(position.offset))
        else { return nil }
        let offset = Offset(position.offset)
        let found = try await self.log.scan(partition, from: offset, recordCountMax: 1).first
        return found?.position.offset == offset ? found : nil
    }

    /// The marks of replays behind a position in its partition.
    ///
    /// - Returns: when each record was last replayed, and whether the end was reached.
    func marks(
        behind position: Position,
        _ spent: inout Spent
    ) async throws(RecordLogError) -> (found: [AdminAPI.DeadPosition: AdminAPI.Instant], isComplete: Bool) {
        let number = position.partition.partition
        let end = try await self.log.bounds(position.partition).upperBound
        var found: [AdminAPI.DeadPosition: AdminAPI.Instant] = [:]
        var next = position.offset.advanced(by: 1)
        while next < end {
            if self.isOver(spent) { return (found, false) }
            let read = try await self.log.scan(position.partition, from: next, recordCountMax: Self.chunkCount)
            spent.add(read)
            guard let last = read.last else { break }
            next = last.position.offset.advanced(by: 1)
            for record in read {
                guard let offset = Records.DeadRecord.replayed(by: record) else { continue }
                found[AdminAPI.DeadPosition(partition: number, offset: offset.rawValue)] = record.timestamp
            }
        }
        return (found, true)
    }

    // MARK: Conversions

    private static func summary(_ stored: StoredRecord) -> AdminAPI.DeadRecord {
        let position = AdminAPI.DeadPosition(
            partition: stored.position.partition.partition,
            offset: stored.position.offset.rawValue
        )
        guard let dead = Records.DeadRecord(stored) else {
            var summary = AdminAPI.DeadRecord(
                position: position,
                buried: stored.timestamp,
                reason: "not written by posthorn",
                size: stored.size
            )
            summary.key = stored.key
            return summary
        }
        var summary = AdminAPI.DeadRecord(
            position: position,
            buried: stored.timestamp,
            reason: dead.reason,
            size: dead.size
        )
        summary.from = dead.position.description
        summary.topic = dead.position.partition.topic.name
        summary.key = dead.key
        summary.appended = dead.timestamp
        summary.originalSize = dead.originalSize
        summary.isConcluded = dead.isConcluded ? true : nil
        summary.message = (try? QueueEntry(stored))?.envelope.messageID.description
        return summary
    }

    /// A header's value, if it is one short line of text.
    private static func text(_ value: ByteBuffer) -> String? {
        guard value.readableBytes <= Self.headerTextSizeMax else { return nil }
        let text = String(buffer: value)
        let isPlain = text.unicodeScalars.allSatisfy {
            $0.properties.generalCategory != .control && $0.value != 0xfffd
        }
        return isPlain ? text : nil
    }

    static func unavailable(_ error: RecordLogError) -> QueueAdministrationError {
        QueueAdministrationError(.unavailable, reason: "the log cannot be read: \(error)")
    }
}

extension AdminAPI.DeadDetail.Envelope {
    fileprivate init(_ entry: QueueEntry) {
        let envelope = entry.envelope
        self.init(
            message: envelope.messageID.description,
            sender: envelope.reversePath?.description ?? "",
            recipients: envelope.recipients.map(\.mailbox.description),
            accepted: envelope.acceptedAt,
            octets: envelope.contentSize,
            attempts: Int(entry.attemptCount),
            content: entry.content.map(\.position.description)
        )
    }
}
