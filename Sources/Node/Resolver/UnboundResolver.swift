import DNS
import Logging

/// Resolves, caches and validates in this process, with libunbound.
///
/// No caller's thread ever waits: questions go to one thread of our own, which drives the library and hands each answer
/// back to the task that asked. See ``UnboundThread`` for who owns what.
///
/// It guarantees that every question ends within `queryTimeout`, and that everything in flight is bounded. Identical
/// questions at the same time cost one resolution.
public final class UnboundResolver: MailResolver {
    public let rules: MailExchangerRules
    private let thread: UnboundThread

    /// Reads the files that the options name, which blocks for that long: for start-up.
    public init(
        options: UnboundOptions = UnboundOptions(),
        rules: MailExchangerRules = MailExchangerRules(),
        logger: Logger
    ) throws(ResolverError) {
        self.rules = rules
        self.thread = try UnboundThread.start(options: options)
        logger.info("Resolver started", metadata: ["libunbound_version": "\(UnboundThread.libraryVersion)"])
    }

    deinit {
        self.thread.stop()
    }

    public func lookup<Record: DNSRecord>(_ type: Record.Type, of name: DNSName) async -> DNSAnswer<Record> {
        await self.thread.resolve(name, type: Record.recordType).answer()
    }

    /// Ends every open question with ``DNSFailure/unavailable`` and returns when the thread and all it owns are gone.
    public func shutdown() async {
        await self.thread.stopAndWait()
    }
}

/// What the library said, out of its memory.
struct RawAnswer: Sendable {
    enum Outcome: Sendable {
        case found([[UInt8]])
        case noData
        case nxDomain
        case failure(DNSFailure)
    }

    var outcome: Outcome
    var timeToLive: Duration = .zero
    var isSecure = false

    static func failure(_ failure: DNSFailure) -> RawAnswer { RawAnswer(outcome: .failure(failure)) }

    func answer<Record: DNSRecord>() -> DNSAnswer<Record> {
        switch self.outcome {
        case .noData: return DNSAnswer(.noData, timeToLive: self.timeToLive, isSecure: self.isSecure)
        case .nxDomain: return DNSAnswer(.nxDomain, timeToLive: self.timeToLive, isSecure: self.isSecure)
        case .failure(let failure): return .failure(failure)
        case .found(let rdata):
            // One record that cannot be read does not take the others' mail away.
            let records = rdata.compactMap { $0.withUnsafeBytes { Record(rdata: $0) } }
            guard !records.isEmpty else { return .failure(.malformed) }
            return DNSAnswer(.found(records), timeToLive: self.timeToLive, isSecure: self.isSecure)
        }
    }
}
