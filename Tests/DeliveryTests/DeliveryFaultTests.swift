import ClusterLog
import Mail
import NIOCore
import NodeSupport
import Records
import SMTP
import Testing

@testable import Delivery

@Suite("DeliveryCore: nodes that die, steps that hang, content that is gone")
struct DeliveryFaultTests {
    private let accepted = TopicPartition(.accepted, 0)

    /// Goal: what a node left incomplete is worked on by the next, however much it is. Method: a window that was full
    /// when a step was written, and a crash.
    @Test("A window that was full at a crash is worked on after it")
    func goesOnWithFullWindow() throws {
        var world = DeliveryWorld {
            $0.windowCountMax = 10
            $0.windowShareDivisor = 1
        }
        world.holdsRouting = true
        for id in 0..<30 { try world.accept(["a@d\(id).example"], id: UInt64(id)) }
        world.deliverRecords()
        #expect(world.core.partitions[self.accepted]?.window.incompleteCount == 10)
        // Something else makes a step that says so.
        world.core.write([], of: self.accepted)
        world.core.flush(now: world.now)
        world.perform()
        #expect(world.progress[self.accepted]?.incomplete.count == 10)
        world.crash()
        world.holdsRouting = false
        world.run(for: 5_000)
        #expect(world.finals.count == 30)
        #expect(world.core.jobs.isEmpty)
    }

    /// Goal: mail that waits for its time or for an operator does not keep other mail from being delivered. Method: more
    /// of it than the budget for what is held in memory.
    @Test("Held mail and mail that is not due take nothing of the budget of what is")
    func chargesOnlyWhatIsDue() throws {
        var world = DeliveryWorld { $0.heldOctetsMax = 2_000 }
        let held = try world.accept(["a@held.example"], id: 1)
        let record = try held.record(
            topic: .held,
            key: "mx.held.example",
            content: ByteBuffer(repeating: 120, count: 9_000)
        )
        world.append(record)
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        for id in 2..<40 { try world.accept(["a@one.example"], id: UInt64(id)) }
        for _ in 0..<40 { world.deliverRecords() }
        #expect(world.core.heldOctets == 0)
        world.remote = { _, _ in .delivered(RemoteReply(code: 250), isDSNPassedOn: false) }
        try world.accept(["b@two.example"], id: 100)
        world.deliverRecords()
        #expect(world.finals.map(\.recipient) == ["b@two.example"])
        world.run(for: 61_000)
        #expect(world.finals.count == 40, "Nor does what is due wait for room that never comes.")
    }

    @Test("Content that is gone: bounced, so that the sender is told, and what is known goes to posthorn.dead")
    func concludesWithoutContent() throws {
        var world = DeliveryWorld()
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        try world.accept(["a@one.example", "b@one.example"])
        world.deliverRecords()
        world.partitions[TopicPartition(.content, 0)]?[0].value = ByteBuffer(string: "other")
        world.run(for: 61_000)
        #expect(world.deadCount == 1 && world.queued(.dead) == 1)
        #expect(world.finals.map(\.kind) == [.bounced, .bounced])
        #expect(world.finals.allSatisfy { $0.status == "5.3.0" })
        let last = try #require(world.outcomeRecords.last)
        #expect(last.headers.contains { $0.name == QueueEntry.headerName }, "What the notification needs is there.")
        #expect(world.core.jobs.isEmpty && world.core.heldOctets == 0)
    }

    /// Goal: an outcome that was decided is written even when the notification has nothing to return (G2).
    @Test("Content that is gone when mail expires leaves the outcome as it was decided")
    func keepsDecisions() throws {
        var retry = NodeConfiguration.Retry()
        retry.lifetime = .seconds(90)
        var world = DeliveryWorld(retry: retry)
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        try world.accept(["a@one.example"])
        world.deliverRecords()
        world.partitions[TopicPartition(.content, 0)]?[0].value = ByteBuffer(string: "other")
        world.routingFailures["one.example"] = .notResolved
        world.run(for: 120_000)
        #expect(world.finals.map(\.kind) == [.expired])
        #expect(world.core.jobs.isEmpty)
    }

    /// Goal: a flush means all that waits. Method: a record that is in memory when it is given, and then cannot be tried.
    @Test("Mail that was being worked on at a flush and is parked comes again at once, and once only")
    func flushesWhatIsInMemory() throws {
        var world = DeliveryWorld()
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        try world.accept(["a@one.example"], id: 1)
        world.deliverRecords()
        world.holdsRouting = true
        world.run(for: 65_000)
        let job = try #require(world.core.jobs.keys.first)
        #expect(world.give(.flush, .init(all: true), id: "c1") == 1)
        world.core.park(job, wait: 600_000, outageSince: world.now - 3_600_000, now: world.now)
        world.core.flush(now: world.now)
        world.perform()
        #expect(world.queued(.deferredNow) == 1)
        world.deliverRecords()
        let again = try #require(world.core.jobs.keys.first)
        world.core.park(again, wait: 600_000, outageSince: world.now - 3_600_000, now: world.now)
        world.core.flush(now: world.now)
        world.perform()
        #expect(world.queued(.deferredNow) == 1 && world.core.jobs.isEmpty)
        #expect(world.parkedDelays.last.map { $0 > 0 } == true)
    }

    @Test("Content that cannot be read is waited for; an hour after the message's life it ends as expired")
    func waitsForContent() throws {
        var retry = NodeConfiguration.Retry()
        retry.lifetime = .seconds(600)
        var world = DeliveryWorld(retry: retry)
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        try world.accept(["a@one.example"], id: 1)
        try world.accept(["b@two.example"], id: 2)
        world.deliverRecords()
        world.remote = { _, _ in .delivered(RemoteReply(code: 250), isDSNPassedOn: false) }
        world.isContentUnavailable = true
        world.run(for: 300_000)
        #expect(world.finals.isEmpty && world.core.jobs.count == 2)
        world.isContentUnavailable = false
        world.run(for: 10_000)
        #expect(world.finals.map(\.kind) == [.delivered, .delivered])
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        try world.accept(["c@one.example"], id: 3)
        world.deliverRecords()
        world.isContentUnavailable = true
        world.run(for: 3_900_000)
        #expect(world.finals.count == 2)
        world.run(for: 400_000)
        #expect(world.finals.map(\.kind) == [.delivered, .delivered, .expired])
        #expect(world.deadCount == 1 && world.core.jobs.isEmpty && world.core.heldOctets == 0)
    }

    @Test("A step that hangs for a second keeps new attempts from beginning; its end lets them")
    func stopsBehindLateStep() throws {
        var world = DeliveryWorld()
        world.holdsSteps = true
        try world.accept(["a@one.example"], id: 1)
        world.deliverRecords()
        #expect(world.arrived.count == 1)
        world.run(for: 1_400)
        try world.accept(["b@one.example"], id: 2)
        world.deliverRecords()
        #expect(world.arrived.count == 1)
        world.holdsSteps = false
        world.performHeldStep()
        #expect(world.arrived.count == 2)
        #expect(world.finals.count == 2)
    }

    @Test("What waits for a step is bounded: no new attempts above it")
    func boundsWaitingOutputs() throws {
        var world = DeliveryWorld {
            $0.stepOutputCountMax = 20
            $0.connectionCountMax = 10
        }
        world.holdsSteps = true
        for id in 0..<200 { try world.accept(["a\(id)@d\(id % 10).example"], id: UInt64(id)) }
        world.deliverRecords()
        #expect(world.arrived.count >= 20 && world.arrived.count < 60, "\(world.arrived.count)")
        world.holdsSteps = false
        world.performHeldStep()
        world.run(for: 60_000)
        #expect(world.finals.count == 200)
    }

    @Test("The log begins later than what is being tried: its end is no error")
    func survivesTruncation() throws {
        var world = DeliveryWorld { $0.windowCountMax = 2 }
        world.holdsTransactions = true
        for id in 0..<6 { try world.accept(["a@d\(id).example"], id: UInt64(id)) }
        world.deliverRecords()
        #expect(world.sent.count == 2)
        world.core.truncated(self.accepted, start: Offset(4))
        world.perform()
        world.holdsTransactions = false
        while !world.sent.isEmpty { world.answerNext() }
        world.run(for: 1_000)
        #expect(Set(world.finals.map(\.recipient)) == ["a@d4.example", "a@d5.example"])
        #expect(world.core.jobs.isEmpty && world.core.heldOctets == 0)
    }

    @Test("A site that never answered is forgotten an hour after the last of its mail")
    func forgetsDeadSites() throws {
        var retry = NodeConfiguration.Retry()
        retry.lifetime = .seconds(600)
        var world = DeliveryWorld(retry: retry)
        for id in 0..<20 {
            world.refusesConnections.insert("mx.d\(id).example")
            try world.accept(["a@d\(id).example"], id: UInt64(id))
        }
        world.run(for: 1_200_000, tick: 5_000)
        #expect(world.finals.count == 20)
        #expect(world.core.sites.count == 20)
        world.run(for: 5 * 3_600_000, tick: 60_000)
        #expect(world.core.sites.isEmpty)
    }

    @Test("LMTP: what some recipients' 250 said is not sent again when the others end with the connection")
    func keepsRepliesOfLostSession() throws {
        var world = DeliveryWorld()
        try world.accept(["first@one.example"], id: 1)
        world.deliverRecords()
        world.remote = { _, recipient in
            recipient.mailbox.localPart == "a"
                ? .delivered(RemoteReply(code: 250), isDSNPassedOn: false) : .failed(DeliveryWorld.lost)
        }
        try world.accept(["a@one.example", "b@one.example"], id: 2)
        world.deliverRecords()
        world.run(for: 400)
        #expect(world.arrived.filter { $0.key.hasSuffix("/a@one.example") }.values.reduce(0, +) == 1)
        #expect(world.outcomes.map(\.kind) == [.delivered, .delivered, .deferred])
    }

    // MARK: Recipients

    @Test("A host that takes ten recipients at a time gets the others in further transactions, without a retry")
    func splitsByRecipientLimit() throws {
        var world = DeliveryWorld()
        world.recipientCountMax = 10
        try world.accept((0..<35).map { "b\($0)@one.example" })
        world.run(for: 2_000)
        #expect(world.finals.count == 35)
        #expect(world.finals.allSatisfy { $0.kind == .delivered && $0.attempt == 1 })
        #expect(world.arrived.count == 35 && world.arrived.values.allSatisfy { $0 == 1 })
        #expect(world.queued(.content) == 1)
    }

    @Test("452 4.5.3 after some recipients: the others follow at once, and it is no attempt")
    func followsWithRefusedRecipients() throws {
        var world = DeliveryWorld()
        var tooMany = DeliveryWorld.tempfail
        tooMany.status = EnhancedStatusCode(4, 5, 3)
        world.remote = { transaction, recipient in
            let isAmongFirst = transaction.recipients.prefix(4).contains { $0.index == recipient.index }
            return isAmongFirst ? .delivered(RemoteReply(code: 250), isDSNPassedOn: false) : .failed(tooMany)
        }
        try world.accept((0..<10).map { "b\($0)@one.example" })
        world.run(for: 2_000)
        #expect(world.finals.count == 10)
        #expect(world.outcomes.allSatisfy { $0.kind == .delivered && $0.attempt == 1 })
    }

    @Test("452 4.5.3 for every recipient is a failure like any other")
    func defersWhenNoneIsTaken() throws {
        var world = DeliveryWorld()
        var tooMany = DeliveryWorld.tempfail
        tooMany.status = EnhancedStatusCode(4, 5, 3)
        world.remote = { _, _ in .failed(tooMany) }
        try world.accept(["a@one.example", "b@one.example"])
        world.run(for: 2_000)
        #expect(world.outcomes.map(\.kind) == [.deferred, .deferred])
    }

    // MARK: Delays

    @Test("The sender is told of a delay when the domain cannot be looked up, and when mail is parked; once")
    func notifiesDelays() throws {
        var retry = NodeConfiguration.Retry()
        retry.delayNotificationAfter = .seconds(3_600)
        var world = DeliveryWorld(retry: retry)
        world.routingFailures["lost.example"] = .notResolved
        world.refusesConnections = ["mx.down.example"]
        try world.accept(["a@lost.example"], id: 1, notify: [.delay, .failure])
        for id in 2..<6 { try world.accept(["b@down.example"], id: UInt64(id), notify: [.delay, .failure]) }
        world.run(for: 6 * 3_600_000, tick: 5_000)
        let told = world.outcomeRecords.filter { $0.headers.contains { $0.name == QueueEntry.headerName } }
        #expect(told.count == 5)
        let outcomes = try told.map { try DeliveryWorld.decode($0.value) }
        #expect(outcomes.allSatisfy { $0.kind == .deferred && $0.time - $0.acceptedAt >= 3_600_000 })
        #expect(Set(outcomes.map(\.messageID)).count == 5)
    }
}

@Suite("DeliveryCore: operator commands and owners that change")
struct OperatorCommandOwnershipTests {
    private let accepted = TopicPartition(.accepted, 0)
    private let tier = TopicPartition(.deferred(delay: 60), 0)

    private func command(
        _ kind: AdminAPI.Command,
        _ mark: OperatorCommand.Mark,
        _ predicate: AdminAPI.QueuePredicate = .init(all: true)
    ) -> OperatorCommand {
        OperatorCommand(id: "c", kind: kind, predicate: predicate, marks: [mark])
    }

    @Test("What a command writes of a partition goes with the partition's progress, so that only its owner writes it")
    func carriesProgress() throws {
        var world = DeliveryWorld()
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        try world.accept(["a@one.example"])
        world.deliverRecords()
        world.holdsSteps = true
        let mark = OperatorCommand.Mark(topic: self.tier.topic.name, partition: 0, end: 1, scanned: 0)
        _ = world.core.begin(self.command(.flush, mark), now: world.now)
        world.perform()
        #expect(world.heldStep?.progress[self.tier] != nil)
        world.performHeldStep()
        let records = world.partitions[self.tier] ?? []
        _ = world.core.scanned("c", self.tier, records, from: Offset(0), upTo: Offset(1), now: world.now)
        world.perform()
        #expect(world.heldStep?.outputs.isEmpty == false)
        #expect(world.heldStep?.progress[self.tier] != nil)
    }

    @Test("A scan that stands ahead of a mark leaves no gap, and one that is behind does not take it back")
    func scansInOrder() throws {
        var world = DeliveryWorld()
        let mark = OperatorCommand.Mark(topic: self.tier.topic.name, partition: 0, end: 3_000, scanned: 0)
        _ = world.core.begin(self.command(.flush, mark), now: world.now)
        func scanned() -> Int64? { world.core.commands.first?.mark(self.tier)?.scanned }
        for (from, end, expected) in [(0, 500, 500), (500, 1_000, 1_000), (0, 500, 1_000), (2_000, 2_500, 1_000)]
            as [(Int64, Int64, Int64)]
        {
            _ = world.core.scanned("c", self.tier, [], from: Offset(from), upTo: Offset(end), now: world.now)
            #expect(scanned() == expected)
        }
        _ = world.core.scanned("c", self.tier, [], from: Offset(1_000), upTo: Offset(3_000), now: world.now)
        #expect(scanned() ?? 3_000 == 3_000)
    }

    @Test("A command writes nothing of a partition that went to another node while its marks were made")
    func leavesOthersAlone() throws {
        var world = DeliveryWorld()
        world.holdsSteps = true
        world.core.revoked([self.tier])
        let mark = OperatorCommand.Mark(topic: self.tier.topic.name, partition: 0, end: 1, scanned: 0)
        _ = world.core.begin(self.command(.flush, mark), now: world.now)
        world.perform()
        #expect(world.heldStep == nil && world.core.commands.isEmpty)
    }

    /// Goal: what an owner was working on when it wrote its mark is not taken for dealt with by the next. Method: adopt a
    /// mark whose scan began above records that are new here.
    @Test("A mark that is adopted keeps what its last owner was working on")
    func keepsExcludedOfOthers() throws {
        var world = DeliveryWorld()
        for id in 0..<8 { try world.accept(["a@d\(id).example"], id: UInt64(id)) }
        let mark = OperatorCommand.Mark(
            topic: self.accepted.topic.name,
            partition: 0,
            end: 8,
            scanned: 8,
            excluded: [2, 3, 4, 5, 6, 7]
        )
        _ = world.core.adopt(self.command(.remove, mark, .init(sender: "s@sender.example")), now: world.now)
        world.run(for: 1_000)
        let kinds = Dictionary(grouping: world.finals, by: \.kind).mapValues(\.count)
        #expect(kinds == [.removed: 6], "Two had been dealt with, by the mark; the others are dealt with here.")
        #expect(world.core.jobs.isEmpty)
    }

    @Test("A command that was restored is not over before its partition is assigned")
    func waitsForAssignment() throws {
        var world = DeliveryWorld()
        world.core.revoked([self.tier])
        let mark = OperatorCommand.Mark(topic: self.tier.topic.name, partition: 0, end: 5, scanned: 0)
        world.core.restored(self.command(.remove, mark))
        world.core.tick(now: world.now)
        #expect(world.core.commands.count == 1)
        world.core.assigned([Assignment(partition: self.tier, progress: Progress(watermark: Offset(0)))])
        world.core.tick(now: world.now)
        #expect(world.core.commands.count == 1)
    }

    @Test("A command that found nothing in held mail is over although older mail is held there")
    func endsWithoutMatch() throws {
        var world = DeliveryWorld()
        let entry = try world.accept(["a@one.example"])
        world.append(try entry.record(topic: .held, key: "mx.one.example", content: ByteBuffer(string: "x")))
        world.deliverRecords()
        let held = TopicPartition(.held, 0)
        let mark = OperatorCommand.Mark(topic: held.topic.name, partition: 0, end: 1, scanned: 0)
        _ = world.core.begin(self.command(.remove, mark, .init(domain: "other.example")), now: world.now)
        _ = world.core.scanned(
            "c",
            held,
            world.partitions[held] ?? [],
            from: Offset(0),
            upTo: Offset(1),
            now: world.now
        )
        world.run(for: 400)
        #expect(world.core.commands.isEmpty)
        #expect(world.control.values.isEmpty, "It is forgotten on posthorn.control, too.")
    }

    /// Goal: an outcome is never in the log before its record is done. Method: a hold is given while a transaction is
    /// under way that delivers one recipient; the content's append is not answered.
    @Test("A hold given during an attempt writes nothing of it before what is held has its content")
    func writesOutcomesWithProgress() throws {
        var world = DeliveryWorld()
        world.holdsTransactions = true
        try world.accept(["a@one.example", "b@one.example"])
        world.deliverRecords()
        let mark = OperatorCommand.Mark(
            topic: self.accepted.topic.name,
            partition: 0,
            end: 1,
            scanned: 1,
            excluded: [0]
        )
        _ = world.core.begin(self.command(.hold, mark, .init(recipient: "b@one.example")), now: world.now)
        world.perform()
        world.holdsAppends = true
        world.remote = { _, recipient in
            recipient.mailbox.localPart == "a"
                ? .delivered(RemoteReply(code: 250), isDSNPassedOn: false) : .failed(DeliveryWorld.tempfail)
        }
        world.answerNext()
        world.perform()
        world.run(for: 1_000)
        #expect(world.outcomes.isEmpty)
        world.performHeldAppends()
        #expect(world.finals.map(\.recipient) == ["a@one.example"])
        #expect(world.queued(.held) == 1)
        #expect(world.progress[self.accepted] == Progress(watermark: Offset(1)))
    }
}
