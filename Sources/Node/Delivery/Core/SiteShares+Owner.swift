import ClusterLog
import DequeModule
import Records

/// The owner's part: sharing the limit of a site out among those that want more than they have anyway.
///
/// What a node may have at most, its *ceiling*, is what the owner reckons with. It rises when a higher share is
/// published; it falls only when the node said that it goes by a lower one, and then by what it still has open. What
/// the ceilings leave of the limit is what can be given.
extension SiteShares {
    struct Ledger: Sendable {
        struct Entry: Sendable {
            /// Connections that the node may have at most.
            var ceiling: Int
            /// Of the newest announcement that was looked at.
            var sequence: Int64 = .min
            /// Until then the node certainly goes by what it said it does; later it may have its base share again.
            var confirmedUntil: Int64 = .min
            /// Until then the node may have more than its base share, unless it is given more.
            var raisedUntil: Int64 = .min
        }

        struct Epoch: Sendable {
            var number: Int64
            var at: Int64
            var shares: [String: Int]
        }

        /// Shares that nodes may still be going by.
        private static let epochCountMax = 16

        let partition: Int32
        var limit: Int
        /// Of the other nodes.
        var entries: [String: Entry] = [:]
        /// What was published, newest last.
        var epochs: Deque<Epoch> = []
        /// This node's.
        var ownShare: Int
        /// When somebody last wanted more than its base share.
        var wantedAt = Int64.min

        mutating func published(_ epoch: Epoch) {
            self.epochs.append(epoch)
            if self.epochs.count > Self.epochCountMax { self.epochs.removeFirst() }
        }

        /// Somebody else published shares of the site: it was its owner, or takes itself for it.
        mutating func absorb(_ shares: LimitShares, at time: Int64) {
            guard shares.epoch > self.epochs.last?.number ?? .min else { return }
            var byNode: [String: Int] = [:]
            for share in shares.shares {
                byNode[share.node] = share.share
                if let ceiling = self.entries[share.node]?.ceiling {
                    self.entries[share.node]?.ceiling = max(ceiling, share.share)
                }
            }
            self.published(Epoch(number: shares.epoch, at: time, shares: byNode))
        }
    }

    /// Looks after all sites that are ours and wanted. Returns what is to be published.
    mutating func govern(_ uses: [String: Use], now: Int64) -> [Record] {
        guard self.isSettled, !self.owned.isEmpty else { return [] }
        var sites = Set(self.ledgers.keys)
        for member in self.members.values {
            for (site, statement) in member.sites where self.owned[statement.partition] != nil {
                if statement.said.wanted > statement.said.limit / self.nodeCount { sites.insert(site) }
            }
        }
        for use in uses.values where self.owned[use.partition] != nil && use.wanted > use.limit / self.nodeCount {
            sites.insert(use.site)
        }
        var records: [Record] = []
        for site in sites.sorted() where records.count < self.configuration.recordCountMax {
            if let record = self.govern(site, use: uses[site], now: now) { records.append(record) }
        }
        return records
    }

    private mutating func govern(_ site: String, use: Use?, now: Int64) -> Record? {
        let partition = self.partition(of: site)
        let statements = self.members.compactMapValues { $0.sites[site]?.said }
        let limit = use?.limit ?? self.ledgers[site]?.limit ?? statements.values.map(\.limit).min() ?? 0
        let base = limit / self.nodeCount
        guard base > 0, self.members.count > 0, let since = self.owned[partition] else {
            self.ledgers[site] = nil
            return nil
        }
        let isWanted =
            (use?.wanted ?? 0) > limit - base * self.members.count || statements.values.contains { $0.wanted > base }
        // What an owner before this one gave is over by then.
        guard self.time >= since + self.configuration.lease + self.configuration.grace,
            self.ledgers[site] != nil || (isWanted && self.ledgers.count < self.configuration.siteCountMax)
        else { return nil }
        var ledger = self.ledgers[site] ?? Ledger(partition: partition, limit: limit, ownShare: 0)
        ledger.limit = limit
        self.refresh(&ledger, statements, base: base)
        if isWanted { ledger.wantedAt = self.time }
        let isOver =
            self.time >= ledger.wantedAt + self.configuration.lease
            && (use?.held ?? 0) <= limit - base * self.members.count
            && ledger.entries.values.allSatisfy { $0.ceiling <= base }
        guard !isOver else {
            self.ledgers[site] = nil
            return ledger.epochs.isEmpty ? nil : LimitShares.withdrawal(id: site)
        }
        let room = max(0, limit - ledger.entries.values.reduce(0) { $0 + $1.ceiling })
        let record = self.share(site, &ledger, statements, use: use, base: base, room: room, now: now)
        self.ledgers[site] = ledger
        return record
    }

    /// Brings the ceilings up to what nodes have said and to what has lapsed.
    private func refresh(_ ledger: inout Ledger, _ statements: [String: DeliveryAnnouncement.Site], base: Int) {
        ledger.entries = ledger.entries.filter { self.members[$0.key] != nil }
        for (id, member) in self.members {
            let said = statements[id]
            var entry = ledger.entries[id] ?? Ledger.Entry(ceiling: max(base, said?.held ?? 0))
            if member.sequence > entry.sequence {
                entry.sequence = member.sequence
                if let said, let index = ledger.epochs.firstIndex(where: { $0.number == said.epoch }) {
                    // It goes by this one or by one that came after it.
                    let share = ledger.epochs[index...].map { $0.shares[id] ?? 0 }.max() ?? 0
                    entry.ceiling = max(share, said.held)
                    entry.confirmedUntil = ledger.epochs[index].at + self.configuration.lease + self.configuration.grace
                } else if let said {
                    entry.ceiling = max(entry.ceiling, said.held)
                }
            }
            if self.time >= entry.confirmedUntil { entry.ceiling = max(entry.ceiling, base) }
            let isLapsed = self.time >= entry.raisedUntil.addingClamped(self.configuration.grace)
            if entry.ceiling > base, isLapsed, member.readAt >= entry.raisedUntil {
                entry.ceiling = max(base, said?.held ?? 0)
            }
            ledger.entries[id] = entry
        }
    }

    /// Decides who has what, and publishes it when that is new or has to be said again.
    private func share(
        _ site: String,
        _ ledger: inout Ledger,
        _ statements: [String: DeliveryAnnouncement.Site],
        use: Use?,
        base: Int,
        room: Int,
        now: Int64
    ) -> Record? {
        let own = self.configuration.node
        let held = use?.held ?? 0
        // A node that has not said anything may be using its base share: it is asked before it is taken away.
        var wanted = ledger.entries.reduce(into: [:]) { $0[$1.key] = statements[$1.key]?.wanted ?? base }
        wanted[own] = use?.wanted ?? 0
        let targets = Self.targets(wanted, limit: ledger.limit, base: base, owner: own)
        let ownTarget = targets[own] ?? 0
        ledger.ownShare = min(ownTarget, room)
        guard self.time >= (ledger.epochs.last?.at ?? .min).addingClamped(self.configuration.changeInterval) else {
            return nil
        }

        var lacking: [String: Int] = [own: max(0, ownTarget - held)]
        for (id, entry) in ledger.entries { lacking[id] = max(0, (targets[id] ?? 0) - entry.ceiling) }
        let raises = Self.maxMin(lacking, total: max(0, room - held))
        let reducedUntil = ledger.entries.values.filter { $0.ceiling < base }.map(\.confirmedUntil).min() ?? .max
        func lease(from: Int64) -> Int64 {
            let left = reducedUntil.addingClamped(-self.configuration.grace).addingClamped(-from)
            return min(self.configuration.lease, left)
        }
        var shares: [LimitShares.Share] = []
        for (id, entry) in ledger.entries.sorted(by: { $0.key < $1.key }) {
            guard let member = self.members[id] else { continue }
            let target = targets[id] ?? 0
            var share = target <= entry.ceiling ? target : entry.ceiling + (raises[id] ?? 0)
            let lease = lease(from: member.readAt)
            if share > base, lease < 2 * self.configuration.changeInterval { share = base }
            shares.append(.init(node: id, share: share, sequence: member.sequence, lease: max(0, lease)))
        }
        let given = shares.reduce(0) { $0 + max($1.share, ledger.entries[$1.node]?.ceiling ?? 0) }
        let ownShare = min(ownTarget, max(0, ledger.limit - given))
        if let last = self.sent.last {
            let lease = max(0, lease(from: last.at))
            shares.append(.init(node: own, share: ownShare, sequence: last.sequence, lease: lease))
        }
        let byNode = shares.reduce(into: [:]) { $0[$1.node] = $1.share }
        if let last = ledger.epochs.last, last.shares == byNode,
            self.time < last.at + self.configuration.repeatInterval
        {
            return nil
        }
        ledger.ownShare = ownShare
        for share in shares {
            guard let entry = ledger.entries[share.node] else { continue }
            ledger.entries[share.node]?.ceiling = max(entry.ceiling, share.share)
            guard share.share > base, let readAt = self.members[share.node]?.readAt else { continue }
            ledger.entries[share.node]?.raisedUntil = max(entry.raisedUntil, readAt + share.lease)
        }
        let newest = max(ledger.epochs.last?.number ?? 0, self.known[site]?.shares.epoch ?? 0)
        let epoch = max(newest + 1, now)
        ledger.published(Ledger.Epoch(number: epoch, at: self.time, shares: byNode))
        return LimitShares(
            site: site,
            epoch: epoch,
            limit: ledger.limit,
            lease: self.configuration.lease,
            shares: shares
        )
        .record
    }

    /// Who should have what: max-min fair, and what nobody wants goes to those that want more than their base share, so
    /// that they need not ask again for each connection. When nobody does, everybody has the base share.
    static func targets(_ wanted: [String: Int], limit: Int, base: Int, owner: String) -> [String: Int] {
        let asking = wanted.filter { $0.value > base }.keys.sorted()
        guard !asking.isEmpty else {
            var targets = wanted.mapValues { _ in base }
            targets[owner] = limit - base * (wanted.count - 1)
            return targets
        }
        var targets = self.maxMin(wanted, total: limit)
        let left = limit - targets.values.reduce(0, +)
        for (index, id) in asking.enumerated() {
            targets[id, default: 0] += left / asking.count + (index < left % asking.count ? 1 : 0)
        }
        return targets
    }

    /// Max-min fair parts of a total: nobody gets more than wanted, and nobody less than another that got more than it.
    static func maxMin(_ wanted: [String: Int], total: Int) -> [String: Int] {
        var parts: [String: Int] = [:]
        var left = max(0, total)
        let order = wanted.sorted { ($0.value, $0.key) < ($1.value, $1.key) }
        for (index, (id, count)) in order.enumerated() {
            let part = min(count, left / (order.count - index))
            parts[id] = part
            left -= part
        }
        return parts
    }
}

extension Int64 {
    fileprivate func addingClamped(_ other: Int64) -> Int64 {
        let (sum, isOverflow) = self.addingReportingOverflow(other)
        guard isOverflow else { return sum }
        return other > 0 ? .max : .min
    }
}
