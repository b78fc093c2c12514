import ClusterLog
import Mail
import NodeSupport
import Records
import Synchronization
import Testing

@testable import MetricsRole

@Suite("LogTracing: traces from the log alone")
struct LogTracingTests {
    /// The log's time is what the message's number says, so that acceptance and events lie apart.
    private final class Times: Sendable {
        let now = Mutex<Int64>(acceptedAt)
    }

    private let times = Times()
    private let log: InMemoryLog

    init() {
        let times = self.times
        self.log = InMemoryLog(partitionCount: 4, now: { times.now.withLock { $0 } })
    }

    /// 3,000 messages to eleven domains, one a second; each third is tried twice.
    private func fill() async throws {
        for number in 0..<3_000 {
            let message = TestMessage(number: number * 1_000, domain: "d\(number % 11).example")
            self.times.now.withLock { $0 = acceptedAt + Int64(number) * 1_000 + 500 }
            var records = [message.record(number % 3 == 0 ? .deferred : .delivered)]
            if number % 3 == 0 { records.append(message.record(.delivered, attempt: 2, after: 60_500)) }
            _ = try await self.log.append(records)
        }
    }

    private func trace(
        _ subject: TraceQuery.Subject,
        limit: Int = 1_000,
        timeMax: Duration = .seconds(20)
    ) async throws -> AdminAPI.Trace {
        try await LogTracing(log: self.log, clock: SystemClock(), timeMax: timeMax)
            .trace(TraceQuery(subject, limit: limit))
    }

    @Test("A message's events in their order, wherever in the log they are", arguments: [0, 3, 1_500, 2_997, 2_999])
    func tracesMessages(number: Int) async throws {
        try await self.fill()
        let message = TestMessage(number: number * 1_000, domain: "d\(number % 11).example")
        let trace = try await self.trace(.message(message.id.description.lowercased()))
        #expect(trace.events.map(\.kind) == (number % 3 == 0 ? ["deferred", "delivered"] : ["delivered"]))
        #expect(trace.events.allSatisfy { $0.recipient == message.recipient })
        #expect(!trace.isTruncated)
    }

    @Test("An address is looked for as recipient and as sender, in any case; of many events the newest are told")
    func tracesAddresses() async throws {
        try await self.fill()
        let one = try await self.trace(.address("R5000-0@D5.Example"))
        #expect(one.events.map(\.recipient) == ["r5000-0@d5.example"])
        let all = try await self.trace(.address("joe@sender.example"), limit: 10)
        #expect(all.events.count == 10 && all.isTruncated)
        let times = all.events.map(\.time)
        #expect(times == times.sorted() && times.last == acceptedAt + 2_997_000 + 60_500)
        #expect(try await self.trace(.address("nobody@sender.example")).events.isEmpty)
    }

    @Test("A search that takes too long says that it is not complete")
    func endsInTime() async throws {
        try await self.fill()
        let trace = try await self.trace(.address("joe@sender.example"), timeMax: .zero)
        #expect(trace.isTruncated && trace.events.isEmpty)
    }

    @Test("What is no message id is refused; one that nobody has is not found")
    func refusesNonsense() async throws {
        await #expect(throws: QueueAdministrationError.self) { try await self.trace(.message("nonsense")) }
        let unknown = try await self.trace(.message(MessageID(high: 1, low: 1).description))
        #expect(unknown.events.isEmpty && !unknown.isTruncated)
    }
}
