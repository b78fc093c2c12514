import Admin
import Logging
import NIOCore
import NIOPosix
import NodeSupport
import Synchronization
import Testing

/// What anybody who reaches the admin listener can send it.
@Suite("Fuzz: requests to the admin listener")
struct AdminFuzzTests {
    /// A queue that checks what it is asked for.
    private struct CheckingQueue: QueueAdministration, MessageTracing {
        func summary() async throws(QueueAdministrationError) -> AdminAPI.QueueSummary {
            AdminAPI.QueueSummary(messages: 0, recipients: 0, octets: 0, sites: [])
        }

        func messages(_ query: QueueQuery) async throws(QueueAdministrationError) -> AdminAPI.QueueList {
            #expect((1...QueueQuery.limitMax).contains(query.limit))
            return AdminAPI.QueueList(messages: [])
        }

        func message(_ id: String) async throws(QueueAdministrationError) -> AdminAPI.QueuedMessage? {
            #expect(id.utf8.count == 26)
            return nil
        }

        func perform(
            _ command: AdminAPI.Command,
            on predicate: AdminAPI.QueuePredicate
        ) async throws(QueueAdministrationError) -> AdminAPI.QueueCommandResult {
            #expect(!predicate.isEmpty)
            return AdminAPI.QueueCommandResult(matched: 0)
        }

        func trace(_ query: TraceQuery) async throws(QueueAdministrationError) -> AdminAPI.Trace {
            #expect((1...TraceQuery.limitMax).contains(query.limit))
            return AdminAPI.Trace(events: [])
        }
    }

    private static let requests = [
        "GET /queue/messages?limit=10&site=a%20b&sender=%3C%3E HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "GET /trace?address=a@example.net&limit=9999 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "GET /queue/messages/01M85F6Z6B2JK5BY4WXQ4WZFZH HTTP/1.0\r\n\r\n",
        "POST /queue/remove HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 24\r\n\r\n{\"domain\":\"example.com\"}\n",
        "POST /queue/hold HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{\"all\":1\r\n0\r\n\r\n",
        "GET //health/%72eady?%zz=%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ]

    /// Goal: no request ends the listener or reaches the queue unchecked. Method: each goes over a connection of its own,
    /// which is ended; then the listener must still say that it lives.
    @Test("Any request has an answer, and the next one too", arguments: seeds)
    func requests(seed: UInt64) async throws {
        try await Self.withServer { port in
            var random = FuzzRandom(seed: seed)
            for _ in 0..<20 {
                let request = random.input(like: Self.requests.map { Array($0.utf8) })
                let answer = try await Self.ask(port, request)
                #expect(answer.isEmpty || answer.hasPrefix("HTTP/1."), "\(shown(request)): \(answer)")
                #expect(!answer.hasPrefix("HTTP/1.1 500"), "\(shown(request)): \(answer)")
            }
            let live = Array("GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".utf8)
            #expect(try await Self.ask(port, live).hasPrefix("HTTP/1.1 200"))
        }
    }

    private static func withServer(_ body: @Sendable @escaping (Int) async throws -> Void) async throws {
        let (ports, continuation) = AsyncStream.makeStream(of: Int.self)
        let server = AdminServer(
            address: Endpoint(host: "127.0.0.1", port: 0),
            token: nil,
            metrics: MetricsRegistry(),
            readiness: Readiness(),
            queue: CheckingQueue(),
            tracing: CheckingQueue(),
            logger: Logger(label: "fuzz") { _ in SwiftLogNoOpLogHandler() }
        ) { port in
            continuation.yield(port ?? 0)
            continuation.finish()
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await server.run() }
            group.addTask { for await port in ports { try await body(port) } }
            try await group.next()
            group.cancelAll()
            while let result = await group.nextResult() {
                if case .failure(let error) = result, !(error is CancellationError) { throw error }
            }
        }
    }

    /// Sends the octets and the end of input, and returns what comes until the server closes.
    private static func ask(_ port: Int, _ request: [UInt8]) async throws -> String {
        let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .channelOption(.allowRemoteHalfClosure, value: true)
            .connect(host: "127.0.0.1", port: port) { channel in
                channel.eventLoop.makeCompletedFuture {
                    try NIOAsyncChannel<ByteBuffer, ByteBuffer>(
                        wrappingChannelSynchronously: channel,
                        configuration: .init(isOutboundHalfClosureEnabled: true)
                    )
                }
            }
        return try await channel.executeThenClose { inbound, outbound in
            var answer = ByteBuffer()
            do {
                try await outbound.write(ByteBuffer(bytes: request))
                outbound.finish()
                for try await var part in inbound { answer.writeBuffer(&part) }
            } catch {
                // The server may close while there is more to come.
                guard error is IOError || error is ChannelError else { throw error }
            }
            return String(buffer: answer)
        }
    }
}
