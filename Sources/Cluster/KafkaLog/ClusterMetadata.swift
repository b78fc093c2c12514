/// A topic as the broker that was asked knows it.
struct TopicMetadata {
    struct Partition {
        var id: Int32
        var leader: Int32
        var replicas: [Int32]
        var inSync: [Int32]
    }

    var name: String
    var partitions: [Partition]
    var error: KafkaError?

    /// Of the partition that has the fewest.
    var replicaCountMin: Int { self.partitions.map { $0.replicas.count }.min() ?? 0 }
}

/// The answer of one broker about the cluster.
struct ClusterMetadata {
    var brokers: [Int32]
    var topics: [TopicMetadata]
}
