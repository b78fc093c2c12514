import ClusterLog
import Foundation
import Logging
import Mail
import NIOCore
import NIOPosix
import NodeSupport
import Records
import SMTP
import Testing

@testable import Ingress

/// A live server on loopback over a log in memory.
final class TestServer: Sendable {
    let log: InMemoryLog
    let metrics = MetricsRegistry()
    let readiness = Readiness()
    let server: IngressServer
    let ports: [String: Int]

    static let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)

    private init(
        _ configuration: NodeConfiguration,
        credentials: CredentialStore?,
        log: InMemoryLog,
        keys: KeySpreading.Configuration?,
        clock: any NodeClock
    ) async throws {
        self.log = log
        self.server = IngressServer(
            configuration: configuration,
            log: log,
            keys: keys,
            credentials: credentials,
            group: Self.group,
            clock: clock,
            metrics: self.metrics,
            readiness: self.readiness,
            logger: Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() })
        )
        let bound = try await self.server.bind()
        self.ports = Dictionary(uniqueKeysWithValues: bound.map { ($0.name, $0.address.port ?? 0) })
    }

    var port: Int { self.ports["smtp"] ?? 0 }

    /// Settings, to run a test with.
    struct Setup {
        let clock: any NodeClock
        let configure: (inout NodeConfiguration) -> Void

        func run(body: (TestServer) async throws -> Void) async throws {
            try await TestServer.run(clock: self.clock, configure: self.configure, body: body)
        }
    }

    static func with(
        clock: any NodeClock = SystemClock(),
        _ configure: @escaping (inout NodeConfiguration) -> Void
    ) -> Setup {
        Setup(clock: clock, configure: configure)
    }

    /// Runs `body` against a server with these settings, and stops it.
    static func run(
        credentials: CredentialStore? = nil,
        log: InMemoryLog = InMemoryLog(),
        keys: KeySpreading.Configuration? = nil,
        clock: any NodeClock = SystemClock(),
        configure: (inout NodeConfiguration) -> Void = { _ in },
        body: (TestServer) async throws -> Void
    ) async throws {
        let configuration = Self.configuration(configure)
        let server = try await TestServer(
            configuration,
            credentials: credentials,
            log: log,
            keys: keys,
            clock: clock
        )
        do {
            try await body(server)
        } catch {
            await server.server.stop()
            throw error
        }
        await server.server.stop()
    }

    static func configuration(_ configure: (inout NodeConfiguration) -> Void) -> NodeConfiguration {
        var configuration = NodeConfiguration()
        configuration.hostname = "mx.example.net"
        configuration.listeners = [Self.listener("smtp", .relay)]
        configuration.timeouts.server.drain = .seconds(2)
        configure(&configuration)
        return configuration
    }

    static func listener(
        _ name: String,
        _ kind: NodeConfiguration.Listener.Kind,
        tls: NodeConfiguration.Listener.TLSFiles? = nil
    ) -> NodeConfiguration.Listener {
        NodeConfiguration.Listener(name: name, kind: kind, address: "127.0.0.1", port: 0, tls: tls)
    }

    /// The messages that were accepted.
    func accepted() throws -> [(entry: QueueEntry, record: StoredRecord, text: String)] {
        try self.log.records(of: .accepted).map { (try QueueEntry($0), $0, String(buffer: $0.value)) }
    }

    /// What a counter says, by its line in the exposition.
    func metric(_ line: String) -> Int? {
        for text in self.metrics.exposition().split(separator: "\n") where text.hasPrefix(line + " ") {
            return Int(text.dropFirst(line.count + 1))
        }
        return nil
    }
}

/// A client that sends octets as told and waits for what it expects.
final class TestClient {
    enum Failure: Error {
        case closed(soFar: String)
        case timeout(soFar: String)
        case notConnected(Int32)
    }

    private let descriptor: Int32
    private var received: [UInt8] = []

    init(port: Int, from source: String? = nil, receiveBufferSize: Int32? = nil) throws {
        self.descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        if var size = receiveBufferSize {
            setsockopt(self.descriptor, SOL_SOCKET, SO_RCVBUF, &size, socklen_t(MemoryLayout<Int32>.size))
        }
        var timeout = timeval(tv_sec: 10, tv_usec: 0)
        setsockopt(self.descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        var one: Int32 = 1
        setsockopt(self.descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &one, socklen_t(MemoryLayout<Int32>.size))
        if let source {
            var local = Self.address(source, 0)
            _ = withUnsafePointer(to: &local) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    bind(self.descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
        }
        var remote = Self.address("127.0.0.1", port)
        let result = withUnsafePointer(to: &remote) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(self.descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else { throw Failure.notConnected(errno) }
    }

    deinit { close(self.descriptor) }

    private static func address(_ text: String, _ port: Int) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(UInt16(port)).bigEndian
        inet_pton(AF_INET, text, &address.sin_addr)
        return address
    }

    func send(_ text: String) { self.send(Array(text.utf8)) }

    func send(_ octets: [UInt8]) {
        var rest = octets[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes {
                Glibc.send(self.descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { return }
            rest = rest.dropFirst(count)
        }
    }

    /// Whether all of it could be sent: not when the server takes nothing for 300 ms, or has closed.
    func trySend(_ octets: [UInt8]) -> Bool {
        var rest = octets[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes {
                Glibc.send(self.descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
            }
            if count > 0 {
                rest = rest.dropFirst(count)
                continue
            }
            var descriptor = pollfd(fd: self.descriptor, events: Int16(POLLOUT), revents: 0)
            guard errno == EAGAIN, poll(&descriptor, 1, 300) == 1, descriptor.revents & Int16(POLLOUT) != 0 else {
                return false
            }
        }
        return true
    }

    func endOfInput() { shutdown(self.descriptor, Int32(SHUT_WR)) }

    /// Reads one reply, which may have several lines.
    @discardableResult
    func reply() throws -> String {
        var start = 0
        while true {
            while let end = self.received[start...].firstIndex(of: 0x0a) {
                let line = self.received[start..<end]
                let isLast = line.count < 4 || line[line.startIndex + 3] != UInt8(ascii: "-")
                start = end + 1
                guard isLast else { continue }
                let text = String(decoding: self.received[..<start], as: UTF8.self)
                self.received.removeFirst(start)
                return text.trimmingCharacters(in: .whitespacesAndNewlines)
            }
            try self.readMore()
        }
    }

    /// Sends, then reads one reply.
    @discardableResult
    func ask(_ text: String) throws -> String {
        self.send(text + "\r\n")
        return try self.reply()
    }

    /// Everything until the server closes.
    func rest() -> String {
        while (try? self.readMore()) != nil {}
        return String(decoding: self.received, as: UTF8.self)
    }

    /// Whether the server says nothing for so long.
    func isSilent(milliseconds: Int32) -> Bool {
        var descriptor = pollfd(fd: self.descriptor, events: Int16(POLLIN), revents: 0)
        return self.received.isEmpty && poll(&descriptor, 1, milliseconds) == 0
    }

    /// Whether the server closes now, having said no more.
    func isClosed() -> Bool { self.rest().isEmpty }

    private func readMore() throws {
        var chunk = [UInt8](repeating: 0, count: 65_536)
        let count = recv(self.descriptor, &chunk, chunk.count, 0)
        let soFar = String(decoding: self.received, as: UTF8.self)
        if count < 0, errno == EAGAIN { throw Failure.timeout(soFar: soFar) }
        guard count > 0 else { throw Failure.closed(soFar: soFar) }
        self.received.append(contentsOf: chunk[..<count])
    }
}

extension TestClient {
    /// Greeting, EHLO.
    func hello() throws {
        #expect(try self.reply().hasPrefix("220 mx.example.net"))
        #expect(try self.ask("EHLO client.example").hasPrefix("250-mx.example.net"))
    }

    /// Up to 354.
    func beginMessage(from: String = "a@example.org", to: [String] = ["b@example.com"]) throws {
        #expect(try self.ask("MAIL FROM:<\(from)>") == "250 2.1.0 Ok")
        for recipient in to { #expect(try self.ask("RCPT TO:<\(recipient)>") == "250 2.1.5 Ok") }
        #expect(try self.ask("DATA").hasPrefix("354 "))
    }

    /// A whole message; the reply to its end.
    func sendMessage(_ content: String = "Subject: hello\r\n\r\nhello\r\n", to: [String] = ["b@example.com"]) throws
        -> String
    {
        try self.beginMessage(to: to)
        return try self.ask(content + ".")
    }
}
