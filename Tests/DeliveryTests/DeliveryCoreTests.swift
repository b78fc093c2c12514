import ClusterLog
import Mail
import NIOCore
import NodeSupport
import Records
import SMTP
import Testing

@testable import Delivery

@Suite("DeliveryCore: what becomes of a record")
struct DeliveryCoreTests {
    @Test("A delivered message is one outcome and one step past its record")
    func delivers() throws {
        var world = DeliveryWorld()
        try world.accept(["b@one.example"])
        world.deliverRecords()
        #expect(world.finals.map(\.kind) == [.delivered])
        #expect(world.finals.first?.attempt == 1)
        let partition = TopicPartition(.accepted, 0)
        #expect(world.progress[partition] == Progress(watermark: Offset(1)))
        #expect(world.core.heldOctets == 0)
        #expect(world.core.jobs.isEmpty)
    }

    @Test("A 4xx copies the content once and defers by reference; the retry delivers and releases it")
    func defersAndRetries() throws {
        var world = DeliveryWorld()
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        try world.accept(["b@one.example"])
        world.deliverRecords()
        #expect(world.outcomes.map(\.kind) == [.deferred])
        #expect(world.queued(.content) == 1)
        #expect(world.queued(.deferred(delay: 60)) == 1)
        world.run(for: 59_000)
        #expect(world.outcomes.count == 1, "Not before it is due.")
        world.run(for: 2_000)
        #expect(world.outcomes.map(\.kind) == [.deferred, .deferred])
        #expect(world.queued(.content) == 1, "Later retries are references.")
        #expect(world.queued(.deferred(delay: 300)) == 1)
        world.remote = { _, _ in .delivered(RemoteReply(code: 250), isDSNPassedOn: false) }
        world.run(for: 301_000, tick: 1_000)
        #expect(world.finals.map(\.kind) == [.delivered])
        #expect(world.finals.first?.attempt == 3)
        #expect(world.released.count == 1)
        #expect(world.core.heldOctets == 0)
    }

    @Test("Each recipient keeps its own result: one delivered, one deferred, one bounced")
    func keepsRecipientsApart() throws {
        var world = DeliveryWorld()
        world.remote = { _, recipient in
            switch recipient.mailbox.localPart {
            case "later": .failed(DeliveryWorld.tempfail)
            case "never": .failed(DeliveryWorld.unknownUser)
            default: .delivered(RemoteReply(code: 250), isDSNPassedOn: false)
            }
        }
        try world.accept(["now@one.example", "later@one.example", "never@one.example"])
        world.deliverRecords()
        #expect(
            Set(world.finals.map { "\($0.recipient) \($0.kind)" }) == [
                "now@one.example delivered", "never@one.example bounced",
            ]
        )
        world.remote = { _, _ in .delivered(RemoteReply(code: 250), isDSNPassedOn: false) }
        world.run(for: 61_000)
        #expect(world.finals.count == 3)
        #expect(world.arrived.filter { $0.key.hasSuffix("now@one.example") }.values.reduce(0, +) == 1)
    }

    @Test("A final failure carries what its notification needs, and never for the null reverse-path or NOTIFY=NEVER")
    func attachesReturnedContent() throws {
        var world = DeliveryWorld()
        world.remote = { _, _ in .failed(DeliveryWorld.unknownUser) }
        try world.accept(["a@one.example"], id: 1)
        try world.accept(["b@one.example"], from: nil, id: 2)
        try world.accept(["c@one.example"], id: 3, notify: .never)
        try world.accept(["d@one.example"], id: 4, returning: .full)
        world.deliverRecords()
        let returned = world.outcomeRecords.map { record in
            record.headers.first { $0.name == Outcome.returnedHeader }.map { String(buffer: $0.value) }
        }
        #expect(returned == ["Subject: x\r\n", nil, nil, "Subject: x\r\n\r\nhello\r\n"])
    }

    @Test("A message for several domains becomes one record for each, in one step")
    func fansOut() throws {
        var world = DeliveryWorld(partitionCount: 4)
        try world.accept(["a@one.example", "b@two.example", "c@one.example"])
        world.deliverRecords()
        world.deliverRecords()
        #expect(world.queued(.accepted) == 3)
        #expect(world.finals.count == 3)
        #expect(world.queued(.content) == 0, "Small content is copied, not referenced.")
    }

    @Test("An address that needs SMTPUTF8 goes apart: a host without it takes the others")
    func keepsInternationalizedApart() throws {
        var world = DeliveryWorld()
        world.holdsTransactions = true
        try world.accept(["bob@one.example", "j\u{f6}rg@one.example", "eve@one.example"])
        world.run(for: 1_000)
        let sent = world.sent.map { $0.transaction.recipients.map(\.mailbox.localPart) }
        #expect(Set(sent) == [["bob", "eve"], ["j\u{f6}rg"]])
        while !world.sent.isEmpty { world.answerNext() }
        world.perform()
        #expect(world.finals.count == 3)
    }

    @Test("Large content of several domains is referenced, and not released while others need it")
    func fansOutByReference() throws {
        var world = DeliveryWorld { $0.fanOutCopySizeMax = 10 }
        try world.accept(["a@one.example", "b@two.example"])
        world.deliverRecords()
        world.deliverRecords()
        #expect(world.queued(.content) == 1)
        #expect(world.finals.count == 2)
        #expect(world.released.isEmpty)
    }

    @Test("A record that cannot be decoded goes to posthorn.dead and blocks nobody")
    func buriesGarbage() throws {
        var world = DeliveryWorld()
        world.append(Record(topic: .accepted, key: "x", value: ByteBuffer(string: "garbage")))
        world.append(
            Record(
                topic: .accepted,
                key: "x",
                headers: [RecordHeader(QueueEntry.headerName, ByteBuffer(bytes: [0xff, 0xff, 0xff]))]
            )
        )
        try world.accept(["b@one.example"])
        world.deliverRecords()
        #expect(world.deadCount == 2)
        #expect(world.queued(.dead) == 2)
        #expect(world.finals.count == 1)
        #expect(world.progress[TopicPartition(.accepted, 0)] == Progress(watermark: Offset(3)))
    }

    @Test("A dead record keeps what a replay needs; what is larger than a record is cut, so that the step is taken")
    func buriesWithAll() throws {
        var world = DeliveryWorld { $0.valueSizeMax = 1_000 }
        let garbage = Record(
            topic: .accepted,
            key: "k",
            headers: [RecordHeader("a", ByteBuffer(string: "b"))],
            value: ByteBuffer(string: "garbage")
        )
        world.append(garbage)
        var large = garbage
        large.value = ByteBuffer(repeating: 0, count: 3 << 20)
        world.append(large)
        var many = garbage
        many.headers += (0..<50_000).map { _ in RecordHeader("h", ByteBuffer()) }
        world.append(many)
        world.deliverRecords()
        let dead = try (world.partitions[TopicPartition(.dead, 0)] ?? []).map { try #require(DeadRecord($0)) }
        try #require(dead.count == 3)
        #expect(dead[0].original == garbage && dead[0].originalSize == nil)
        #expect(dead[0].position == Position(partition: TopicPartition(.accepted, 0), offset: Offset(0)))
        #expect(dead[0].timestamp == world.now)
        #expect(dead[1].originalSize == large.size && dead[1].value.readableBytes == 1_000)
        #expect(dead[2].originalSize == many.size && dead[2].headers.count < 6_000)
    }

    @Test("Content that is not what was referenced is never sent and goes to posthorn.dead (G7)")
    func refusesForeignContent() throws {
        var world = DeliveryWorld()
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        try world.accept(["b@one.example"])
        world.deliverRecords()
        let content = TopicPartition(.content, 0)
        world.partitions[content]?[0].value = ByteBuffer(string: "Subject: x\r\n\r\nHELLO\r\n")
        world.remote = { _, _ in .delivered(RemoteReply(code: 250), isDSNPassedOn: false) }
        world.run(for: 61_000)
        #expect(world.arrived.isEmpty)
        #expect(world.deadCount == 1)
        #expect(world.core.jobs.isEmpty)
        // Its recipient has a final outcome, and the dead record says so.
        let dead = try #require(world.partitions[TopicPartition(.dead, 0)]?.first.flatMap { DeadRecord($0) })
        #expect(dead.isConcluded && dead.key == "mx.one.example")
        #expect(dead.position.partition.topic == .deferred(delay: 60))
    }

    @Test("A dead record that is mended and put back into its tier is delivered when its delay has passed anew")
    func deliversWhatWasMended() throws {
        var world = DeliveryWorld()
        let entry = try world.accept(["b@one.example"])
        let accepted = TopicPartition(.accepted, 0)
        var record = try #require(world.partitions[accepted]?.first)
        record.headers[0].name = "damaged"
        let tier = Topic.deferred(delay: 60)
        world.partitions[accepted] = []
        world.append(Record(topic: tier, key: "mx.one.example", headers: record.headers, value: record.value))
        world.run(for: 61_000)
        #expect(world.deadCount == 1 && world.finals.isEmpty)
        var dead = try #require(world.partitions[TopicPartition(.dead, 0)]?.first.flatMap { DeadRecord($0) })
        #expect(!dead.isConcluded)
        dead.headers[0].name = QueueEntry.headerName
        #expect(dead.original.topic == tier && dead.original.headers == entry.headers)
        world.append(dead.original)
        world.run(for: 30_000)
        #expect(world.finals.isEmpty, "The delay begins anew.")
        world.run(for: 31_000)
        #expect(world.finals.map(\.kind) == [.delivered])
    }

    @Test("Mail without life left expires, and says why")
    func expires() throws {
        var retry = NodeConfiguration.Retry()
        retry.lifetime = .seconds(600)
        var world = DeliveryWorld(retry: retry)
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        try world.accept(["b@one.example"])
        world.deliverRecords()
        world.run(for: 900_000, tick: 1_000)
        #expect(world.finals.map(\.kind) == [.expired])
        #expect(world.outcomes.filter { $0.kind == .deferred }.count >= 2)
        #expect(world.now - (world.finals.first?.acceptedAt ?? 0) >= 600_000)
        #expect((world.finals.first?.time ?? .max) <= (world.finals.first?.acceptedAt ?? 0) + 601_000)
    }

    @Test("A step that fails is written again as it was, and nothing is tried meanwhile")
    func retriesSteps() throws {
        var world = DeliveryWorld()
        world.stepFailuresLeft = 3
        try world.accept(["a@one.example"], id: 1)
        world.deliverRecords()
        try world.accept(["b@one.example"], id: 2)
        world.deliverRecords()
        #expect(world.arrived.count == 1, "No new attempt while steps fail.")
        #expect(world.outcomes.isEmpty)
        world.run(for: 5_000)
        #expect(world.finals.map(\.recipient).sorted() == ["a@one.example", "b@one.example"])
    }

    @Test("A kept connection that the remote gave up costs no attempt")
    func retriesStaleConnections() throws {
        var world = DeliveryWorld()
        try world.accept(["a@one.example"], id: 1)
        world.deliverRecords()
        world.holdsTransactions = true
        try world.accept(["b@one.example"], id: 2)
        world.deliverRecords()
        world.answerNext(failingWith: DeliveryWorld.lost, isReusable: false)
        world.perform()
        #expect(world.outcomes.count == 1)
        world.answerNext()
        world.perform()
        #expect(world.finals.map(\.attempt) == [1, 1])
    }

    /// Goal: an entry that cannot be written is never dropped. Method: an envelope that fits, and no more once it
    /// carries a reference to its content.
    @Test("An envelope that became too large for one record goes to posthorn.dead with the reason")
    func buriesTooLargeEnvelope() throws {
        var world = DeliveryWorld()
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        try world.accept(["b@one.example"], envelopeID: String(repeating: "x", count: QueueEntry.sizeMax - 120))
        world.deliverRecords()
        #expect(world.deadCount == 1)
        let dead = world.partitions.filter { $0.key.topic == .dead }.flatMap(\.value)
        #expect(dead.count == 1)
        let reason = dead.first?.header("posthorn-dead-reason").map { String(buffer: $0) }
        #expect(reason?.contains("split its recipients") == true)
        let envelope = try dead.first?.header(QueueEntry.headerName).map { try QueueEntry(decoding: $0).envelope }
        #expect(envelope?.recipients.map(\.mailbox.description) == ["b@one.example"])
        #expect(world.progress[TopicPartition(.accepted, 0)] == Progress(watermark: Offset(1)))
        #expect(world.core.jobs.isEmpty)
    }

    @Test("A record counts as queued until the step that moves it is durable")
    func countsUntilDurable() throws {
        var world = DeliveryWorld()
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        world.holdsSteps = true
        try world.accept(["b@one.example"])
        world.deliverRecords()
        let partition = TopicPartition(.accepted, 0)
        #expect(world.core.partitions[partition]?.window.progress.isDone(Offset(0)) == true)
        #expect(world.core.partitions[partition]?.durable.isDone(Offset(0)) == false)
        #expect(world.queued(.deferred(delay: 60)) == 0)
        world.performHeldStep()
        #expect(world.core.partitions[partition]?.durable.isDone(Offset(0)) == true)
        #expect(world.queued(.deferred(delay: 60)) == 1)
    }

    @Test("Nothing begins while draining, and what is under way is written")
    func drains() throws {
        var world = DeliveryWorld()
        world.holdsTransactions = true
        try world.accept(["a@one.example"], id: 1)
        world.deliverRecords()
        #expect(world.sent.count == 1)
        world.core.drain()
        try world.accept(["b@one.example"], id: 2)
        world.deliverRecords()
        #expect(world.sent.count == 1)
        #expect(!world.core.isQuiet)
        world.answerNext()
        world.perform()
        #expect(world.core.isQuiet)
        #expect(world.finals.map(\.recipient) == ["a@one.example"])
    }
}
