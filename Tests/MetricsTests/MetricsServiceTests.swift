import ClusterLog
import Mail
import NIOCore
import NodeSupport
import Records
import Testing

@testable import MetricsRole

@Suite("MetricsService: the index is what the log says", .timeLimit(.minutes(1)))
struct MetricsServiceTests {
    private let log = InMemoryLog(partitionCount: 8)

    /// Messages at many domains: some delivered, some waiting, some bounced after a deferral.
    private func fill(_ numbers: Range<Int>) async throws {
        for number in numbers {
            let message = TestMessage(number: number, domain: "d\(number % 23).example", site: "site-\(number % 5)")
            var records = [message.record(number % 3 == 0 ? .delivered : .deferred)]
            if number % 3 == 1 { records.append(message.record(.bounced, attempt: 2, after: 60_500)) }
            _ = try await self.log.append(records)
        }
    }

    private func digest(_ node: TestNode) -> [String]? { node.index?.with { $0.digest } }

    @Test("After a restart the index is built from the log's start, not from the committed progress")
    func rebuilds() async throws {
        try await self.fill(0..<300)
        let first = TestNode("a", log: self.log)
        var before: [String]?
        try await first.run {
            try await eventually { try await TestNode.hasReadAll([first], self.log) }
            before = self.digest(first)
            // What is above the committed progress reaches the next node as a member, the rest by scanning.
            try await eventually { try await self.isCommitted() }
        }
        #expect(try await self.isCommitted())
        let second = TestNode("b", log: self.log)
        try await second.run {
            try await eventually { try await TestNode.hasReadAll([second], self.log) }
            #expect(self.digest(second) == before)
            #expect(before?.isEmpty == false)
            // And it goes on from there.
            try await self.fill(300..<330)
            try await eventually { try await TestNode.hasReadAll([second], self.log) }
            #expect(second.index?.with { $0.sizes } == PartitionIndex.Sizes(live: 110, recent: 220))
        }
    }

    private func isCommitted() async throws -> Bool {
        for number in Int32(0)..<8 {
            let partition = TopicPartition(.outcomes, number)
            let end = try await self.log.bounds(partition).upperBound
            guard end > Offset(0) else { continue }
            guard try await self.log.progress(MetricsService.group, partition)?.watermark == end else { return false }
        }
        return true
    }

    @Test("Two nodes share the partitions; when one stops the other has them all, with the same index")
    func rebalances() async throws {
        try await self.fill(0..<200)
        let alone = TestNode("alone", log: self.log)
        var whole: [String]?
        try await alone.run {
            try await eventually { try await TestNode.hasReadAll([alone], self.log) }
            whole = self.digest(alone)
        }
        let one = TestNode("one", log: self.log)
        let other = TestNode("other", log: self.log)
        try await one.run {
            try await eventually { try await TestNode.hasReadAll([one], self.log) }
            try await other.run {
                try await eventually { try await TestNode.hasReadAll([one, other], self.log) }
                let (mine, theirs) = (self.digest(one) ?? [], self.digest(other) ?? [])
                #expect(!mine.isEmpty && !theirs.isEmpty)
                #expect(Set(mine + theirs) == Set(whole ?? []))
                let sizes = [one, other].compactMap { $0.index?.with { $0.sizes } }
                #expect(sizes.reduce(0) { $0 + $1.live } == 66)
                #expect(sizes.reduce(0) { $0 + $1.recent } == 134)
            }
            #expect(other.index?.partitions == [])
            try await eventually { try await TestNode.hasReadAll([one], self.log) }
            #expect(self.digest(one) == whole)
        }
    }

    @Test("Partitions that are lost and come back are counted once")
    func survivesFencing() async throws {
        let node = TestNode("a", log: self.log)
        try await node.run {
            for round in 0..<10 {
                try await self.fill(round * 10..<round * 10 + 10)
                self.log.fence(MetricsService.group)
            }
            // Until the node has learned of the last loss it has read all as well.
            let whole = PartitionIndex.Sizes(live: 33, recent: 67)
            try await eventually {
                guard try await TestNode.hasReadAll([node], self.log) else { return false }
                return node.index?.with { $0.sizes } == whole
            }
            #expect(node.index?.with { $0.sum(\.duplicateCount) } == 0)
        }
    }

    @Test("Records that are no outcomes are skipped and counted")
    func skipsGarbage() async throws {
        let garbage = ["", "{", "[]", "{\"kind\":\"delivered\"}", String(repeating: "[", count: 5_000), "\u{0}"]
        _ = try await self.log.append(
            garbage.map { Record(topic: .outcomes, key: "example.net", value: ByteBuffer(string: $0)) }
                + [TestMessage(number: 1).record(.delivered)]
        )
        let node = TestNode("a", log: self.log)
        try await node.run {
            try await eventually { try await TestNode.hasReadAll([node], self.log) }
            let text = node.metrics.exposition()
            #expect(text.contains("posthorn_index_unreadable_total \(garbage.count)\n"))
            #expect(
                text.contains("posthorn_site_outcomes_total{outcome=\"delivered\",site=\"mx.example.net\"} 1\n")
            )
        }
    }

    @Test("What retention has taken is not missed: the index begins where the log does")
    func beginsAtLogStart() async throws {
        let positions = try await self.log.append((0..<20).map { TestMessage(number: $0).record(.delivered) })
        self.log.truncate(positions[0].partition, before: positions[12].offset)
        let node = TestNode("a", log: self.log)
        for _ in 0..<2 {
            // Twice: the second time the committed progress is at the end.
            try await node.run {
                try await eventually { try await TestNode.hasReadAll([node], self.log) }
                #expect(node.index?.with { $0.sizes.recent } == 8)
                try await eventually { try await self.isCommitted() }
            }
        }
    }

    @Test("A log that refuses commits changes nothing: progress is for monitoring")
    func survivesRefusedCommits() async throws {
        for _ in 0..<50 { self.log.failNextStep(with: RecordLogError(.unavailable, isRetriable: true)) }
        try await self.fill(0..<30)
        let node = TestNode("a", log: self.log)
        try await node.run {
            try await eventually { try await self.isCommitted() }
            #expect(node.index?.with { $0.sizes } == PartitionIndex.Sizes(live: 10, recent: 20))
            #expect(node.metrics.exposition().contains("posthorn_index_commit_failures_total 50\n"))
        }
    }

    @Test("The histograms and the numbers of recipients are exported")
    func exports() async throws {
        try await self.fill(0..<30)
        let node = TestNode("a", log: self.log)
        try await node.run {
            try await eventually { try await TestNode.hasReadAll([node], self.log) }
            let text = node.metrics.exposition()
            #expect(text.contains("posthorn_first_attempt_delay_seconds_bucket{le=\"0.5\"} 30\n"))
            #expect(text.contains("posthorn_first_attempt_delay_seconds_bucket{le=\"0.25\"} 0\n"))
            #expect(text.contains("posthorn_delivery_delay_seconds_bucket{le=\"432000\"} 10\n"))
            #expect(text.contains("posthorn_delivery_delay_seconds_count 10\n"))
            #expect(text.contains("posthorn_index_recipients{state=\"live\"} 10\n"))
            #expect(text.contains("posthorn_index_partitions{state=\"ready\"} 8\n"))
            #expect(text.contains("posthorn_site_outcomes_total{outcome=\"deferred\",site=\"site-1\"} 4\n"))
        }
    }

    // MARK: Views of one node

    @Test("The summary counts what waits by site, and what was not attempted by number")
    func summarises() async throws {
        try await self.fill(0..<30)
        _ = try await self.log.append([TestMessage(number: 40, site: "site-x").record(.held)])
        let tier = Topic.deferred(delay: 60)
        _ = try await self.log.append(
            (0..<7).map { Record(topic: .accepted, key: "d\($0).example") }
                + (0..<3).map { Record(topic: tier, key: "s\($0)") }
        )
        let delivery = try await self.log.join(
            GroupID("posthorn.delivery"),
            topics: TopicSelection(topics: [.accepted, tier])
        )
        // Delivery is done with one record of `accepted`.
        while case .some(let event) = try await delivery.next() {
            guard case .records(let partition, let records) = event, partition.topic == .accepted else { continue }
            let next = try #require(records.first).position.offset.advanced(by: 1)
            try await delivery.step(Step(progress: [partition: Progress(watermark: next)]))
            break
        }
        let node = TestNode("a", log: self.log)
        try await node.run {
            try await eventually { try await TestNode.hasReadAll([node], self.log) }
            try await eventually { node.index?.waitingRecords?[.accepted] == 6 }
            let summary = try await node.service.summary()
            #expect(summary.recipients == 11)
            #expect(summary.messages == 11)
            #expect(summary.octets == 11_000)
            #expect(summary.oldest == acceptedAt + 2)
            #expect(summary.nextDue == acceptedAt + 2 + 500 + 60_000)
            #expect(summary.notAttempted == 6)
            #expect(summary.tiers == [AdminAPI.QueueSummary.Backlog(topic: tier.name, records: 3)])
            #expect(summary.missing == nil)
            #expect(summary.sites.count == 6)
            let held = try #require(summary.sites.first { $0.site == "site-x" })
            #expect(held.held == 1 && held.deferred == 0 && held.oldest == acceptedAt + 40)
            let site = try #require(summary.sites.first { $0.site == "site-2" })
            #expect(site.deferred == 2)
            // Of its bounce, which came last and without a reply.
            #expect(site.lastError == "4.2.2")
        }
        await delivery.leave()
    }

    @Test("Messages are listed oldest first, filtered and cut like those of one machine")
    func lists() async throws {
        try await self.fill(0..<60)
        _ = try await self.log.append([
            TestMessage(number: 70, recipientIndex: 0, domain: "d1.example", sender: "").record(.deferred),
            TestMessage(number: 70, recipientIndex: 1, domain: "d2.example", sender: "").record(.deferred),
        ])
        let node = TestNode("a", log: self.log)
        try await node.run {
            try await eventually { try await TestNode.hasReadAll([node], self.log) }
            let all = try await node.service.messages(QueueQuery(limit: 1_000))
            #expect(all.messages.count == 21)
            #expect(!all.isTruncated)
            #expect(all.messages.map(\.id) == all.messages.map(\.id).sorted())
            let some = try await node.service.messages(QueueQuery(limit: 5))
            #expect(some.messages == Array(all.messages.prefix(5)))
            #expect(some.isTruncated)
            let bounce = try await node.service.messages(QueueQuery(sender: ""))
            #expect(bounce.messages.count == 1)
            #expect(bounce.messages.first?.recipients.map(\.address) == ["r70-0@d1.example", "r70-1@d2.example"])
            let domain = try await node.service.messages(QueueQuery(domain: "d2.example"))
            #expect(domain.messages.flatMap(\.recipients).allSatisfy { $0.address.hasSuffix("@d2.example") })
            #expect(domain.messages.count == 2)
            let site = try await node.service.messages(QueueQuery(site: "site-2"))
            #expect(site.messages.count == 4)
            let id = TestMessage(number: 70).id.description
            #expect(try await node.service.message(id)?.recipients.count == 2)
            #expect(try await node.service.message(TestMessage(number: 0).id.description) == nil)
            let recipient = try #require(try await node.service.message(id)?.recipients.first)
            #expect(recipient.state == .deferred)
            #expect(recipient.nextAttempt == acceptedAt + 70 + 500 + 60_000)
            #expect(recipient.lastReply == "452 4.2.2 Mailbox full")
        }
    }

    @Test("A trace has every event of a message or an address, in order")
    func traces() async throws {
        let message = TestMessage(number: 1)
        _ = try await self.log.append([
            message.record(.deferred, attempt: 1, after: 500), TestMessage(number: 2).record(.delivered),
            message.record(.deferred, attempt: 2, after: 61_000),
            message.record(.delivered, attempt: 3, after: 400_000),
            TestMessage(number: 1, recipientIndex: 1, domain: "other.example").record(.bounced, after: 2_000),
        ])
        let node = TestNode("a", log: self.log)
        try await node.run {
            try await eventually { try await TestNode.hasReadAll([node], self.log) }
            let trace = try await node.service.trace(TraceQuery(.message(message.id.description.lowercased())))
            #expect(trace.events.map(\.kind) == ["deferred", "bounced", "deferred", "delivered"])
            #expect(trace.events.first?.reply?.text == "Mailbox full")
            #expect(!trace.isTruncated)
            let address = try await node.service.trace(TraceQuery(.address("R1-0@EXAMPLE.net")))
            #expect(address.events.map(\.attempt) == [1, 2, 3])
            let sender = try await node.service.trace(TraceQuery(.address("joe@sender.example")))
            #expect(sender.events.count == 5)
            let cut = try await node.service.trace(TraceQuery(.message(message.id.description), limit: 2))
            #expect(cut.isTruncated)
            #expect(cut.events.count == 2)
            #expect(try await node.service.trace(TraceQuery(.address("nobody@example.net"))).events.isEmpty)
            await #expect(throws: QueueAdministrationError.self) {
                try await node.service.trace(TraceQuery(.message("no id")))
            }
        }
    }

    @Test("Commands are refused with the place to give them")
    func refusesCommands() async throws {
        let node = TestNode("a", log: self.log)
        await #expect(throws: QueueAdministrationError.self) {
            try await node.service.perform(.flush, on: AdminAPI.QueuePredicate(all: true))
        }
    }
}
