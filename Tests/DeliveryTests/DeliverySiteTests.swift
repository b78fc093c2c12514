import ClusterLog
import Mail
import NIOCore
import NodeSupport
import Records
import SMTP
import Testing

@testable import Delivery

@Suite("DeliveryCore: sites, parking and bounds")
struct DeliverySiteTests {
    @Test("When a site cannot be reached the oldest has had its attempt and the others are parked without one")
    func parksBehindOutage() throws {
        var world = DeliveryWorld()
        world.refusesConnections = ["mx.down.example"]
        for id in 0..<20 { try world.accept(["a\(id)@down.example"], id: UInt64(id)) }
        world.deliverRecords()
        #expect(world.outcomes.filter { $0.kind == .deferred }.count == 1)
        #expect(world.parkedDelays.count == 19)
        #expect(world.queued(.content) == 20)
        #expect(world.core.jobs.isEmpty)
    }

    /// Goal: parked mail moves seldom (DESIGN §5). Method: four hours of outage; count the records that a message costs.
    @Test("Four hours of outage write at most seven records a message, and content once")
    func parksInGrowingTiers() throws {
        var world = DeliveryWorld()
        world.refusesConnections = ["mx.down.example"]
        for id in 0..<50 { try world.accept(["a\(id)@down.example"], id: UInt64(id)) }
        world.deliverRecords()
        world.run(for: 4 * 3_600_000, tick: 5_000)
        let moves = world.partitions.filter { $0.key.topic.deferredDelay != nil }.reduce(0) { $0 + $1.value.count }
        #expect(moves <= 50 * 7, "seven records each in four hours")
        #expect(world.queued(.content) == 50)
        world.refusesConnections = []
        world.run(for: 5 * 3_600_000, tick: 5_000)
        #expect(world.finals.filter { $0.kind == .delivered }.count == 50)
    }

    @Test("A dead site does not delay another in the same partition (G4)")
    func isolatesSites() throws {
        var world = DeliveryWorld()
        world.holdsTransactions = true
        world.refusesConnections = ["mx.down.example"]
        for id in 0..<2_000 { try world.accept(["a@down.example"], id: UInt64(id)) }
        try world.accept(["b@up.example"], id: 9_999)
        for _ in 0..<10 { world.deliverRecords() }
        #expect(world.sent.contains { $0.transaction.recipients.first?.mailbox.domain.text == "up.example" })
    }

    /// Goal: a site that accepts connections and then says nothing holds no more than its share. Method: hold its
    /// transactions for ten seconds with a window's worth of mail before the other site's.
    @Test("A silent site holds at most its share of the window (G4)")
    func boundsSilentSites() throws {
        var world = DeliveryWorld()
        world.holdsTransactions = true
        for id in 0..<1_500 { try world.accept(["a@silent.example"], id: UInt64(id)) }
        try world.accept(["b@up.example"], id: 9_999)
        world.run(for: 10_000)
        #expect(world.sent.contains { $0.transaction.recipients.first?.mailbox.domain.text == "up.example" })
        #expect(!world.parkedDelays.isEmpty)
    }

    @Test("An attempt that keeps its partition's window from moving is ended, and all behind it goes on (G4)")
    func endsStuckHead() throws {
        var world = DeliveryWorld { $0.windowSpanMax = 40 }
        world.silentDomains = ["silent.example"]
        try world.accept(["a@silent.example"], id: 0)
        for id in 1...200 { try world.accept(["a@d\(id).example"], id: UInt64(id)) }
        world.run(for: 5_000)
        #expect(world.finals.count == 200)
        #expect(world.outcomes.filter { $0.kind == .deferred }.map(\.recipient.description) == ["a@silent.example"])
        // One that is in nobody's way is not ended.
        var quiet = DeliveryWorld { $0.windowSpanMax = 40 }
        quiet.silentDomains = ["silent.example"]
        try quiet.accept(["a@silent.example"], id: 0)
        for id in 1...19 { try quiet.accept(["a@d\(id).example"], id: UInt64(id)) }
        quiet.run(for: 5_000)
        #expect(quiet.outcomes.count == 19)
    }

    @Test("The window is bounded: reading pauses at its limit and goes on when there is room")
    func boundsWindow() throws {
        var world = DeliveryWorld { $0.windowCountMax = 10 }
        world.holdsTransactions = true
        for id in 0..<300 { try world.accept(["a@d\(id).example"], id: UInt64(id)) }
        world.deliverRecords()
        #expect(world.core.partitions[TopicPartition(.accepted, 0)]?.window.incompleteCount == 10)
        #expect(world.paused.contains(TopicPartition(.accepted, 0)))
        world.holdsTransactions = false
        while !world.sent.isEmpty {
            world.answerNext()
            world.perform()
        }
        world.run(for: 5_000)
        #expect(world.finals.count == 300)
        #expect(!world.paused.contains(TopicPartition(.accepted, 0)))
    }

    @Test("Connections are bounded, and a site without one gets its turn")
    func boundsConnections() throws {
        var world = DeliveryWorld { $0.connectionCountMax = 3 }
        for id in 0..<30 { try world.accept(["a@d\(id).example"], id: UInt64(id)) }
        world.deliverRecords()
        world.run(for: 20_000)
        #expect(world.finals.count == 30)
        #expect(world.openConnections.count <= 3)
    }

    /// Goal: a site is not forgotten while a job of its own is elsewhere. Method: the only connection is gone and the
    /// content of a deferred message is being read while the clock ticks.
    @Test("A site is kept while the content of its mail is being read")
    func keepsSiteWhileReading() throws {
        var world = DeliveryWorld()
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        try world.accept(["a@one.example"])
        world.deliverRecords()
        world.run(for: 55_000)
        #expect(world.core.connections.isEmpty)
        world.remote = { _, _ in .delivered(RemoteReply(code: 250), isDSNPassedOn: false) }
        world.holdsReads = true
        world.run(for: 10_000)
        #expect(world.core.jobs.count == 1)
        world.holdsReads = false
        world.performHeldReads()
        #expect(world.finals.map(\.kind) == [.delivered])
    }

    @Test("Idle connections are closed after their time")
    func closesIdle() throws {
        var world = DeliveryWorld()
        try world.accept(["a@one.example"])
        world.deliverRecords()
        #expect(world.openConnections.count == 1)
        world.run(for: 6_000)
        #expect(world.openConnections.isEmpty)
        #expect(world.core.connections.isEmpty)
    }

    /// Goal: under any mix of results, step failures and crashes every recipient reaches exactly one final outcome, and
    /// nothing is left in memory. Method: a random world per seed; a failure prints the seed, which replays it.
    @Test("Random worlds lose nothing and conclude everything once", arguments: UInt64(0)..<24)
    func losesNothing(seed: UInt64) throws {
        var random = SplitMix64(seed: seed)
        var retry = NodeConfiguration.Retry()
        retry.lifetime = .seconds(3_600)
        var world = DeliveryWorld(partitionCount: 2, retry: retry) { $0.windowCountMax = 16 }
        var expected: Set<String> = []
        for id in 0..<120 {
            let count = Int.random(in: 1...3, using: &random)
            let recipients = (0..<count).map { "r\(id)x\($0)@d\(Int.random(in: 0..<5, using: &random)).example" }
            let entry = try world.accept(recipients, id: UInt64(id))
            for index in recipients.indices { expected.insert("\(entry.envelope.messageID)/\(index)/final") }
        }
        // Decided per call by a generator of its own, since the closure cannot borrow this one.
        let remoteSeed = random.next()
        var calls: UInt64 = 0
        world.remote = { _, _ in
            calls &+= 1
            var chance = SplitMix64(seed: remoteSeed &+ calls)
            switch Int.random(in: 0..<10, using: &chance) {
            case 0..<3: return .failed(DeliveryWorld.tempfail)
            case 3: return .failed(DeliveryWorld.unknownUser)
            default: return .delivered(RemoteReply(code: 250), isDSNPassedOn: false)
            }
        }
        var deliveredBeforeStep = 0
        for _ in 0..<200 {
            switch Int.random(in: 0..<12, using: &random) {
            case 0: world.stepFailuresLeft = 2
            case 1: world.refusesConnections = ["mx.d\(Int.random(in: 0..<5, using: &random)).example"]
            case 2: world.refusesConnections = []
            case 3 where deliveredBeforeStep < 5:
                deliveredBeforeStep += 1
                world.crash()
            default: world.run(for: Int64.random(in: 100...30_000, using: &random), tick: 1_000)
            }
        }
        world.refusesConnections = []
        world.stepFailuresLeft = 0
        world.run(for: 4 * 3_600_000, tick: 5_000)
        #expect(world.finals.map(\.id).sorted() == expected.sorted(), "seed \(seed)")
        #expect(world.core.jobs.isEmpty)
        #expect(world.core.heldOctets == 0)
        #expect(world.deadCount == 0)
        for (id, progress) in world.progress {
            #expect(progress.watermark.rawValue == Int64(world.partitions[id]?.count ?? 0), "\(id)")
        }
    }
}

struct SplitMix64: RandomNumberGenerator {
    private var state: UInt64
    init(seed: UInt64) { self.state = seed }
    mutating func next() -> UInt64 {
        self.state &+= 0x9e37_79b9_7f4a_7c15
        var z = self.state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}
