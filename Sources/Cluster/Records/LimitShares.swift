/// How a site's limit is shared among the delivery nodes for a while, as the site's owner says on `posthorn.control`
/// (DESIGN §5, ADR 0010). A node that is not named has none of it.
public struct LimitShares: Hashable, Sendable, ControlValue {
    /// What one node has.
    public struct Share: Hashable, Sendable, Codable {
        public var node: String
        /// Connections.
        public var share: Int
        /// The node's announcement that this answers.
        public var sequence: Int64
        /// Milliseconds that the node may have more than without these shares, counted from when it sent that
        /// announcement. Having less is counted from when it read this record, for ``LimitShares/lease``.
        public var lease: Int64

        public init(node: String, share: Int, sequence: Int64, lease: Int64) {
            self.node = node
            self.share = share
            self.sequence = sequence
            self.lease = lease
        }
    }

    public static let keyPrefix = "share/"

    public var site: String
    /// Readers ignore what is not newer than what they have.
    public var epoch: Int64
    public var limit: Int
    /// Milliseconds, counted by a reader from when it read the record.
    public var lease: Int64
    public var shares: [Share]

    public init(site: String, epoch: Int64, limit: Int, lease: Int64, shares: [Share]) {
        self.site = site
        self.epoch = epoch
        self.limit = limit
        self.lease = lease
        self.shares = shares
    }

    public var keyID: String { self.site }

    /// Whether the numbers are some that a node can have written: sums of them, and the next epoch, are numbers too.
    public var isPlausible: Bool {
        let counts = 0...Int(Int32.max)
        return (0...(1 << 60)).contains(self.epoch) && counts.contains(self.limit) && self.shares.count <= 100_000
            && self.shares.allSatisfy { counts.contains($0.share) }
    }
}
