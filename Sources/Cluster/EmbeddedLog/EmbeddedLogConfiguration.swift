public import ClusterLog

/// Where an ``EmbeddedLog`` keeps its files, and its bounds.
public struct EmbeddedLogConfiguration: Sendable {
    /// The directory, made when it is missing. One process at a time; a local file system, since locks and fsync count.
    public var directory: String
    /// Recorded when the log is created; later values must be equal.
    public var partitionCount = 8
    /// Octets after which a new segment is started.
    public var segmentSize: Int64 = 128 << 20
    /// Age after which a segment with records is closed, so that what is finished in it can be freed.
    public var segmentAge: Duration = .seconds(3_600)
    /// Octets of recent records that are held in memory for groups that keep up.
    public var tailCacheSize = 16 << 20
    /// Octets of appends and steps in flight; above it they fail with `queueFull`.
    public var queueSizeMax = 64 << 20
    /// Octets that one transaction takes from the queue before it commits.
    public var commitSizeMax = 8 << 20
    /// How long a step waits at most for an append to share its fsync.
    public var stepDelayMax: Duration = .milliseconds(5)
    /// Octets of one record: key, headers and value. What a Kafka broker takes by default.
    public var recordSizeMax = 1 << 20
    /// Octets of disk that only steps and ``ClusterLog/Topic/content`` may use.
    public var reserveSize: Int64 = 256 << 20
    /// Octets of the whole log; `nil`: what the file system has.
    public var sizeMax: Int64?
    /// Records and octets of one ``ClusterLog/GroupEvent/records(_:_:)``; at least one record is returned.
    public var batchCountMax = 256
    public var batchSizeMax = 1 << 20
    /// How long content is kept that nobody released.
    public var contentRetention: Duration = .seconds(8 * 86_400)
    /// How long the history topics are kept.
    public var historyRetention: Duration = .seconds(30 * 86_400)
    /// Octets of history above which its oldest day goes, once every group is past it.
    public var historySizeMax: Int64 = 4 << 30
    /// How long a closed segment stays although everything in it is finished, for those who still read it by reference.
    public var finishedGrace: Duration = .seconds(10)
    /// How often space is looked at and segments are looked after.
    public var maintenanceInterval: Duration = .seconds(1)
    /// Topics kept by time in a file a day.
    public var historyTopics: Set<Topic> = [.outcomes, .dead, Topic("posthorn.reports")]
    /// Topics of which the newest record of a key is kept; an empty value removes the key.
    public var compactedTopics: Set<Topic> = [.control, Topic("posthorn.suppression")]

    package var faults = FaultPlan.none

    public init(directory: String) {
        self.directory = directory
    }
}
