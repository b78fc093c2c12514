import ClusterLog
import Logging
import Mail
import NIOCore
import NodeSupport
import Records
import ServiceLifecycle
import Testing

@testable import MetricsRole

/// When the tests' messages are accepted.
let acceptedAt: Int64 = 1_795_475_000_000

/// A message to one recipient, and the events about it.
struct TestMessage {
    var number: Int
    var recipientIndex: UInt32 = 0
    var domain = "example.net"
    var site = "mx.example.net"
    var sender = "joe@sender.example"

    var id: MessageID { MessageID(milliseconds: acceptedAt + Int64(self.number), randomHigh: 7, randomLow: 42) }
    var recipient: String { "r\(self.number)-\(self.recipientIndex)@\(self.domain)" }

    func outcome(_ kind: Outcome.Kind, attempt: UInt32 = 1, after delay: Int64 = 500) -> Outcome {
        var outcome = Outcome(
            kind: kind,
            messageID: self.id.description,
            recipientIndex: self.recipientIndex,
            recipient: self.recipient,
            sender: self.sender,
            site: self.site,
            time: acceptedAt + Int64(self.number) + delay,
            acceptedAt: acceptedAt + Int64(self.number),
            contentSize: 1_000,
            attempt: attempt,
            status: kind == .delivered ? "2.0.0" : "4.2.2"
        )
        outcome.duration = 100_000
        if kind == .deferred {
            outcome.nextDueAt = outcome.time + 60_000
            outcome.reply = Outcome.Reply(code: 452, enhanced: "4.2.2", text: "Mailbox full")
        }
        return outcome
    }

    func record(_ kind: Outcome.Kind, attempt: UInt32 = 1, after delay: Int64 = 500) -> Record {
        self.outcome(kind, attempt: attempt, after: delay).record(key: self.domain, source: "/posthorn/test")
    }
}

extension IndexRecord {
    init(_ outcome: Outcome?, at offset: Int64, loggedAt: Int64 = acceptedAt) {
        self.init(offset: Offset(offset), loggedAt: loggedAt, outcome: outcome)
    }
}

extension OutcomeIndex {
    /// Applies records of a partition that is assigned.
    mutating func feed(_ records: [IndexRecord], to partition: Int32, generation: Int, now: Int64) {
        let isAssigned = self.apply(records, to: partition, generation: generation, now: now)
        #expect(isAssigned)
    }

    /// Everything the index can be asked, as text.
    var digest: [String] {
        var lines: [String] = []
        for (partition, index) in self.partitions.sorted(by: { $0.key < $1.key }) {
            lines.append(
                "\(partition) next \(index.next) records \(index.recordCount) duplicates \(index.duplicateCount) "
                    + "unreadable \(index.unreadableCount) refused \(index.notIndexedCount) \(index.sizes)"
            )
            lines += index.sites.map { "\(partition) \($0.key) \($0.value)" }.sorted()
            lines.append("\(index.firstAttempts.reading) \(index.deliveries.reading)")
            lines += index.recipients.map { "\(partition) \($0)" }.sorted()
        }
        return lines
    }
}

/// A service over a log in memory.
struct TestNode {
    let metrics = MetricsRegistry()
    let service: MetricsService

    init(
        _ id: String,
        log: InMemoryLog,
        token: String? = nil,
        change: (inout MetricsSettings) -> Void = { _ in }
    ) {
        var settings = MetricsSettings(nodeID: id, token: token)
        settings.commitInterval = .milliseconds(2)
        settings.announceInterval = .milliseconds(20)
        settings.directoryInterval = .milliseconds(5)
        settings.backlogInterval = .milliseconds(5)
        settings.recentAge = .seconds(10 * 365 * 86_400)
        settings.lifetime = .seconds(10 * 365 * 86_400)
        change(&settings)
        self.service = MetricsService(
            settings: settings,
            log: log,
            metrics: self.metrics,
            logger: .silent,
            pauses: .milliseconds(1)...(.milliseconds(5))
        )
    }

    var index: LocalIndex? { self.service.index as? LocalIndex }

    /// Runs the service around `body`, then shuts it down gracefully and waits for it to return.
    func run(_ body: () async throws -> Void) async throws {
        let group = ServiceGroup(services: [self.service], logger: .silent)
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

    /// Whether everything in the log's outcomes has been looked at by the nodes, each partition by one, and each node has
    /// its share: none is about to move.
    static func hasReadAll(_ nodes: [TestNode], _ log: InMemoryLog) async throws -> Bool {
        var positions: [Int32: Offset] = [:]
        for node in nodes {
            let own = node.index?.with { $0.positions } ?? [:]
            guard own.count >= log.partitionCount / nodes.count else { return false }
            for (partition, offset) in own {
                guard positions.updateValue(offset, forKey: partition) == nil else { return false }
            }
        }
        for number in 0..<Int32(log.partitionCount) {
            let end = try await log.bounds(TopicPartition(.outcomes, number)).upperBound
            guard let position = positions[number], position == end || end == Offset(0) else { return false }
        }
        return true
    }
}

extension Logger {
    static var silent: Logger {
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        return logger
    }
}

/// Looks again until it holds; the suite's time limit bounds it.
func eventually(_ condition: () async throws -> Bool) async throws {
    while try await !condition() { try await Task.sleep(for: .milliseconds(1)) }
}

struct SplitMix64: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { self.state = seed }

    mutating func next() -> UInt64 {
        self.state &+= 0x9e37_79b9_7f4a_7c15
        var z = self.state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}
