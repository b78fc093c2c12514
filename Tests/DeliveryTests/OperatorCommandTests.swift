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
