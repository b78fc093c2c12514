import ClusterLog
import DequeModule
import Records

/// How much of each site this node may use, in a cluster (DESIGN §5, ADR 0010).
///
/// The owner of a site is the node that reads the zero-delay partition of the site's key. Without any word between
/// nodes, each has its base share: the limit divided by their number, the owner what is left. A site whose limit is
/// smaller than their number is served by its owner alone. A node that wants more says so in its announcement; the
/// owner then shares the whole limit out (`SiteShares+Owner.swift`).
///
/// Sans-IO: records of `posthorn.control` and instants of the node's own monotonic clock, in milliseconds, come in;
/// what is to be published comes out of ``tick(_:now:)``.
///
/// Invariants, while all nodes see the same members:
/// - what the nodes of a site may have is never more than its limit;
/// - whoever gives counts its promise longer than whoever is given: a share above the base ends, counted from when its
///   node asked, before any share below the base that made room for it does;
/// - a node that is not heard, which it knows since it reads its own announcements back, uses nothing before the others
///   use its part.
struct SiteShares: Sendable {
    struct Configuration: Sendable {
        /// Unique in the cluster.
        var node: String
        var partitionCount: Int
        /// How long an announcement and a share count.
        var lease: Int64 = 20_000
        /// What readers add to it, so that what was begun within a lease can end.
        var grace: Int64 = 5_000
        /// Between two announcements, and between two records of shares that say the same.
        var repeatInterval: Int64 = 5_000
        /// The same when there is something new.
        var changeInterval: Int64 = 1_000
        /// A node that finds others waits so long from its first announcement on, for them to read of it.
        var settleTime: Int64 = 2_000
        /// Records that are older than a lease and this when they are read say nothing about now.
        var skewMax: Int64 = 60_000
        /// After such a silence a node's announcement is withdrawn for it.
        var forgetTime: Int64 = 600_000
        /// Sites that are shared out, and sites that one announcement names.
        var siteCountMax = 500
        var memberCountMax = 1_000
        /// Records of shares in one tick.
        var recordCountMax = 20

        init(node: String, partitionCount: Int) {
            self.node = node
            self.partitionCount = partitionCount
        }
    }

    /// What this node may do for a site now.
    enum Standing: Hashable, Sendable {
        /// Not known yet, or no more: no connection is opened, and nothing moves.
        case waiting
        /// So many connections.
        case serving(Int)
        /// Its mail goes to the site's owner.
        case handingOver
    }

    /// What this node has of a site, and what it would have if it could.
    struct Use: Hashable, Sendable {
        var site: String
        /// Of the site's key.
        var partition: Int32
        var limit: Int
        var wanted: Int
        var held: Int
    }

    struct Statement: Sendable {
        var partition: Int32
        var said: DeliveryAnnouncement.Site
    }

    /// Another node.
    struct Member: Sendable {
        var sequence: Int64
        var readAt: Int64
        var until: Int64
        var sites: [String: Statement]
    }

    /// The newest shares of a site that were read.
    struct Known: Sendable {
        var shares: LimitShares
        /// This node's.
        var own: LimitShares.Share?
        var readAt: Int64
        var lease: Int64
    }

    let configuration: Configuration
    let partitioner: Partitioner
    /// By the node's monotonic clock.
    private(set) var time: Int64 = 0
    private(set) var members: [String: Member] = [:]
    /// When the first of them lapses.
    private var nextLapse = Int64.max
    /// Nodes that are silent, and when they are forgotten.
    private var departed: [String: Int64] = [:]
    /// Partitions of the zero-delay tier that are ours, and since when.
    private(set) var owned: [Int32: Int64] = [:]
    var known: [String: Known] = [:]
    /// Of sites that are ours and are shared out.
    var ledgers: [String: Ledger] = [:]
    /// What was announced, newest last.
    private(set) var sent: Deque<(sequence: Int64, at: Int64)> = []
    private var sentSites: [DeliveryAnnouncement.Site] = []
    /// Until when this node is heard, as its own announcements show that it read back.
    private var heardUntil = Int64.min
    private var heardSince = Int64.min

    init(configuration: Configuration) {
        self.configuration = configuration
        self.partitioner = Partitioner(partitionCount: configuration.partitionCount)
    }

    /// Delivery nodes that there are, this one included.
    var nodeCount: Int { self.members.count + 1 }

    /// The others know of this node, and it of them.
    var isSettled: Bool {
        self.time < self.heardUntil
            && (self.members.isEmpty || self.time >= self.heardSince + self.configuration.settleTime)
    }

    func partition(of site: String) -> Int32 { self.partitioner.partition(for: SpreadKey.plain(site)) }

    // MARK: Events

    mutating func advance(to time: Int64) {
        self.time = max(self.time, time)
        guard self.time >= self.nextLapse else { return }
        for (id, member) in self.members where self.time >= member.until {
            self.members[id] = nil
            self.depart(id)
        }
        self.nextLapse = self.members.values.map(\.until).min() ?? .max
    }

    /// A partition of the zero-delay tier is ours.
    mutating func own(_ partition: Int32) {
        self.owned[partition] = self.owned[partition] ?? self.time
    }

    mutating func disown(_ partition: Int32) {
        guard self.owned.removeValue(forKey: partition) != nil else { return }
        self.ledgers = self.ledgers.filter { $0.value.partition != partition }
    }

    static func concerns(_ key: String) -> Bool {
        key.hasPrefix(DeliveryAnnouncement.keyPrefix) || key.hasPrefix(LimitShares.keyPrefix)
    }

    /// A record of `posthorn.control` was read; each may come more than once.
    ///
    /// - Parameter now: milliseconds since 1970.
    mutating func received(_ record: StoredRecord, now: Int64) {
        let age = now.subtractingReportingOverflow(record.timestamp).partialValue
        let isOld = age > self.configuration.lease + self.configuration.skewMax
        if record.key.hasPrefix(DeliveryAnnouncement.keyPrefix) {
            let id = String(record.key.dropFirst(DeliveryAnnouncement.keyPrefix.count))
            self.received(DeliveryAnnouncement(record), from: id, isOld: isOld)
        } else if record.key.hasPrefix(LimitShares.keyPrefix) {
            let site = String(record.key.dropFirst(LimitShares.keyPrefix.count))
            guard let shares = LimitShares(record) else {
                self.known[site] = nil
                return
            }
            if !isOld { self.received(shares) }
        }
    }

    private mutating func received(_ announcement: DeliveryAnnouncement?, from id: String, isOld: Bool) {
        guard let announcement else {
            self.members[id] = nil
            self.departed[id] = nil
            return
        }
        guard id != self.configuration.node else {
            self.readBack(announcement.sequence)
            return
        }
        guard !isOld else {
            if self.members[id] == nil { self.depart(id) }
            return
        }
        guard announcement.sequence > self.members[id]?.sequence ?? .min,
            self.members[id] != nil || self.members.count < self.configuration.memberCountMax
        else { return }
        self.departed[id] = nil
        var sites: [String: Statement] = [:]
        for said in announcement.sites.prefix(self.configuration.siteCountMax) {
            sites[said.site] = Statement(partition: self.partition(of: said.site), said: said.clamped)
        }
        let until = self.time + Self.clamped(announcement.lease) + self.configuration.grace
        self.members[id] = Member(sequence: announcement.sequence, readAt: self.time, until: until, sites: sites)
        self.nextLapse = min(self.nextLapse, until)
    }

    /// The log has this node's announcement, and this node reads what the log has.
    private mutating func readBack(_ sequence: Int64) {
        guard let at = self.sent.first(where: { $0.sequence == sequence })?.at,
            at + self.configuration.lease > max(self.time, self.heardUntil)
        else { return }
        if self.time >= self.heardUntil { self.heardSince = at }
        self.heardUntil = at + self.configuration.lease
    }

    private mutating func received(_ shares: LimitShares) {
        let site = shares.site
        guard shares.isPlausible, shares.epoch > self.known[site]?.shares.epoch ?? .min,
            self.known[site] != nil || self.known.count < 4 * self.configuration.siteCountMax
        else { return }
        let own = shares.shares.first { $0.node == self.configuration.node }
        self.known[site] = Known(shares: shares, own: own, readAt: self.time, lease: Self.clamped(shares.lease))
        self.ledgers[site]?.absorb(shares, at: self.time)
    }

    /// Leases that make sense, whoever wrote them.
    private static func clamped(_ lease: Int64) -> Int64 { min(max(lease, 1_000), 600_000) }

    private mutating func depart(_ id: String) {
        guard self.departed[id] == nil, self.departed.count < self.configuration.memberCountMax else { return }
        self.departed[id] = self.time + self.configuration.forgetTime
    }

    // MARK: Shares

    func standing(of site: String, partition: Int32, limit: Int) -> Standing {
        guard self.isSettled else { return .waiting }
        let base = limit / self.nodeCount
        let isOwner = self.owned[partition] != nil
        if base == 0 { return isOwner ? .serving(limit) : .handingOver }
        guard isOwner else { return .serving(self.share(of: site, base: base)) }
        if let ledger = self.ledgers[site] { return .serving(ledger.ownShare) }
        return .serving(self.share(of: site, base: limit - base * self.members.count))
    }

    /// What the shares that are in force give this node; without any, its base share.
    private func share(of site: String, base: Int) -> Int {
        guard let known = self.known[site], self.isInForce(known) else { return base }
        guard let own = known.own else { return 0 }
        let share = max(0, min(own.share, known.shares.limit))
        if share <= base { return share }
        guard let at = self.sent.first(where: { $0.sequence == own.sequence })?.at,
            self.time < at + min(own.lease, self.configuration.lease)
        else { return base }
        return share
    }

    func isInForce(_ known: Known) -> Bool { self.time < known.readAt + known.lease + self.configuration.grace }

    /// Whether there is anything to say about a site: the others cost nothing.
    func isNotable(_ use: Use) -> Bool {
        let base = use.limit / self.nodeCount
        guard base > 0 else { return false }
        if use.wanted > base || use.held > base || self.known[use.site] != nil || self.ledgers[use.site] != nil {
            return true
        }
        // What another asks its owner for is given from what the owner does not use: its base share may be in use.
        return self.owned[use.partition] != nil && use.wanted + use.held > 0
            && self.members.values.contains { $0.sites[use.site] != nil }
    }

    // MARK: What is published

    /// - Parameter uses: of all sites that ``isNotable(_:)`` says to tell of.
    mutating func tick(_ uses: [Use], now: Int64) -> [Record] {
        var bySite: [String: Use] = [:]
        for use in uses { bySite[use.site] = use }
        var records = self.govern(bySite, now: now)
        if let announcement = self.announce(bySite) { records.append(announcement) }
        records += self.forget()
        return records
    }

    /// Says that this node is gone.
    var withdrawal: Record { DeliveryAnnouncement.withdrawal(id: self.configuration.node) }

    private mutating func announce(_ uses: [String: Use]) -> Record? {
        let sites = self.statements(uses)
        if let last = self.sent.last {
            let interval =
                sites == self.sentSites ? self.configuration.repeatInterval : self.configuration.changeInterval
            guard self.time >= last.at + interval else { return nil }
        }
        let sequence = (self.sent.last?.sequence ?? 0) + 1
        self.sent.append((sequence, self.time))
        if self.sent.count > 64 { self.sent.removeFirst() }
        self.sentSites = sites
        return DeliveryAnnouncement(
            id: self.configuration.node,
            sequence: sequence,
            lease: self.configuration.lease,
            sites: sites
        )
        .record
    }

    /// Of sites that are others': those that this node wants more of, and those that it goes by shares of.
    private func statements(_ uses: [String: Use]) -> [DeliveryAnnouncement.Site] {
        var statements: [DeliveryAnnouncement.Site] = []
        for use in uses.values where self.owned[use.partition] == nil {
            let base = use.limit / self.nodeCount
            guard base > 0 else { continue }
            let known = self.known[use.site].flatMap { self.isInForce($0) ? $0 : nil }
            guard known != nil || use.wanted > base || use.held > base else { continue }
            statements.append(
                DeliveryAnnouncement.Site(
                    site: use.site,
                    limit: use.limit,
                    wanted: use.wanted,
                    held: use.held,
                    epoch: known?.shares.epoch ?? 0
                )
            )
        }
        for (site, known) in self.known
        where uses[site] == nil && self.isInForce(known) && self.owned[self.partition(of: site)] == nil {
            let limit = known.shares.limit
            statements.append(.init(site: site, limit: limit, wanted: 0, held: 0, epoch: known.shares.epoch))
        }
        return Array(statements.sorted { $0.site < $1.site }.prefix(self.configuration.siteCountMax))
    }

    /// Drops what has been over for long. Announcements of nodes that died are withdrawn by whoever owns partition 0.
    private mutating func forget() -> [Record] {
        let time = self.time
        if self.known.contains(where: { time >= $0.value.readAt + self.configuration.forgetTime }) {
            self.known = self.known.filter { time < $0.value.readAt + self.configuration.forgetTime }
        }
        var records: [Record] = []
        for (id, at) in self.departed where time >= at && records.count < self.configuration.recordCountMax {
            self.departed[id] = nil
            if self.owned[0] != nil { records.append(DeliveryAnnouncement.withdrawal(id: id)) }
        }
        return records
    }
}

extension DeliveryAnnouncement.Site {
    /// Numbers that make sense, whoever wrote them.
    fileprivate var clamped: Self {
        var site = self
        site.limit = max(0, min(self.limit, 1_000_000))
        site.wanted = max(0, min(self.wanted, site.limit))
        site.held = max(0, min(self.held, 1_000_000))
        return site
    }
}
