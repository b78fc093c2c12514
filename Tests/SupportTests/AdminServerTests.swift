import Admin
import ClusterLog
import Foundation
import Logging
import NIOCore
import NIOPosix
import NodeSupport
import Records
import Synchronization
import Testing

/// A queue that answers from a script and remembers what was asked.
private final class ScriptedQueue: QueueAdministration {
    let queries = Mutex<[QueueQuery]>([])
    let commands = Mutex<[(AdminAPI.Command, AdminAPI.QueuePredicate)]>([])
    let failure = Mutex<QueueAdministrationError?>(nil)

    private func check() throws(QueueAdministrationError) {
        if let failure = self.failure.withLock({ $0 }) { throw failure }
    }

    func summary() async throws(QueueAdministrationError) -> AdminAPI.QueueSummary {
        try self.check()
        return AdminAPI.QueueSummary(messages: 2, recipients: 3, octets: 400, sites: [.init(site: "mx.example.net")])
    }

    func messages(_ query: QueueQuery) async throws(QueueAdministrationError) -> AdminAPI.QueueList {
        try self.check()
        self.queries.withLock { $0.append(query) }
        return AdminAPI.QueueList(messages: [], isTruncated: true)
    }

    func message(_ id: String) async throws(QueueAdministrationError) -> AdminAPI.QueuedMessage? {
        try self.check()
        guard id == String(repeating: "A", count: 26) else { return nil }
        return AdminAPI.QueuedMessage(id: id, sender: "a@example.org", octets: 10, accepted: 1, recipients: [])
    }

    func perform(
        _ command: AdminAPI.Command,
        on predicate: AdminAPI.QueuePredicate
    ) async throws(QueueAdministrationError) -> AdminAPI.QueueCommandResult {
        try self.check()
        self.commands.withLock { $0.append((command, predicate)) }
        return AdminAPI.QueueCommandResult(matched: 7)
    }
}

/// What came back over one connection.
private struct Answer {
    var status: Int
    var head: String
    var body: String

    init(_ text: String) {
        let parts = text.components(separatedBy: "\r\n\r\n")
        self.head = parts.first ?? ""
        self.body = parts.dropFirst().joined(separator: "\r\n\r\n")
        self.status = self.head.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0
    }

    func decode<Value: Decodable>(_ type: Value.Type) throws -> Value {
        try JSONDecoder().decode(type, from: Data(self.body.utf8))
    }
}

@Suite("AdminServer: metrics, health and the queue over HTTP")
struct AdminServerTests {
    private let metrics = MetricsRegistry()
    private let readiness = Readiness()
    private let queue = ScriptedQueue()
    private let log = InMemoryLog(partitionCount: 1)

    /// Runs a server on a free port around `body`.
    private func withServer(
        token: String? = nil,
        ownNames: Set<String> = [],
        hasQueue: Bool = true,
        _ body: @Sendable @escaping (Int) async throws -> Void
    ) async throws {
        let (ports, continuation) = AsyncStream.makeStream(of: Int.self)
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        let server = AdminServer(
            address: Endpoint(host: "127.0.0.1", port: 0),
            token: token,
            ownNames: ownNames,
            metrics: self.metrics,
            readiness: self.readiness,
            queue: hasQueue ? self.queue : nil,
            dead: DeadRecords(log: self.log, metrics: self.metrics),
            logger: logger
        ) { port in
            continuation.yield(port ?? 0)
            continuation.finish()
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await server.run() }
            group.addTask {
                for await port in ports { try await body(port) }
            }
            // The body ends first; the server then is cancelled.
            try await group.next()
            group.cancelAll()
            while let result = await group.nextResult() {
                if case .failure(let error) = result, !(error is CancellationError) { throw error }
            }
        }
    }

    private func ask(_ port: Int, _ request: String, headers: [String] = [], body: String = "") async throws -> Answer {
        let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .connect(host: "127.0.0.1", port: port) { channel in
                channel.eventLoop.makeCompletedFuture {
                    try NIOAsyncChannel<ByteBuffer, ByteBuffer>(wrappingChannelSynchronously: channel)
                }
            }
        var lines = ["\(request) HTTP/1.1", "Connection: close"] + headers
        if !headers.contains(where: { $0.hasPrefix("Host:") }) { lines.append("Host: localhost") }
        if request.hasPrefix("POST"), !headers.contains(where: { $0.hasPrefix("Content-Type:") }) {
            lines.append("Content-Type: application/json")
        }
        if !body.isEmpty { lines.append("Content-Length: \(body.utf8.count)") }
        let text = lines.joined(separator: "\r\n") + "\r\n\r\n" + body
        return try await channel.executeThenClose { inbound, outbound in
            try await outbound.write(ByteBuffer(string: text))
            var answer = ByteBuffer()
            for try await var part in inbound { answer.writeBuffer(&part) }
            return Answer(String(buffer: answer))
        }
    }

    @Test("GET /metrics answers the Prometheus text format")
    func servesMetrics() async throws {
        self.metrics.counter("posthorn_x_total", help: "X.").increment(by: 4)
        try await self.withServer(token: "secret") { port in
            let answer = try await self.ask(port, "GET /metrics")
            #expect(answer.status == 200)
            #expect(answer.head.lowercased().contains("content-type: text/plain; version=0.0.4"))
            #expect(answer.body == self.metrics.exposition())
            #expect(answer.body.contains("posthorn_x_total 4\n"))
        }
    }

    @Test("Health: live always, ready only when every condition is met, else 503 with the reasons")
    func servesHealth() async throws {
        let log = self.readiness.condition("log", initially: "the disk is full")
        try await self.withServer { port in
            #expect(try await self.ask(port, "GET /health/live").status == 200)
            let unready = try await self.ask(port, "GET /health/ready")
            #expect(unready.status == 503)
            #expect(unready.body == #"{"ready":false,"reasons":{"log":"the disk is full"}}"#)
            log.met()
            let ready = try await self.ask(port, "GET /health/ready")
            #expect(ready.status == 200)
            #expect(ready.body == #"{"ready":true,"reasons":{}}"#)
        }
    }

    @Test("The queue's views are passed through, with their query")
    func servesViews() async throws {
        try await self.withServer { port in
            let summary = try await self.ask(port, "GET /queue/summary")
            #expect(try summary.decode(AdminAPI.QueueSummary.self).sites.first?.site == "mx.example.net")
            let list = try await self.ask(
                port,
                "GET /queue/messages?site=mx%2Fa&domain=Example.NET&sender=%3C%3E&limit=5"
            )
            #expect(try list.decode(AdminAPI.QueueList.self).isTruncated)
            #expect(
                self.queue.queries.withLock { $0 }
                    == [QueueQuery(site: "mx/a", domain: "example.net", sender: "", limit: 5)]
            )
            let id = String(repeating: "A", count: 26)
            #expect(
                try await self.ask(port, "GET /queue/messages/\(id)").decode(AdminAPI.QueuedMessage.self).id == id
            )
        }
    }

    @Test("A command reaches the queue with its predicate")
    func performsCommands() async throws {
        try await self.withServer { port in
            for command in AdminAPI.Command.allCases {
                let answer = try await self.ask(
                    port,
                    "POST /queue/\(command.rawValue)",
                    body: #"{"domain":"example.net"}"#
                )
                #expect(answer.status == 200)
                #expect(try answer.decode(AdminAPI.QueueCommandResult.self).matched == 7)
            }
            let commands = self.queue.commands.withLock { $0 }
            #expect(commands.map(\.0) == AdminAPI.Command.allCases)
            #expect(commands.allSatisfy { $0.1 == AdminAPI.QueuePredicate(domain: "example.net") })
        }
    }

    @Test(
        "What cannot be served is answered with a status and words that name what to change",
        arguments: [
            ("GET /nothing", "", 404, "/metrics"),
            ("GET /queue/nothing", "", 404, "/queue/summary"),
            ("GET /queue/messages/short", "", 404, "26 characters"),
            ("GET /queue/messages?limit=0", "", 400, "limit"),
            ("GET /queue/messages?limit=99999999999999999999", "", 400, "limit"),
            ("GET /queue/messages?colour=red", "", 400, "colour"),
            ("POST /metrics", "", 405, "GET"),
            ("GET /queue/flush", "", 405, "POST"),
            ("POST /queue/flush", "{}", 400, "all: true"),
            ("POST /queue/flush", #"{"all":false}"#, 400, "all: true"),
            ("POST /queue/flush", "not json", 400, "JSON object"),
            ("POST /queue/flush", #"{"domain":5}"#, 400, "JSON object"),
            ("POST /queue/flush", "", 400, "JSON object"),
            ("GET /dead", "", 404, "/dead/records"),
            ("GET /dead/records/5", "", 404, "partition@offset"),
            ("GET /dead/records/0@5", "", 404, "no such record"),
            ("GET /dead/records/0%405/value", "", 404, "no such record"),
            ("GET /dead/records?limit=0", "", 400, "limit"),
            ("GET /dead/records?since=yesterday", "", 400, "milliseconds"),
            ("GET /dead/records?colour=red", "", 400, "colour"),
            ("GET /dead/records?cursor=x", "", 400, "cursor"),
            ("GET /dead/replay", "", 405, "POST"),
            ("POST /dead/replay", "{}", 400, "positions"),
            ("POST /dead/replay", #"{"positions":["x"]}"#, 400, "partition@offset"),
            ("POST /dead/replay", #"{"positions":[]}"#, 400, "1 to 100"),
        ]
    )
    func refuses(request: String, body: String, status: Int, words: String) async throws {
        try await self.withServer { port in
            let answer = try await self.ask(port, request, body: body)
            #expect(answer.status == status)
            #expect(try answer.decode(AdminAPI.Failure.self).error.contains(words))
            #expect(self.queue.commands.withLock { $0.isEmpty })
        }
    }

    @Test("Dead records are listed, shown and put back, behind the token")
    func servesDeadRecords() async throws {
        let dead = DeadRecord(
            position: Position(partition: TopicPartition(.outcomes, 0), offset: Offset(3)),
            reason: "it is no outcome",
            key: "k",
            timestamp: nil,
            headers: [],
            value: ByteBuffer(bytes: [0, 1, 255])
        )
        _ = try await self.log.append([dead.record(valueSizeMax: 100)])
        try await self.withServer(token: "secret") { port in
            for path in ["GET /dead/records", "GET /dead/records/0@0/value", "POST /dead/replay"] {
                #expect(try await self.ask(port, path).status == 401)
            }
            let token = ["Authorization: Bearer secret"]
            let list = try await self.ask(port, "GET /dead/records?topic=posthorn.outcomes&since=0", headers: token)
            let listed = try list.decode(AdminAPI.DeadList.self).records
            #expect(listed.map(\.position.description) == ["0@0"] && listed.first?.from == "posthorn.outcomes/0@3")
            let detail = try await self.ask(port, "GET /dead/records/0%400", headers: token)
            #expect(try detail.decode(AdminAPI.DeadDetail.self).valueSize == 3)
            let value = try await self.ask(port, "GET /dead/records/0@0/value", headers: token)
            #expect(value.head.lowercased().contains("content-length: 3"))
            let body = #"{"positions":["0@0"]}"#
            let replay = try await self.ask(port, "POST /dead/replay", headers: token, body: body)
            #expect(try replay.decode(AdminAPI.DeadReplayResult.self).items.map(\.to) == ["posthorn.outcomes/0@0"])
        }
        #expect(self.log.records(of: .outcomes).map(\.value) == [dead.value])
    }

    @Test("413 for a body over the bound")
    func boundsBodies() async throws {
        try await self.withServer { port in
            let body = #"{"domain":""# + String(repeating: "x", count: 20_000) + #""}"#
            let answer = try await self.ask(port, "POST /queue/remove", body: body)
            #expect(answer.status == 413)
            #expect(self.queue.commands.withLock { $0.isEmpty })
        }
    }

    @Test(
        "401 without the right token, on the queue API alone",
        arguments: [
            [], ["Authorization: Basic c2VjcmV0"], ["Authorization: Bearer secre"], ["Authorization: Bearer secrets"],
            ["Authorization: Bearer "], ["Authorization: Bearer"],
        ]
    )
    func requiresToken(headers: [String]) async throws {
        try await self.withServer(token: "secret") { port in
            let answer = try await self.ask(port, "GET /queue/summary", headers: headers)
            #expect(answer.status == 401)
            #expect(answer.head.lowercased().contains("www-authenticate: bearer"))
            #expect(try answer.decode(AdminAPI.Failure.self).error.contains("token"))
            #expect(try await self.ask(port, "GET /health/live", headers: headers).status == 200)
        }
    }

    @Test(
        "What a web page can send is refused: 415 without the JSON type, 403 with an Origin, 421 for a foreign Host",
        arguments: [
            (["Content-Type: text/plain"], 415), (["Content-Type: application/x-www-form-urlencoded"], 415),
            (["Content-Type:"], 415), (["Content-Type: application/jsonx"], 415),
            (["Origin: http://evil.example"], 403), (["Origin: null"], 403), (["Origin: http://127.0.0.1:9925"], 403),
            (["Host: evil.example:9925"], 421), (["Host: 127.0.0.1.evil.example"], 421), (["Host: [evil"], 421),
        ]
    )
    func refusesWebPages(headers: [String], status: Int) async throws {
        try await self.withServer { port in
            let answer = try await self.ask(port, "POST /queue/remove", headers: headers, body: #"{"all":true}"#)
            #expect(answer.status == status)
            #expect(self.queue.commands.withLock { $0.isEmpty })
            guard status != 415 else { return }
            #expect(try await self.ask(port, "GET /queue/summary", headers: headers).status == status)
            #expect(try await self.ask(port, "GET /metrics", headers: headers).status == 200)
            #expect(try await self.ask(port, "GET /health/live", headers: headers).status == 200)
        }
    }

    @Test("The node answers under its own names and addresses, and under any for who has the token")
    func answersUnderOwnNames() async throws {
        try await self.withServer(ownNames: ["Relay.example"]) { port in
            for host in ["relay.example", "RELAY.EXAMPLE:9925", "127.0.0.1:1", "[::1]:9925", "localhost:9925"] {
                #expect(try await self.ask(port, "GET /queue/summary", headers: ["Host: \(host)"]).status == 200)
            }
            let typed = ["Content-Type: Application/JSON; charset=utf-8"]
            let answer = try await self.ask(port, "POST /queue/flush", headers: typed, body: #"{"all":true}"#)
            #expect(answer.status == 200)
        }
        try await self.withServer(token: "secret") { (port: Int) async throws in
            let headers = ["Host: queue.cluster.local", "Authorization: Bearer secret"]
            #expect(try await self.ask(port, "GET /queue/summary", headers: headers).status == 200)
            let page = headers + ["Origin: http://queue.cluster.local"]
            #expect(try await self.ask(port, "GET /queue/summary", headers: page).status == 403)
        }
    }

    @Test("The right token opens the queue API")
    func takesToken() async throws {
        try await self.withServer(token: "secret") { port in
            let answer = try await self.ask(port, "GET /queue/summary", headers: ["Authorization: bearer secret"])
            #expect(answer.status == 200)
        }
    }

    @Test("503 and the queue's own words when it cannot answer; 404 on a node without one")
    func reportsUnavailable() async throws {
        self.queue.failure.withLock { $0 = QueueAdministrationError(.unavailable, reason: "the log is away") }
        try await self.withServer { port in
            let answer = try await self.ask(port, "GET /queue/summary")
            #expect(answer.status == 503)
            #expect(try answer.decode(AdminAPI.Failure.self).error == "the log is away")
        }
        try await self.withServer(hasQueue: false) { port in
            let answer = try await self.ask(port, "GET /queue/summary")
            #expect(answer.status == 404)
            #expect(try answer.decode(AdminAPI.Failure.self).error.contains("delivery role"))
        }
    }
}
