/// What a delivery node says of itself on `posthorn.control`: that it is there, and what it needs of sites whose limit
/// is not enough for everybody (DESIGN §5, ADR 0010).
///
/// Repeated before the lease is over, and withdrawn at shutdown. The node counts the lease from when it sent the
/// announcement, readers from when they read it, so a node gives up before others give it up, whatever their clocks say.
public struct DeliveryAnnouncement: Hashable, Sendable, ControlValue {
    /// What the node needs of one site.
    public struct Site: Hashable, Sendable, Codable {
        public var site: String
        /// The site's limit, as the node is configured.
        public var limit: Int
        /// Connections that it would use if it could.
        public var wanted: Int
        /// Connections that it has.
        public var held: Int
        /// The newest ``LimitShares`` that it goes by; 0 when it goes by none.
        public var epoch: Int64

        public init(site: String, limit: Int, wanted: Int, held: Int, epoch: Int64) {
            self.site = site
            self.limit = limit
            self.wanted = wanted
            self.held = held
            self.epoch = epoch
        }
    }

    public static let keyPrefix = "delivery/"

    /// Unique in the cluster; another one after a restart.
    public var id: String
    /// Grows with every announcement of the node.
    public var sequence: Int64
    /// Milliseconds that it counts.
    public var lease: Int64
    /// Sites that it wants more of than its share, or goes by shares of; all others do with what each node has anyway.
    public var sites: [Site]

    public init(id: String, sequence: Int64, lease: Int64, sites: [Site] = []) {
        self.id = id
        self.sequence = sequence
        self.lease = lease
        self.sites = sites
    }

    public var keyID: String { self.id }
}
