import ClusterLog
import Mail
import NodeSupport
import Records
import Testing

@testable import MetricsRole

@Suite("OutcomeIndex: each event counts once, and memory is bounded")
struct OutcomeIndexTests {
    private static let now = acceptedAt + 1_000

    /// An index with partition 0, fed with outcomes at ascending offsets.
    private static func index(
        _ outcomes: [Outcome?],
        settings change: (inout MetricsSettings) -> Void = { _ in }
    ) -> OutcomeIndex {
        var settings = MetricsSettings(nodeID: "test")
        change(&settings)
        var index = OutcomeIndex(settings: settings)
        let generation = index.assigned(0, start: Offset(0))
        let records = outcomes.enumerated().map { IndexRecord($0.element, at: Int64($0.offset)) }
        index.feed(records, to: 0, generation: generation, now: Self.now)
        return index
    }

    private static func counts(_ index: OutcomeIndex, _ site: String = "mx.example.net") -> OutcomeCounts {
        index.partitions[0]?.sites[site]?.counts ?? OutcomeCounts()
    }

    @Test("A deferred recipient is live until its final outcome, and recent from then on")
    func followsRecipient() {
        let message = TestMessage(number: 1)
        let waiting = Self.index([message.outcome(.deferred)])
        #expect(waiting.sizes == PartitionIndex.Sizes(live: 1, recent: 0))
        let done = Self.index([message.outcome(.deferred), message.outcome(.delivered, attempt: 2, after: 9_000)])
        #expect(done.sizes == PartitionIndex.Sizes(live: 0, recent: 1))
        #expect(Self.counts(done)[.deferred] == 1)
        #expect(Self.counts(done)[.delivered] == 1)
    }

    /// Goal: ids made of recipient and `final`, or of attempt and kind, count once. Method: each event again, with
    /// others in between and at another offset.
    @Test("An event that is in the log twice counts once", arguments: Outcome.Kind.allCases)
    func countsOnce(kind: Outcome.Kind) {
        let message = TestMessage(number: 1)
        let other = TestMessage(number: 2)
        let index = Self.index([
            message.outcome(kind), other.outcome(.deferred), message.outcome(kind), message.outcome(kind),
        ])
        #expect(Self.counts(index)[kind] == (kind == .deferred ? 2 : 1))
        #expect(index.partitions[0]?.duplicateCount == 2)
        #expect(index.partitions[0]?.recordCount == 4)
    }

    @Test("A second final outcome of another kind does not count: the id is the same")
    func countsFirstFinal() {
        let message = TestMessage(number: 1)
        let index = Self.index([message.outcome(.delivered), message.outcome(.bounced)])
        #expect(Self.counts(index)[.delivered] == 1)
        #expect(Self.counts(index)[.bounced] == 0)
    }

    @Test("Later attempts are no duplicates; an earlier one again is")
    func tellsAttemptsApart() {
        let message = TestMessage(number: 1)
        let index = Self.index([1, 2, 3, 2, 1].map { message.outcome(.deferred, attempt: $0) })
        #expect(Self.counts(index)[.deferred] == 3)
        #expect(index.partitions[0]?.duplicateCount == 2)
    }

    @Test("Recipients of one message are each their own")
    func separatesRecipients() {
        let index = Self.index((0..<5).map { TestMessage(number: 1, recipientIndex: $0).outcome(.delivered) })
        #expect(Self.counts(index)[.delivered] == 5)
    }

    @Test("A record below what has been looked at, or for an earlier assignment, has no effect")
    func ignoresOldRecords() {
        var index = OutcomeIndex(settings: MetricsSettings(nodeID: "test"))
        let first = index.assigned(0, start: Offset(0))
        let record = IndexRecord(TestMessage(number: 1).outcome(.deferred), at: 7)
        index.feed([record, record], to: 0, generation: first, now: Self.now)
        #expect(index.partitions[0]?.recordCount == 1)
        let second = index.assigned(0, start: Offset(0))
        #expect(index.sizes == PartitionIndex.Sizes())
        let isAssigned = index.apply([record], to: 0, generation: first, now: Self.now)
        #expect(!isAssigned)
        index.rebuilt(0, generation: first)
        #expect(index.rebuilding == [0])
        index.feed([record], to: 0, generation: second, now: Self.now)
        #expect(index.sizes.live == 1)
    }

    @Test("What is no outcome is counted and skipped")
    func skipsGarbage() {
        var unnamed = TestMessage(number: 1).outcome(.delivered)
        unnamed.messageID = "not an id"
        let index = Self.index([nil, unnamed, TestMessage(number: 2).outcome(.delivered)])
        #expect(index.partitions[0]?.unreadableCount == 2)
        #expect(Self.counts(index).total == 1)
    }

    @Test("Numbers from outside do not trap", arguments: [Int64.min, -1, 0, .max])
    func survivesNumbers(number: Int64) {
        var outcome = TestMessage(number: 1).outcome(.deferred)
        outcome.time = number
        outcome.acceptedAt = ~number
        outcome.duration = number
        outcome.nextDueAt = number
        outcome.contentSize = Int(number)
        var final = outcome
        final.kind = .delivered
        var index = Self.index([outcome, final])
        #expect(Self.counts(index).total == 2)
        index.forget(now: number)
        index.forget(now: .max)
    }

    // MARK: Bounds

    @Test("Live recipients beyond the bound are counted, not indexed")
    func boundsLive() {
        let outcomes = (0..<50).map { TestMessage(number: $0).outcome(.deferred) }
        let index = Self.index(outcomes) { $0.liveCountMax = 20 }
        #expect(index.sizes.live == 20)
        #expect(index.partitions[0]?.notIndexedCount == 30)
        #expect(Self.counts(index)[.deferred] == 50)
    }

    @Test("Of recent recipients the newest are kept, whatever partition they are in")
    func boundsRecent() {
        var settings = MetricsSettings(nodeID: "test")
        settings.recentCountMax = 10
        var index = OutcomeIndex(settings: settings)
        for partition in [Int32(3), 1] {
            let generation = index.assigned(partition, start: Offset(0))
            for number in 0..<40 {
                // Partition 1 is read second and is as old as partition 3, one millisecond apart.
                let record = IndexRecord(
                    TestMessage(number: number * 2 + Int(partition) / 3).outcome(.delivered),
                    at: Int64(number),
                    loggedAt: acceptedAt + Int64(number) * 2 + Int64(partition / 3)
                )
                index.feed([record], to: partition, generation: generation, now: Self.now)
            }
        }
        #expect(index.sizes.recent == 10)
        #expect(index.partitions[1]?.sizes.recent == 5)
        #expect(index.partitions[3]?.sizes.recent == 5)
        #expect(index.partitions[1]?.oldestFinished == acceptedAt + 70)
    }

    @Test("What became final too long ago is forgotten, and what lives longer than any message")
    func forgetsByAge() {
        let held = TestMessage(number: 3).outcome(.held)
        var index = Self.index([
            TestMessage(number: 1).outcome(.delivered), TestMessage(number: 2).outcome(.deferred), held,
        ]) {
            $0.recentAge = .seconds(60)
            $0.lifetime = .seconds(3_600)
            $0.notificationLifetime = .seconds(60)
        }
        index.forget(now: acceptedAt + 59_000)
        #expect(index.sizes == PartitionIndex.Sizes(live: 2, recent: 1))
        index.forget(now: acceptedAt + 61_000)
        #expect(index.sizes == PartitionIndex.Sizes(live: 2, recent: 0))
        index.forget(now: acceptedAt + 25 * 3_600_000 - 10_000)
        #expect(index.sizes.live == 2)
        index.forget(now: acceptedAt + 25 * 3_600_000 + 10_000)
        // What an operator holds stays.
        #expect(index.sizes.live == 1)
        #expect(Self.counts(index).total == 3)
    }

    @Test("The sites counted one by one are bounded; nothing of the others is lost")
    func boundsSites() {
        var outcomes: [Outcome] = []
        for number in 0..<500 {
            outcomes.append(TestMessage(number: number, site: "busy").outcome(.delivered))
            outcomes.append(TestMessage(number: 1_000 + number, site: "small-\(number)").outcome(.delivered))
        }
        var index = Self.index(outcomes) {
            $0.siteCountMax = 16
            $0.siteLabelCountMax = 4
        }
        #expect((index.partitions[0]?.sites.count ?? 0) <= 16)
        #expect(Self.counts(index, "busy")[.delivered] == 500)
        let exported = index.sites()
        #expect(exported.count == 5)
        #expect(exported.first?.site == "busy")
        #expect(exported.last?.site == "other")
        #expect(exported.reduce(0) { $0 + $1.counts.total } == 1_000)
    }

    @Test("A site keeps its label until another one is twice as busy")
    func keepsLabels() {
        var settings = MetricsSettings(nodeID: "test")
        settings.siteLabelCountMax = 1
        var index = OutcomeIndex(settings: settings)
        let generation = index.assigned(0, start: Offset(0))
        var offset: Int64 = 0
        func deliver(_ count: Int, to site: String) {
            for _ in 0..<count {
                let outcome = TestMessage(number: Int(offset), site: site).outcome(.delivered)
                _ = index.apply([IndexRecord(outcome, at: offset)], to: 0, generation: generation, now: Self.now)
                offset += 1
            }
        }
        func expectLabels(_ expected: [String]) {
            let labels = index.sites().map(\.site)
            #expect(labels == expected)
        }
        deliver(10, to: "a")
        expectLabels(["a", "other"])
        deliver(19, to: "b")
        expectLabels(["a", "other"])
        deliver(2, to: "b")
        expectLabels(["b", "other"])
    }

    @Test("A recipient tried for ever remembers a bounded number of events")
    func boundsEvents() throws {
        let index = Self.index((1...200).map { TestMessage(number: 1).outcome(.deferred, attempt: $0) })
        let recipient = try #require(index.partitions[0].flatMap { Array($0.recipients).first })
        #expect(recipient.earlierOffsets.count == IndexedRecipient.eventCountMax - 1)
        #expect(recipient.earlierOffsets.last == 198)
        #expect(recipient.lastOffset == 199)
    }

    // MARK: Durations

    @Test("Times to the first attempt and to delivery, each recipient once")
    func measuresDurations() {
        let message = TestMessage(number: 1)
        var index = Self.index([
            message.outcome(.deferred, attempt: 1, after: 350),
            message.outcome(.deferred, attempt: 1, after: 350),
            message.outcome(.deferred, attempt: 2, after: 60_000),
            message.outcome(.delivered, attempt: 3, after: 400_000),
            TestMessage(number: 2).outcome(.bounced, attempt: 1, after: 100),
            TestMessage(number: 3).outcome(.suppressed, attempt: 0, after: 100),
        ])
        let first = index.durations(\.firstAttempts)
        #expect(first.cumulativeCounts.last == 2)
        // 350 ms and 100 ms after acceptance, less the attempt's own 100 ms.
        #expect(first.sum == 0.25)
        let delivery = index.durations(\.deliveries)
        #expect(delivery.cumulativeCounts.last == 1)
        #expect(delivery.sum == 400)
        #expect(delivery.cumulativeCounts[delivery.bounds.firstIndex(of: 300) ?? 0] == 0)
        #expect(delivery.cumulativeCounts[delivery.bounds.firstIndex(of: 900) ?? 0] == 1)
        index.dropped(0)
        #expect(index.durations(\.deliveries).cumulativeCounts.last == 0)
    }

    // MARK: Rebuilding

    /// Goal: whoever reads the same log knows the same. Method: random events over four partitions, read once in one
    /// go and once in random portions with partitions that come, go and come again.
    @Test("Reading again from the start gives the same index", arguments: UInt64(0)..<32)
    func rebuildsTheSame(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        let kinds = Outcome.Kind.allCases
        let logs: [[IndexRecord]] = (0..<4)
            .map { partition in
                (0..<200)
                    .map { offset in
                        let message = TestMessage(number: Int.random(in: 0..<60, using: &random) * 4 + partition)
                        let kind = kinds.randomElement(using: &random) ?? .delivered
                        let outcome = message.outcome(kind, attempt: .random(in: 1...3, using: &random))
                        let isGarbage = Int.random(in: 0..<20, using: &random) == 0
                        return IndexRecord(
                            isGarbage ? nil : outcome,
                            at: Int64(offset),
                            loggedAt: acceptedAt + Int64(offset * 4 + partition)
                        )
                    }
            }
        var straight = OutcomeIndex(settings: MetricsSettings(nodeID: "test"))
        for (partition, records) in logs.enumerated() {
            let generation = straight.assigned(Int32(partition), start: Offset(0))
            straight.feed(records, to: Int32(partition), generation: generation, now: Self.now)
        }
        var portions = OutcomeIndex(settings: MetricsSettings(nodeID: "test"))
        var generations = (0..<4).map { portions.assigned(Int32($0), start: Offset(0)) }
        var positions = [0, 0, 0, 0]
        while positions.contains(where: { $0 < 200 }) {
            let partition = Int.random(in: 0..<4, using: &random)
            if Int.random(in: 0..<20, using: &random) == 0 {
                generations[partition] = portions.assigned(Int32(partition), start: Offset(0))
                positions[partition] = 0
            }
            // Some records come again, as after a seek.
            let from = max(0, positions[partition] - Int.random(in: 0..<10, using: &random))
            let end = min(200, positions[partition] + Int.random(in: 1..<40, using: &random))
            let some = Array(logs[partition][from..<end])
            portions.feed(some, to: Int32(partition), generation: generations[partition], now: Self.now)
            positions[partition] = end
        }
        #expect(portions.digest == straight.digest)
        #expect(portions.sizes == straight.sizes)
    }
}
