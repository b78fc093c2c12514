import ClusterLog
import Mail
import NIOCore
import Records
import Testing

@testable import Delivery

/// Limits of sites across several nodes (ADR 0010), by simulation.
@Suite("DeliveryCore: limits across nodes")
struct SharedLimitTests {
    /// Domains of a site, enough that each node reads the mail of some.
    private func domains(_ site: String) -> [String] { (0..<8).map { "d\($0).\(site)" } }

    private func expectAllFinal(_ world: ClusterWorld) {
        let missing = world.accepted.subtracting(world.finals.keys).count
        #expect(missing == 0, "of \(world.accepted.count)")
        #expect(world.finals.values.allSatisfy { $0 == 1 })
    }

    /// Runs until everything accepted has its final outcome, or for four hours.
    private func finish(_ world: inout ClusterWorld) throws {
        for _ in 0..<240 where world.finals.count < world.accepted.count { try world.run(for: 60_000, tick: 500) }
    }

    @Test("A site whose limit is smaller than the number of nodes is served by its owner alone", arguments: 1...4)
    func servesAtTheOwner(seed: UInt64) throws {
        var world = ClusterWorld(seed: seed, nodeCount: 3, limits: ["one.example": 1, "two.example": 2])
        try world.run(for: 40_000)
        for round in 0..<40 {
            for site in ["one.example", "two.example"] {
                try world.accept(self.domains(site)[round % 8])
            }
            try world.run(for: 500)
        }
        try self.finish(&world)
        self.expectAllFinal(world)
        #expect(world.peaks["one.example"] == 1)
        #expect(world.peaks["two.example"] == 2)
        #expect(world.handedOver["one.example"] ?? 0 > 0)
    }

    /// Goal: handing over moves a message once. Method: count what the zero-delay tier has; nothing fails, so nothing
    /// else goes there.
    @Test("What was handed over is not handed over again")
    func handsOverOnce() throws {
        var world = ClusterWorld(seed: 5, nodeCount: 4, limits: ["one.example": 1])
        try world.run(for: 40_000)
        for index in 0..<32 { try world.accept(self.domains("one.example")[index % 8]) }
        try self.finish(&world)
        self.expectAllFinal(world)
        let records = world.partitions.filter { $0.key.topic == .deferredNow }.values.flatMap { $0 }
        let messages = try records.map { try QueueEntry($0).envelope.messageID }
        #expect(!messages.isEmpty)
        #expect(Set(messages).count == messages.count)
        #expect(records.allSatisfy { $0.key == "one.example" })
        #expect(try records.allSatisfy { try QueueEntry($0).attemptCount == 0 && QueueEntry($0).parkedSince == nil })
        let contents = world.partitions.filter { $0.key.topic == .content }.values.flatMap { $0 }
        #expect(contents.count == messages.count)
    }

    @Test("A site that nobody wants more of than a base share costs no word between nodes")
    func costsNothing() throws {
        var world = ClusterWorld(seed: 6, nodeCount: 3, limits: ["six.example": 6])
        try world.run(for: 40_000)
        let before = world.publishedCount
        for round in 0..<60 {
            try world.accept(self.domains("six.example")[round % 8])
            try world.run(for: 2_000)
        }
        self.expectAllFinal(world)
        #expect(!world.control.contains { $0.key.hasPrefix(LimitShares.keyPrefix) })
        #expect(world.publishedCount - before <= 3 * (120_000 / 5_000 + 1), "Announcements, every five seconds.")
    }

    /// Goal: mail of one domain is read by one node, and it can have the whole limit. Method: no other mail.
    @Test("A node that alone wants a site gets all of its limit", arguments: [0.0, 0.2])
    func givesAllToOne(lossRate: Double) throws {
        var world = ClusterWorld(seed: 7, nodeCount: 3, limits: ["big.example": 20])
        world.lossRate = lossRate
        world.lagMax = 500
        try world.run(for: 60_000)
        var most = 0
        for _ in 0..<200 {
            for _ in 0..<10 { try world.accept("d1.big.example") }
            try world.run(for: 200, tick: 200)
            most = max(most, world.connectionCount("big.example"))
        }
        #expect(most == 20)
        #expect(world.peaks["big.example"] == 20)
        try self.finish(&world)
        self.expectAllFinal(world)
    }

    @Test("Shares follow the demand from one node to another, and the sum holds meanwhile", arguments: 1...2)
    func followsDemand(seed: UInt64) throws {
        var world = ClusterWorld(seed: seed, nodeCount: 3, limits: ["big.example": 12])
        world.lossRate = 0.1
        world.lagMax = 1_000
        world.transactionTime = 500...1_000
        try world.run(for: 60_000)
        for domain in self.domains("big.example").prefix(4) {
            var most = 0
            for _ in 0..<200 {
                for _ in 0..<4 { try world.accept(domain) }
                try world.run(for: 200, tick: 200)
                most = max(most, world.connectionCount("big.example"))
            }
            #expect(most == 12, "\(domain)")
        }
        #expect(world.peaks["big.example"] == 12)
        try self.finish(&world)
        self.expectAllFinal(world)
    }

    /// Goal: the sum holds whatever happens, but for the stated time after a change of members. Method: random demand at
    /// sites of several limits, nodes that die, stop and come, records that are lost and late; long enough in between
    /// for the sum to be asserted.
    @Test("The sum of connections keeps to the limit but for a while after nodes come and go", arguments: 1...2)
    func keepsTheLimit(seed: UInt64) throws {
        let limits = ["one.example": 1, "three.example": 3, "six.example": 6, "big.example": 20]
        var world = ClusterWorld(seed: seed, nodeCount: 3, limits: limits)
        world.lossRate = Double(seed % 4) * 0.1
        world.lagMax = Int64(seed % 3) * 1_000
        world.failureRate = 0.02
        world.transactionTime = 200...2_000
        try world.run(for: 20_000)
        for phase in 0..<4 {
            var rates: [String: Double] = [:]
            for (site, limit) in limits.sorted(by: { $0.key < $1.key }) {
                for domain in self.domains(site) {
                    rates[domain] = Double.random(in: 0...1, using: &world.random) * Double(limit) * 0.04
                }
            }
            let domains = rates.sorted { $0.key < $1.key }
            for _ in 0..<300 {
                for (domain, rate) in domains where Double.random(in: 0..<1, using: &world.random) < rate {
                    try world.accept(domain)
                }
                try world.run(for: 200, tick: 200)
            }
            let nodes = world.nodes.keys.sorted()
            switch phase {
            case 0: world.kill(nodes[Int(seed) % nodes.count])
            case 1: world.join()
            case 2: world.stop(nodes[0])
            default: break
            }
        }
        try self.finish(&world)
        self.expectAllFinal(world)
        for (site, limit) in limits {
            let peak = try #require(world.peaks[site])
            #expect(peak <= limit, "\(site): \(peak) connections")
        }
        #expect(world.peaks["one.example"] == 1)
    }
}

/// Handing over as one node sees it that owns no site.
@Suite("DeliveryCore: handing over")
struct HandOverTests {
    private func hear(_ count: Int, _ shares: inout SiteShares, now: Int64) {
        for number in 0..<count {
            let announcement = DeliveryAnnouncement(id: "n\(number)", sequence: 1, lease: 20_000)
            shares.received(StoredRecord(control: announcement.record, timestamp: now), now: now)
        }
    }

    /// Others come.
    private func hear(_ count: Int, in world: inout DeliveryWorld) {
        guard var shares = world.core.shares else { return }
        self.hear(count, &shares, now: world.now)
        world.core.shares = shares
        world.core.tick(now: world.now)
        world.perform()
    }

    /// A node among others that reads every partition and, as far as it knows, owns none: sites take 20 connections.
    private func world(others: Int) -> DeliveryWorld {
        var world = DeliveryWorld(partitionCount: 4)
        var shares = SiteShares(configuration: SiteShares.Configuration(node: "own", partitionCount: 4))
        self.hear(others, &shares, now: world.now)
        for record in shares.tick([], now: world.now) {
            shares.received(StoredRecord(control: record, timestamp: world.now), now: world.now)
        }
        shares.advance(to: 2_000)
        world.core.shares = shares
        return world
    }

    @Test("Fresh mail of another's site goes to the zero-delay tier, and from there to the site")
    func handsOverFreshMail() throws {
        var world = self.world(others: 20)
        try world.accept(["a@x.example"])
        world.deliverRecords()
        for _ in 0..<5 { world.deliverRecords() }
        #expect(world.handedOverCount == 1)
        #expect(world.queued(.deferredNow) == 1)
        #expect(world.queued(.content) == 1)
        #expect(world.finals.map(\.kind) == [.delivered])
        #expect(world.finals.map(\.attempt) == [1])
        #expect(world.openConnections.isEmpty, "One that is not ours to keep.")
    }

    @Test(
        "Mail of the zero-delay tier stays where it is read, unless it came under a bucket of its site's key",
        arguments: [
            ("mx.x.example", 0), ("mx.elsewhere.example", 0), ("mx.x.example#3", 1),
        ]
    )
    func staysInTheTier(key: String, count: Int) throws {
        var world = self.world(others: 20)
        let entry = try world.accept(["a@x.example"])
        for number in 0..<4 { world.partitions[TopicPartition(.accepted, Int32(number))] = [] }
        let content = ByteBuffer(string: "Subject: x\r\n\r\nhello\r\n")
        world.append(try entry.record(topic: .deferredNow, key: key, content: content))
        for _ in 0..<5 { world.deliverRecords() }
        #expect(world.handedOverCount == count)
        #expect(world.queued(.deferredNow) == 1 + count)
        #expect(world.finals.map(\.kind) == [.delivered])
    }

    @Test("When a site becomes another's, what waits for it is handed over and what is being sent ends")
    func handsOverWhatWaits() throws {
        var world = self.world(others: 0)
        world.holdsTransactions = true
        for id in 0..<10 { try world.accept(["a\(id)@x.example"], id: UInt64(id)) }
        world.deliverRecords()
        #expect(world.sent.count == 5)
        self.hear(20, in: &world)
        #expect(world.handedOverCount == 5)
        while !world.sent.isEmpty {
            world.answerNext()
            world.perform()
        }
        #expect(world.finals.count == 5)
        #expect(world.openConnections.isEmpty)
    }

    @Test("Idle connections above a share that shrinks are closed")
    func closesIdleConnections() throws {
        var world = self.world(others: 0)
        world.holdsTransactions = true
        for id in 0..<5 { try world.accept(["a\(id)@x.example"], id: UInt64(id)) }
        world.deliverRecords()
        for _ in 0..<3 {
            world.answerNext()
            world.perform()
        }
        #expect(world.openConnections.count == 5)
        self.hear(6, in: &world)
        #expect(world.openConnections.count == 2, "Twenty for seven nodes: two, and these are busy.")
        world.holdsTransactions = false
        while !world.sent.isEmpty {
            world.answerNext()
            world.perform()
        }
        #expect(world.openConnections.count == 2)
    }
}
