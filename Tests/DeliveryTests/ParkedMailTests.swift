import ClusterLog
import Mail
import NIOCore
import NodeSupport
import Records
import SMTP
import Testing

@testable import Delivery

@Suite("DeliveryCore: parked mail")
struct ParkedMailTests {
    private let zero = TopicPartition(.deferredNow, 0)

    /// A world with so many messages parked for a site that has been down for 90 minutes.
    private func outage(_ count: Int, adjust: (inout DeliveryCore.Configuration) -> Void = { _ in }) throws
        -> DeliveryWorld
    {
        var world = DeliveryWorld(adjust: adjust)
        world.refusesConnections = ["mx.down.example"]
        for id in 0..<count { try world.accept(["a\(id)@down.example"], id: UInt64(id)) }
        world.run(for: 90 * 60_000, tick: 5_000)
        #expect(world.finals.isEmpty)
        return world
    }

    /// Goal: parked mail need not wait for its tier. Method: a site that nobody writes to any more comes back in the
    /// middle of an hour's tier.
    @Test("A site that is back is found out within a backoff, and its mail leaves at once")
    func wakesWithoutFreshMail() throws {
        var world = try self.outage(500)
        let parkedBefore = world.parkedDelays.count
        world.refusesConnections = []
        world.run(for: Site.backoffMax + 30_000, tick: 1_000)
        #expect(world.finals.filter { $0.kind == .delivered }.count >= 499, "All but the one that was tried.")
        #expect(world.parkedDelays.count == parkedBefore, "Woken mail is not parked again.")
        #expect(world.queued(.deferredNow) <= 500, "Waking costs a record each.")
        world.run(for: 5 * 3_600_000, tick: 5_000)
        #expect(world.finals.count == 500)
        #expect(world.arrived.count == 500 && world.arrived.values.allSatisfy { $0 == 1 })
        #expect(world.core.commands.isEmpty)
        #expect(world.core.jobs.isEmpty)
    }

    @Test("A dead site is not asked while nothing is parked for it")
    func probesOnlyForMail() throws {
        var retry = NodeConfiguration.Retry()
        retry.lifetime = .seconds(3_600)
        var world = DeliveryWorld(retry: retry)
        world.refusesConnections = ["mx.down.example"]
        for id in 0..<5 { try world.accept(["a@down.example"], id: UInt64(id)) }
        world.run(for: 3 * 3_600_000, tick: 5_000)
        #expect(world.finals.map(\.kind) == Array(repeating: .expired, count: 5))
        let before = world.refusedCount
        world.run(for: 3_600_000, tick: 5_000)
        #expect(world.refusedCount == before)
    }

    @Test("While parked mail waits, at least half of the site goes to it")
    func sharesWithFreshMail() throws {
        var world = try self.outage(400)
        world.refusesConnections = []
        world.holdsTransactions = true
        world.run(for: Site.backoffMax, tick: 1_000)
        #expect(!world.sent.isEmpty, "The site is back, and slow.")
        for id in 1_000..<1_400 { try world.accept(["fresh@down.example"], id: UInt64(id)) }
        world.deliverRecords()
        var order: [Bool] = []
        while order.count < 200, let next = world.sent.first {
            order.append(next.transaction.recipients[0].mailbox.localPart != "fresh")
            world.answerNext()
            world.perform()
            world.run(for: 100, tick: 100)
        }
        let parked = order.suffix(150).filter { $0 }.count
        #expect(order.count == 200)
        #expect(parked >= 75, "\(parked) of 150")
        #expect(parked < 150, "Fresh mail has its part.")
    }

    /// Goal: waking keeps to the site's pace. Method: the site is back and answers nothing.
    @Test("No more is woken than the site takes")
    func paces() throws {
        var world = try self.outage(1_000)
        world.refusesConnections = []
        world.holdsTransactions = true
        world.run(for: Site.backoffMax + 30_000, tick: 1_000)
        let woken = world.queued(.deferredNow)
        #expect(woken > 0 && woken <= world.core.windowShare, "\(woken)")
        world.holdsTransactions = false
        while !world.sent.isEmpty {
            world.answerNext()
            world.perform()
        }
        world.run(for: 60_000, tick: 200)
        #expect(world.finals.count >= 999)
    }

    @Test("A node that dies while it wakes mail goes on, and moves nothing twice", arguments: [1, 3, 10, 40])
    func survivesCrash(steps: Int) throws {
        var world = try self.outage(300)
        world.refusesConnections = []
        world.holdsSteps = true
        var written = 0
        for _ in 0..<(Int(Site.backoffMax) / 1_000 + 200) where written < steps {
            world.run(for: 1_000, tick: 1_000)
            while written < steps, world.heldStep != nil {
                world.performHeldStep()
                written += 1
            }
        }
        world.crash()
        world.holdsSteps = false
        world.heldStep = nil
        world.run(for: 5 * 3_600_000, tick: 5_000)
        #expect(world.finals.count == 300)
        #expect(Set(world.finals.map(\.id)).count == 300)
        #expect(world.core.commands.isEmpty)
    }

    /// Goal: what is being parked as the site comes back does not wait for its tier. Method: the step that parks it is
    /// written after the site's wake looked for what is parked.
    @Test("Mail whose parking is written after the wake is looked for once more")
    func wakesStragglers() throws {
        var world = try self.outage(200)
        world.refusesConnections = []
        for id in 1_000..<1_000 + UInt64(Site.backoffMax) / 1_000 + 30 where world.wakeCount == 0 {
            world.run(for: 900, tick: 900)
            world.holdsSteps = true
            try world.accept(["late\(id)@down.example"], id: id)
            world.deliverRecords()
            world.run(for: 100, tick: 100)
            world.holdsSteps = false
            if world.wakeCount == 1 { #expect(world.heldStep?.outputs.contains { $0.topic != .outcomes } == true) }
            world.performHeldStep()
        }
        #expect(world.wakeCount == 1)
        let count = world.queued(.accepted)
        world.run(for: 5_000, tick: 500)
        #expect(world.finals.count < count, "What was parked last is not found by the wake.")
        world.run(for: 30_000, tick: 500)
        #expect(world.wakeCount == 2)
        #expect(world.finals.count == count)
        world.run(for: 300_000, tick: 1_000)
        #expect(world.wakeCount == 2, "Once, not again and again.")
    }

    /// Goal: a command that scans leaves room in the steps to what attempts come to. Method: expired mail makes outputs
    /// while the step before is not written.
    @Test("A scan has to wait while half a step of outputs waits")
    func isCrowded() throws {
        var world = DeliveryWorld { $0.stepOutputCountMax = 20 }
        world.remote = { _, _ in .failed(DeliveryWorld.unknownUser) }
        world.holdsSteps = true
        try world.accept(["first@one.example"], id: 0)
        world.deliverRecords()
        #expect(world.heldStep != nil && !world.core.isCrowded)
        for id in 1..<9 { try world.accept(["a@d\(id).example"], id: UInt64(id)) }
        world.deliverRecords()
        #expect(!world.core.isCrowded)
        for id in 9..<14 { try world.accept(["a@d\(id).example"], id: UInt64(id)) }
        world.deliverRecords()
        #expect(world.core.isCrowded)
        world.holdsSteps = false
        world.performHeldStep()
        world.run(for: 1_000)
        #expect(!world.core.isCrowded && world.finals.count == 14)
    }

    @Test("Mail of a slow site that was parked without an outage waits for what it must, not for hours")
    func parksShortlyWithoutOutage() throws {
        var world = DeliveryWorld()
        world.holdsTransactions = true
        for id in 0..<1_500 { try world.accept(["a@slow.example"], id: UInt64(id)) }
        world.run(for: 300_000, tick: 1_000)
        #expect(!world.parkedDelays.isEmpty)
        #expect(world.parkedDelays.allSatisfy { $0 <= 300_000 }, "\(Set(world.parkedDelays))")
    }
}

@Suite("SiteQueue")
struct SiteQueueTests {
    @Test("Parked and fresh mail take turns; alone, each goes on")
    func takesTurns() {
        var queue = SiteQueue()
        for id in 1...4 { queue.append(UInt64(id), wasParked: false) }
        for id in 11...12 { queue.append(UInt64(id), wasParked: true) }
        #expect(queue.count == 6 && queue.parkedCount == 2)
        #expect(queue.countAhead(wasParked: true) == 4)
        #expect(queue.countAhead(wasParked: false) == 6)
        #expect((0..<6).map { _ in queue.popNext() } == [11, 1, 12, 2, 3, 4])
        #expect(queue.popNext() == nil)
    }

    @Test("What is put back comes first of its kind, and what is removed does not come")
    func putsBack() {
        var queue = SiteQueue()
        queue.append(1, wasParked: false)
        queue.append(2, wasParked: true)
        queue.prepend(3, wasParked: true)
        queue.remove(2)
        #expect(queue.head(wasParked: true) == 3)
        #expect(queue.takeAll() == [3, 1])
        #expect(queue.isEmpty)
    }
}
