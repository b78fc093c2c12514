import ArgumentParser
import ClusterLog
import Foundation
import KafkaLog
import Logging
import NodeSupport

/// `posthorn topics`: what the cluster's log needs on the brokers (DESIGN §2).
struct TopicsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "topics",
        abstract: "Make, check and show the topics of a cluster.",
        discussion: """
            Topics follow from the configuration: kafka.prefix, .partitions, .replication and .in-sync-min, \
            retry.tiers and retry.lifetime. Every node must have the same.
            Exits with 0 when all is well, 1 when a node would refuse to start on these topics, 69 when no broker \
            answers, 78 when the configuration is wrong.
            """,
        subcommands: [Apply.self, Verify.self, Describe.self],
        defaultSubcommand: Verify.self
    )

    /// Which cluster, and which topics it should have.
    struct Cluster: ParsableArguments {
        @OptionGroup var configuration: ConfigurationOption

        @Option(
            help: ArgumentHelp("Some brokers.", discussion: "Default: kafka.bootstrap.", valueName: "host:port,...")
        )
        var bootstrap: String?

        @Option(
            help: ArgumentHelp("What names begin with.", discussion: "Default: kafka.prefix.", valueName: "name")
        )
        var prefix: String?

        @Option(
            help: ArgumentHelp("Of every topic.", discussion: "Default: kafka.partitions.", valueName: "count")
        )
        var partitions: Int?

        @Option(
            help: ArgumentHelp("Of every partition.", discussion: "Default: kafka.replication.", valueName: "count")
        )
        var replication: Int?

        @Flag(help: "Accept fewer than 3 replicas: a cluster that loses mail when a broker dies.")
        var testCluster = false

        @Flag(help: "Print JSON.")
        var json = false

        /// The configuration, with the options in place of its keys, so that both are checked alike.
        private func load() throws -> NodeConfiguration {
            var overrides: [String: String] = [:]
            overrides["POSTHORN_KAFKA_BOOTSTRAP"] = self.bootstrap
            overrides["POSTHORN_KAFKA_PREFIX"] = self.prefix
            overrides["POSTHORN_KAFKA_PARTITIONS"] = self.partitions.map { "\($0)" }
            overrides["POSTHORN_KAFKA_REPLICATION"] = self.replication.map { "\($0)" }
            if self.testCluster { overrides["POSTHORN_KAFKA_TEST_CLUSTER"] = "true" }
            let configuration = try self.configuration.load(overriding: overrides)
            guard configuration.kafka.isUsed else {
                StandardError.write("posthorn: There is no cluster: set kafka.bootstrap, or give --bootstrap.")
                throw ExitCode(SystemExit.configuration)
            }
            return configuration
        }

        /// Asks the cluster, and prints what came of it.
        ///
        /// - Throws: `ExitCode`, by the findings or by what went wrong.
        func run(_ ask: (KafkaTopics, TopicPlan) throws(RecordLogError) -> TopicsReport) throws {
            let configuration = try self.load()
            var report: TopicsReport
            do {
                let kafka = try KafkaConfiguration(configuration)
                var logger = Logger(label: "posthorn", factory: { StreamLogHandler.standardError(label: $0) })
                logger.logLevel = .error
                let topics = try KafkaTopics(
                    configuration: kafka,
                    timeout: configuration.kafka.startTimeout,
                    logger: logger
                )
                report = try ask(topics, TopicPlan(configuration))
                report.bootstrap = kafka.bootstrap
                report.name(by: topics)
            } catch let error as RecordLogError {
                throw error.told()
            }
            if self.json {
                let encoder = JSONEncoder()
                encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
                print(String(decoding: try encoder.encode(report), as: UTF8.self))
            } else {
                print(report.text)
            }
            if report.hasErrors { throw ExitCode(1) }
        }
    }

    struct Apply: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Make the topics that are missing, then verify all.",
            discussion: "What exists is never changed. Can be run at any time, and by several at once."
        )
        /// A broker hears of a topic a moment after the one that made it.
        private static let settlingTime: Duration = .seconds(15)

        @OptionGroup var cluster: Cluster

        func run() throws {
            try self.cluster.run { (topics, plan) throws(RecordLogError) in
                let made = try topics.apply(plan)
                var report = TopicsReport(plan: plan)
                report.made = made
                report.findings = try Self.verify(topics, plan, made: Set(made.map(\.name)))
                return report
            }
        }

        private static func verify(
            _ topics: KafkaTopics,
            _ plan: TopicPlan,
            made: Set<String>
        ) throws(RecordLogError) -> [TopicPlan.Finding] {
            let end = ContinuousClock.now + Self.settlingTime
            while true {
                do throws(RecordLogError) {
                    let findings = try topics.verify(plan)
                    let isSettled = !findings.contains { made.contains($0.topic) && $0.severity == .error }
                    if isSettled || ContinuousClock.now >= end { return findings }
                } catch {
                    // A missing topic, as far as the broker asked knows.
                    guard error.code == .configuration, error.isRetriable, ContinuousClock.now < end else {
                        throw error
                    }
                }
                Thread.sleep(forTimeInterval: 0.2)
            }
        }
    }

    struct Verify: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Say what is wrong with the topics, and what to do.",
            discussion: "Nodes check the same when they start, and refuse what is marked as an error."
        )
        @OptionGroup var cluster: Cluster

        func run() throws {
            try self.cluster.run { (topics, plan) throws(RecordLogError) in
                var report = TopicsReport(plan: plan)
                report.findings = try topics.verify(plan)
                return report
            }
        }
    }

    struct Describe: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show the topics as they are.",
            discussion: "Exits with 0 whatever they are like; “verify” judges."
        )
        @OptionGroup var cluster: Cluster

        func run() throws {
            try self.cluster.run { (topics, plan) throws(RecordLogError) in
                var report = TopicsReport(plan: plan)
                report.existing = try topics.describe()
                return report
            }
        }
    }
}
