import ClusterLog
import KafkaLog
import Testing

@Suite("Topics: the plan and what is wrong with a cluster's topics")
struct TopicPlanTests {
    private static let lifetime: Int64 = 5 * 86_400_000
    private static let mailRetention = lifetime + 3 * 86_400_000

    private static var plan: TopicPlan { TopicPlan(tiers: [60, 900], lifetime: Self.lifetime, partitionCount: 8) }

    /// A cluster that has what the plan says, with Kafka's default for the rest.
    private static func existing(_ plan: TopicPlan) -> [Topic: TopicPlan.Existing] {
        var existing: [Topic: TopicPlan.Existing] = [:]
        for entry in plan.entries {
            var settings = ["max.message.bytes": "1048588"]
            for (name, value) in plan.settings(of: entry) { settings[name] = value }
            existing[entry.topic] = .init(
                partitionCount: plan.partitionCount,
                replicationFactor: plan.replicationFactor,
                settings: settings
            )
        }
        return existing
    }

    private static func findings(
        _ topic: Topic,
        _ change: (inout TopicPlan.Existing) -> Void
    ) throws -> [TopicPlan.Finding] {
        let plan = Self.plan
        var existing = Self.existing(plan)
        var found = try #require(existing[topic])
        change(&found)
        existing[topic] = found
        return plan.verify(existing)
    }

    @Test("The plan names every topic that mail passes, each tier once, with the delay 0 of hand-over among them")
    func names() {
        let plan = TopicPlan(tiers: [900, 60, 60], lifetime: Self.lifetime)
        #expect(
            Set(plan.entries.map(\.topic.name)) == [
                "posthorn.accepted", "posthorn.content", "posthorn.held", "posthorn.deferred.0s",
                "posthorn.deferred.1m", "posthorn.deferred.15m", "posthorn.outcomes", "posthorn.reports",
                "posthorn.dead", "posthorn.control", "posthorn.suppression",
            ]
        )
        #expect(plan.entries.count == 11)
        #expect(plan.partitionCount == 64 && plan.replicationFactor == 3 && plan.inSyncMin == 2)
    }

    @Test("Mail outlives its lifetime by three days, held mail stays, outcomes are bounded, tables are compacted")
    func settings() throws {
        let plan = Self.plan
        func settings(_ topic: Topic) throws -> [String: String] {
            let entry = try #require(plan.entries.first { $0.topic == topic })
            return Dictionary(uniqueKeysWithValues: plan.settings(of: entry))
        }
        var mail = [
            "cleanup.policy": "delete", "message.timestamp.type": "LogAppendTime", "min.insync.replicas": "2",
            "unclean.leader.election.enable": "false", "retention.ms": "\(Self.mailRetention)",
            "retention.bytes": "-1",
        ]
        #expect(try settings(.content) == mail)
        // Trimming frees whole segments.
        mail["segment.bytes"] = "67108864"
        for topic in [Topic.accepted, .deferred(delay: 60), .deferred(delay: 0)] {
            #expect(try settings(topic) == mail)
        }
        #expect(try settings(.held)["retention.ms"] == "-1")
        #expect(try settings(.outcomes)["retention.bytes"] == "\(4 << 30)")
        #expect(try settings(.control)["cleanup.policy"] == "compact")
        #expect(try settings(.control)["segment.ms"] == "3600000")
        #expect(try settings(.control)["retention.ms"] == nil)
        // With one replica, two in sync could never be.
        let single = TopicPlan(tiers: [60], lifetime: Self.lifetime, replicationFactor: 1)
        #expect(single.settings(of: single.entries[0]).contains { $0 == ("min.insync.replicas", "1") })
    }

    @Test("A cluster that is as planned has no findings")
    func good() {
        #expect(Self.plan.verify(Self.existing(Self.plan)) == [])
    }

    @Test("More replicas, longer retention and larger records than planned are fine")
    func better() throws {
        let findings = try Self.findings(.accepted) { found in
            found.replicationFactor = 5
            found.settings["min.insync.replicas"] = "3"
            found.settings["retention.ms"] = "-1"
            found.settings["max.message.bytes"] = "10000000"
        }
        #expect(findings == [])
    }

    @Test("Brokers that tell no settings are judged by partitions and replicas alone")
    func silent() throws {
        #expect(try Self.findings(.accepted) { $0.settings = [:] } == [])
        #expect(
            try Self
                .findings(.accepted) {
                    $0.settings = [:]
                    $0.replicationFactor = 1
                }
                .count == 1
        )
    }

    @Test("Large segments of trimmed topics are a warning; a record that is larger than a segment never happens")
    func segments() throws {
        let findings = try Self.findings(.accepted) { $0.settings["segment.bytes"] = "1073741824" }
        #expect(findings.map(\.severity) == [.warning])
        #expect(findings.first?.setting == .init("segment.bytes", "67108864"))
        #expect(try Self.findings(.content) { $0.settings["segment.bytes"] = "1073741824" } == [])
        let large = TopicPlan(tiers: [60], lifetime: Self.lifetime, recordSizeMax: 100_000_000)
        #expect(large.entries.first?.segmentSize == 200_000_000)
    }

    @Test("A missing topic is an error that topics apply mends")
    func missing() throws {
        var existing = Self.existing(Self.plan)
        existing[.content] = nil
        let finding = try #require(Self.plan.verify(existing).first)
        #expect(finding.severity == .error && finding.topic == "posthorn.content")
        #expect(finding.description == "posthorn.content: the topic does not exist. Run `posthorn topics apply`.")
        #expect(Self.plan.verify([:]).count == Self.plan.entries.count)
    }

    @Test("Other partitions than kafka.partitions are an error, and no setting mends it")
    func partitions() throws {
        let findings = try Self.findings(.outcomes) { $0.partitionCount = 9 }
        #expect(findings.count == 1 && findings[0].severity == .error && findings[0].setting == nil)
        #expect(findings[0].problem == "it has 9 partitions, and kafka.partitions says 8")
        #expect(findings[0].remedy.contains("kafka.partitions"))
    }

    @Test("Fewer replicas than kafka.replication are an error")
    func replicas() throws {
        let findings = try Self.findings(.accepted) { $0.replicationFactor = 2 }
        // Two in sync of two replicas leaves no broker to lose, either.
        #expect(findings.map(\.severity) == [.error, .warning])
        #expect(findings[0].problem == "a partition has 2 replicas, fewer than 3")
        #expect(findings[0].remedy.contains("kafka-reassign-partitions"))
    }

    @Test("Brokers' own topics with fewer replicas than mail has are a warning, and others are nobody's business")
    func brokersOwn() {
        let plan = Self.plan
        let existing = Self.existing(plan)
        let fine = ["__consumer_offsets": 3, "__transaction_state": 4, "__share_group_state": 1]
        #expect(plan.verify(existing, brokersOwn: fine).isEmpty)
        let findings = plan.verify(existing, brokersOwn: ["__consumer_offsets": 1, "__transaction_state": 2])
        #expect(findings.map(\.severity) == [.warning, .warning])
        #expect(findings.map(\.topic) == ["__consumer_offsets", "__transaction_state"])
        #expect(findings[0].remedy.contains("offsets.topic.replication.factor"))
        #expect(findings[1].remedy.contains("transaction.state.log.replication.factor"))
    }

    /// Goal: every setting that would lose or delay mail is found. Method: one setting off at a time.
    @Test(
        "A setting that breaks a guarantee is found, with the value that mends it",
        arguments: [
            (Topic.accepted, "min.insync.replicas", "1", true, "2", "a 250 could rest on one broker"),
            (.accepted, "min.insync.replicas", "3", false, "2", "no broker may fail"),
            (.content, "unclean.leader.election.enable", "true", true, "false", "acknowledged mail can be lost"),
            (.accepted, "cleanup.policy", "compact", true, "delete", "cleanup.policy is compact"),
            (.control, "cleanup.policy", "delete", true, "compact", "cleanup.policy is delete"),
            (.accepted, "retention.ms", "604800000", true, "691200000", "shorter than 691200000"),
            (.deferred(delay: 60), "retention.ms", "1", true, "691200000", "shorter than 691200000"),
            (.held, "retention.ms", "604800000", true, "-1", "shorter than for ever"),
            (.outcomes, "retention.ms", "604800000", false, "2592000000", "shorter than 2592000000"),
            (.dead, "retention.ms", "1", false, "2592000000", "shorter than 2592000000"),
            (.content, "retention.bytes", "1000000000", true, "-1", "mail would be deleted"),
            (.accepted, "max.message.bytes", "999999", true, "1000000", "records have up to 1000000 octets"),
            (
                .deferred(delay: 900), "message.timestamp.type", "CreateTime", true, "LogAppendTime",
                "the nodes' clocks"
            ),
        ]
    )
    func settingsOff(
        topic: Topic,
        name: String,
        value: String,
        isError: Bool,
        wanted: String,
        problem: String
    ) throws {
        let findings = try Self.findings(topic) { $0.settings[name] = value }
        let finding = try #require(findings.first)
        #expect(findings.count == 1)
        #expect(finding.severity == (isError ? .error : .warning))
        #expect(finding.topic == topic.name)
        #expect(finding.setting == .init(name, wanted))
        #expect(finding.remedy.contains("Set \(name) to \(wanted)"))
        #expect(finding.problem.contains(problem), "\(finding.problem)")
    }

    @Test("A bound on the size of outcomes is as wanted")
    func sizes() throws {
        #expect(try Self.findings(.outcomes) { $0.settings["retention.bytes"] = "1" } == [])
    }

    @Test("A tier that is no longer configured is checked for its shape, since it is still read")
    func oldTier() {
        let plan = Self.plan
        var existing = Self.existing(plan)
        let tier = Topic.deferred(delay: 7_200)
        existing[tier] = .init(partitionCount: 4, replicationFactor: 3, settings: [:])
        #expect(plan.verify(existing) == [])
        let findings = plan.verify(existing, deferred: [tier])
        #expect(findings.map(\.topic) == ["posthorn.deferred.2h"])
    }

    @Test("Errors come before warnings, each by topic")
    func order() {
        let plan = Self.plan
        var existing = Self.existing(plan)
        existing[.dead]?.settings["retention.ms"] = "1"
        existing[.reports]?.partitionCount = 1
        existing[.content] = nil
        let findings = plan.verify(existing)
        #expect(findings.map(\.topic) == ["posthorn.content", "posthorn.reports", "posthorn.dead"])
        #expect(findings.map(\.severity) == [.error, .error, .warning])
    }
}
