import ClusterLog
import Logging
import Mail
import NIOCore
import NIOPosix
import NodeSupport
import Records
import Synchronization
import Testing

@testable import Delivery

/// What the engine does beside its core, which has its own suites.
@Suite("DeliveryEngine", .timeLimit(.minutes(1)))
struct DeliveryEngineTests {
    /// For mail that is never routed.
    private struct NoRouting: MailRouting {
        func route(_ domain: Domain) async -> (routing: Routing, validFor: Int64) { (.failed(.notResolved), 0) }
    }

    private let log: InMemoryLog
    private let clock: ManualClock
    private let readiness = Readiness()

    init() {
        let clock = ManualClock()
        self.clock = clock
        self.log = InMemoryLog(partitionCount: 4, now: { clock.milliseconds })
    }

    private func makeEngine() throws -> DeliveryEngine {
        DeliveryEngine(
            configuration: NodeConfiguration(),
            log: self.log,
            routing: NoRouting(),
            outbound: try .test(),
            on: MultiThreadedEventLoopGroup.singleton.next(),
            clock: self.clock,
            metrics: MetricsRegistry(),
            readiness: self.readiness,
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
            pauses: .milliseconds(1)...(.milliseconds(2))
        )
    }

    /// Looks again until it holds; the suite's time limit bounds it.
    private func eventually(_ condition: () -> Bool) async throws {
        while !condition() { try await Task.sleep(for: .milliseconds(1)) }
    }

    @Test("A log that cannot be read for a while is read again; the node is not ready meanwhile, and does not end")
    func readsAgain() async throws {
        // A record that cannot be used: what comes of it shows that it was read.
        _ = try await self.log.append([Record(topic: .accepted, key: "example.net", value: ByteBuffer(string: "x"))])
        self.log.failReads(with: RecordLogError(.unavailable, isRetriable: true, reason: "the disk"))
        let engine = try self.makeEngine()
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await engine.run() }
            try await self.eventually { self.readiness.reasons["delivery"]?.contains("the disk") == true }
            #expect(self.log.records(of: .dead).isEmpty)
            self.log.failReads(with: nil)
            try await self.eventually { self.log.records(of: .dead).count == 1 }
            self.clock.advance(by: .seconds(1))
            try await self.eventually { self.readiness.isReady }
            group.cancelAll()
            try await group.waitForAll()
        }
    }

    /// A message that waits, by its content in `posthorn.content`.
    private func waiting(_ id: UInt64) async throws -> Record {
        let mailbox = Mailbox(localPart: "a", domain: Domain(normalized: "x.example"))
        let content = Record(topic: .content, key: "\(id)", value: ByteBuffer(string: "x"))
        let position = try await self.log.append([content])[0]
        var entry = QueueEntry(
            envelope: Envelope(
                messageID: MessageID(high: 1, low: id),
                reversePath: nil,
                recipients: [Recipient(mailbox: mailbox, index: 0)],
                acceptedAt: self.clock.milliseconds,
                contentSize: 1
            )
        )
        entry.content = Reference(to: content, at: position, in: self.log.clusterID)
        return try entry.record(topic: .deferredNow, key: "x.example", content: ByteBuffer())
    }

    /// Goal: mail that was deferred a moment before a flush is flushed. Method: the step that defers it is not durable yet.
    @Test("A flush waits for the steps before it, and not for a log that takes none", arguments: [true, false])
    func settlesBeforeFlush(isTaken: Bool) async throws {
        let engine = try self.makeEngine()
        let record = try await self.waiting(1)
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await engine.run() }
            self.log.holdCompletions()
            self.log.append([record]) { _ in }
            try await self.eventually { !self.log.records(of: .deferred(delay: 60)).isEmpty }
            let isDone = Mutex(false)
            group.addTask {
                let result = try await engine.perform(.flush, on: AdminAPI.QueuePredicate(all: true))
                isDone.withLock { $0 = true }
                #expect(result.matched == 1)
            }
            try await Task.sleep(for: .milliseconds(100))
            #expect(!isDone.withLock { $0 })
            if isTaken { self.log.resumeCompletions() }
            try await self.eventually { isDone.withLock { $0 } }
            self.log.resumeCompletions()
            group.cancelAll()
            try await group.waitForAll()
        }
    }

    /// Goal: who is told that a command failed may rely on it all the same. Method: more waits than a member is given, so that
    /// the command has to scan, and its scan fails.
    @Test("A command whose scan fails says so, and goes on when the log can be read")
    func scansAgain() async throws {
        let engine = try self.makeEngine()
        let count = 3_000
        var records: [Record] = []
        for id in 0..<count {
            var record = try await self.waiting(UInt64(id))
            record.topic = .deferred(delay: 60)
            records.append(record)
        }
        _ = try await self.log.append(records)
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await engine.run() }
            try await self.eventually { self.readiness.isReady }
            self.log.failNextScan(with: RecordLogError(.unavailable, isRetriable: true, reason: "the disk"))
            await #expect(throws: QueueAdministrationError.self) {
                _ = try await engine.perform(.hold, on: AdminAPI.QueuePredicate(domain: "x.example"))
            }
            #expect(self.log.records(of: .held).count < count)
            try await self.eventually { self.log.records(of: .held).count == count }
            group.cancelAll()
            try await group.waitForAll()
        }
    }

    @Test("A log that cannot be read for good ends the engine with its error")
    func endsForGood() async throws {
        _ = try await self.log.append([Record(topic: .accepted, key: "example.net", value: ByteBuffer(string: "x"))])
        let error = RecordLogError(.fenced, isRetriable: false)
        self.log.failReads(with: error)
        let engine = try self.makeEngine()
        await #expect(throws: error) { try await engine.run() }
    }
}
