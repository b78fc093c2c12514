import ArgumentParser
import Dispatch
import Foundation
import NIOCore
import NIOPosix
import NIOSSL
import NodeSupport

struct SinkCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sink",
        abstract: "Take mail from anybody and throw it away, as slowly and unkindly as you like.",
        discussion: """
            A destination to test against. Shares run from 0 to 1 and apply to recipients unless a phase is named: \
            --tempfail 0.1, --permfail dot=0.02, --drop content=0.01. Phases: connect, banner, ehlo, mail, rcpt, \
            data, content, dot.
            """
    )

    @Option(help: ArgumentHelp("Where to listen; port 0 takes any free one.", valueName: "host:port"))
    var listen = "127.0.0.1:2525"

    @Option(help: "The name to greet with.")
    var hostname = "sink.example"

    @Flag(help: "Print nothing but the summary at the end.")
    var quiet = false

    @Flag(help: "Print the summary as JSON.")
    var json = false

    @Option(help: ArgumentHelp("Stop after so many messages.", valueName: "n"))
    var count: Int?

    @Option(help: ArgumentHelp("Wait before answering, like 100ms or dot=2s. Repeatable.", valueName: "[phase=]time"))
    var delay: [String] = []

    @Option(help: ArgumentHelp("Refuse a share for now (4xx). Repeatable.", valueName: "[phase=]share"))
    var tempfail: [String] = []

    @Option(help: ArgumentHelp("Refuse a share for good (5xx). Repeatable.", valueName: "[phase=]share"))
    var permfail: [String] = []

    @Option(help: ArgumentHelp("Refuse recipients, like '*@full.example=452 4.2.2 Full'.", valueName: "pattern=reply"))
    var failRecipient: [String] = []

    @Option(help: ArgumentHelp("Hang up on a share of sessions at a phase. Repeatable.", valueName: "phase=share"))
    var drop: [String] = []

    @Flag(inversion: .prefixedNo, help: "Offer PIPELINING.")
    var pipelining = true

    @Flag(name: .customLong("8bitmime"), inversion: .prefixedNo, help: "Offer 8BITMIME.")
    var eightBitMIME = true

    @Flag(inversion: .prefixedNo, help: "Offer SMTPUTF8.")
    var smtputf8 = true

    @Flag(inversion: .prefixedNo, help: "Offer CHUNKING.")
    var chunking = true

    @Flag(inversion: .prefixedNo, help: "Offer SIZE.")
    var size = true

    @Flag(inversion: .prefixedNo, help: "Offer DSN.")
    var dsn = true

    @Option(
        help: ArgumentHelp("Offer STARTTLS with this certificate chain (PEM).", valueName: "file"),
        completion: .file()
    )
    var tlsCert: String?

    @Option(help: ArgumentHelp("The certificate's key (PEM).", valueName: "file"), completion: .file())
    var tlsKey: String?

    @Flag(help: "Speak LMTP: one reply for each recipient (RFC 2033).")
    var lmtp = false

    @Option(help: ArgumentHelp("Write each message to a file there.", valueName: "directory"), completion: .directory)
    var dump: String?

    @Option(
        help: ArgumentHelp(
            "Append a line for each accepted recipient: X-Test-Id or Message-ID, tab, recipient.",
            valueName: "file"
        ),
        completion: .file()
    )
    var record: String?

    @Option(help: "What shares are drawn with: the same seed, the same fate.")
    var seed: UInt64 = 1

    @Option(help: "Event loops.")
    var threads = 1

    func validate() throws {
        _ = try self.behaviour()
        if Endpoint(self.listen, defaultPort: 2525) == nil {
            throw ValidationError("“\(self.listen)” is not a place to listen. Write one like 127.0.0.1:2525.")
        }
        if (self.tlsCert == nil) != (self.tlsKey == nil) {
            throw ValidationError("--tls-cert and --tls-key go together.")
        }
        if !(1...64).contains(self.threads) { throw ValidationError("--threads takes 1 to 64.") }
    }

    func behaviour() throws -> SinkBehaviour {
        var behaviour = SinkBehaviour()
        behaviour.hostname = self.hostname
        behaviour.isLMTP = self.lmtp
        behaviour.hasPipelining = self.pipelining
        behaviour.has8BitMIME = self.eightBitMIME
        behaviour.hasSMTPUTF8 = self.smtputf8
        behaviour.hasChunking = self.chunking
        behaviour.hasSize = self.size
        behaviour.hasDSN = self.dsn
        behaviour.seed = self.seed
        behaviour.temporaryFailures = try Self.shares(
            self.tempfail,
            "--tempfail",
            [.connect, .mail, .rcpt, .data, .dot]
        )
        behaviour.permanentFailures = try Self.shares(
            self.permfail,
            "--permfail",
            [.connect, .mail, .rcpt, .data, .dot]
        )
        behaviour.drops = try Self.shares(self.drop, "--drop", SinkPhase.allCases)
        for text in self.delay {
            let (phases, value) = try Self.split(text, "--delay", [.connect, .ehlo, .mail, .rcpt, .data, .dot])
            guard let delay = ConfigurationValue<Duration>.duration().parse(value) else {
                throw ValidationError("--delay: “\(value)” is not a duration. Write one like 100ms or 2s.")
            }
            for phase in phases ?? [.connect, .ehlo, .mail, .rcpt, .data, .dot] { behaviour.delays[phase] = delay }
        }
        for text in self.failRecipient {
            let parts = text.split(separator: "=", maxSplits: 1)
            guard parts.count == 2, parts[1].utf8.count >= 3, let code = Int(parts[1].prefix(3)), 400...599 ~= code
            else {
                throw ValidationError("--fail-recipient: write PATTERN=REPLY, like '*@full.example=452 4.2.2 Full'.")
            }
            behaviour.recipientRules.append(.init(pattern: parts[0].lowercased(), reply: String(parts[1])))
        }
        return behaviour
    }

    private static func shares(_ texts: [String], _ option: String, _ allowed: [SinkPhase]) throws -> [SinkPhase:
        Double]
    {
        var result: [SinkPhase: Double] = [:]
        for text in texts {
            let (phases, value) = try Self.split(text, option, allowed)
            guard let share = Double(value), 0...1 ~= share else {
                throw ValidationError("\(option): “\(value)” is not a share. Write a number from 0 to 1.")
            }
            for phase in phases ?? [.rcpt] { result[phase] = share }
        }
        return result
    }

    private static func split(
        _ text: String,
        _ option: String,
        _ allowed: [SinkPhase]
    ) throws -> (phases: [SinkPhase]?, value: String) {
        let parts = text.split(separator: "=", maxSplits: 1)
        guard parts.count == 2 else { return (nil, text) }
        guard let phase = SinkPhase(rawValue: parts[0].lowercased()), allowed.contains(phase) else {
            let names = allowed.map(\.rawValue).joined(separator: ", ")
            throw ValidationError("\(option): “\(parts[0])” is not one of \(names).")
        }
        return ([phase], String(parts[1]))
    }

    func run() async throws {
        guard let endpoint = Endpoint(self.listen, defaultPort: 2525) else { return }
        let counters = SinkCounters()
        let (stop, stopper) = AsyncStream<Void>.makeStream(bufferingPolicy: .bufferingNewest(1))
        let shared = SinkSession.Shared(
            behaviour: try self.behaviour(),
            counters: counters,
            files: try SinkFiles(recordPath: self.record, dumpDirectory: self.dump),
            tls: try self.tlsContext(),
            messageCountMax: self.count,
            finished: { stopper.yield() }
        )
        let group = MultiThreadedEventLoopGroup(numberOfThreads: self.threads)
        let bootstrap = ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 1024)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(SinkSession(shared: shared))
                }
            }
        let channel: any Channel
        switch endpoint {
        case .host(let host, let port):
            channel = try await bootstrap.bind(host: host, port: port).get()
        case .unixSocket(let path):
            channel = try await bootstrap.bind(unixDomainSocketPath: path, cleanupExistingSocketFile: true).get()
        }
        let address = channel.localAddress.flatMap { local in
            local.port.flatMap { port in local.ipAddress.map { Endpoint(host: $0, port: port).description } }
        }
        StandardError.write("listening on \(address ?? self.listen)")

        let signals = Self.onSignals { stopper.yield() }
        let clock = ContinuousClock()
        let start = clock.now
        let isQuiet = self.quiet
        await withTaskGroup(of: Void.self) { tasks in
            if !isQuiet { tasks.addTask { await Self.report(counters, clock: clock) } }
            for await _ in stop { break }
            tasks.cancelAll()
        }
        let summary = counters.snapshot(elapsed: clock.now - start)
        try await channel.close().get()
        for signal in signals { signal.cancel() }
        try await group.shutdownGracefully()
        try self.print(summary)
    }

    private func print(_ summary: SinkSummary) throws {
        if self.json {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys]
            Swift.print(String(decoding: try encoder.encode(summary), as: UTF8.self))
        } else {
            Swift.print(summary.text)
        }
    }

    private func tlsContext() throws -> NIOSSLContext? {
        guard let tlsCert, let tlsKey else { return nil }
        let chain = try NIOSSLCertificate.fromPEMFile(tlsCert).map { NIOSSLCertificateSource.certificate($0) }
        let key = try NIOSSLPrivateKey(file: tlsKey, format: .pem)
        return try NIOSSLContext(
            configuration: .makeServerConfiguration(certificateChain: chain, privateKey: .privateKey(key))
        )
    }

    /// A line each second in which something happened.
    private static func report(_ counters: SinkCounters, clock: ContinuousClock) async {
        var last = 0
        while (try? await clock.sleep(for: .seconds(1))) != nil {
            let summary = counters.snapshot(elapsed: .seconds(1))
            guard summary.messages != last else { continue }
            StandardError.write(
                "\(summary.messages - last) messages/s, \(summary.messages) in all, \(summary.recipients) recipients, "
                    + "\(summary.octets) octets"
            )
            last = summary.messages
        }
    }

    private static func onSignals(_ body: @escaping @Sendable () -> Void) -> [any DispatchSourceSignal] {
        [SIGINT, SIGTERM]
            .map { number in
                signal(number, SIG_IGN)
                let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
                source.setEventHandler(handler: body)
                source.resume()
                return source
            }
    }
}
