/// Where a node can be asked and what it has, as it says itself on `posthorn.control` (DESIGN §6).
///
/// Repeated before the lease is over, and withdrawn at shutdown: a node that says nothing any more is gone. Readers
/// count the lease on their own clock from when they read it, so nodes need not agree on the time.
public struct NodeAnnouncement: Hashable, Sendable, ControlValue {
    public static let keyPrefix = "node/"

    /// Unique in the cluster; the same after a restart at most.
    public var id: String
    public var roles: [String]
    /// The admin listener, `host:port` as others reach it.
    public var admin: String
    /// The partitions of `posthorn.outcomes` that it has the index of.
    public var partitions: [Int32]
    /// The end of the lease, milliseconds since 1970 by the node's own clock.
    public var until: Int64

    public init(id: String, roles: [String], admin: String, partitions: [Int32], until: Int64) {
        self.id = id
        self.roles = roles
        self.admin = admin
        self.partitions = partitions
        self.until = until
    }

    public var keyID: String { self.id }
}
