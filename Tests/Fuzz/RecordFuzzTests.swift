import ClusterLog
import Foundation
import Mail
import NIOCore
import NodeSupport
import Records
import Testing

@testable import Delivery

/// What is in the log: anybody with access to Kafka can write there, and old versions of ours did.
@Suite("Fuzz: records, progress and references")
struct RecordFuzzTests {
    private static func record(_ value: ByteBuffer, key: String = "k", headers: [RecordHeader] = []) -> StoredRecord {
        StoredRecord(
            position: Position(partition: TopicPartition(.control, 0), offset: Offset(7)),
            timestamp: 0,
            key: key,
            headers: headers,
            value: value
        )
    }

    private static let entries: [[UInt8]] = {
        let recipient = Recipient(
            mailbox: Mailbox(localPart: "b", domain: Domain(normalized: "example.com")),
            index: 3,
            notify: [.failure],
            originalRecipient: "rfc822;b@example.com"
        )
        let envelope = Envelope(
            messageID: MessageID(high: 1, low: 2),
            reversePath: Mailbox(localPart: "a", domain: Domain(normalized: "example.net")),
            recipients: [recipient],
            acceptedAt: 1_795_475_000_000,
            contentSize: 42
        )
        let reference = Reference(
            clusterID: ClusterID("c"),
            position: Position(partition: TopicPartition(.content, 1), offset: Offset(5)),
            further: [Offset(6), Offset(.max), Offset(.min + 4)],
            messageID: envelope.messageID.description,
            size: 42,
            hash: Array(0..<16)
        )
        return [
            QueueEntry(envelope: envelope).encoded(),
            QueueEntry(envelope: envelope, attemptCount: 9, content: reference, parkedSince: 1).encoded(),
        ]
    }()

    /// Goal: a record is understood or refused, and what is understood can be written again, as a deferral does.
    @Test("An envelope that is read, written again, is the same envelope", arguments: seeds)
    func envelopes(seed: UInt64) {
        forEachInput(seed: seed, like: Self.entries) { octets in
            guard let entry = try? QueueEntry(decoding: ByteBuffer(bytes: octets)) else { return }
            let again = try? QueueEntry(decoding: ByteBuffer(bytes: entry.encoded()))
            #expect(again == entry, "\(octets)")
            #expect(!entry.envelope.recipients.isEmpty)
        }
    }

    /// Goal: a reference that somebody made up is a mismatch, whatever its numbers (G7).
    @Test("A forged reference is refused, whatever it claims", arguments: seeds)
    func references(seed: UInt64) {
        var random = FuzzRandom(seed: seed)
        let partition = TopicPartition(.content, 0)
        let parts = (0..<3)
            .map { number in
                StoredRecord(
                    position: Position(partition: partition, offset: Offset(Int64(number))),
                    timestamp: 0,
                    key: "k",
                    headers: [RecordHeader(Reference.messageIDHeader, ByteBuffer(string: "id"))],
                    value: ByteBuffer(string: "part \(number)")
                )
            }
        for _ in 0..<100 {
            let count = Int.random(in: 0...3, using: &random)
            let reference = Reference(
                clusterID: ClusterID("c"),
                position: Position(partition: partition, offset: Offset(0)),
                further: (1..<max(2, count)).map { Offset(Int64($0)) },
                messageID: "id",
                size: [0, 18, Int.max, Int.random(in: 0...Int.max, using: &random)].randomElement(using: &random) ?? 0,
                hash: random.octets(0...16)
            )
            #expect(throws: RecordLogError.self) { try reference.assemble(Array(parts.prefix(count))) }
        }
    }

    private static let outcome: Outcome = {
        var outcome = Outcome(
            kind: .deferred,
            messageID: "01M85F6Z6B2JK5BY4WXQ4WZFZH",
            recipientIndex: 0,
            recipient: "b@example.com",
            sender: "a@example.net",
            site: "mx.example.com",
            time: 1,
            acceptedAt: 2,
            contentSize: 3,
            attempt: 4,
            status: "4.2.2"
        )
        outcome.reply = .init(code: 452, enhanced: "4.2.2", text: "full")
        outcome.remote = .init(host: "mx", address: "192.0.2.1", tlsVersion: "TLSv1.3", tlsVerified: false)
        return outcome
    }()

    /// Goal: our own writer of JSON is read by everybody's reader. Method: hostile text in every field, read back by
    /// Foundation.
    @Test("An outcome with any text in it reads back as it was", arguments: seeds)
    func outcomes(seed: UInt64) throws {
        var random = FuzzRandom(seed: seed)
        for _ in 0..<40 {
            var outcome = Self.outcome
            outcome.recipient = random.text(0...20)
            outcome.sender = random.text(0...20)
            outcome.site = random.text(0...20)
            outcome.reply?.text = random.text(0...20)
            outcome.reason = random.text(0...20)
            outcome.time = Int64.random(in: .min ... .max, using: &random)
            let read = try JSONDecoder().decode(Outcome.self, from: Data(outcome.json.readableBytesView))
            #expect(read == outcome)
        }
    }

    @Test("An outcome that somebody else wrote is read or refused", arguments: seeds)
    func foreignOutcomes(seed: UInt64) {
        let vectors = [Array(Self.outcome.json.readableBytesView), Array(#"{"kind":"held","time":1e99}"#.utf8)]
        forEachInput(seed: seed, like: vectors, count: 40) { octets in
            let header = RecordHeader(Outcome.typeHeader, ByteBuffer(bytes: octets.suffix(30)))
            _ = Outcome.kind(of: Self.record(ByteBuffer(), headers: [header]))
            guard let outcome = try? JSONDecoder().decode(Outcome.self, from: Data(octets)) else { return }
            #expect((try? JSONDecoder().decode(Outcome.self, from: Data(outcome.json.readableBytesView))) == outcome)
        }
    }

    @Test("Progress that is read, written again, is the same progress", arguments: seeds)
    func progress(seed: UInt64) {
        var random = FuzzRandom(seed: seed)
        forEachInput(seed: seed, like: ["v1;a:0,1,5", "v1;zzzz", "v1;1y2p0ij32e8e7:1", "v1;0", ""]) { octets in
            let watermark = Offset(
                [0, 1, Int64.max, Int64.random(in: 0...Int64.max, using: &random)].randomElement(using: &random) ?? 0
            )
            let text = String(decoding: octets, as: UTF8.self)
            guard let progress = Progress(watermark: watermark, metadata: text) else { return }
            #expect(Progress(watermark: watermark, metadata: progress.metadata) == progress, "\(shown(octets))")
            #expect(
                progress.incomplete.allSatisfy { $0 >= progress.watermark && $0 < progress.end && !progress.isDone($0) }
            )
            #expect(progress.incomplete.count <= Progress.incompleteCountMax)
        }
    }

    @Test("A tier topic names its delay, and only its own name does", arguments: seeds)
    func tierTopics(seed: UInt64) {
        let vectors = [0, 60, 900, 3_600, 14_400, 432_000].map { Topic.deferred(delay: $0).name }
        forEachInput(seed: seed, like: vectors) { octets in
            let topic = Topic(String(decoding: octets, as: UTF8.self))
            guard let delay = topic.deferredDelay else { return }
            #expect(delay >= 0 && Topic.deferred(delay: delay).deferredDelay == delay, "\(topic)")
        }
    }

    private static let commands: [[UInt8]] = {
        var mark = OperatorCommand.Mark(topic: "posthorn.deferred.1m", partition: 2, end: 9, scanned: 4)
        mark.excluded = [1, 2]
        let command = OperatorCommand(id: "c", kind: .remove, predicate: .init(domain: "example.com"), marks: [mark])
        let wake = OperatorCommand.wake(id: "w", site: "mx", marks: [mark])
        return [command, wake].map { Array($0.record(mark, isOver: false).value.readableBytesView) }
    }()

    /// Goal: a command that somebody made up says what it is about, or is none; nobody's mail is removed by half of one.
    @Test("An operator's command is read as it was given, or not at all", arguments: seeds)
    func operatorCommands(seed: UInt64) throws {
        let entry = try QueueEntry(decoding: ByteBuffer(bytes: Self.entries[0]))
        forEachInput(seed: seed, like: Self.commands, count: 60) { octets in
            guard let command = OperatorCommand(Self.record(ByteBuffer(bytes: octets), key: "command/c/t/0")) else {
                return
            }
            for mark in command.marks {
                #expect(command.mark(mark.place) != nil)
                let written = command.record(mark, isOver: false)
                let again = OperatorCommand(Self.record(written.value, key: written.key))
                #expect(again?.predicate == command.predicate && again?.marks == [mark], "\(shown(octets))")
                #expect(!mark.covers(Offset(max(mark.scanned, 0))))
                _ = command.concerns(mark.place.topic)
            }
            let matched = command.matching(entry, site: "mx").count
            #expect(matched == 0 || !command.predicate.isEmpty)
        }
    }

    @Test("A node's announcement is read as it was made, or not at all", arguments: seeds)
    func announcements(seed: UInt64) {
        let announcement = NodeAnnouncement(
            id: "n",
            roles: ["metrics"],
            admin: "[::1]:9925",
            partitions: [0, 7],
            until: 5
        )
        let vectors = [Array(announcement.record.value.readableBytesView)]
        forEachInput(seed: seed, like: vectors, count: 60) { octets in
            let key = NodeAnnouncement.keyPrefix + "n"
            guard let read = NodeAnnouncement(Self.record(ByteBuffer(bytes: octets), key: key)) else { return }
            #expect(read.id == "n")
            #expect(NodeAnnouncement(Self.record(read.record.value, key: read.record.key)) == read)
        }
    }
}
