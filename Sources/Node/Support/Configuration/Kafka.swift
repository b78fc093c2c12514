extension NodeConfiguration {
    /// What a node does. On the embedded log one process does everything.
    public enum Role: String, Hashable, Sendable, CaseIterable {
        case ingress
        case delivery
        case bounce
        case metrics
    }

    /// The cluster whose log is Kafka (DESIGN §2).
    public struct Kafka: Hashable, Sendable {
        /// How the brokers are spoken to.
        public enum Security: String, Hashable, Sendable, CaseIterable {
            case plaintext
            case tls
            case saslPlaintext = "sasl-plaintext"
            case saslTLS = "sasl-tls"
        }

        public enum Mechanism: String, Hashable, Sendable, CaseIterable {
            case plain
            case scramSHA256 = "scram-sha-256"
            case scramSHA512 = "scram-sha-512"
        }

        /// Some brokers, `host:port`, comma separated. Empty: the embedded log.
        public var bootstrap = ""
        /// What topic, group and transaction names begin with.
        public var prefix = "posthorn"
        /// Partitions of every topic; recorded in the cluster, and a node refuses to start when it differs.
        public var partitionCount = 64
        /// Replicas that topics are made with, and at least have.
        public var replicationFactor = 3
        /// Replicas that must have a message before it is accepted.
        public var inSyncMin = 2
        public var security: Security = .plaintext
        public var mechanism: Mechanism?
        public var username: String?
        /// Better in the environment, as POSTHORN_KAFKA_PASSWORD, or in `passwordFile`.
        public var password: String?
        /// A file whose first line is the password.
        public var passwordFile: String?
        /// PEM files: whom to trust, and this node's own certificate and key.
        public var authoritiesFile: String?
        public var certificateFile: String?
        public var keyFile: String?
        /// Octets of content above which it is stored in parts.
        public var valueSizeMax = 900_000
        /// `name=value` by librdkafka's own names, applied last.
        public var settings: [String] = []
        /// How long records stay behind the watermark before they are deleted; `nil` leaves them to their retention.
        public var trimAfter: Duration? = .seconds(600)
        /// How long a node waits for the brokers when it starts.
        public var startTimeout: Duration = .seconds(60)
        /// A cluster that loses mail when a broker dies is accepted.
        public var isTestCluster = false
        /// The brokers are librdkafka's mock, which forgets offsets that are committed in transactions.
        public var isMockCluster = false

        public init() {}

        public var isUsed: Bool { !self.bootstrap.isEmpty }
    }
}
