import ClusterLog
import NodeSupport
import Records
import SMTP
import Testing

@testable import Delivery

/// Mail of names that are spread over buckets.
@Suite("DeliveryCore: buckets")
struct SpreadMailTests {
    private let partitionCount = 8

    /// The site of one.example is spread over eight buckets, its domain over four.
    private func world() -> DeliveryWorld {
        DeliveryWorld(partitionCount: self.partitionCount) {
            $0.keys = KeySpreading.Configuration(partitionCount: 8)
            $0.keys.bucketCounts = ["mx.one.example": 8, "one.example": 4]
        }
    }

    /// Mail that comes in over some seconds: buckets take turns.
    private func accept(_ range: Range<Int>, _ recipients: [String], _ world: inout DeliveryWorld) throws {
        for id in range {
            try world.accept(recipients, id: UInt64(id))
            world.run(for: 7, tick: 7)
        }
    }

    private func keys(_ world: DeliveryWorld, _ topic: Topic) -> [String] {
        world.partitions.filter { $0.key.topic == topic }.values.flatMap { $0.map(\.key) }
    }

    @Test("What waits for a large site is spread; a message stays in its bucket")
    func spreadsWaitingMail() throws {
        var world = self.world()
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        try self.accept(0..<200, ["a@one.example"], &world)
        world.run(for: 20_000)
        let first = self.keys(world, .deferred(delay: 60))
        #expect(first.count == 200)
        #expect(first.allSatisfy { SpreadKey($0).name == "mx.one.example" })
        #expect(Set(first).count == 8)
        world.run(for: 90_000)
        #expect(self.keys(world, .deferred(delay: 300)).sorted() == first.sorted())
        #expect(Set(world.outcomes.map(\.site)) == ["mx.one.example"], "Outcomes name the site.")
    }

    /// Goal: nobody has to agree on buckets. Method: the nodes that see a message's attempts disagree.
    @Test("All outcomes of a recipient are in the partition that the message was accepted into")
    func keepsOutcomesTogether() throws {
        var world = self.world()
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        for id in 0..<40 { try world.accept(["a@one.example"], id: UInt64(id), bucket: id % 5 == 0 ? nil : id % 4) }
        world.run(for: 70_000)
        world.crash()
        world.remote = { _, _ in .delivered(RemoteReply(code: 250), isDSNPassedOn: false) }
        world.run(for: 400_000)
        #expect(world.finals.count == 40)
        var keys: [String: Set<String>] = [:]
        for (outcome, record) in zip(world.outcomes, world.outcomeRecords) {
            keys[outcome.messageID, default: []].insert(record.key)
        }
        #expect(keys.count == 40 && world.outcomes.count >= 80)
        #expect(keys.values.allSatisfy { $0.count == 1 })
        #expect(
            Set(keys.values.flatMap { $0 }) == [
                "one.example", "one.example#0", "one.example#1", "one.example#2", "one.example#3",
            ]
        )
    }

    /// Goal: whoever reads a tier's partition reads one partition of `content` forward (ADR 0016).
    @Test("Content lies in the partition of what refers to it, and stays there as its record waits again")
    func keepsContentBeside() throws {
        var world = self.world()
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        try self.accept(0..<60, ["a@one.example"], &world)
        world.run(for: 70_000)
        for delay in [Int64(60), 300] {
            let waiting = world.partitions.filter { $0.key.topic == .deferred(delay: delay) }
            #expect(waiting.values.reduce(0) { $0 + $1.count } == 60)
            for (partition, records) in waiting {
                for record in records {
                    let content = try #require(try QueueEntry(record).content)
                    #expect(content.position.partition == TopicPartition(.content, partition.partition))
                }
            }
        }
        #expect(Set(self.keys(world, .content)).count == 8)
    }

    @Test("A message for several domains is fanned out into their buckets")
    func fansOutIntoBuckets() throws {
        var world = self.world()
        world.holdsTransactions = true
        try self.accept(0..<100, ["a@one.example", "b@two.example"], &world)
        world.run(for: 2_000)
        let keys = self.keys(world, .accepted).filter { $0 != "one.example" }
        #expect(keys.filter { $0 == "two.example" }.count == 100)
        #expect(Set(keys.map { SpreadKey($0).name }) == ["one.example", "two.example"])
        #expect(Set(keys.compactMap { SpreadKey($0).bucket }) == [0, 1, 2, 3])
    }

    @Test("Commands by site find mail in every bucket", arguments: [AdminAPI.Command.remove, .hold, .flush])
    func commandsFindBuckets(kind: AdminAPI.Command) throws {
        var world = self.world()
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        try self.accept(0..<100, ["a@one.example"], &world)
        for id in 100..<110 { try world.accept(["a@two.example"], id: UInt64(id)) }
        world.run(for: 20_000)
        world.remote = { _, _ in .delivered(RemoteReply(code: 250), isDSNPassedOn: false) }
        let attempts = world.outcomes.count
        #expect(world.give(kind, .init(site: "mx.one.example"), id: "c1") == 100)
        world.run(for: 5_000)
        let decided = world.outcomes.suffix(from: attempts)
        #expect(decided.allSatisfy { $0.site == "mx.one.example" })
        switch kind {
        case .remove: #expect(decided.map(\.kind) == Array(repeating: .removed, count: 100))
        case .flush: #expect(decided.map(\.kind) == Array(repeating: .delivered, count: 100))
        case .hold, .release:
            #expect(Set(self.keys(world, .held)).count == 8)
            #expect(world.give(.release, .init(site: "mx.one.example"), id: "c2") == 100)
            world.run(for: 5_000)
            #expect(world.finals.count == 100)
        }
        world.run(for: 120_000)
        #expect(world.finals.count == 110)
        #expect(world.finals.filter { $0.site == "mx.two.example" }.count == 10)
    }

    @Test("Mail that was parked in buckets is woken in all of them")
    func wakesBuckets() throws {
        var world = self.world()
        world.refusesConnections = ["mx.one.example"]
        try self.accept(0..<300, ["a@one.example"], &world)
        world.run(for: 90 * 60_000, tick: 5_000)
        #expect(Set(self.keys(world, .deferred(delay: 3_600))).count == 8)
        let parkedBefore = world.parkedDelays.count
        world.refusesConnections = []
        world.run(for: Site.backoffMax + 60_000, tick: 1_000)
        #expect(world.finals.filter { $0.kind == .delivered }.count >= 299, "All but the one that was tried.")
        #expect(world.parkedDelays.count == parkedBefore)
    }
}

extension DeliveryWorld {
    /// Gives a command as the engine does: marks at the ends, then scans of what has not been worked on.
    mutating func give(_ kind: AdminAPI.Command, _ predicate: AdminAPI.QueuePredicate, id: String) -> Int {
        var marks: [OperatorCommand.Mark] = []
        for (id, partition) in self.core.partitions {
            let end = Int64(self.partitions[id]?.count ?? 0)
            marks.append(
                OperatorCommand.Mark(
                    topic: id.topic.name,
                    partition: id.partition,
                    end: end,
                    scanned: min(partition.window.end.rawValue, end),
                    excluded: partition.window.incompleteOffsets.map(\.rawValue)
                )
            )
        }
        var command = OperatorCommand(id: id, kind: kind, predicate: predicate, marks: marks)
        command.marks = marks.filter { command.concerns(Topic($0.topic)) }
        var matched = self.core.begin(command, now: self.now)
        self.perform()
        for mark in command.marks where mark.scanned < mark.end {
            let records = Array((self.partitions[mark.place] ?? []).dropFirst(Int(mark.scanned)))
            matched += self.core.scanned(
                command.id,
                mark.place,
                records,
                from: Offset(mark.scanned),
                upTo: Offset(mark.end),
                now: self.now
            )
            self.perform()
        }
        return matched
    }
}
