import ClusterLog
import Mail
import NIOCore
import NodeSupport
import Records
import SMTP
import Testing

@testable import Delivery

@Suite("DeliveryCore: operator commands")
struct OperatorCommandTests {
    private func give(
        _ kind: AdminAPI.Command,
        _ predicate: AdminAPI.QueuePredicate,
        to world: inout DeliveryWorld
    ) -> Int {
        world.give(kind, predicate, id: "c\(world.core.commands.count)")
    }

    private func deferredWorld(_ count: Int) throws -> DeliveryWorld {
        var world = DeliveryWorld()
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        for id in 0..<count { try world.accept(["a\(id)@one.example"], id: UInt64(id)) }
        world.deliverRecords()
        world.deliverRecords()
        world.remote = { _, _ in .delivered(RemoteReply(code: 250), isDSNPassedOn: false) }
        return world
    }

    @Test("flush tries deferred mail now, once")
    func flushes() throws {
        var world = try self.deferredWorld(5)
        #expect(self.give(.flush, .init(all: true), to: &world) == 5)
        world.run(for: 1_000)
        #expect(world.finals.count == 5)
        world.run(for: 120_000, tick: 1_000)
        #expect(world.finals.count == 5, "What fell due later had been moved.")
        #expect(world.core.commands.isEmpty, "A command is forgotten when all it is about was passed.")
    }

    @Test("remove concludes matching mail without an attempt and leaves the rest")
    func removes() throws {
        var world = try self.deferredWorld(4)
        #expect(self.give(.remove, .init(recipient: "a2@one.example"), to: &world) == 1)
        world.run(for: 120_000, tick: 1_000)
        #expect(world.finals.filter { $0.kind == .removed }.map(\.recipient) == ["a2@one.example"])
        #expect(world.finals.filter { $0.kind == .delivered }.count == 3)
        #expect(world.arrived.keys.allSatisfy { !$0.hasSuffix("a2@one.example") })
    }

    @Test("hold keeps mail until release, across a restart")
    func holdsAndReleases() throws {
        var world = try self.deferredWorld(3)
        #expect(self.give(.hold, .init(domain: "one.example"), to: &world) == 3)
        let commands = world.core.commands
        world.run(for: 600_000, tick: 5_000)
        #expect(world.finals.isEmpty)
        #expect(world.queued(.held) == 3)
        world.crash()
        for command in commands { world.core.restored(command) }
        world.run(for: 600_000, tick: 5_000)
        #expect(world.finals.isEmpty)
        #expect(self.give(.release, .init(all: true), to: &world) == 3)
        world.run(for: 2_000)
        #expect(world.finals.map(\.kind) == [.delivered, .delivered, .delivered])
    }

    /// Goal: what is being tried when a flush passes it is not taken for moved after a crash. Method: flush while the
    /// transactions are under way, then forget everything but the log and the command.
    @Test("A flush does not lose what was being tried when the node died")
    func flushKeepsActive() throws {
        var world = try self.deferredWorld(5)
        world.holdsTransactions = true
        world.run(for: 61_000)
        #expect(world.sent.count == 5)
        _ = self.give(.flush, .init(all: true), to: &world)
        let commands = world.core.commands
        world.crash()
        for command in commands { world.core.restored(command) }
        world.holdsTransactions = false
        world.run(for: 5_000)
        #expect(world.finals.count == 5)
        #expect(world.core.jobs.isEmpty)
    }

    @Test("What a flush moves counts where it was until the step is durable")
    func viewsFollowSteps() throws {
        var world = try self.deferredWorld(5)
        world.holdsSteps = true
        #expect(self.give(.flush, .init(all: true), to: &world) == 5)
        let tier = TopicPartition(.deferred(delay: 60), 0)
        let record = try #require(world.partitions[tier]?.first)
        let entry = try QueueEntry(record)
        func isMoved(by commands: [OperatorCommand]) -> Bool {
            DeliveryCore.isSuperseded(record.position, entry, key: record.key, by: commands)
        }
        #expect(isMoved(by: world.core.commands))
        #expect(!isMoved(by: world.core.durableCommands))
        while world.heldStep != nil { world.performHeldStep() }
        #expect(isMoved(by: world.core.durableCommands))
        #expect(world.queued(.deferredNow) == 5)
    }

    /// Goal: a command is about mail that was there when it was given, in whatever shape it goes on. Method: mail for two
    /// domains is fanned out after the command was begun and before its scan.
    @Test("What is fanned out before a scan reaches it is dealt with", arguments: [AdminAPI.Command.remove, .hold])
    func concernsFannedOut(_ kind: AdminAPI.Command) throws {
        var world = DeliveryWorld()
        try world.accept(["a@one.example", "b@two.example"])
        let mark = OperatorCommand.Mark(topic: Topic.accepted.name, partition: 0, end: 1, scanned: 0)
        let command = OperatorCommand(id: "c", kind: kind, predicate: .init(domain: "two.example"), marks: [mark])
        #expect(world.core.begin(command, now: world.now) == 0)
        world.deliverRecords()
        world.run(for: 1_000)
        #expect(world.arrived.keys.allSatisfy { $0.hasSuffix("a@one.example") } && world.arrived.count == 1)
        #expect(world.outcomes.first { $0.recipient == "b@two.example" }?.kind == (kind == .hold ? .held : .removed))
        #expect(world.queued(.held) == (kind == .hold ? 1 : 0))
    }

    @Test("A command about a site lasts until fresh mail that was there has shown its site")
    func concernsSiteOfFreshMail() throws {
        var world = DeliveryWorld()
        try world.accept(["a@one.example"], id: 1)
        try world.accept(["a@two.example"], id: 2)
        #expect(self.give(.hold, .init(site: world.site(of: "one.example").id), to: &world) == 0)
        world.core.tick(now: world.now)
        world.perform()
        world.deliverRecords()
        world.run(for: 1_000)
        #expect(world.finals.map(\.recipient) == ["a@two.example"])
        #expect(world.queued(.held) == 1)
        #expect(world.core.commands.isEmpty)
    }

    @Test("A command is about mail whose content is being appended, and gives the content back that nobody needs")
    func concernsAppended() throws {
        var world = DeliveryWorld { $0.fanOutCopySizeMax = 1 }
        world.holdsAppends = true
        try world.accept(["a@one.example", "b@two.example"], id: 1)
        try world.accept(["a@one.example", "b@two.example"], id: 2)
        world.deliverRecords()
        #expect(world.heldAppends.count == 2)
        _ = self.give(.hold, .init(recipient: "b@two.example"), to: &world)
        _ = self.give(.remove, .init(message: MessageID(high: 7, low: 2).description), to: &world)
        world.performHeldAppends()
        world.run(for: 1_000)
        #expect(world.queued(.held) == 2, "The first command that is about it counts.")
        #expect(world.finals.map(\.kind) == [.removed, .delivered])
        #expect(world.released.isEmpty, "What is held refers to it.")

        world.holdsAppends = true
        try world.accept(["a@one.example", "b@two.example"], id: 3)
        world.deliverRecords()
        _ = self.give(.remove, .init(message: MessageID(high: 7, low: 3).description), to: &world)
        world.performHeldAppends()
        world.run(for: 1_000)
        #expect(world.finals.suffix(2).map(\.kind) == [.removed, .removed])
        #expect(world.released.count == 1)

        world.holdsAppends = true
        try world.accept(["a@one.example", "b@four.example"], id: 4)
        world.deliverRecords()
        _ = self.give(.remove, .init(domain: "four.example"), to: &world)
        world.performHeldAppends()
        world.run(for: 1_000)
        #expect(world.finals.suffix(2).map(\.kind) == [.removed, .delivered])
        #expect(world.released.count == 2, "What is left alone owns it.")
    }

    /// Goal: a scan writes no step that is too large for a transaction. Method: no step ends, and the scan is given all.
    @Test("A scan takes what fits into a step, and the rest later")
    func boundsScans() throws {
        var world = DeliveryWorld { $0.stepOctetsMax = 4_000 }
        world.holdsSteps = true
        for id in 0..<20 {
            try world.accept(["a@one.example"], id: UInt64(id), content: String(repeating: "x", count: 1_000))
        }
        let matched = self.give(.hold, .init(all: true), to: &world)
        #expect((1...4).contains(matched))
        let mark = try #require(world.core.commands.first?.marks.first { $0.topic == Topic.accepted.name })
        #expect(mark.scanned == Int64(matched))
        #expect(!world.core.mayBegin && world.core.isCrowded)
    }

    @Test("hold takes mail that is in its site's queue, and one of several recipients at a time")
    func holdsActive() throws {
        var world = DeliveryWorld()
        world.holdsTransactions = true
        for id in 0..<30 { try world.accept(["a@one.example", "b@one.example"], id: UInt64(id)) }
        world.deliverRecords()
        let waiting = 30 - world.sent.count
        #expect(self.give(.hold, .init(recipient: "b@one.example"), to: &world) == waiting)
        world.holdsTransactions = false
        while !world.sent.isEmpty {
            world.answerNext()
            world.perform()
        }
        world.run(for: 10_000)
        #expect(world.finals.filter { $0.recipient == "a@one.example" }.count == 30)
        #expect(world.finals.filter { $0.recipient == "b@one.example" }.count == 30 - waiting)
        #expect(world.queued(.held) == waiting)
    }
}
