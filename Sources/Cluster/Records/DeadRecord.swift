public import ClusterLog
public import NIOCore

/// A record of `posthorn.dead`: one that could not be used, as it was, with where it was and why it is there.
///
/// It travels as it was, value and headers, with headers of its own beside them and its topic as the key. What would
/// not fit into a record any more is cut, so that nothing somebody writes to our topics can hold up the step that
/// takes it out of the way; ``originalSize`` says so then.
public struct DeadRecord: Hashable, Sendable {
    /// What the names of our own headers begin with. A dead record's own headers of such names are dropped.
    public static let headerPrefix = "posthorn-dead-"
    static let reasonHeader = "posthorn-dead-reason"
    static let positionHeader = "posthorn-dead-position"
    static let keyHeader = "posthorn-dead-key"
    static let timeHeader = "posthorn-dead-time"
    static let sizeHeader = "posthorn-dead-size"
    static let concludedHeader = "posthorn-dead-concluded"
    /// In a mark that says of a dead record that it was replayed: the record's offset, in the mark's partition.
    static let replayedHeader = "posthorn-dead-replayed"

    /// Octets kept of what is named.
    static let reasonSizeMax = 500
    static let keySizeMax = 1_000
    /// Octets of headers and value together above those of the largest value: an envelope's.
    static let overheadMax = QueueEntry.sizeMax + 464
    /// What a header is charged besides its name and value, so that many small ones do not exceed a record either.
    private static let headerOverhead = 12

    /// Where the record was; its topic is where a replay puts it.
    public var position: Position
    public var reason: String
    public var key: String
    /// When the log took it, milliseconds since 1970; `nil` when that is not known.
    public var timestamp: Int64?
    /// The record's own.
    public var headers: [RecordHeader]
    public var value: ByteBuffer
    /// Octets of the record as it was, when a part of it is not here; `nil` when all of it is.
    public var originalSize: Int?
    /// Its recipients have final outcomes all the same, since its content was lost: a replay would give them second ones.
    public var isConcluded = false

    public init(
        position: Position,
        reason: String,
        key: String,
        timestamp: Int64?,
        headers: [RecordHeader],
        value: ByteBuffer
    ) {
        self.position = position
        self.reason = reason
        self.key = key
        self.timestamp = timestamp
        self.headers = headers.filter { !$0.name.hasPrefix(Self.headerPrefix) }
        self.value = value
    }

    /// What cannot be used, as the log holds it.
    public init(_ record: StoredRecord, reason: String) {
        self.init(
            position: record.position,
            reason: reason,
            key: record.key,
            timestamp: record.timestamp,
            headers: record.headers,
            value: record.value
        )
    }

    /// The record for `posthorn.dead`.
    ///
    /// - Parameter valueSizeMax: octets that a record's value may have in the log (``RecordLog/valueSizeMax``).
    public func record(valueSizeMax: Int) -> Record {
        var room = valueSizeMax + Self.overheadMax
        var kept: [RecordHeader] = []
        for header in self.headers {
            let size = header.name.utf8.count + header.value.readableBytes + Self.headerOverhead
            guard size <= room else { continue }
            room -= size
            kept.append(header)
        }
        let value = self.value.getSlice(
            at: self.value.readerIndex,
            length: min(self.value.readableBytes, valueSizeMax, room)
        )
        let key = Self.cut(self.key, Self.keySizeMax)
        let isWhole =
            kept.count == self.headers.count && value?.readableBytes == self.value.readableBytes && key == self.key
        var own = [
            RecordHeader(Self.reasonHeader, ByteBuffer(string: Self.cut(self.reason, Self.reasonSizeMax))),
            RecordHeader(Self.positionHeader, ByteBuffer(string: self.position.description)),
            RecordHeader(Self.keyHeader, ByteBuffer(string: key)),
        ]
        if let timestamp { own.append(RecordHeader(Self.timeHeader, ByteBuffer(string: "\(timestamp)"))) }
        if self.isConcluded { own.append(RecordHeader(Self.concludedHeader, ByteBuffer(string: "1"))) }
        if !isWhole {
            let size = self.originalSize ?? self.size
            own.append(RecordHeader(Self.sizeHeader, ByteBuffer(string: "\(size)")))
        }
        return Record(
            topic: .dead,
            key: self.position.partition.topic.name,
            headers: kept + own,
            value: value ?? ByteBuffer()
        )
    }

    /// Reads a record of `posthorn.dead`; `nil` for marks and for what somebody else wrote there.
    public init?(_ record: StoredRecord) {
        func text(_ name: String) -> String? { record.header(name).map { String(buffer: $0) } }
        guard let position = text(Self.positionHeader).flatMap({ Position(parsing: $0) }) else { return nil }
        self.init(
            position: position,
            reason: text(Self.reasonHeader) ?? "",
            key: text(Self.keyHeader) ?? "",
            timestamp: text(Self.timeHeader).flatMap { Int64($0) },
            headers: record.headers,
            value: record.value
        )
        self.originalSize = text(Self.sizeHeader).flatMap { Int($0) }
        self.isConcluded = text(Self.concludedHeader) != nil
    }

    /// The record as it was, to be appended to its topic again.
    public var original: Record {
        Record(topic: self.position.partition.topic, key: self.key, headers: self.headers, value: self.value)
    }

    /// Octets of key, headers and value.
    public var size: Int { self.original.size }

    private static func cut(_ text: String, _ sizeMax: Int) -> String {
        text.utf8.count <= sizeMax ? text : String(decoding: text.utf8.prefix(sizeMax), as: UTF8.self)
    }
}

extension DeadRecord {
    /// The mark that a dead record was replayed. It has the dead record's key, and so lies behind it in its partition.
    public static func replayMark(for record: StoredRecord) -> Record {
        Record(
            topic: .dead,
            key: record.key,
            headers: [RecordHeader(Self.replayedHeader, ByteBuffer(string: record.position.offset.description))]
        )
    }

    /// Which record of its partition a mark is about; `nil` when the record is none.
    public static func replayed(by record: StoredRecord) -> Offset? {
        record.header(Self.replayedHeader).flatMap { Int64(String(buffer: $0)) }.map { Offset($0) }
    }
}

extension Position {
    /// Reads what ``description`` wrote: `TOPIC/PARTITION@OFFSET`.
    init?(parsing text: String) {
        guard let at = text.lastIndex(of: "@"), let slash = text[..<at].lastIndex(of: "/"),
            let partition = Int32(text[text.index(after: slash)..<at]), partition >= 0,
            let offset = Int64(text[text.index(after: at)...]), offset >= 0, slash > text.startIndex
        else { return nil }
        self.init(
            partition: TopicPartition(Topic(String(text[..<slash])), partition),
            offset: Offset(offset)
        )
    }
}
