public import ClusterLog
public import NodeSupport

/// What the metrics service is told by the operator, and its bounds.
public struct MetricsSettings: Hashable, Sendable {
    /// The node's name among the others, unique in the cluster.
    public var nodeID: String
    /// What the admin listeners of the cluster's nodes ask for; the same for all of them.
    public var token: String?
    /// How long a message is tried: tells until when it is in the queue.
    public var lifetime: Duration
    /// The same for messages with a null reverse-path.
    public var notificationLifetime: Duration
    /// Whose progress tells what waits.
    public var deliveryGroup = GroupID("posthorn.delivery")

    /// Sites that have a label of their own in the exported metrics; the others are `other`.
    public var siteLabelCountMax = 50
    /// Sites that are counted one by one in a partition; of more, the smallest half goes to `other`.
    public var siteCountMax = 1_000
    /// Recipients without a final state that are indexed. Beyond it they are counted and not indexed.
    ///
    /// A recipient costs about 550 octets (`IndexMemoryTests`), so a million that wait are about 550 MB.
    public var liveCountMax = 1_000_000
    /// Recipients with a final state that are kept, the newest; about 460 octets each.
    public var recentCountMax = 200_000
    /// How long a recipient with a final state is kept at most.
    public var recentAge: Duration = .seconds(86_400)

    /// Between commits of progress, which only tells monitoring how far the service is behind.
    public var commitInterval: Duration = .seconds(5)
    /// Between two announcements of this node; sooner when its partitions change.
    public var announceInterval: Duration = .seconds(10)
    /// How long an announcement counts.
    public var lease: Duration = .seconds(30)
    /// Between two looks at the announcements of others.
    public var directoryInterval: Duration = .seconds(5)
    /// Between two looks at how much waits in the topics of delivery.
    public var backlogInterval: Duration = .seconds(10)
    /// A node that has not answered by then is named as missing.
    public var peerTimeout: Duration = .seconds(2)

    public init(
        nodeID: String,
        token: String? = nil,
        lifetime: Duration = .seconds(5 * 86_400),
        notificationLifetime: Duration = .seconds(86_400)
    ) {
        self.nodeID = nodeID
        self.token = token
        self.lifetime = lifetime
        self.notificationLifetime = notificationLifetime
    }

    /// - Parameter token: the first line of the configuration's `admin.token-file`.
    public init(_ configuration: NodeConfiguration, nodeID: String, token: String?) {
        self.init(
            nodeID: nodeID,
            token: token,
            lifetime: configuration.retry.lifetime,
            notificationLifetime: configuration.retry.notificationLifetime
        )
    }
}

extension Duration {
    /// Whole milliseconds, as many as fit.
    var milliseconds: Int64 {
        let (seconds, attoseconds) = self.components
        let (product, overflow) = seconds.multipliedReportingOverflow(by: 1_000)
        return overflow ? .max : product + attoseconds / 1_000_000_000_000_000
    }
}
