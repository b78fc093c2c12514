/// How to reach a Kafka cluster, and what is expected of it.
public struct KafkaConfiguration: Sendable {
    /// How the brokers are spoken to.
    public enum SecurityProtocol: String, Sendable, CaseIterable {
        case plaintext
        case tls = "ssl"
        case saslPlaintext = "sasl_plaintext"
        case saslTLS = "sasl_ssl"
    }

    public enum Mechanism: String, Sendable, CaseIterable {
        case plain = "PLAIN"
        case scramSHA256 = "SCRAM-SHA-256"
        case scramSHA512 = "SCRAM-SHA-512"
    }

    /// `host:port` of some brokers, comma separated.
    public var bootstrap: String
    /// What topic, group and transaction names begin with. Clusters that share brokers differ in it.
    public var prefix = "posthorn"
    /// Names this node among the cluster's clients.
    public var clientID = "posthorn"
    /// Partitions of every partitioned topic.
    public var partitionCount = 64
    public var securityProtocol: SecurityProtocol = .plaintext
    public var mechanism: Mechanism?
    public var username: String?
    public var password: String?
    /// PEM files: the brokers' authorities, this node's certificate and key.
    public var authorities: String?
    public var certificate: String?
    public var key: String?
    /// librdkafka's own settings by their own names, applied last.
    public var settings: [String: String] = [:]

    /// How long an append may wait for the brokers' acknowledgement, milliseconds; then it fails.
    public var appendTimeout: Int64 = 10_000
    /// How long a record may be waited for that is not there yet, as this node knows the log, milliseconds.
    public var readTimeout: Int64 = 10_000
    /// How long a scan may wait for open transactions, milliseconds. What a node leaves open when it dies is ended after
    /// ``sessionTimeout`` and the brokers' `transaction.abort.timed.out.transaction.cleanup.interval.ms`.
    public var scanTimeout: Int64 = 30_000
    /// The oldest append that is not acknowledged may be this old, milliseconds; then the log says it is unavailable.
    public var breakerAge: Int64 = 3_000
    /// Octets of appends that are not acknowledged.
    public var appendSizeMax = 64 << 20
    /// Octets that a member holds ahead of what it was asked for, all partitions together.
    public var readAheadSize = 16 << 20
    /// Octets of a record's value; larger content goes in chunks. Below what brokers take by default (1 MB).
    public var valueSizeMax = 900_000
    /// How long the group waits for a member that is silent before others get its partitions, milliseconds.
    public var sessionTimeout: Int64 = 6_000
    /// A cluster that loses mail when a broker dies is accepted. For tests alone.
    public var isTestCluster = false
    /// How often a group's member looks for topics that are new, milliseconds.
    public var followInterval: Int64 = 5_000
    /// Offsets are committed beside transactions too, since librdkafka's mock cluster forgets those in them.
    public var commitsApart = false

    public init(bootstrap: String) {
        self.bootstrap = bootstrap
    }

    typealias Settings = [(name: String, value: String)]

    /// What every client has.
    var common: Settings {
        var settings: Settings = [
            ("bootstrap.servers", self.bootstrap),
            ("client.id", self.clientID),
            ("log.queue", "true"),
            ("security.protocol", self.securityProtocol.rawValue),
            // Brokers come back at their own pace: try soon, and go on trying.
            ("reconnect.backoff.ms", "50"),
            ("reconnect.backoff.max.ms", "1000"),
            ("topic.metadata.refresh.interval.ms", "10000"),
            ("socket.keepalive.enable", "true"),
            ("socket.nagle.disable", "true"),
        ]
        if let mechanism { settings.append(("sasl.mechanism", mechanism.rawValue)) }
        if let username { settings.append(("sasl.username", username)) }
        if let password { settings.append(("sasl.password", password)) }
        if let authorities { settings.append(("ssl.ca.location", authorities)) }
        if let certificate { settings.append(("ssl.certificate.location", certificate)) }
        if let key { settings.append(("ssl.key.location", key)) }
        return settings
    }

    private var last: Settings { self.settings.sorted { $0.key < $1.key }.map { ($0.key, $0.value) } }

    /// The producer of appends.
    var appending: Settings {
        self.common + [
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("message.timeout.ms", "\(self.appendTimeout)"),
            ("request.timeout.ms", "5000"),
            // A batch fills while the one before is under way; waiting longer only delays the 250.
            ("linger.ms", "1"),
            ("batch.size", "\(max(1_000_000, self.valueSizeMax + 100_000))"),
            ("message.max.bytes", "\(self.valueSizeMax + 100_000)"),
            // Our own budget is the tighter one; the default is 1 GB.
            ("queue.buffering.max.kbytes", "\(max(1, self.appendSizeMax / 1_024 * 2))"),
            ("queue.buffering.max.messages", "1000000"),
        ] + self.last
    }

    /// The producer of one member's steps.
    func stepping(transactionalID: String) -> Settings {
        self.common + [
            ("transactional.id", transactionalID),
            // What a node leaves open when it dies is ended by the broker after this long; its partitions wait so long.
            ("transaction.timeout.ms", "\(self.sessionTimeout)"),
            ("message.timeout.ms", "\(self.sessionTimeout)"),
            ("linger.ms", "0"),
            ("batch.size", "\(max(1_000_000, self.valueSizeMax + 100_000))"),
            ("message.max.bytes", "\(self.valueSizeMax + 100_000)"),
            ("queue.buffering.max.kbytes", "\(max(1, self.appendSizeMax / 1_024 * 2))"),
            ("queue.buffering.max.messages", "1000000"),
        ] + self.last
    }

    /// A member of a group.
    func consuming(group: String) -> Settings {
        self.common + self.fetching + [
            ("group.id", group),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("session.timeout.ms", "\(self.sessionTimeout)"),
            ("heartbeat.interval.ms", "1000"),
            ("max.poll.interval.ms", "300000"),
        ] + self.tailing + self.last
    }

    /// A reader of what follows the partitions that a member of the group is assigned. It never joins.
    func following(group: String) -> Settings {
        self.common + self.fetching + [("group.id", group)] + self.tailing + self.last
    }

    /// A reader of references or scans, which is nobody's member.
    func reading(_ isolation: RecordReader.Isolation) -> Settings {
        self.common + self.fetching + [
            ("group.id", "\(self.prefix).reader"),
            ("isolation.level", isolation.rawValue),
            ("enable.partition.eof", "true"),
            // A partition that is assigned waits for the fetch request that is under way.
            ("fetch.wait.max.ms", "10"),
        ] + self.last
    }

    private var tailing: Settings {
        [
            ("isolation.level", "read_committed"),
            // Where a log ends that was cut, below what the group has done, nothing else would say so.
            ("enable.partition.eof", "true"),
            ("fetch.wait.max.ms", "100"),
        ]
    }

    private var fetching: Settings {
        [
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            // Never a silent skip: an offset that is gone is an error, and we say so (DESIGN §2).
            ("auto.offset.reset", "error"),
            ("allow.auto.create.topics", "false"),
            // The defaults, 64 MB and 100,000 messages for each partition, are far too much for a relay.
            ("queued.max.messages.kbytes", "\(max(1_024, self.readAheadSize / 1_024))"),
            ("queued.min.messages", "1000"),
            ("fetch.message.max.bytes", "1048576"),
            ("fetch.max.bytes", "8388608"),
            ("fetch.error.backoff.ms", "100"),
        ]
    }
}
