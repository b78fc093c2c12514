public import ClusterLog

/// The topics that a cluster of nodes needs, and how each has to be set up (DESIGN §2).
public struct TopicPlan: Sendable {
    /// One topic and its settings.
    public struct Entry: Hashable, Sendable {
        public enum Cleanup: String, Sendable { case delete, compact }

        public var topic: Topic
        public var cleanup: Cleanup
        /// Milliseconds; `nil` keeps records for ever.
        public var retention: Int64?
        /// Octets of a partition; `nil` for no bound.
        public var sizeMax: Int64?
        /// Octets of a segment, of topics that are trimmed: brokers delete whole segments. `nil` leaves it to them.
        public var segmentSize: Int64?

        public init(topic: Topic, cleanup: Cleanup, retention: Int64?, sizeMax: Int64?, segmentSize: Int64? = nil) {
            self.topic = topic
            self.cleanup = cleanup
            self.retention = retention
            self.sizeMax = sizeMax
            self.segmentSize = segmentSize
        }
    }

    /// What is wrong with a topic of a cluster, and what to do.
    public struct Finding: Hashable, Sendable, CustomStringConvertible {
        public enum Severity: Int, Sendable, Comparable {
            /// It works, but not as it should.
            case warning
            /// A node refuses to start.
            case error
            public static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
        }

        /// A setting of a topic, by Kafka's name.
        public struct Setting: Hashable, Sendable {
            public var name: String
            public var value: String

            public init(_ name: String, _ value: String) {
                self.name = name
                self.value = value
            }
        }

        public var severity: Severity
        public var topic: String
        public var problem: String
        public var remedy: String
        /// The setting that mends it, when one does.
        public var setting: Setting?

        public init(
            _ severity: Severity,
            _ topic: String,
            _ problem: String,
            remedy: String,
            setting: Setting? = nil
        ) {
            self.severity = severity
            self.topic = topic
            self.problem = problem
            self.remedy = remedy
            self.setting = setting
        }

        public var description: String { "\(self.topic): \(self.problem). \(self.remedy)." }
    }

    /// How a topic of the cluster is set up; `settings` is empty when the brokers do not tell.
    public struct Existing: Sendable {
        public var partitionCount: Int
        /// The smallest number of replicas of any of its partitions.
        public var replicationFactor: Int
        public var settings: [String: String]

        public init(partitionCount: Int, replicationFactor: Int, settings: [String: String]) {
            self.partitionCount = partitionCount
            self.replicationFactor = replicationFactor
            self.settings = settings
        }
    }

    public var entries: [Entry]
    public var partitionCount: Int
    public var replicationFactor: Int
    public var inSyncMin: Int
    /// Octets that a record may have.
    public var recordSizeMax: Int

    static let day: Int64 = 86_400_000
    /// What a partition of a trimmed topic keeps at most besides what is still queued, twice: the segment that is
    /// written and the one that is partly behind the watermark. Octets.
    static let segmentSize: Int64 = 64 << 20

    /// - Parameters:
    ///   - tiers: the delay tiers, seconds.
    ///   - lifetime: how long mail is tried, milliseconds.
    public init(
        tiers: [Int64],
        lifetime: Int64,
        partitionCount: Int = 64,
        replicationFactor: Int = 3,
        inSyncMin: Int = 2,
        recordSizeMax: Int = 1_000_000
    ) {
        let mail = lifetime + 3 * Self.day
        let segment = max(Self.segmentSize, 2 * Int64(recordSizeMax))
        let deferred = Set([0] + tiers).sorted().map { Topic.deferred(delay: $0) }
        self.entries =
            ([.accepted] + deferred)
            .map { Entry(topic: $0, cleanup: .delete, retention: mail, sizeMax: nil, segmentSize: segment) } + [
                Entry(topic: .content, cleanup: .delete, retention: mail, sizeMax: nil),
                // What is held stays until somebody decides.
                Entry(topic: .held, cleanup: .delete, retention: nil, sizeMax: nil),
                Entry(topic: .outcomes, cleanup: .delete, retention: 30 * Self.day, sizeMax: 4 << 30),
                Entry(topic: .reports, cleanup: .delete, retention: 30 * Self.day, sizeMax: nil),
                Entry(topic: .dead, cleanup: .delete, retention: 30 * Self.day, sizeMax: nil),
                Entry(topic: .control, cleanup: .compact, retention: nil, sizeMax: nil),
                Entry(topic: .suppression, cleanup: .compact, retention: nil, sizeMax: nil),
            ]
        self.partitionCount = partitionCount
        self.replicationFactor = replicationFactor
        self.inSyncMin = inSyncMin
        self.recordSizeMax = recordSizeMax
    }

    /// The settings that a topic is made with, by Kafka's names.
    public func settings(of entry: Entry) -> [(name: String, value: String)] {
        var settings = [
            ("cleanup.policy", entry.cleanup.rawValue),
            ("message.timestamp.type", "LogAppendTime"),
            ("min.insync.replicas", "\(min(self.inSyncMin, self.replicationFactor))"),
            ("unclean.leader.election.enable", "false"),
        ]
        if entry.cleanup == .delete {
            settings.append(("retention.ms", "\(entry.retention ?? -1)"))
            settings.append(("retention.bytes", "\(entry.sizeMax ?? -1)"))
            if let size = entry.segmentSize { settings.append(("segment.bytes", "\(size)")) }
        }
        if entry.topic == .control {
            // Nodes repeat themselves there every few seconds and read all of it when they start: what is current is
            // all that should be left of the last hour but one.
            settings.append(("segment.ms", "3600000"))
            settings.append(("min.cleanable.dirty.ratio", "0.1"))
        }
        return settings
    }

    /// Compares the plan with what a cluster has, by topic name as the plan spells it.
    ///
    /// - Parameters:
    ///   - deferred: existing tier topics that the plan does not name; they are consumed too.
    ///   - brokersOwn: the smallest number of replicas of topics that brokers keep for themselves, by name.
    /// - Returns: findings, errors first; empty when all is well.
    public func verify(
        _ existing: [Topic: Existing],
        deferred: [Topic] = [],
        brokersOwn: [String: Int] = [:]
    ) -> [Finding] {
        var findings: [Finding] = []
        for entry in self.entries {
            guard let found = existing[entry.topic] else {
                findings.append(
                    Finding(
                        .error,
                        entry.topic.name,
                        "the topic does not exist",
                        remedy: "Run `posthorn topics apply`"
                    )
                )
                continue
            }
            findings += self.verifyShape(entry.topic, found)
            findings += self.verifySettings(entry, found)
        }
        for topic in deferred {
            if let found = existing[topic] { findings += self.verifyShape(topic, found) }
        }
        findings += self.verifyBrokersOwn(brokersOwn)
        return findings.sorted { ($1.severity, $0.topic) < ($0.severity, $1.topic) }
    }

    /// Groups' progress and transactions are kept in topics of the brokers. They make no mail safe (G1), but without their
    /// one replica delivery stands still, and progress that is lost with it is mail that is sent again.
    private func verifyBrokersOwn(_ replicaCounts: [String: Int]) -> [Finding] {
        let settings = [
            "__consumer_offsets": "offsets.topic.replication.factor",
            "__transaction_state": "transaction.state.log.replication.factor",
        ]
        return settings.compactMap { topic, setting in
            guard let count = replicaCounts[topic], count < self.replicationFactor else { return nil }
            return Finding(
                .warning,
                topic,
                "a partition has \(count) replicas, fewer than \(self.replicationFactor): delivery stands still while "
                    + (count == 1 ? "its one broker is away" : "they are away"),
                remedy: "Raise it with kafka-reassign-partitions; \(setting) is what brokers make it with"
            )
        }
    }

    private func verifyShape(_ topic: Topic, _ found: Existing) -> [Finding] {
        var findings: [Finding] = []
        if found.partitionCount != self.partitionCount {
            findings.append(
                Finding(
                    .error,
                    topic.name,
                    "it has \(found.partitionCount) partitions, and kafka.partitions says \(self.partitionCount)",
                    remedy: "Set kafka.partitions to what all topics have; all must have the same number"
                )
            )
        }
        if found.replicationFactor < self.replicationFactor {
            findings.append(
                Finding(
                    .error,
                    topic.name,
                    "a partition has \(found.replicationFactor) replicas, fewer than \(self.replicationFactor)",
                    remedy: "Raise it with kafka-reassign-partitions, or set kafka.replication for a test cluster"
                )
            )
        }
        return findings
    }

    private func verifySettings(_ entry: Entry, _ found: Existing) -> [Finding] {
        guard !found.settings.isEmpty else { return [] }
        var findings = self.verifyReplicas(entry, found)
        /// The remedy begins with setting what is wanted; `more` adds a reason or another way.
        func add(
            _ severity: Finding.Severity,
            _ problem: String,
            set name: String,
            to value: String,
            _ more: String = ""
        ) {
            let remedy = "Set \(name) to \(value)\(more)"
            findings.append(
                Finding(severity, entry.topic.name, problem, remedy: remedy, setting: .init(name, value))
            )
        }
        func number(_ name: String) -> Int64? { found.settings[name].flatMap { Int64($0) } }

        if let policy = found.settings["cleanup.policy"], policy != entry.cleanup.rawValue {
            add(.error, "cleanup.policy is \(policy)", set: "cleanup.policy", to: entry.cleanup.rawValue)
        }
        if entry.cleanup == .delete, let value = number("retention.ms"), value >= 0 {
            let wanted = entry.retention ?? Int64.max
            if value < wanted {
                let isMail = entry.topic != .outcomes && entry.topic != .reports && entry.topic != .dead
                add(
                    isMail ? .error : .warning,
                    "retention.ms is \(value), shorter than \(entry.retention.map { "\($0)" } ?? "for ever")",
                    set: "retention.ms",
                    to: "\(entry.retention ?? -1)",
                    isMail ? ": mail would be deleted while it is still tried" : ""
                )
            }
        }
        if entry.sizeMax == nil, entry.cleanup == .delete, let value = number("retention.bytes"), value >= 0 {
            add(
                .error,
                "retention.bytes is \(value): mail would be deleted when there is much of it",
                set: "retention.bytes",
                to: "-1"
            )
        }
        if let wanted = entry.segmentSize, let value = number("segment.bytes"), value > wanted {
            add(
                .warning,
                "segment.bytes is \(value): trimming frees whole segments, so each partition keeps up to two",
                set: "segment.bytes",
                to: "\(wanted)"
            )
        }
        if let value = number("max.message.bytes"), value < self.recordSizeMax {
            add(
                .error,
                "max.message.bytes is \(value), and records have up to \(self.recordSizeMax) octets",
                set: "max.message.bytes",
                to: "\(self.recordSizeMax)",
                " or more, or lower kafka.value-size"
            )
        }
        if let type = found.settings["message.timestamp.type"], type != "LogAppendTime" {
            add(
                .error,
                "message.timestamp.type is \(type): delays would follow the nodes' clocks",
                set: "message.timestamp.type",
                to: "LogAppendTime"
            )
        }
        return findings
    }

    /// What a 250 rests on: how many brokers have the mail, and who may become leader (G1).
    private func verifyReplicas(_ entry: Entry, _ found: Existing) -> [Finding] {
        var findings: [Finding] = []
        func add(_ severity: Finding.Severity, _ problem: String, set name: String, to value: String) {
            findings.append(
                Finding(
                    severity,
                    entry.topic.name,
                    problem,
                    remedy: "Set \(name) to \(value)",
                    setting: .init(name, value)
                )
            )
        }
        let name = "min.insync.replicas"
        let wanted = min(self.inSyncMin, self.replicationFactor)
        if let value = found.settings[name].flatMap({ Int($0) }) {
            if value < wanted {
                let brokers = value <= 1 ? "one broker" : "\(value) brokers"
                add(.error, "\(name) is \(value): a 250 could rest on \(brokers)", set: name, to: "\(wanted)")
            }
            if found.replicationFactor > 1, value >= found.replicationFactor {
                add(
                    .warning,
                    "\(name) is \(value) of \(found.replicationFactor): no broker may fail",
                    set: name,
                    to: "\(found.replicationFactor - 1)"
                )
            }
        }
        if found.settings["unclean.leader.election.enable"] == "true" {
            add(
                .error,
                "unclean.leader.election.enable is true: acknowledged mail can be lost",
                set: "unclean.leader.election.enable",
                to: "false"
            )
        }
        return findings
    }
}
