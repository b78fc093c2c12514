import ClusterLog
import FoundationEssentials
import Mail
import NIOCore
import NodeSupport
import Records

/// An operator's wish about mail in the queue, as data: what it is about, and how far it has come (DESIGN §5).
///
/// It is about the records that existed when it was given: those below ``ends``. The owner executes it scanning forward
/// from what has been worked on; a matching record below ``scanned`` has been dealt with and is skipped when it falls
/// due. Effects and ``scanned`` become durable in the same step, so a node that dies repeats nothing.
struct OperatorCommand: Hashable, Sendable, Codable {
    struct Mark: Hashable, Sendable, Codable {
        var topic: String
        var partition: Int32
        var end: Int64
        var scanned: Int64
        /// Below ``scanned`` and not dealt with: they were being worked on when the scan passed them.
        var excluded: [Int64] = []
        /// Whether the scan has dealt with a record: then the mark is needed until all have been passed. `nil` is not known.
        var hasMatched: Bool?
        /// What a later version says besides.
        var later: [String: JSONValue] = [:]

        var place: TopicPartition { TopicPartition(Topic(self.topic), self.partition) }

        func covers(_ offset: Offset) -> Bool {
            offset.rawValue < self.scanned && !self.excluded.contains(offset.rawValue)
        }
    }

    var id: String
    var kind: AdminAPI.Command
    var predicate: AdminAPI.QueuePredicate
    var marks: [Mark]
    /// Ours, not an operator's: a flush of what is parked for a site that is back, at the site's pace.
    private var wakesParked: Bool?
    /// What a later version says besides.
    private var later: [String: JSONValue] = [:]

    var isWake: Bool { self.wakesParked ?? false }

    static let keyPrefix = "command/"

    /// Each partition's part of a command is a record of its own, which only the partition's owner rewrites.
    func key(_ mark: Mark) -> String { "\(Self.keyPrefix)\(self.id)/\(mark.topic)/\(mark.partition)" }

    func mark(_ partition: TopicPartition) -> Mark? {
        self.marks.first { $0.partition == partition.partition && $0.topic == partition.topic.name }
    }

    /// The record that makes the state in one partition durable; an empty value forgets it.
    func record(_ mark: Mark, isOver: Bool) -> Record {
        var part = self
        part.marks = [mark]
        // Only strings and integers: encoding cannot fail; an empty value would forget the command, which is safe.
        let value = isOver ? Data() : (try? JSONEncoder().encode(part)) ?? Data()
        return Record(topic: .control, key: self.key(mark), value: ByteBuffer(bytes: value))
    }

    init(id: String, kind: AdminAPI.Command, predicate: AdminAPI.QueuePredicate, marks: [Mark]) {
        self.id = id
        self.kind = kind
        self.predicate = predicate
        self.marks = marks
    }

    /// Reads one back; `nil` for other records of the topic, for those that are over, and for those that a later version
    /// gave and this one cannot carry out.
    init?(_ record: StoredRecord) {
        guard record.key.hasPrefix(Self.keyPrefix), record.value.readableBytes > 0,
            let command = try? JSONDecoder().decode(OperatorCommand.self, from: Data(record.value.readableBytesView))
        else { return nil }
        self = command
    }

    /// The command that moves what is parked for a site to the zero-delay tier.
    static func wake(id: String, site: String, marks: [Mark]) -> OperatorCommand {
        var command = OperatorCommand(id: id, kind: .flush, predicate: .init(site: site), marks: marks)
        command.wakesParked = true
        return command
    }

    /// The recipients of an entry that the command is about.
    ///
    /// - Parameter site: where the entry's mail goes; `nil` when that is not known yet, which matches no site.
    func matching(_ entry: QueueEntry, site: String?) -> [Recipient] {
        self.isWake && entry.parkedSince == nil ? [] : self.predicate.matching(entry, site: site)
    }

    /// Whether the command is about records of this kind of topic at all.
    func concerns(_ topic: Topic) -> Bool {
        switch self.kind {
        case .flush: (topic.deferredDelay ?? 0) > 0
        case .hold: topic != .held
        case .release: topic == .held
        case .remove: true
        }
    }
}

/// Nodes of several versions write the same command, each its own parts: what one does not know, it passes on. Only the
/// predicate has to be known whole, since a narrower one would be carried out as a wider one.
extension OperatorCommand {
    private enum CodingKeys: String, CodingKey, CaseIterable {
        case id, kind, predicate, marks, wakesParked
    }

    init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        self.id = try container.decode(String.self, forKey: .id)
        self.kind = try container.decode(AdminAPI.Command.self, forKey: .kind)
        self.predicate = try container.decode(AdminAPI.QueuePredicate.self, forKey: .predicate)
        self.marks = try container.decode([Mark].self, forKey: .marks)
        self.wakesParked = try container.decodeIfPresent(Bool.self, forKey: .wakesParked)
        self.later = try JSONValue.members(of: decoder, besides: Set(CodingKeys.allCases.map(\.rawValue)))
        let said = try container.decode([String: JSONValue].self, forKey: .predicate)
        guard Self.predicateNames.isSuperset(of: said.keys) else {
            throw DecodingError.dataCorruptedError(
                forKey: .predicate,
                in: container,
                debugDescription: "the predicate is of a later version"
            )
        }
    }

    private static let predicateNames = Set(Mirror(reflecting: AdminAPI.QueuePredicate()).children.compactMap(\.label))

    func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(self.id, forKey: .id)
        try container.encode(self.kind, forKey: .kind)
        try container.encode(self.predicate, forKey: .predicate)
        try container.encode(self.marks, forKey: .marks)
        try container.encodeIfPresent(self.wakesParked, forKey: .wakesParked)
        try JSONValue.add(self.later, to: encoder)
    }
}

extension OperatorCommand.Mark {
    private enum CodingKeys: String, CodingKey, CaseIterable {
        case topic, partition, end, scanned, excluded, hasMatched
    }

    init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        self.topic = try container.decode(String.self, forKey: .topic)
        self.partition = try container.decode(Int32.self, forKey: .partition)
        self.end = try container.decode(Int64.self, forKey: .end)
        self.scanned = try container.decode(Int64.self, forKey: .scanned)
        self.excluded = try container.decode([Int64].self, forKey: .excluded)
        self.hasMatched = try container.decodeIfPresent(Bool.self, forKey: .hasMatched)
        self.later = try JSONValue.members(of: decoder, besides: Set(CodingKeys.allCases.map(\.rawValue)))
    }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(self.topic, forKey: .topic)
        try container.encode(self.partition, forKey: .partition)
        try container.encode(self.end, forKey: .end)
        try container.encode(self.scanned, forKey: .scanned)
        try container.encode(self.excluded, forKey: .excluded)
        try container.encodeIfPresent(self.hasMatched, forKey: .hasMatched)
        try JSONValue.add(self.later, to: encoder)
    }
}

extension Topic {
    /// Due at once.
    static let deferredNow = Topic.deferred(delay: 0)
}

extension AdminAPI.QueuePredicate {
    /// The recipients of an entry that match everything that is given.
    ///
    /// - Parameter site: where the entry's mail goes; `nil` when that is not known yet, which matches no site.
    func matching(_ entry: QueueEntry, site: String?) -> [Recipient] {
        if let wanted = self.site, wanted != site { return [] }
        if let wanted = self.message, wanted.uppercased() != entry.envelope.messageID.description { return [] }
        if let wanted = self.sender {
            let isNull = wanted.isEmpty || wanted == "<>"
            guard isNull ? entry.envelope.reversePath == nil : entry.envelope.reversePath?.description == wanted else {
                return []
            }
        }
        if self.isEmpty { return [] }
        return entry.envelope.recipients.filter { recipient in
            if let wanted = self.domain, wanted.lowercased() != recipient.mailbox.domain.text { return false }
            if let wanted = self.recipient, wanted != recipient.mailbox.description { return false }
            return true
        }
    }
}
