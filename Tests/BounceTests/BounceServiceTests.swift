import ClusterLog
import Logging
import Mail
import NIOCore
import NodeSupport
import Records
import ServiceLifecycle
import Testing

@testable import Bounce

@Suite("BounceService: outcomes in, notifications and progress out, in one step", .timeLimit(.minutes(1)))
struct BounceServiceTests {
    private let log = InMemoryLog(partitionCount: 4)
    private let metrics = MetricsRegistry()

    private func service() -> BounceService {
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        return BounceService(
            log: self.log,
            settings: BounceSettings(hostname: "relay.example.com"),
            metrics: self.metrics,
            logger: logger,
            pauses: .milliseconds(1)...(.milliseconds(5))
        )
    }

    /// Runs the service around `body`, then shuts it down gracefully and waits for it to return.
    private func withService(_ body: () async throws -> Void) async throws {
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        let group = ServiceGroup(services: [self.service()], logger: logger)
        async let running: Void = group.run()
        do {
            try await body()
        } catch {
            await group.triggerGracefulShutdown()
            try await running
            throw error
        }
        await group.triggerGracefulShutdown()
        try await running
    }

    /// Looks again until it holds; the suite's time limit bounds it.
    private func eventually(_ condition: () async throws -> Bool) async throws {
        while try await !condition() { try await Task.sleep(for: .milliseconds(1)) }
    }

    /// Octets below the watermark of every partition that has records, i.e. whether everything was stepped over.
    private func isAllStepped() async throws -> Bool {
        for number in Int32(0)..<4 {
            let partition = TopicPartition(.outcomes, number)
            let end = try await self.log.bounds(partition).upperBound
            guard end > Offset(0) else { continue }
            guard try await self.log.progress(BounceService.group, partition)?.watermark == end else { return false }
        }
        return true
    }

    private var notifications: [StoredRecord] { self.log.records(of: .accepted) }

    private func message(_ number: Int) -> FailedMessage {
        var message = FailedMessage()
        message.id = MessageID(high: 5, low: UInt64(number))
        return message
    }

    @Test("A wanted notification is appended and the progress moved")
    func notifies() async throws {
        _ = try await self.log.append([FailedMessage().plainRecord(.delivered), FailedMessage().record(.bounced)])
        try await self.withService { try await self.eventually { try await self.isAllStepped() } }
        #expect(self.notifications.count == 1)
        #expect(self.notifications.first?.key == "sender.example")
        #expect(self.metrics.exposition().contains("posthorn_bounce_notifications_total{kind=\"failure\"} 1\n"))
    }

    @Test("Recipients at several destinations meet in one notification")
    func mergesAcrossPartitions() async throws {
        var message = FailedMessage()
        message.recipients = (0..<8)
            .map { index in
                Recipient(
                    mailbox: Mailbox(localPart: "r", domain: Domain(normalized: "d\(index).example")),
                    index: UInt32(index)
                )
            }
        _ = try await self.log.append((0..<8).map { message.record(.bounced, recipient: $0) })
        try await self.withService { try await self.eventually { try await self.isAllStepped() } }
        #expect(self.notifications.count == 1)
    }

    @Test("Progress moves when nothing is wanted, and nothing is appended")
    func movesProgressAlone() async throws {
        _ = try await self.log.append((0..<2_500).map { _ in FailedMessage().plainRecord(.delivered) })
        try await self.withService {
            try await self.eventually { try await self.isAllStepped() }
            _ = try await self.log.append([FailedMessage().plainRecord(.delivered)])
            try await self.eventually { try await self.isAllStepped() }
        }
        #expect(self.notifications.isEmpty)
    }

    @Test("A restart tells nobody twice")
    func isNotRepeatedByRestart() async throws {
        for round in 0..<3 {
            _ = try await self.log.append([self.message(round).record(.bounced)])
            try await self.withService { try await self.eventually { try await self.isAllStepped() } }
            #expect(self.notifications.count == round + 1)
        }
    }

    /// Goal: no failure loses or repeats a notification. Method: each kind of refusal, twice, before the step passes.
    @Test(
        "A refused step is done again from the last progress",
        arguments: [
            RecordLogError(.notDurable, isRetriable: true), RecordLogError(.unavailable, isRetriable: true),
            RecordLogError(.fenced, isRetriable: false),
        ]
    )
    func retriesSteps(error: RecordLogError) async throws {
        self.log.failNextStep(with: error)
        self.log.failNextStep(with: error)
        _ = try await self.log.append([self.message(1).record(.bounced), self.message(2).record(.expired)])
        try await self.withService { try await self.eventually { try await self.isAllStepped() } }
        #expect(self.notifications.count == 2)
        #expect(self.metrics.exposition().contains("posthorn_bounce_step_failures_total 2\n"))
    }

    @Test("A notification too large for the log is told without its content")
    func dropsContentWhenTooLarge() async throws {
        self.log.failNextStep(with: RecordLogError(.recordTooLarge, isRetriable: false))
        _ = try await self.log.append([FailedMessage().record(.bounced)])
        try await self.withService { try await self.eventually { try await self.isAllStepped() } }
        #expect(self.notifications.count == 1)
        #expect(self.notifications.first.map { String(buffer: $0.value) }?.contains("Subject: hello") == false)
    }

    @Test("A refusal for good ends the service with it")
    func throwsForGood() async throws {
        self.log.failNextStep(with: RecordLogError(.configuration, isRetriable: false))
        _ = try await self.log.append([FailedMessage().record(.bounced)])
        await #expect(throws: RecordLogError(.configuration, isRetriable: false)) { try await self.service().run() }
        #expect(self.notifications.isEmpty)
    }

    @Test("Partitions lost and regained tell everybody once")
    func survivesFencing() async throws {
        try await self.withService {
            for round in 0..<20 {
                _ = try await self.log.append([self.message(round).record(.bounced)])
                self.log.fence(BounceService.group)
            }
            try await self.eventually { try await self.isAllStepped() }
        }
        #expect(self.notifications.count == 20)
    }

    @Test("Two services share the work and tell everybody once")
    func sharesWork() async throws {
        try await self.withService {
            for number in 0..<50 { _ = try await self.log.append([self.message(number).record(.bounced)]) }
            try await self.withService {
                for number in 50..<100 { _ = try await self.log.append([self.message(number).record(.bounced)]) }
            }
            try await self.eventually { try await self.isAllStepped() }
        }
        #expect(Set(try self.notifications.map { try QueueEntry($0).envelope.messageID }).count == 100)
        #expect(self.notifications.count == 100)
    }

    @Test("An unreadable outcome goes to posthorn.dead in the step that passes it")
    func keepsDeadRecords() async throws {
        var bad = FailedMessage().record(.bounced)
        bad.value = ByteBuffer(string: "{")
        _ = try await self.log.append([bad, self.message(3).record(.bounced)])
        try await self.withService { try await self.eventually { try await self.isAllStepped() } }
        #expect(self.log.records(of: .dead).count == 1)
        #expect(self.notifications.count == 1)
    }

    /// Goal: shutdown finishes the batch in hand. Method: shut down while the step is on its way, then let it complete.
    @Test("Graceful shutdown waits for the step in hand and returns normally")
    func finishesBatchOnShutdown() async throws {
        _ = try await self.log.append([FailedMessage().record(.bounced)])
        self.log.holdCompletions()
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        let group = ServiceGroup(services: [self.service()], logger: logger)
        async let running: Void = group.run()
        try await self.eventually { self.log.heldCompletionCount > 0 }
        await group.triggerGracefulShutdown()
        self.log.resumeCompletions()
        try await running
        #expect(self.notifications.count == 1)
        #expect(try await self.isAllStepped())
    }

    @Test("Graceful shutdown ends an idle wait")
    func endsIdleWait() async throws {
        try await self.withService {}
    }

    @Test("Outcomes lost before they were read raise the alarm counter, and reading goes on")
    func reportsTruncation() async throws {
        let plain = FailedMessage().plainRecord(.delivered)
        _ = try await self.log.append([plain])
        try await self.withService { try await self.eventually { try await self.isAllStepped() } }
        let positions = try await self.log.append([plain, plain, FailedMessage().record(.bounced)])
        self.log.truncate(positions[0].partition, before: positions[2].offset)
        try await self.withService { try await self.eventually { try await self.isAllStepped() } }
        #expect(self.metrics.exposition().contains("posthorn_bounce_truncations_total 1\n"))
        #expect(self.notifications.count == 1)
    }
}
