import Foundation
import Mail
import NIOCore
import NIOPosix
import NIOSSL
import SMTP
import Testing

@testable import Delivery

/// What a scripted server does on one connection, step after step.
enum ServerStep: Sendable {
    case say(String)
    /// Says it an octet at a time, with so many milliseconds before each.
    case trickle(String, Int64)
    /// Waits for one line, which begins with this.
    case read(String)
    /// Waits for one line and says what is made of it.
    case answer(@Sendable (String) -> String)
    /// Waits for content, up to and with the final dot.
    case readContent
    case drop
    /// Becomes a TLS server.
    case startTLS
    /// Waits for octets, whatever they are, and takes none of them.
    case readAnything
    /// Takes nothing more from the connection.
    case stopReading

    static let greeting: [ServerStep] = [.say("220 mx\r\n"), .read("EHLO"), .say("250-mx\r\n250 PIPELINING\r\n")]
    static let plainGreeting: [ServerStep] = [.say("220 mx\r\n"), .read("EHLO"), .say("250 mx\r\n")]
}

/// A server on a loopback port that plays one script per connection, the last one for all that follow.
final class ScriptedServer: Sendable {
    /// All that was received, by connection; written on the loop.
    let received: NIOLoopBoundBox<[String]>
    let channel: any Channel
    var address: SocketAddress { get throws { try #require(self.channel.localAddress) } }

    init(_ scripts: [[ServerStep]], tls: NIOSSLContext? = nil) async throws {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let received = NIOLoopBoundBox<[String]>.makeBoxSendingValue([], eventLoop: loop)
        self.received = received
        self.channel = try await ServerBootstrap(group: loop)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    let index = received.value.count
                    received.value.append("")
                    let handler = ScriptHandler(scripts[min(index, scripts.count - 1)], tls: tls) {
                        received.value[index] += $0
                    }
                    try channel.pipeline.syncOperations.addHandler(handler)
                }
            }
            .bind(host: "127.0.0.1", port: 0).get()
    }

    func transcript() async throws -> [String] {
        let received = self.received
        return try await self.channel.eventLoop.submit { received.value }.get()
    }

    func close() async throws { try await self.channel.close() }
}

private final class ScriptHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private var steps: ArraySlice<ServerStep>
    private let tls: NIOSSLContext?
    private let record: (String) -> Void
    private var buffer = ""

    init(_ steps: [ServerStep], tls: NIOSSLContext?, record: @escaping (String) -> Void) {
        self.steps = steps[...]
        self.tls = tls
        self.record = record
    }

    func channelActive(context: ChannelHandlerContext) { self.run(context) }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let text = String(buffer: Self.unwrapInboundIn(data))
        self.record(text)
        self.buffer += text
        self.run(context)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    private func run(_ context: ChannelHandlerContext) {
        while let step = self.steps.first {
            switch step {
            case .say(let text):
                context.writeAndFlush(Self.wrapOutboundOut(ByteBuffer(string: text)), promise: nil)
            case .trickle(let text, let pause):
                for (number, octet) in text.utf8.enumerated() {
                    let time = TimeAmount.milliseconds(pause * Int64(number + 1))
                    context.eventLoop.assumeIsolated()
                        .scheduleTask(in: time) {
                            context.writeAndFlush(Self.wrapOutboundOut(ByteBuffer(bytes: [octet])), promise: nil)
                        }
                }
            case .read(let prefix):
                guard let end = self.buffer.utf8.firstIndex(of: 0x0a) else { return }
                #expect(self.buffer.hasPrefix(prefix))
                self.buffer = String(self.buffer.utf8[self.buffer.utf8.index(after: end)...]) ?? ""
            case .answer(let make):
                guard let end = self.buffer.firstIndex(of: "\r\n") else { return }
                let answer = make(String(self.buffer[..<end]))
                self.buffer = String(self.buffer[self.buffer.index(after: end)...])
                context.writeAndFlush(Self.wrapOutboundOut(ByteBuffer(string: answer)), promise: nil)
            case .readContent:
                guard self.buffer.hasSuffix("\r\n.\r\n") || self.buffer == ".\r\n" else { return }
                self.buffer = ""
            case .readAnything:
                guard !self.buffer.isEmpty else { return }
            case .stopReading:
                try? context.channel.syncOptions?.setOption(.autoRead, value: false)
            case .drop:
                self.steps = []
                context.close(promise: nil)
                return
            case .startTLS:
                guard let tls = self.tls else { return }
                do {
                    try context.pipeline.syncOperations.addHandler(NIOSSLServerHandler(context: tls), position: .first)
                } catch {
                    Issue.record(error)
                }
            }
            self.steps.removeFirst()
        }
    }
}

/// A connection and what it tells its owner.
struct OutboundHarness {
    enum Event: Sendable {
        case ready(OutboundSessionFacts)
        case finished(TransactionResult, isReusable: Bool)
        case closed(DeliveryFailure?)
    }

    private struct Delegate: OutboundConnectionDelegate {
        let events: AsyncStream<Event>.Continuation

        func connectionBecameReady(_ id: UInt64, facts: OutboundSessionFacts) { self.events.yield(.ready(facts)) }
        func connection(_ id: UInt64, finished result: TransactionResult, isReusable: Bool) {
            self.events.yield(.finished(result, isReusable: isReusable))
        }
        func connectionClosed(_ id: UInt64, failure: DeliveryFailure?) {
            self.events.yield(.closed(failure))
            self.events.finish()
        }
    }

    let loop: any EventLoop
    private let connection: NIOLoopBoundBox<OutboundConnection?>
    private var events: AsyncStream<Event>.AsyncIterator

    init(_ target: OutboundTarget, _ configuration: OutboundConfiguration) async throws {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let (stream, continuation) = AsyncStream.makeStream(of: Event.self)
        let box = NIOLoopBoundBox<OutboundConnection?>.makeBoxSendingValue(nil, eventLoop: loop)
        try await loop.submit {
            box.value = OutboundConnection.open(
                id: 1,
                target: target,
                on: loop,
                configuration: configuration,
                delegate: Delegate(events: continuation)
            )
        }
        .get()
        self.loop = loop
        self.connection = box
        self.events = stream.makeAsyncIterator()
    }

    mutating func next() async -> Event? { await self.events.next() }

    mutating func ready() async throws -> OutboundSessionFacts {
        guard case .ready(let facts)? = await self.next() else { throw Unexpected() }
        return facts
    }

    mutating func finished() async throws -> (TransactionResult, isReusable: Bool) {
        guard case .finished(let result, let isReusable)? = await self.next() else { throw Unexpected() }
        return (result, isReusable)
    }

    mutating func closed() async throws -> DeliveryFailure? {
        guard case .closed(let failure)? = await self.next() else { throw Unexpected() }
        return failure
    }

    /// - Parameter closes: closes in the same breath, before anything can come of it.
    func send(
        _ content: String = "Subject: x\r\n\r\nhello\r\n",
        to recipients: [String] = ["a@x.example"],
        id: UInt64 = 7,
        closes: Bool = false
    ) {
        let transaction = OutboundTransaction(
            id: id,
            reversePath: Mailbox(localPart: "s", domain: Domain(normalized: "y.example")),
            recipients: recipients.enumerated()
                .map { index, text in
                    let parts = text.split(separator: "@")
                    return Recipient(
                        mailbox: Mailbox(localPart: String(parts[0]), domain: Domain(normalized: String(parts[1]))),
                        index: UInt32(index)
                    )
                },
            bodyType: .sevenBit,
            isInternationalized: false,
            returnContent: nil,
            envelopeID: nil,
            content: ByteBuffer(string: content)
        )
        let connection = self.connection
        self.loop.execute {
            connection.value?.send(transaction)
            if closes { connection.value?.close() }
        }
    }

    func close() {
        let connection = self.connection
        self.loop.execute { connection.value?.close() }
    }

    func abort() {
        let connection = self.connection
        self.loop.execute { connection.value?.abortBeforeFinalDot() }
    }

    struct Unexpected: Error {}
}

extension RecipientResult {
    var failure: DeliveryFailure? {
        if case .failed(let failure) = self { failure } else { nil }
    }

    var reply: RemoteReply? {
        if case .delivered(let reply, _) = self { reply } else { nil }
    }
}

/// A key and a certificate for `mx.example`, made once by `openssl`.
struct TestCertificate: Sendable {
    let chain: [NIOSSLCertificate]
    let server: NIOSSLContext
    /// Trusts ``server``.
    let trusting: CertificateVerifier

    static let shared = Result { try TestCertificate() }

    private init() throws {
        let directory = FileManager.default.temporaryDirectory.appendingPathComponent("outbound-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: directory) }
        let key = directory.appendingPathComponent("key.pem").path
        let certificate = directory.appendingPathComponent("cert.pem").path
        let openssl = Process()
        openssl.executableURL = URL(fileURLWithPath: "/usr/bin/openssl")
        openssl.arguments = [
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
            "-subj", "/CN=mx.example", "-addext", "subjectAltName=DNS:mx.example",
        ]
        openssl.standardError = FileHandle.nullDevice
        try openssl.run()
        openssl.waitUntilExit()
        self.chain = try NIOSSLCertificate.fromPEMFile(certificate)
        self.server = try NIOSSLContext(
            configuration: .makeServerConfiguration(
                certificateChain: chain.map { .certificate($0) },
                privateKey: .privateKey(try NIOSSLPrivateKey(file: key, format: .pem))
            )
        )
        self.trusting = try CertificateVerifier(trustedCertificatesFile: certificate)
    }
}

extension OutboundConfiguration {
    /// - Parameter verified: whom `.verified` trusts; by default the system's authorities.
    static func test(timeouts: ClientTimeouts = ClientTimeouts(), verified: CertificateVerifier? = nil) throws -> Self {
        var unverified = TLSConfiguration.makeClientConfiguration()
        unverified.certificateVerification = .none
        unverified.trustRoots = .certificates([])
        var strict = TLSConfiguration.makeClientConfiguration()
        strict.trustRoots = .certificates([])
        return OutboundConfiguration(
            name: "relay.example",
            timeouts: timeouts,
            unverifiedTLS: try NIOSSLContext(configuration: unverified),
            verifiedTLS: try NIOSSLContext(configuration: strict),
            verifier: try verified ?? CertificateVerifier()
        )
    }
}

extension OutboundTarget {
    static func test(
        _ addresses: [SocketAddress],
        wire: Wire = .smtp,
        tls: TLSLevel = .none,
        isImplicitTLS: Bool = false,
        credentials: OutboundCredentials? = nil
    ) -> OutboundTarget {
        OutboundTarget(
            wire: wire,
            endpoints: addresses.map { Endpoint(host: "mx.example", addresses: [$0]) },
            tls: tls,
            isImplicitTLS: isImplicitTLS,
            credentials: credentials
        )
    }
}
