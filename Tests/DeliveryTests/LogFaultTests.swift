import ClusterLog
import Mail
import NIOCore
import NodeSupport
import Records
import SMTP
import Testing

@testable import Delivery

@Suite("DeliveryCore: when the log is in trouble")
struct LogFaultTests {
    private let partition = TopicPartition(.accepted, 0)

    @Test("Content of deferred mail that cannot be written stops new attempts until it is")
    func stopsWhenContentFails() throws {
        var world = DeliveryWorld()
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        world.contentFailuresLeft = 20
        try world.accept(["a@one.example"], id: 1)
        world.deliverRecords()
        try world.accept(["b@one.example"], id: 2)
        world.run(for: 5_000)
        #expect(world.contentFailuresLeft > 0 && world.outcomes.isEmpty)
        #expect(world.sent.isEmpty && world.core.jobs.count == 1, "The second was not begun.")
        world.run(for: 10_000)
        #expect(world.contentFailuresLeft == 0)
        #expect(world.outcomes.map(\.kind) == [.deferred, .deferred])
        #expect(world.queued(.content) == 2)
    }

    /// Goal: delivery goes on after an outage that cost it its partitions. Method: a step fails, before or after all that it is
    /// about is lost; the log takes no empty step, as one that does not know what became of the step before.
    @Test("A step that fails as its partitions are lost does not stop what comes after", arguments: [true, false])
    func goesOnAfterLoss(failsBefore: Bool) throws {
        var world = DeliveryWorld()
        world.refusesEmptySteps = true
        world.holdsSteps = true
        world.stepFailuresLeft = 1
        try world.accept(["a@one.example"], id: 1)
        world.deliverRecords()
        let all = Array(world.core.partitions.keys)
        if failsBefore { world.performHeldStep() }
        world.core.revoked(all)
        world.perform()
        if !failsBefore { world.performHeldStep() }
        #expect(world.stepFailuresLeft == 0 && world.finals.isEmpty)
        world.run(for: 2_000)
        world.assign()
        world.cursors = [:]
        world.paused = []
        world.holdsSteps = false
        try world.accept(["a@two.example"], id: 2)
        world.run(for: 2_000)
        #expect(Set(world.finals.map(\.recipient)) == ["a@one.example", "a@two.example"])
    }

    /// A log that was cut comes as lost and assigned again, from its end on.
    @Test(
        "A partition that is lost and comes back behind its old progress starts from there, in whatever stage its mail is"
    )
    func startsFromCut() throws {
        var world = DeliveryWorld { $0.windowCountMax = 3 }
        world.holdsTransactions = true
        for id in 0..<5 { try world.accept(["a@d\(id).example"], id: UInt64(id)) }
        world.deliverRecords()
        world.core.revoked([self.partition])
        world.core.assigned([Assignment(partition: self.partition, progress: Progress(watermark: Offset(1)))])
        world.cursors[self.partition] = 1
        world.paused = []
        while !world.sent.isEmpty { world.answerNext() }
        world.holdsTransactions = false
        world.run(for: 2_000)
        #expect(Set(world.finals.map(\.recipient)) == Set((1..<5).map { "a@d\($0).example" }))
        #expect(world.finals.count == 4)
        #expect(world.progress[self.partition] == Progress(watermark: Offset(5)))
    }
}

/// What a node does whose clock is wrong and not corrected, as while the brokers' time is not known: it is early or
/// late, and nothing worse.
@Suite("DeliveryCore: clocks that differ")
struct ClockSkewTests {
    private static let hour: Int64 = 3_600_000

    @Test("An hour ahead: tiers up to an hour are due at once; an hour behind: an hour late", arguments: [-1, 0, 1])
    func shiftsRetries(_ hours: Int64) throws {
        var world = DeliveryWorld()
        world.skew = hours * Self.hour
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        try world.accept(["a@one.example"])
        world.deliverRecords()
        // An hour ahead, what was deferred is due before the others were read.
        #expect(world.outcomes.map(\.kind) == Array(repeating: .deferred, count: hours > 0 ? 3 : 1))
        world.remote = { _, _ in .delivered(RemoteReply(code: 250), isDSNPassedOn: false) }
        let due = 60_000 - world.skew
        if due > 2_000 {
            world.run(for: due - 2_000, tick: 1_000)
            #expect(world.finals.isEmpty)
            world.run(for: 4_000, tick: 1_000)
        } else {
            world.run(for: 1_000)
        }
        #expect(world.finals.map(\.kind) == [.delivered])
    }

    /// Goal: whatever two nodes think of the time, each recipient gets one final outcome, nothing traps and nothing is
    /// lost. Method: a node ahead and a node behind take over from each other every ten minutes; destinations refuse
    /// for now, are down, and come back.
    @Test("Nodes hours apart take turns: every recipient has one final outcome", arguments: UInt64(0)..<6)
    func takesTurns(seed: UInt64) throws {
        var state = seed
        func next(_ bound: UInt64) -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return (state >> 33) % bound
        }
        var world = DeliveryWorld(partitionCount: 2)
        var down: Set<UInt64> = []
        for turn in 0..<24 {
            world.skew = Int64(next(5)) * Self.hour - 2 * Self.hour
            down = Set((0..<4).filter { _ in next(3) == 0 })
            let refusing = down
            world.remote = { transaction, _ in
                refusing.contains(transaction.id % 4)
                    ? .failed(DeliveryWorld.tempfail) : .delivered(RemoteReply(code: 250), isDSNPassedOn: false)
            }
            world.refusesConnections = next(4) == 0 ? ["mx.d0.example"] : []
            for number in 0..<5 {
                let id = UInt64(turn * 5 + number)
                try world.accept(["a\(id)@d\(next(4)).example"], id: id)
            }
            world.run(for: 600_000, tick: 5_000)
            world.crash()
        }
        world.skew = 0
        world.remote = { _, _ in .delivered(RemoteReply(code: 250), isDSNPassedOn: false) }
        world.refusesConnections = []
        world.run(for: 12 * Self.hour, tick: 20_000)
        #expect(world.finals.count == 120)
        #expect(Set(world.finals.map(\.id)).count == 120)
        #expect(world.finals.allSatisfy { $0.kind == .delivered })
        #expect(world.deadCount == 0)
    }

    @Test("The time of day jumps back by a year: work goes on")
    func jumpsBack() throws {
        var world = DeliveryWorld()
        world.run(for: 200)
        world.stepFailuresLeft = 1
        try world.accept(["a@one.example"], id: 1)
        world.deliverRecords()
        world.skew = -365 * 24 * Self.hour
        try world.accept(["b@one.example"], id: 2)
        world.run(for: 5_000)
        #expect(world.finals.count == 2)
    }
}
