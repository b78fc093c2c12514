import ClusterLog
import Records

/// Keeping to this node's share of each site, and handing over mail of sites that are another's (DESIGN §5, ADR 0010).
extension DeliveryCore {
    // MARK: Handing over

    /// Whether the job's mail is for the site's owner to deliver, and not this node's.
    ///
    /// What comes from the zero-delay tier under the site's own key is at the owner by definition. What comes from
    /// there under another site's key stays too, so that nodes which resolve a domain differently do not send mail to
    /// and fro; only from a bucket of the site's key in another partition it goes on, once.
    func handsOver(_ job: Job, _ site: Site) -> Bool {
        guard case .handingOver? = self.standing(of: site) else { return false }
        let place = job.position.partition
        guard place.topic == .deferredNow else { return true }
        return place.partition != site.partition && SpreadKey.name(of: job.key) == site.plan.id
    }

    /// Re-publishes the job to the zero-delay tier, where the site's owner reads it. No attempt is counted, and it is not
    /// parked.
    mutating func handOver(_ jobID: UInt64, now: Int64) {
        guard let job = self.jobs[jobID] else { return }
        self.act(.handedOver(site: self.siteName(job)))
        self.republish(job, [(.deferredNow, SpreadKey.plain(self.siteName(job)), job.entry)], outputs: [], now: now)
    }

    /// Mail that waits here for a site that became another's.
    private mutating func handOverReady(_ number: Int, now: Int64) {
        guard let site = self.sites[number], !site.ready.isEmpty else { return }
        for jobID in self.sites[number]?.ready.takeAll() ?? [] {
            guard let job = self.jobs[jobID] else { continue }
            if self.handsOver(job, site) {
                // No longer in the queue: so that leaving the site does not search it.
                self.jobs[jobID]?.stage = .routing
                self.handOver(jobID, now: now)
            } else {
                self.sites[number]?.ready.append(jobID, wasParked: job.wasParked)
            }
        }
    }

    // MARK: Shares

    private func standing(of site: Site) -> SiteShares.Standing? {
        self.shares?.standing(of: site.plan.id, partition: site.partition, limit: site.plan.connectionCountMax)
    }

    /// Takes up what the node may use of the site now. Idle connections above it close, busy ones end first.
    mutating func applyShare(_ number: Int, now: Int64) {
        guard self.shares != nil, let site = self.sites[number] else { return }
        switch self.standing(of: site) {
        case nil:
            break
        case .waiting:
            self.sites[number]?.share = 0
        case .serving(let count):
            self.sites[number]?.share = count
        case .handingOver:
            self.handOverReady(number, now: now)
            // What is left cannot be handed over: one connection is enough to be rid of it.
            let isEmpty = self.sites[number]?.ready.isEmpty != false
            self.sites[number]?.share = isEmpty ? 0 : 1
        }
        while let site = self.sites[number], let share = site.share, site.activeCount > share,
            let oldest = site.idle.first
        {
            self.retire(oldest)
        }
    }

    /// A record of `posthorn.control` that is about shares was read.
    mutating func controlRead(_ record: StoredRecord, now: Int64) {
        self.shares?.received(record, now: now)
    }

    mutating func tickShares(now: Int64) {
        guard self.shares != nil else { return }
        var uses: [SiteShares.Use] = []
        for number in Array(self.sites.keys) {
            self.applyShare(number, now: now)
            guard let site = self.sites[number] else { continue }
            let isWorking = !self.isDraining && !site.isBackingOff(now: now)
            let use = SiteShares.Use(
                site: site.plan.id,
                partition: site.partition,
                limit: site.plan.connectionCountMax,
                wanted: isWorking ? min(site.wantedCount, site.plan.connectionCountMax) : 0,
                held: site.connectionCount
            )
            if self.shares?.isNotable(use) == true { uses.append(use) }
        }
        let records = self.shares?.tick(uses, now: now) ?? []
        if !records.isEmpty { self.act(.publish(records)) }
    }

    /// Mail of sites whose key is in these partitions is another's to serve.
    mutating func disown(_ partitions: [TopicPartition]) {
        for partition in partitions where partition.topic == .deferredNow {
            self.shares?.disown(partition.partition)
        }
    }
}
