import ClusterLog
import Foundation
import Mail
import NIOCore
import NodeSupport
import Records
import SMTP
import Testing

@testable import Delivery
@testable import NextSchema

/// A rolling upgrade: records of the next version pass through this version's delivery, and come out whole.
@Suite("DeliveryCore: next to a later version")
struct UpgradeTests {
    /// Appends a message as a node of the next version does.
    private func accept(
        _ recipients: [String],
        id: UInt64 = 1,
        version: UInt32 = 3,
        in world: inout DeliveryWorld
    ) throws -> Next_Envelope {
        let entry = try world.accept(recipients, id: id)
        var next = try Next_Envelope(octets: entry.encoded())
        next.version = version
        next.urgency = 7
        next.labels = ["campaign": "spring"]
        for index in next.recipients.indices { next.recipients[index].deliverAfter = 1_000 + Int64(index) }
        let octets = try next.octets
        for (partition, records) in world.partitions {
            guard let last = records.last, last.header(QueueEntry.headerName) == ByteBuffer(bytes: entry.encoded())
            else {
                continue
            }
            let header = RecordHeader(QueueEntry.headerName, ByteBuffer(bytes: octets))
            let changed = StoredRecord(
                position: last.position,
                timestamp: last.timestamp,
                key: last.key,
                headers: last.headers.map { $0.name == QueueEntry.headerName ? header : $0 },
                value: last.value
            )
            world.partitions[partition]?[records.count - 1] = changed
        }
        return next
    }

    /// What the next version reads in a topic's records.
    private func read(_ topic: Topic, in world: DeliveryWorld) throws -> [Next_Envelope] {
        try world.partitions.filter { $0.key.topic == topic }.flatMap { $0.value }
            .map { record in
                let header = try #require(record.header(QueueEntry.headerName))
                return try Next_Envelope(octets: Array(buffer: header))
            }
    }

    @Test("Deferred again and again: the next version finds its fields as it left them")
    func keepsFieldsThroughItsLife() throws {
        var world = DeliveryWorld()
        world.remote = { _, recipient in
            recipient.mailbox.localPart == "now"
                ? .delivered(RemoteReply(code: 250), isDSNPassedOn: false) : .failed(DeliveryWorld.tempfail)
        }
        let written = try self.accept(["now@one.example", "later@one.example"], in: &world)
        world.deliverRecords()
        func check(_ topic: Topic, attempts: UInt32, _ comment: Comment) throws {
            let found = try #require(try self.read(topic, in: world).last, comment)
            #expect(found.version == 3 && found.urgency == 7 && found.labels == written.labels, comment)
            #expect(found.recipients == [written.recipients[1]], comment)
            #expect(found.attemptCount == attempts && found.hasContent, comment)
        }
        try check(.deferred(delay: 60), attempts: 1, "deferred")
        world.run(for: 61_000)
        try check(.deferred(delay: 300), attempts: 2, "deferred by reference")
        world.refusesConnections = ["mx.one.example"]
        try world.accept(["other@one.example"], id: 2)
        world.run(for: 301_000, tick: 1_000)
        let all = try [Int64(60), 300, 900, 3_600, 14_400]
            .flatMap { try self.read(.deferred(delay: $0), in: world) }
            .filter { $0.messageIDLow == written.messageIDLow }
        #expect(all.count >= 3)
        #expect(all.allSatisfy { $0.urgency == 7 && $0.recipients == [written.recipients[1]] })
        world.refusesConnections = []
        world.remote = { _, _ in .delivered(RemoteReply(code: 250), isDSNPassedOn: false) }
        world.run(for: 20_000_000, tick: 5_000)
        #expect(world.finals.count == 3 && world.deadCount == 0)
    }

    @Test("Fan-out gives each domain's record the message's fields and its own recipients'")
    func keepsFieldsThroughFanOut() throws {
        var world = DeliveryWorld()
        let written = try self.accept(["a@one.example", "b@two.example"], in: &world)
        world.deliverRecords()
        let found = try self.read(.accepted, in: world).filter { $0.recipients.count == 1 }
        #expect(Set(found.map { $0.recipients[0].domain }) == ["one.example", "two.example"])
        #expect(found.allSatisfy { $0.urgency == 7 && written.recipients.contains($0.recipients[0]) })
    }

    @Test("A notification's entry keeps them too")
    func keepsFieldsInOutcomes() throws {
        var world = DeliveryWorld()
        world.remote = { _, _ in .failed(DeliveryWorld.unknownUser) }
        let written = try self.accept(["a@one.example"], in: &world)
        world.deliverRecords()
        let header = try #require(world.outcomeRecords.last?.headers.first { $0.name == QueueEntry.headerName })
        let found = try Next_Envelope(octets: Array(buffer: header.value))
        #expect(found.urgency == 7 && found.recipients == written.recipients)
    }

    @Test("The reverse: what this version defers, the next one reads, and finds its own fields empty")
    func isReadByTheNext() throws {
        var world = DeliveryWorld()
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        try world.accept(["a@one.example"])
        world.deliverRecords()
        let found = try #require(try self.read(.deferred(delay: 60), in: world).first)
        #expect(found.version == 1 && found.attemptCount == 1 && found.recipients.count == 1)
        #expect(found.urgency == 0 && found.labels.isEmpty)
    }

    @Test("A record that this version would misunderstand goes to posthorn.dead whole, and the mail behind it leaves")
    func buriesMajorVersions() throws {
        var world = DeliveryWorld()
        let written = try self.accept(["a@one.example"], version: 1 << 16 | 1, in: &world)
        try world.accept(["b@one.example"], id: 2)
        world.deliverRecords()
        #expect(world.deadCount == 1)
        #expect(world.finals.map(\.recipient) == ["b@one.example"])
        let dead = try #require(world.partitions.filter { $0.key.topic == .dead }.flatMap(\.value).first)
        #expect(try self.read(.dead, in: world) == [written], "It can be put back as it was.")
        #expect(String(buffer: dead.value) == "Subject: x\r\n\r\nhello\r\n")
        let reason = dead.header("posthorn-dead-reason").map { String(buffer: $0) } ?? ""
        #expect(reason.contains("upgrade every node"), "\(reason)")
    }

    // MARK: Commands

    private static let command = """
        {"id":"c1","kind":"hold","marks":[{"end":9,"excluded":[4],"later":{"a":[1,null]},"partition":2,"scanned":3,\
        "topic":"posthorn.deferred.1m"}],"predicate":{"domain":"one.example"},"requestedBy":"ops","since":5}
        """

    private func stored(_ json: String) -> StoredRecord {
        StoredRecord(
            position: Position(partition: TopicPartition(.control, 0), offset: Offset(0)),
            timestamp: 0,
            key: "command/c1/posthorn.deferred.1m/2",
            headers: [],
            value: ByteBuffer(string: json)
        )
    }

    @Test("A command of the next version is carried out, and its owner writes it with all its fields")
    func passesCommandsOn() throws {
        let command = try #require(OperatorCommand(self.stored(Self.command)))
        let mark = try #require(command.marks.first)
        let written = command.record(mark, isOver: false)
        let decoder = JSONDecoder()
        let before = try decoder.decode(JSONValue.self, from: Data(Self.command.utf8))
        let after = try decoder.decode(JSONValue.self, from: Data(written.value.readableBytesView))
        #expect(before == after)
    }

    @Test("A predicate with a condition that is not known is not carried out as a wider one")
    func refusesUnknownPredicates() {
        let narrow = Self.command.replacingOccurrences(of: #"{"domain""#, with: #"{"olderThan":5,"domain""#)
        #expect(OperatorCommand(self.stored(narrow)) == nil)
        let unknown = Self.command.replacingOccurrences(of: #""hold""#, with: #""reroute""#)
        #expect(OperatorCommand(self.stored(unknown)) == nil)
    }

    @Test("Every condition that this version knows is known to it when it is read back")
    func knowsItsOwnPredicates() throws {
        let predicate = AdminAPI.QueuePredicate(
            domain: "d.example",
            site: "s",
            sender: "<>",
            recipient: "r@d.example",
            message: "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            all: true
        )
        let mark = OperatorCommand.Mark(topic: "posthorn.accepted", partition: 0, end: 5, scanned: 1, hasMatched: true)
        let command = OperatorCommand(id: "c1", kind: .remove, predicate: predicate, marks: [mark])
        let record = command.record(mark, isOver: false)
        let stored = StoredRecord(
            position: Position(partition: TopicPartition(.control, 0), offset: Offset(0)),
            timestamp: 0,
            key: record.key,
            headers: [],
            value: record.value
        )
        #expect(OperatorCommand(stored) == command)
    }
}
