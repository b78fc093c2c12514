import ClusterLog
import NIOCore
import Records
import Testing

@testable import Delivery

@Suite("SiteShares")
struct SiteSharesTests {
    private static let site = "mx.example"
    private static let partition = Partitioner(partitionCount: 4).partition(for: site)
    private let wall: Int64 = 1_800_000_000_000

    private func make(_ node: String) -> SiteShares {
        SiteShares(configuration: SiteShares.Configuration(node: node, partitionCount: 4))
    }

    private func stored(_ record: Record, age: Int64 = 0) -> StoredRecord {
        StoredRecord(control: record, timestamp: self.wall - age)
    }

    /// Ticks, and reads back what it published. Returns that.
    @discardableResult
    private func tick(_ shares: inout SiteShares, at time: Int64, _ uses: [SiteShares.Use] = []) -> [Record] {
        shares.advance(to: time)
        let records = shares.tick(uses, now: self.wall)
        for record in records { shares.received(self.stored(record), now: self.wall) }
        return records
    }

    private func hear(_ shares: inout SiteShares, _ node: String, _ sequence: Int64, age: Int64 = 0) {
        let announcement = DeliveryAnnouncement(id: node, sequence: sequence, lease: 20_000)
        shares.received(self.stored(announcement.record, age: age), now: self.wall)
    }

    private func use(_ wanted: Int, held: Int = 0, limit: Int = 20) -> SiteShares.Use {
        SiteShares.Use(site: Self.site, partition: Self.partition, limit: limit, wanted: wanted, held: held)
    }

    private func standing(_ shares: SiteShares, limit: Int) -> SiteShares.Standing {
        shares.standing(of: Self.site, partition: Self.partition, limit: limit)
    }

    @Test("A node waits until it reads its own announcement back, and longer when there are others")
    func waitsToBeHeard() {
        var alone = self.make("a")
        #expect(self.standing(alone, limit: 20) == .waiting)
        self.tick(&alone, at: 0)
        #expect(self.standing(alone, limit: 20) == .serving(20))

        var joined = self.make("b")
        self.hear(&joined, "a", 1)
        self.tick(&joined, at: 0)
        #expect(self.standing(joined, limit: 20) == .waiting)
        self.tick(&joined, at: 2_000)
        #expect(self.standing(joined, limit: 20) == .serving(10))
    }

    @Test("The base share is the limit divided by the nodes; the owner has what is left, or all where that is nothing")
    func dividesTheLimit() {
        var shares = self.make("a")
        self.hear(&shares, "b", 1)
        self.hear(&shares, "c", 1)
        self.tick(&shares, at: 0)
        self.tick(&shares, at: 2_000)
        #expect(self.standing(shares, limit: 20) == .serving(6))
        #expect(self.standing(shares, limit: 3) == .serving(1))
        #expect(self.standing(shares, limit: 2) == .handingOver)
        shares.own(Self.partition)
        #expect(self.standing(shares, limit: 20) == .serving(8))
        #expect(self.standing(shares, limit: 2) == .serving(2))
        shares.disown(Self.partition)
        #expect(self.standing(shares, limit: 2) == .handingOver)
    }

    @Test("A node that is not heard for a lease uses nothing, before the others take its part")
    func fencesItself() {
        var shares = self.make("a")
        shares.advance(to: 1_000)
        let first = shares.tick([], now: self.wall)
        for record in first { shares.received(self.stored(record), now: self.wall) }
        var other = self.make("b")
        other.advance(to: 1_000)
        for record in first { other.received(self.stored(record), now: self.wall) }
        // What it publishes from now on is lost.
        for time in stride(from: Int64(2_000), through: 20_900, by: 100) {
            shares.advance(to: time)
            _ = shares.tick([], now: self.wall)
        }
        #expect(self.standing(shares, limit: 20) == .serving(20))
        shares.advance(to: 21_000)
        other.advance(to: 21_000)
        #expect(self.standing(shares, limit: 20) == .waiting)
        #expect(other.nodeCount == 2)
        other.advance(to: 26_000)
        #expect(other.nodeCount == 1)
    }

    @Test("Nodes are counted from when they are read, once for each announcement; old ones and withdrawn ones are gone")
    func countsNodes() {
        var shares = self.make("a")
        self.hear(&shares, "b", 5)
        self.hear(&shares, "dead", 9, age: 90_000)
        #expect(shares.nodeCount == 2)
        shares.advance(to: 24_000)
        self.hear(&shares, "b", 5)
        shares.advance(to: 25_000)
        #expect(shares.nodeCount == 1, "The same announcement does not count again.")
        self.hear(&shares, "b", 6)
        #expect(shares.nodeCount == 2)
        shares.received(self.stored(DeliveryAnnouncement.withdrawal(id: "b")), now: self.wall)
        #expect(shares.nodeCount == 1)
    }

    @Test("Announcements of nodes that died are withdrawn after ten minutes, by one node")
    func forgetsTheDead() {
        for isJanitor in [true, false] {
            var shares = self.make("a")
            self.hear(&shares, "dead", 9, age: 90_000)
            if isJanitor { shares.own(0) }
            #expect(!self.tick(&shares, at: 599_000).contains { $0.key == "delivery/dead" })
            let records = self.tick(&shares, at: 600_000)
            #expect(records.contains { $0.key == "delivery/dead" && $0.value.readableBytes == 0 } == isJanitor)
            #expect(!self.tick(&shares, at: 700_000).contains { $0.key == "delivery/dead" })
        }
    }

    @Test("Shares count from a record on, newest epoch first, for a lease; who is not named has nothing")
    func appliesShares() {
        var shares = self.make("a")
        self.hear(&shares, "b", 1)
        self.tick(&shares, at: 0)
        self.tick(&shares, at: 2_000)
        let sequence = shares.sent.last?.sequence ?? 0
        func record(_ epoch: Int64, _ node: String, _ share: Int, sequence: Int64) -> StoredRecord {
            let own = LimitShares.Share(node: node, share: share, sequence: sequence, lease: 10_000)
            let value = LimitShares(site: Self.site, epoch: epoch, limit: 20, lease: 20_000, shares: [own])
            return self.stored(value.record)
        }
        shares.received(record(7, "a", 3, sequence: 0), now: self.wall)
        #expect(self.standing(shares, limit: 20) == .serving(3))
        shares.received(record(6, "a", 9, sequence: 0), now: self.wall)
        #expect(self.standing(shares, limit: 20) == .serving(3), "An older epoch.")
        shares.received(record(8, "b", 9, sequence: 0), now: self.wall)
        #expect(self.standing(shares, limit: 20) == .serving(0))
        shares.received(record(9, "a", 17, sequence: sequence + 40), now: self.wall)
        #expect(self.standing(shares, limit: 20) == .serving(10), "Answers nothing that was asked.")
        shares.received(record(10, "a", 17, sequence: sequence), now: self.wall)
        #expect(self.standing(shares, limit: 20) == .serving(17))
        let askedAt = shares.sent.last?.at ?? 0
        for time in stride(from: Int64(2_100), through: askedAt + 10_000, by: 100) { self.tick(&shares, at: time) }
        #expect(self.standing(shares, limit: 20) == .serving(10), "More is counted from when it was asked for.")
    }

    @Test("Less than the base share is counted from when it is read")
    func countsReductionsFromReading() {
        var shares = self.make("a")
        for time in stride(from: Int64(0), through: 4_000, by: 100) {
            if time % 1_000 == 0 { self.hear(&shares, "b", time) }
            self.tick(&shares, at: time)
        }
        let own = LimitShares.Share(node: "a", share: 2, sequence: 0, lease: 0)
        let value = LimitShares(site: Self.site, epoch: 1, limit: 20, lease: 20_000, shares: [own])
        shares.received(self.stored(value.record), now: self.wall)
        for time in stride(from: Int64(4_100), through: 28_900, by: 100) {
            if time % 1_000 == 0 { self.hear(&shares, "b", time) }
            self.tick(&shares, at: time)
        }
        #expect(self.standing(shares, limit: 20) == .serving(2))
        shares.advance(to: 29_000)
        #expect(self.standing(shares, limit: 20) == .serving(10))
    }

    @Test("The owner gives what others do not need, and only once they said that they do without")
    func sharesOut() throws {
        var owner = self.make("o")
        owner.own(Self.partition)
        var sequence: Int64 = 0
        /// `b` wants twelve; `c` goes by the shares of `epoch`, and wants nothing.
        func say(_ epoch: Int64) {
            sequence += 1
            let wants = DeliveryAnnouncement.Site(site: Self.site, limit: 18, wanted: 12, held: 6, epoch: epoch)
            let does = DeliveryAnnouncement.Site(site: Self.site, limit: 18, wanted: 0, held: 0, epoch: epoch)
            for (id, site) in [("b", wants), ("c", does)] {
                let sites = id == "c" && epoch == 0 ? [] : [site]
                let announcement = DeliveryAnnouncement(id: id, sequence: sequence, lease: 20_000, sites: sites)
                owner.received(self.stored(announcement.record), now: self.wall)
            }
        }
        func published(_ records: [Record]) -> LimitShares? {
            records.lazy.compactMap { LimitShares(self.stored($0)) }.first
        }
        var first: LimitShares?
        for time in stride(from: Int64(0), through: 40_000, by: 200) where first == nil {
            if time % 1_000 == 0 { say(0) }
            first = published(self.tick(&owner, at: time))
            if first != nil { #expect(time >= 25_000, "What an owner before it gave has to be over.") }
        }
        let asked = try #require(first)
        func share(_ shares: LimitShares, _ node: String) -> Int? { shares.shares.first { $0.node == node }?.share }
        #expect(share(asked, "c") == 6, "It has not said what it needs.")
        #expect(share(asked, "b") == 12, "The owner itself needs nothing.")
        #expect(share(asked, "o") == 0)

        // With that, the owner wants some too: there is room only once c said that it does without.
        say(asked.epoch)
        let taken = try #require(published(self.tick(&owner, at: 60_000 - 20_000, [self.use(6, limit: 18)])))
        #expect(share(taken, "c") == 0)
        #expect(share(taken, "o") == 0, "c may still have six.")
        say(taken.epoch)
        let given = try #require(published(self.tick(&owner, at: 60_000 - 18_000, [self.use(6, limit: 18)])))
        #expect(share(given, "c") == 0 && share(given, "b") == 12 && share(given, "o") == 6)
        #expect(given.epoch > taken.epoch && taken.epoch > asked.epoch)
    }

    /// Goal: what the owner has within its base share is not given to the first that asks for more. Method: only what is
    /// notable is told, as the core does.
    @Test("The owner's own connections count from the first share on")
    func countsOwnConnections() throws {
        var owner = self.make("o")
        owner.own(Self.partition)
        let own = self.use(0, held: 3, limit: 6)
        var first: LimitShares?
        for time in stride(from: Int64(0), through: 40_000, by: 200) where first == nil {
            #expect(owner.isNotable(own) == (time > 26_000))
            if time % 1_000 == 0 {
                let asks = DeliveryAnnouncement.Site(site: Self.site, limit: 6, wanted: 6, held: 3, epoch: 0)
                let announcement = DeliveryAnnouncement(
                    id: "b",
                    sequence: time,
                    lease: 20_000,
                    sites: time < 26_000 ? [] : [asks]
                )
                owner.received(self.stored(announcement.record), now: self.wall)
            }
            first =
                self.tick(&owner, at: time, owner.isNotable(own) ? [own] : []).lazy
                .compactMap { LimitShares(self.stored($0)) }.first
        }
        let shares = try #require(first).shares
        #expect(shares.first { $0.node == "b" }?.share == 3, "The owner has the other three.")
    }

    @Test("Shares are withdrawn once nobody has wanted more than its base share for a lease, and nobody has more")
    func withdraws() throws {
        var owner = self.make("o")
        owner.own(Self.partition)
        var sequence: Int64 = 0
        var epoch: Int64 = 0
        var withdrawnAt: Int64?
        var sharesAfter: [Int] = []
        for time in stride(from: Int64(0), through: 80_000, by: 200) {
            if time % 1_000 == 0 {
                sequence += 1
                // It wants ten of twelve until 40 s, goes by what it reads, and is slow to be rid of it.
                let wanted = time < 40_000 ? 10 : 1
                let held = time < 70_000 ? 10 : 1
                let site = DeliveryAnnouncement.Site(
                    site: Self.site,
                    limit: 12,
                    wanted: wanted,
                    held: epoch == 0 ? 6 : held,
                    epoch: epoch
                )
                let announcement = DeliveryAnnouncement(id: "b", sequence: sequence, lease: 20_000, sites: [site])
                owner.received(self.stored(announcement.record), now: self.wall)
            }
            for record in self.tick(&owner, at: time) where record.key.hasPrefix(LimitShares.keyPrefix) {
                if let shares = LimitShares(self.stored(record)) {
                    epoch = shares.epoch
                    if time > 41_000 { sharesAfter.append(shares.shares.first { $0.node == "b" }?.share ?? 0) }
                } else {
                    withdrawnAt = time
                }
            }
        }
        #expect(epoch > 0)
        #expect(sharesAfter.allSatisfy { $0 == 6 } && !sharesAfter.isEmpty, "\(sharesAfter)")
        let at = try #require(withdrawnAt)
        #expect(at >= 70_000, "Not while it may have more than its base share.")
        #expect(owner.ledgers.isEmpty)
        #expect(self.standing(owner, limit: 12) == .serving(6))
    }

    @Test("What is published is bounded: sites in an announcement, records in a tick")
    func isBounded() {
        var shares = self.make("a")
        for number in 0..<4 { shares.own(Int32(number)) }
        for time in stride(from: Int64(0), through: 30_000, by: 1_000) {
            self.hear(&shares, "b", time)
            self.tick(&shares, at: time)
        }
        let uses = (0..<2_000)
            .map { number in
                let site = "mx\(number).example"
                return SiteShares.Use(
                    site: site,
                    partition: shares.partition(of: site),
                    limit: 20,
                    wanted: 20,
                    held: 10
                )
            }
        self.hear(&shares, "b", 31_000)
        let records = self.tick(&shares, at: 31_000, uses)
        #expect(records.filter { $0.key.hasPrefix(LimitShares.keyPrefix) }.count == 20)
        for time in stride(from: Int64(31_200), through: 45_000, by: 200) {
            if time % 1_000 == 0 { self.hear(&shares, "b", time) }
            self.tick(&shares, at: time, uses)
        }
        #expect(shares.ledgers.count == shares.configuration.siteCountMax)
        for number in 0..<4 { shares.disown(Int32(number)) }
        #expect(shares.ledgers.isEmpty)
        let announced = self.tick(&shares, at: 46_000, uses).compactMap { DeliveryAnnouncement(self.stored($0)) }
        #expect(announced.first?.sites.count == shares.configuration.siteCountMax)
    }

    @Test(
        "Parts are max-min fair",
        arguments: [
            (["a": 10, "b": 10, "c": 10], 20, ["a": 6, "b": 7, "c": 7]),
            (["a": 2, "b": 10, "c": 10], 20, ["a": 2, "b": 9, "c": 9]),
            (["a": 2, "b": 3], 20, ["a": 2, "b": 3]),
            (["a": 5, "b": 5], 0, ["a": 0, "b": 0]),
        ]
    )
    func isFair(wanted: [String: Int], total: Int, parts: [String: Int]) {
        #expect(SiteShares.maxMin(wanted, total: total) == parts)
    }

    @Test("What nobody wants goes to those that want more than their base share")
    func givesTheRest() {
        func targets(_ wanted: [String: Int]) -> [String: Int] {
            SiteShares.targets(wanted, limit: 20, base: 6, owner: "a")
        }
        #expect(targets(["a": 0, "b": 8, "c": 2]) == ["a": 0, "b": 18, "c": 2])
        #expect(targets(["a": 0, "b": 8, "c": 7]) == ["a": 0, "b": 11, "c": 9])
        #expect(targets(["a": 0, "b": 1, "c": 6]) == ["a": 8, "b": 6, "c": 6])
    }

    @Test("Garbage on the topic changes nothing", arguments: ["{}", "no JSON", #"{"id":"other"}"#])
    func ignoresGarbage(text: String) {
        var shares = self.make("a")
        self.hear(&shares, "b", 1)
        for key in ["delivery/x", "share/\(Self.site)", "delivery/a"] {
            shares.received(self.stored(Record(topic: .control, key: key, value: .init(string: text))), now: self.wall)
        }
        self.tick(&shares, at: 0)
        self.tick(&shares, at: 2_000)
        #expect(shares.nodeCount == 2)
        #expect(self.standing(shares, limit: 20) == .serving(10))
    }

    @Test(
        "Shares that nobody can have given out change nothing, and do not end the node",
        arguments: [
            (epoch: Int64.max, limit: 20, share: 1), (epoch: .min, limit: 20, share: 1),
            (epoch: 1 << 59, limit: .max, share: 1), (epoch: 1 << 59, limit: 20, share: .max),
            (epoch: 1 << 59, limit: 20, share: -1),
        ]
    )
    func ignoresImpossibleShares(_ said: (epoch: Int64, limit: Int, share: Int)) {
        var shares = self.make("a")
        shares.own(Self.partition)
        self.hear(&shares, "b", 1)
        let parts = ["a", "b", "b"]
            .map {
                LimitShares.Share(node: $0, share: said.share, sequence: 1, lease: 10_000)
            }
        let record = LimitShares(site: Self.site, epoch: said.epoch, limit: said.limit, lease: 10_000, shares: parts)
            .record
        shares.received(self.stored(record), now: self.wall)
        self.tick(&shares, at: 0)
        self.tick(&shares, at: 2_000)
        self.tick(&shares, at: 4_000, [self.use(1)])
        #expect(self.standing(shares, limit: 20) == .serving(10))
    }
}
