import ClusterLog
import NIOCore
import Records
import SMTP
import Testing

@testable import Delivery

@Suite("Trimming: what nobody reads again is given up, and nothing else")
struct TrimmingTests {
    private static let accepted = TopicPartition(.accepted, 0)
    private static let minute: Int64 = 60_000

    private func world(
        partitionCount: Int = 1,
        grace: Int64 = 600_000,
        recordCountMin: Int64 = 1,
        adjust: (inout TrimSchedule.Configuration) -> Void = { _ in }
    ) -> DeliveryWorld {
        DeliveryWorld(partitionCount: partitionCount) { configuration in
            var trimming = TrimSchedule.Configuration(grace: grace)
            trimming.recordCountMin = recordCountMin
            adjust(&trimming)
            configuration.trimming = trimming
        }
    }

    private func accept(_ count: UInt64, _ world: inout DeliveryWorld, content: String = "x") throws {
        for id in 1...count { try world.accept(["b@one.example"], id: id, content: content) }
    }

    @Test("A partition is trimmed to where its durable watermark was one grace ago, and not before")
    func waitsForGrace() throws {
        var world = self.world()
        try self.accept(5, &world)
        world.run(for: 5 * Self.minute)
        #expect(world.progress[Self.accepted]?.watermark == Offset(5))
        try self.accept(5, &world)
        world.run(for: 4 * Self.minute)
        #expect(world.trims.isEmpty, "Nothing is ten minutes old.")
        world.run(for: 3 * Self.minute)
        #expect(world.trims.map(\.offsets) == [[Self.accepted: Offset(5)]])
        world.run(for: 5 * Self.minute)
        #expect(world.trims.map(\.offsets) == [[Self.accepted: Offset(5)], [Self.accepted: Offset(10)]])
        world.run(for: 60 * Self.minute)
        #expect(world.trims.count == 2, "There is nothing more to gain.")
        #expect(world.trimReports.map(\.offsetCount) == [5, 5])
    }

    @Test("Not more often than once an interval, and only for a gain that is worth it: records or octets")
    func batches() throws {
        var world = self.world(recordCountMin: 100) { $0.octetsMin = 20_000 }
        // 9 records a minute: 100 take twelve minutes.
        for _ in 0..<30 {
            try self.accept(9, &world)
            world.run(for: Self.minute)
        }
        #expect(world.trims.count == 1)
        let gains = world.trimReports.map(\.offsetCount)
        #expect(gains.allSatisfy { $0 >= 100 })
        for _ in 0..<30 {
            try self.accept(9, &world, content: String(repeating: "x", count: 3_000))
            world.run(for: Self.minute)
        }
        #expect(world.trims.count > 15, "27 kB a minute are worth it.")
        let times = world.trims.map(\.time)
        #expect(zip(times, times.dropFirst()).allSatisfy { $1 - $0 >= Self.minute })
    }

    @Test("A record that is not done keeps all behind it")
    func keepsWhatIsOpen() throws {
        var world = self.world()
        world.holdsTransactions = true
        try self.accept(11, &world)
        world.deliverRecords()
        let stuck = world.sent.removeFirst()
        for _ in 0..<100 where world.finals.count < 10 {
            while !world.sent.isEmpty { world.answerNext() }
            world.run(for: 200)
        }
        #expect(world.finals.count == 10)
        world.run(for: 30 * Self.minute)
        #expect(world.progress[Self.accepted]?.watermark == Offset(0))
        #expect(world.trims.isEmpty)
        world.sent.append(stuck)
        world.answerNext()
        world.run(for: 15 * Self.minute)
        #expect(world.trims.last?.offsets == [Self.accepted: Offset(11)])
    }

    @Test("What is finished and not yet durable is not trimmed")
    func waitsForSteps() throws {
        var world = self.world()
        world.holdsSteps = true
        try self.accept(5, &world)
        world.run(for: 30 * Self.minute)
        #expect(world.finals.isEmpty && world.heldStep != nil)
        #expect(world.trims.isEmpty)
        world.holdsSteps = false
        world.performHeldStep()
        world.run(for: 12 * Self.minute)
        #expect(world.trims.last?.offsets == [Self.accepted: Offset(5)])
    }

    @Test("Tiers are trimmed like accepted; held, content and outcomes never")
    func choosesTopics() throws {
        var world = self.world()
        world.remote = { _, _ in .failed(DeliveryWorld.tempfail) }
        try self.accept(5, &world)
        world.run(for: 3 * Self.minute)
        world.remote = { _, _ in .delivered(RemoteReply(code: 250), isDSNPassedOn: false) }
        world.run(for: 60 * Self.minute)
        #expect(world.finals.count == 5)
        let topics = Set(world.trims.flatMap { $0.offsets.keys.map(\.topic) })
        #expect(topics == [.accepted, .deferred(delay: 60), .deferred(delay: 300)])
    }

    @Test("An owner that takes over trims what the one before left, though it does not know where the log begins")
    func takesOver() throws {
        var world = self.world(recordCountMin: 1_000)
        try self.accept(5, &world)
        world.run(for: 2 * Self.minute)
        world.crash()
        world.run(for: 12 * Self.minute)
        #expect(world.trims.map(\.offsets) == [[Self.accepted: Offset(5)]])
        #expect(world.trimReports.map(\.offsetCount) == [0], "What went is not known.")
        world.core.revoked([Self.accepted])
        world.run(for: 30 * Self.minute)
        #expect(world.trims.count == 1)
    }

    @Test("A log that refuses is told of once, asked again an hour later, and mail goes on")
    func goesOnWithoutTheRight() throws {
        var world = self.world()
        world.trimFailure = RecordLogError(.configuration, isRetriable: true, reason: "not authorised")
        try self.accept(5, &world)
        world.run(for: 65 * Self.minute, tick: 1_000)
        #expect(world.trims.count == 1)
        world.run(for: 60 * Self.minute, tick: 1_000)
        #expect(world.trims.count == 2)
        #expect(world.trimReports.map { $0.failure != nil } == [true, false])
        #expect(world.finals.count == 5)
        world.trimFailure = nil
        world.run(for: 60 * Self.minute, tick: 1_000)
        #expect(world.trims.count == 3 && world.trimReports.last?.offsetCount == 5)
        // The next failure is news again, and one for now is tried again soon.
        world.trimFailure = RecordLogError(.unavailable, isRetriable: true)
        try self.accept(5, &world)
        world.run(for: 15 * Self.minute, tick: 1_000)
        #expect(world.trims.count >= 6)
        #expect(world.trimReports.dropFirst(3).map { $0.failure != nil }.prefix(2) == [true, false])
    }

    /// Goal: no crash leaves a partition that begins above what its next owner starts from: that would be a loss, or an
    /// alarm of one. Method: random failures, crashes and steps that are not written, with a grace of seconds.
    @Test("Whenever a node dies, its successor begins at or above the log's start", arguments: UInt64(1)...5)
    func neverTrimsTooMuch(seed: UInt64) throws {
        var random = SplitMix64(seed: seed)
        var world = self.world(partitionCount: 2, grace: 2_000)
        world.remote = { transaction, _ in
            transaction.id % 3 == 0
                ? .failed(DeliveryWorld.tempfail) : .delivered(RemoteReply(code: 250), isDSNPassedOn: false)
        }
        var accepted = 0
        for round in 0..<60 {
            for _ in 0..<Int.random(in: 0...5, using: &random) {
                accepted += 1
                try world.accept(["b@d\(accepted % 7).example"], id: UInt64(accepted))
            }
            world.stepFailuresLeft = Int.random(in: 0...3, using: &random)
            world.run(for: Int64.random(in: 200...20_000, using: &random))
            for (partition, start) in world.starts {
                let watermark = world.progress[partition]?.watermark ?? Offset(0)
                #expect(start <= watermark, "\(partition) in round \(round)")
            }
            if Bool.random(using: &random) { world.crash() }
        }
        world.stepFailuresLeft = 0
        world.remote = { _, _ in .delivered(RemoteReply(code: 250), isDSNPassedOn: false) }
        world.run(for: 2 * 3_600_000, tick: 1_000)
        #expect(world.finals.count == accepted)
        #expect(world.starts[Self.accepted] ?? Offset(0) > Offset(0), "Something was trimmed.")
    }
}
