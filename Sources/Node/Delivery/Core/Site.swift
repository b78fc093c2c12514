/// What is known and queued for one site: where mail for some destination domains really goes (DESIGN §5).
struct Site: Sendable {
    var plan: SitePlan
    /// Of the site's key: whoever reads the zero-delay tier there is its owner.
    let partition: Int32
    /// Jobs with their content at hand.
    var ready = SiteQueue()
    /// Connections that wait for a transaction; the one used last is used first.
    var idle: [UInt64] = []
    var connectingCount = 0
    /// Connections that were told to close and have not yet.
    var closingCount = 0
    /// This node's part of the site's limit; `nil` on one machine, where all of it is.
    var share: Int?
    /// Jobs that belong to the site, wherever they are.
    var jobCount = 0
    /// All connections: connecting, idle and busy.
    var connectionCount = 0
    /// How many connections the site may have now: grows with success, halves with failure, at most the plan's.
    private(set) var concurrency: Double
    private(set) var failureCount = 0
    /// When the present outage began, as seen here.
    private(set) var outageSince: Int64?
    private(set) var backoffUntil: Int64 = 0
    /// Until when mail may be waiting that was parked behind an outage, as seen here.
    var parkedUntil: Int64 = 0
    /// What is parked is in buckets: in any partition, not in the site's own alone.
    var isSpread = false
    /// When parked mail was last woken.
    var wokenAt: Int64 = 0
    /// When mail was last parked behind an outage, as seen here.
    var lastParkedAt: Int64 = 0
    /// How long a transaction takes, smoothed, in milliseconds; 0 until one has finished.
    private(set) var transactionTime: Double = 0
    /// The last failure's text, for views.
    var lastFailure: String?

    static let concurrencyStart = 5.0
    static let backoffBase: Int64 = 30_000
    static let backoffMax: Int64 = 600_000
    static let outageMemory: Int64 = 3_600_000
    /// How long before a wake what was parked may not have been written yet (milliseconds).
    static let stragglerTime: Int64 = 5_000

    init(plan: SitePlan, partition: Int32) {
        self.plan = plan
        self.partition = partition
        self.concurrency = min(Self.concurrencyStart, Double(plan.connectionCountMax))
    }

    var isUnused: Bool { self.jobCount == 0 && self.connectionCount == 0 }

    func isBackingOff(now: Int64) -> Bool { now < self.backoffUntil }

    /// Whether nothing of what is known here would be missed, once nobody uses the site: an outage is remembered while mail
    /// may wait behind it, and for an hour.
    func mayBeForgotten(now: Int64) -> Bool {
        if self.outageSince == nil { return !self.mayHaveStragglers }
        return now >= max(self.backoffUntil + Self.outageMemory, self.parkedUntil)
    }

    /// Mail was parked so shortly before the site's mail was woken that it may not have been written then.
    var mayHaveStragglers: Bool { self.wokenAt > 0 && self.lastParkedAt > self.wokenAt - Self.stragglerTime }

    /// Connections that the site seems to bear.
    var concurrencyLimit: Int { max(1, Int(self.concurrency)) }

    /// Connections that it may have: what it seems to bear, within this node's share.
    var connectionCountLimit: Int { min(self.concurrencyLimit, self.share ?? .max) }

    /// Connections that are not closing.
    var activeCount: Int { self.connectionCount - self.closingCount }

    /// Connections that would be used now if there were no shares.
    var wantedCount: Int {
        min(self.concurrencyLimit, self.activeCount - self.connectingCount - self.idle.count + self.ready.count)
    }

    /// - Parameter duration: microseconds.
    mutating func finishedTransaction(duration: Int64) {
        let milliseconds = Double(duration) / 1_000
        self.transactionTime =
            self.transactionTime == 0 ? milliseconds : self.transactionTime * 0.9 + milliseconds * 0.1
    }

    /// Milliseconds until a job that comes now is tried, by what transactions have taken; 0 while nothing is known.
    func backlogTime(wasParked: Bool) -> Int64 {
        let count = self.ready.countAhead(wasParked: wasParked)
        return Int64(Double(count) * self.transactionTime / Double(max(1, self.connectionCountLimit)))
    }

    /// Jobs that the site takes in so many milliseconds, by what transactions have taken; 0 while nothing is known.
    func jobCount(in time: Int64) -> Int {
        guard self.transactionTime > 0 else { return 0 }
        return Int(min(10_000, Double(time) * Double(self.connectionCountLimit) / self.transactionTime))
    }

    /// A connection was made: the outage is over, as far as that tells.
    mutating func reached() {
        // How quick it is now is not known.
        if self.outageSince != nil { self.transactionTime = 0 }
        self.outageSince = nil
        self.backoffUntil = 0
    }

    /// A connection was lost in a transaction: less at a time, but the site is there.
    mutating func sessionFailed(text: String) {
        self.lastFailure = text
        self.concurrency = max(1, self.concurrency / 2)
    }

    mutating func succeeded() {
        self.failureCount = 0
        self.outageSince = nil
        self.backoffUntil = 0
        self.concurrency = min(self.concurrency + 1, Double(self.plan.connectionCountMax))
    }

    /// A connection could not be made, or the site as a whole refused.
    mutating func failed(now: Int64, text: String) {
        self.lastFailure = text
        self.concurrency = max(1, self.concurrency / 2)
        // Connections that fail together are one failure.
        guard now >= self.backoffUntil else { return }
        self.failureCount += 1
        self.outageSince = self.outageSince ?? now
        let backoff = Self.backoffBase << Int64(min(self.failureCount - 1, 8))
        self.backoffUntil = now + min(backoff, Self.backoffMax)
    }

    mutating func mayBeParked(until: Int64) {
        self.parkedUntil = max(self.parkedUntil, until)
    }

    /// An operator asked for an attempt now.
    mutating func endBackoff() {
        self.backoffUntil = 0
    }
}

/// What is known of a site from routing.
public struct SitePlan: Hashable, Sendable {
    /// Names the site in keys, outcomes and views: the route's next hop, or the mail exchangers.
    public var id: String
    public var target: OutboundTarget
    public var connectionCountMax: Int
    /// 0 is no bound.
    public var messagesPerConnectionMax: Int

    public init(id: String, target: OutboundTarget, connectionCountMax: Int, messagesPerConnectionMax: Int) {
        self.id = id
        self.target = target
        self.connectionCountMax = connectionCountMax
        self.messagesPerConnectionMax = messagesPerConnectionMax
    }
}

/// Where mail for a destination domain goes.
public enum Routing: Sendable {
    case site(SitePlan)
    case failed(DeliveryFailure)
    /// Taken as delivered and thrown away, as a route says.
    case discard
}
