import CRdKafka
public import ClusterLog
public import Logging

/// Makes, checks and describes the topics of a cluster: `posthorn topics`.
///
/// Its calls block, for up to some seconds: not for an event loop.
public struct KafkaTopics: Sendable {
    private let client: KafkaClient
    /// Nobody else takes what the client has to say.
    private let ownsClient: Bool
    private let isTestCluster: Bool
    /// Of each request, milliseconds.
    private let timeout: Int32

    /// - Parameter timeout: how long to wait for the answer to each request.
    /// - Throws: `configuration` for settings that librdkafka does not take.
    public init(
        configuration: KafkaConfiguration,
        timeout: Duration = .seconds(30),
        logger: Logger
    ) throws(RecordLogError) {
        do throws(KafkaError) {
            let names = TopicNames(prefix: configuration.prefix)
            self.client = try KafkaClient(.producer, settings: configuration.appending, names: names)
        } catch {
            throw RecordLogError(.configuration, isRetriable: false, reason: error.text)
        }
        self.ownsClient = true
        self.isTestCluster = configuration.isTestCluster
        self.timeout = max(1_000, Int32(clamping: timeout.components.seconds * 1_000))
    }

    init(client: KafkaClient, isTestCluster: Bool) {
        self.client = client
        self.ownsClient = false
        self.isTestCluster = isTestCluster
        self.timeout = 30_000
    }

    /// What the cluster calls a topic of the plan: with its own prefix.
    public func name(of topic: Topic) -> String { self.client.names.name(of: topic) }

    /// Makes the topics of the plan that do not exist. What exists is left as it is; ``verify(_:)`` judges it.
    ///
    /// - Returns: the topics that were made.
    public func apply(_ plan: TopicPlan) throws(RecordLogError) -> [Topic] {
        let existing = try self.existing(withSettings: false).planned
        let missing = plan.entries.filter { existing[$0.topic] == nil }
        guard !missing.isEmpty else { return [] }
        let new = missing.map { entry in
            NewTopic(
                name: self.client.names.name(of: entry.topic),
                partitionCount: plan.partitionCount,
                replicationFactor: plan.replicationFactor,
                settings: plan.settings(of: entry)
            )
        }
        let failures = try self.asking(
            "create topics",
            hint: { _ in
                "the brokers answer, but none takes this request: the cluster has no controller, or it is a mock "
                    + "cluster, which has no admin API"
            }
        ) { () throws(KafkaError) in
            try self.client.createTopics(new, timeout: self.timeout)
        }
        if let (name, error) = failures.min(by: { $0.key < $1.key }) {
            let reason =
                error.is(RD_KAFKA_RESP_ERR_INVALID_REPLICATION_FACTOR)
                ? "\(name): \(error). The cluster has fewer brokers than kafka.replication asks for."
                : "\(name): \(error)"
            throw RecordLogError(.configuration, isRetriable: false, reason: reason)
        }
        return missing.map { $0.topic }
    }

    /// What is wrong with the cluster's topics; see ``TopicPlan/verify(_:deferred:brokersOwn:)``.
    public func verify(_ plan: TopicPlan) throws(RecordLogError) -> [TopicPlan.Finding] {
        let existing = try self.existing(withSettings: !self.isTestCluster)
        let planned = Set(plan.entries.map { $0.topic })
        let deferred = existing.planned.keys.filter { $0.deferredDelay != nil && !planned.contains($0) }
        return plan.verify(existing.planned, deferred: deferred, brokersOwn: existing.brokersOwn)
    }

    /// The topics of this cluster, by name.
    public func describe() throws(RecordLogError) -> [Topic: TopicPlan.Existing] {
        try self.existing(withSettings: !self.isTestCluster).planned
    }

    /// Deletes topics and all that is in them. For tests, which make their own.
    public func delete(_ topics: [Topic]) throws(RecordLogError) {
        let names = topics.map { self.client.names.name(of: $0) }
        try self.asking("delete topics") { () throws(KafkaError) in
            try self.client.deleteTopics(names, timeout: self.timeout)
        }
    }

    private struct ExistingTopics {
        /// Those whose names are of this cluster.
        var planned: [Topic: TopicPlan.Existing] = [:]
        /// Replicas of topics that brokers keep for themselves, by name; empty if we may not see them.
        var brokersOwn: [String: Int] = [:]
    }

    private func existing(withSettings: Bool) throws(RecordLogError) -> ExistingTopics {
        let metadata = try self.asking(
            "read the topics",
            hint: { last in
                "no broker of kafka.bootstrap answers: \(last.advice)"
                    + (last.map { ". The last error was: \($0)" } ?? "")
            }
        ) { () throws(KafkaError) in
            try self.client.metadata(timeout: self.timeout)
        }
        let prefix = self.client.names.prefix + "."
        let topics = metadata.topics.filter { $0.name.hasPrefix(prefix) && $0.error == nil }
        var settings: [String: [String: String]] = [:]
        if withSettings, !topics.isEmpty {
            settings = try self.asking("read the topics' settings") { () throws(KafkaError) in
                try self.client.describeTopics(topics.map { $0.name }, timeout: self.timeout)
            }
        }
        var existing = ExistingTopics()
        for topic in topics {
            existing.planned[self.client.names.topic(named: topic.name)] = TopicPlan.Existing(
                partitionCount: topic.partitions.count,
                replicationFactor: topic.replicaCountMin,
                settings: settings[topic.name] ?? [:]
            )
        }
        for topic in metadata.topics where topic.name.hasPrefix("__") && topic.error == nil {
            existing.brokersOwn[topic.name] = topic.replicaCountMin
        }
        return existing
    }

    /// - Parameter hint: what it means when there is no answer.
    private func asking<Value>(
        _ action: String,
        hint: ((_ lastError: KafkaError?) -> String)? = nil,
        _ body: () throws(KafkaError) -> Value
    ) throws(RecordLogError) -> Value {
        do throws(KafkaError) {
            return try body()
        } catch {
            var told = RecordLogError(error, while: action)
            if told.code == .unavailable, let hint { told.reason += "; \(hint(self.lastError))" }
            throw told
        }
    }

    /// What the client last complained about, other than that no broker is left.
    private var lastError: KafkaError? {
        guard self.ownsClient else { return nil }
        var last: KafkaError?
        for case .error(let error) in self.client.poll(timeout: 0) where !error.is(RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
        {
            last = error
        }
        return last
    }
}
