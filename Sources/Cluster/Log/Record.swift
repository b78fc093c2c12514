public import NIOCore

/// The name of a topic (DESIGN §2).
public struct Topic: Hashable, Sendable, CustomStringConvertible {
    public let name: String
    public init(_ name: String) { self.name = name }
    public var description: String { self.name }

    public static let accepted = Topic("posthorn.accepted")
    public static let content = Topic("posthorn.content")
    public static let outcomes = Topic("posthorn.outcomes")
    public static let control = Topic("posthorn.control")
    public static let dead = Topic("posthorn.dead")
    /// Mail that an operator holds: its consumer works on nothing of it until it is released or removed.
    public static let held = Topic("posthorn.held")
    public static let reports = Topic("posthorn.reports")
    public static let suppression = Topic("posthorn.suppression")
    public static let deferredPrefix = "posthorn.deferred."

    /// The tier topic for a delay in seconds, named in its largest whole unit: `posthorn.deferred.15m`.
    public static func deferred(delay seconds: Int64) -> Topic {
        switch seconds {
        case let s where s > 0 && s % 86_400 == 0: Topic("\(Self.deferredPrefix)\(s / 86_400)d")
        case let s where s > 0 && s % 3_600 == 0: Topic("\(Self.deferredPrefix)\(s / 3_600)h")
        case let s where s > 0 && s % 60 == 0: Topic("\(Self.deferredPrefix)\(s / 60)m")
        default: Topic("\(Self.deferredPrefix)\(seconds)s")
        }
    }

    /// The delay of a tier topic in seconds; `nil` for any other topic.
    public var deferredDelay: Int64? {
        guard self.name.hasPrefix(Self.deferredPrefix), let unit = self.name.last else { return nil }
        let digits = self.name.dropFirst(Self.deferredPrefix.count).dropLast()
        guard let count = Int64(digits), count >= 0, count <= 1_000_000 else { return nil }
        switch unit {
        case "s": return count
        case "m": return count * 60
        case "h": return count * 3_600
        case "d": return count * 86_400
        default: return nil
        }
    }
}

public struct TopicPartition: Hashable, Sendable, CustomStringConvertible {
    public var topic: Topic
    public var partition: Int32

    public init(_ topic: Topic, _ partition: Int32) {
        self.topic = topic
        self.partition = partition
    }

    public var description: String { "\(self.topic.name)/\(self.partition)" }
}

/// A record's place in its partition. Offsets grow by one a record on the embedded log; on Kafka there are gaps.
public struct Offset: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var rawValue: Int64
    public init(_ rawValue: Int64) { self.rawValue = rawValue }
    public static func < (left: Offset, right: Offset) -> Bool { left.rawValue < right.rawValue }
    public func advanced(by count: Int64) -> Offset { Offset(self.rawValue + count) }
    public var description: String { "\(self.rawValue)" }
}

public struct Position: Hashable, Sendable, CustomStringConvertible {
    public var partition: TopicPartition
    public var offset: Offset

    public init(partition: TopicPartition, offset: Offset) {
        self.partition = partition
        self.offset = offset
    }

    public var description: String { "\(self.partition)@\(self.offset)" }
}

public struct GroupID: Hashable, Sendable, CustomStringConvertible {
    public let name: String
    public init(_ name: String) { self.name = name }
    public var description: String { self.name }
}

public struct ClusterID: Hashable, Sendable, CustomStringConvertible {
    public let name: String
    public init(_ name: String) { self.name = name }
    public var description: String { self.name }
}

/// A named value beside a record's value; names are short ASCII and unique in a record.
public struct RecordHeader: Hashable, Sendable {
    public var name: String
    public var value: ByteBuffer

    public init(_ name: String, _ value: ByteBuffer) {
        self.name = name
        self.value = value
    }
}

/// A record on its way into the log.
public struct Record: Hashable, Sendable {
    public var topic: Topic
    /// Selects the partition, by the stable hash of ``Partitioner``.
    public var key: String
    public var headers: [RecordHeader]
    public var value: ByteBuffer

    public init(topic: Topic, key: String, headers: [RecordHeader] = [], value: ByteBuffer = ByteBuffer()) {
        self.topic = topic
        self.key = key
        self.headers = headers
        self.value = value
    }

    /// Octets that the record is charged in budgets: key, headers and value.
    public var size: Int {
        self.headers.reduce(self.key.utf8.count + self.value.readableBytes) {
            $0 + $1.name.utf8.count + $1.value.readableBytes
        }
    }
}

/// A record as the log holds it.
public struct StoredRecord: Hashable, Sendable {
    public var position: Position
    /// When the log took it, milliseconds since 1970 (`LogAppendTime`); never decreases within a partition.
    public var timestamp: Int64
    public var key: String
    public var headers: [RecordHeader]
    public var value: ByteBuffer

    /// The one header of a record whose headers are damaged where they are stored: the octets found instead of them.
    /// Whoever reads such a record treats it as one that cannot be decoded, and goes on.
    public static let damagedHeadersName = "posthorn-damaged-headers"

    public init(position: Position, timestamp: Int64, key: String, headers: [RecordHeader], value: ByteBuffer) {
        self.position = position
        self.timestamp = timestamp
        self.key = key
        self.headers = headers
        self.value = value
    }

    public func header(_ name: String) -> ByteBuffer? {
        self.headers.first { $0.name == name }?.value
    }

    public var size: Int {
        self.headers.reduce(self.key.utf8.count + self.value.readableBytes) {
            $0 + $1.name.utf8.count + $1.value.readableBytes
        }
    }
}

/// Names a value that is one record's, or several records' of one partition one after the other, and says enough about it that a wrong one is recognised (G7).
public struct Reference: Hashable, Sendable {
    public var clusterID: ClusterID
    /// The record, or the first of them.
    public var position: Position
    /// The offsets of the records after the first, when the value is in several.
    public var further: [Offset]
    /// The record's own idea of which message it is: the value of its header `posthorn-message-id`, 26 characters.
    public var messageID: String
    /// Octets of the value.
    public var size: Int
    /// The first 128 bits of the value's SHA-256.
    public var hash: [UInt8]

    public static let messageIDHeader = "posthorn-message-id"

    public init(
        clusterID: ClusterID,
        position: Position,
        further: [Offset] = [],
        messageID: String,
        size: Int,
        hash: [UInt8]
    ) {
        self.clusterID = clusterID
        self.position = position
        self.further = further
        self.messageID = messageID
        self.size = size
        self.hash = hash
    }
}
