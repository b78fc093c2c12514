import ClusterLog
import Mail
import NIOCore
import NodeSupport
import Records
import Synchronization
import Testing

@testable import Admin

@Suite("DeadRecords: what could not be used, and putting it back")
struct DeadRecordsTests {
    /// The log's time: milliseconds that the test decides.
    private final class Times: Sendable {
        let now = Mutex<Int64>(1_800_000_000_000)
    }

    private let times = Times()
    private let log: InMemoryLog
    private let metrics = MetricsRegistry()

    init() {
        let times = self.times
        self.log = InMemoryLog(partitionCount: 4, now: { times.now.withLock { $0 } })
    }

    private func records(_ adjust: (inout DeadRecords.Limits) -> Void = { _ in }) -> DeadRecords {
        var limits = DeadRecords.Limits()
        adjust(&limits)
        return DeadRecords(log: self.log, metrics: self.metrics, limits: limits)
    }

    private func entry(_ number: UInt64, content: Reference? = nil) -> QueueEntry {
        let mailbox = Mailbox(localPart: "b\(number)", domain: Domain(normalized: "one.example"))
        return QueueEntry(
            envelope: Envelope(
                messageID: MessageID(high: 7, low: number),
                reversePath: Mailbox(localPart: "s", domain: Domain(normalized: "sender.example")),
                recipients: [Recipient(mailbox: mailbox, index: 0)],
                acceptedAt: 1_799_999_999_000,
                contentSize: 5
            ),
            attemptCount: 2,
            content: content
        )
    }

    /// Buries a record that was in the topic; returns where it lies.
    @discardableResult
    private func bury(
        _ number: Int64,
        topic: Topic = .accepted,
        headers: [RecordHeader] = [],
        key: String = "one.example",
        value: String = "hello",
        valueSizeMax: Int = 1_000
    ) async throws -> AdminAPI.DeadPosition {
        self.times.now.withLock { $0 += 1_000 }
        let dead = DeadRecord(
            position: Position(partition: TopicPartition(topic, 1), offset: Offset(number)),
            reason: "reason \(number)",
            key: key,
            timestamp: 1_799_999_999_500,
            headers: headers,
            value: ByteBuffer(string: value)
        )
        let position = try await self.log.append([dead.record(valueSizeMax: valueSizeMax)])[0]
        return AdminAPI.DeadPosition(partition: position.partition.partition, offset: position.offset.rawValue)
    }

    private func all(_ records: DeadRecords, _ query: DeadQuery) async throws -> (
        list: [AdminAPI.DeadRecord], pages: Int
    ) {
        var query = query
        var list: [AdminAPI.DeadRecord] = []
        var pages = 0
        repeat {
            let page = try await records.list(query)
            list += page.records
            query.cursor = page.cursor
            pages += 1
        } while query.cursor != nil
        return (list, pages)
    }

    // MARK: Lists

    @Test("The newest first, whatever partition they are in, a page at a time", arguments: [1, 7, 1_000])
    func lists(limit: Int) async throws {
        let topics: [Topic] = [.accepted, .held, .outcomes, .deferred(delay: 60), .deferred(delay: 300)]
        for number in 0..<200 { try await self.bury(Int64(number), topic: topics[number * number % topics.count]) }
        #expect(Set(try await self.records().list(DeadQuery(limit: 200)).records.map(\.position.partition)).count > 1)
        let (list, pages) = try await self.all(self.records(), DeadQuery(limit: limit))
        #expect(list.map(\.reason) == (0..<200).reversed().map { "reason \($0)" })
        #expect(pages >= 200 / limit)
        #expect(list.first?.from == "\(topics[199 * 199 % 5])/1@199")
        #expect(list.allSatisfy { $0.key == "one.example" && $0.appended == 1_799_999_999_500 && $0.replayed == nil })
    }

    @Test("Only of a topic, only since a time")
    func filters() async throws {
        for number in 0..<50 { try await self.bury(Int64(number), topic: number % 2 == 0 ? .accepted : .held) }
        let held = try await self.records().list(DeadQuery(topic: "posthorn.held"))
        #expect(held.records.map(\.reason) == stride(from: 49, to: 0, by: -2).map { "reason \($0)" })
        let now = self.times.now.withLock { $0 }
        let recent = try await self.records().list(DeadQuery(since: now - 2_500))
        #expect(recent.records.map(\.reason) == ["reason 49", "reason 48", "reason 47"])
        #expect(recent.cursor == nil)
        let none = try await self.records().list(DeadQuery(topic: "posthorn.nothing"))
        #expect(none.records.isEmpty && none.cursor == nil)
    }

    @Test("A request reads a bounded number of records and octets; the pages together have everything")
    func isBounded() async throws {
        for number in 0..<300 { try await self.bury(Int64(number), value: String(repeating: "x", count: 900)) }
        let small = self.records { $0.recordCountMax = 64 }
        #expect(try await small.list(DeadQuery(limit: 1_000)).records.count == 64)
        #expect(try await self.all(small, DeadQuery(limit: 1_000)).list.count == 300)
        let light = self.records { $0.octetsMax = 50_000 }
        #expect(try await light.list(DeadQuery(limit: 1_000)).records.count < 100)
        #expect(try await self.all(light, DeadQuery(limit: 1_000)).list.count == 300)
    }

    @Test("What somebody else wrote to the topic is told of, and is not put back")
    func tellsOfForeigners() async throws {
        let position = try await self.log.append([Record(topic: .dead, key: "x", value: ByteBuffer(string: "?"))])[0]
        let list = try await self.records().list(DeadQuery())
        #expect(list.records.map(\.reason) == ["not written by posthorn"])
        let dead = AdminAPI.DeadPosition(partition: position.partition.partition, offset: position.offset.rawValue)
        let result = try await self.records().replay(AdminAPI.DeadReplay(positions: [dead], force: true))
        #expect(result.items.first?.refusal?.contains("not written by posthorn") == true)
    }

    @Test("A cursor that is none is refused", arguments: ["x", "1", "1:", "1:-1", "1:2,", ""])
    func refusesCursors(cursor: String) async throws {
        await #expect(throws: QueueAdministrationError(.invalidRequest, reason: "that is no cursor of an answer")) {
            try await self.records().list(DeadQuery(cursor: cursor))
        }
    }

    @Test("A record is shown with its envelope as far as it can be read, and its value apart")
    func shows() async throws {
        let good = try await self.bury(1, headers: self.entry(1).headers)
        let bad = try await self.bury(2, headers: [RecordHeader("esc", ByteBuffer(string: "\u{1b}[2J"))])
        let detail = try #require(try await self.records().show(good))
        #expect(detail.envelope?.recipients == ["b1@one.example"] && detail.envelope?.attempts == 2)
        #expect(detail.record.message == self.entry(1).envelope.messageID.description)
        #expect(detail.headers.map(\.name) == [QueueEntry.headerName, Reference.messageIDHeader])
        #expect(detail.headers.map { $0.text != nil } == [false, true] && detail.valueSize == 5)
        let unreadable = try #require(try await self.records().show(bad))
        #expect(unreadable.envelope == nil && unreadable.envelopeError == "no header posthorn-envelope")
        #expect(unreadable.headers.first?.text == nil, "Nothing reaches a terminal.")
        #expect(try await self.records().value(bad) == ByteBuffer(string: "hello"))
        for (partition, offset) in [(bad.partition, Int64(99)), (Int32(99), 0)] {
            let nowhere = AdminAPI.DeadPosition(partition: partition, offset: offset)
            #expect(try await self.records().show(nowhere) == nil)
            #expect(try await self.records().value(nowhere) == nil)
        }
    }

    // MARK: Replays

    private func refusals(_ request: AdminAPI.DeadReplay, _ records: DeadRecords? = nil) async throws -> [String?] {
        try await (records ?? self.records()).replay(request).items.map(\.refusal)
    }

    @Test("A replay appends the record as it was, to its topic, and marks it; a second one is refused unless forced")
    func replays() async throws {
        let tier = Topic.deferred(delay: 60)
        let position = try await self.bury(1, topic: tier, headers: self.entry(1).headers, key: "mx.one.example")
        let answer = try await self.records().replay(AdminAPI.DeadReplay(positions: [position, position]))
        #expect(answer.items.count == 1 && answer.items.first?.to?.hasPrefix("posthorn.deferred.1m/") == true)
        let back = try #require(self.log.records(of: tier).first)
        #expect(back.key == "mx.one.example" && back.headers == self.entry(1).headers)
        #expect(back.value == ByteBuffer(string: "hello"))
        #expect(back.timestamp == self.times.now.withLock { $0 }, "The delay begins anew.")

        #expect(try await self.refusals(.init(positions: [position])) == ["it was replayed before"])
        let listed = try await self.records().list(DeadQuery())
        #expect(listed.records.map(\.replayed) == [back.timestamp])
        #expect(listed.replays.map(\.position) == [position])
        #expect(try await self.records().show(position)?.record.replayed == back.timestamp)
        #expect(self.log.records(of: tier).count == 1)
        #expect(try await self.refusals(.init(positions: [position], force: true)) == [nil])
        #expect(self.log.records(of: tier).count == 2)
        #expect(self.metrics.exposition().contains("posthorn_dead_replayed_total 2"))
    }

    @Test("A mark on an earlier page is told there, so that whoever reads all pages knows of every replay")
    func marksAcrossPages() async throws {
        var positions: [AdminAPI.DeadPosition] = []
        for number in Int64(0)..<100 { positions.append(try await self.bury(number, headers: self.entry(1).headers)) }
        #expect(
            try await self.refusals(.init(positions: Array(positions.prefix(10)))) == Array(repeating: nil, count: 10)
        )
        let first = try await self.records().list(DeadQuery(limit: 5))
        #expect(Set(first.replays.map(\.position)) == Set(positions.prefix(10)))
        #expect(first.records.count == 5 && first.records.allSatisfy { $0.replayed == nil })
        let whole = try await self.records().list(DeadQuery(limit: 1_000))
        #expect(whole.records.filter { $0.replayed != nil }.map(\.position) == positions.prefix(10).reversed())
    }

    @Test("What would come back is refused: no envelope, content that is gone. Forced, it is put back all the same")
    func refusesWhatIsBroken() async throws {
        let content = try await self.log.append([
            Record(topic: .content, key: "c", headers: [], value: ByteBuffer(string: "mail"))
        ])
        let stored = try #require(self.log.records(of: .content).first)
        let reference = Reference(to: stored, in: self.log.clusterID)
        let good = try await self.bury(1, topic: .held, headers: self.entry(1, content: reference).headers, value: "")
        let broken = try await self.bury(2, topic: .held)
        #expect(try await self.refusals(.init(positions: [good])) == [nil])
        self.log.release([reference])
        let answers = try await self.refusals(.init(positions: [good, broken], marksAreKnown: true))
        #expect(answers.allSatisfy { $0?.hasPrefix("it still cannot be used: ") == true }, "\(answers)")
        #expect(answers[0]?.contains("notFound") == true && answers[1]?.contains("posthorn-envelope") == true)
        #expect(self.log.records(of: .held).count == 1)
        #expect(try await self.refusals(.init(positions: [good, broken], force: true)) == [nil, nil])
        #expect(self.log.records(of: .held).count == 3 && content.count == 1)
    }

    @Test("What has final outcomes is not delivered again by a replay, unless it is forced")
    func refusesWhatIsConcluded() async throws {
        let position = Position(partition: TopicPartition(.held, 0), offset: Offset(1))
        var dead = DeadRecord(
            position: position,
            reason: "content cannot be read",
            key: "k",
            timestamp: nil,
            headers: self.entry(1).headers,
            value: ByteBuffer()
        )
        dead.isConcluded = true
        _ = try await self.log.append([dead.record(valueSizeMax: 1_000)])
        let record = try #require(try await self.records().list(DeadQuery()).records.first)
        #expect(record.isConcluded == true)
        #expect(
            try await self.refusals(.init(positions: [record.position], marksAreKnown: true)) == [
                "its recipients have final outcomes, and their sender was told"
            ]
        )
        #expect(self.log.records(of: .held).isEmpty)
        #expect(try await self.refusals(.init(positions: [record.position], force: true)) == [nil])
    }

    @Test("Never put back, whatever is asked: what was cut, what belongs nowhere, what is not there")
    func refusesWhatIsImpossible() async throws {
        let cut = try await self.bury(1, headers: self.entry(1).headers, value: "hello", valueSizeMax: 4)
        let control = try await self.bury(2, topic: .control)
        let nowhere = AdminAPI.DeadPosition(partition: 3, offset: 99)
        let answers = try await self.refusals(.init(positions: [cut, control, nowhere], force: true))
        #expect(answers[0]?.hasPrefix("only a part of it was kept") == true)
        #expect(answers[1] == "nobody reads posthorn.control again")
        #expect(answers[2] == "there is no such record")
        #expect(self.log.records(of: .accepted).isEmpty)
        for positions in [[], Array(repeating: cut, count: 101)] {
            await #expect(throws: QueueAdministrationError.self) {
                try await self.records().replay(AdminAPI.DeadReplay(positions: positions))
            }
        }
    }

    @Test("Where too much lies behind a record to know of replays, it is refused, not put back twice")
    func refusesTheUnknown() async throws {
        let position = try await self.bury(0, headers: self.entry(1).headers)
        for number in 1..<200 { try await self.bury(Int64(number)) }
        let small = self.records { $0.recordCountMax = 64 }
        let answers = try await self.refusals(.init(positions: [position]), small)
        #expect(answers.first??.contains("too much lies behind it") == true)
        #expect(try await self.refusals(.init(positions: [position], marksAreKnown: true), small) == [nil])
    }

    @Test("A log that fails is told of for each record, and nothing is marked")
    func tellsOfFailures() async throws {
        let position = try await self.bury(1, headers: self.entry(1).headers)
        self.log.failNextAppend(with: RecordLogError(.notDurable, isRetriable: true))
        let answers = try await self.refusals(.init(positions: [position]))
        #expect(answers.first??.contains("it may be there all the same") == true)
        #expect(try await self.records().list(DeadQuery()).replays.isEmpty)
        #expect(try await self.refusals(.init(positions: [position])) == [nil])
    }
}
