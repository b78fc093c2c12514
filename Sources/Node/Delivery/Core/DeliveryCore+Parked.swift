import ClusterLog
import NodeSupport
import Records

/// Waking mail that was parked behind an outage, once the site is back (DESIGN §5).
///
/// A wake is a command of our own: a flush of the site's parked records, scanned from the longest tier on. It goes at
/// the site's pace, so that what is woken need not be parked again: a message costs one more record.
extension DeliveryCore {
    /// What is known of a wake besides its command.
    struct Wake: Sendable {
        var isScanning = false
        /// Woken, and not yet in the site's queue.
        var underWayCount = 0
        var scannedAt: Int64 = 0
    }

    /// Sites whose parked mail is woken at one time.
    private static let wakeCountMax = 100
    /// A site's mail is not woken again before (milliseconds): it may come and go.
    private static let wakeInterval: Int64 = 60_000
    /// When what was parked too late for a wake is looked for (milliseconds after it).
    private static let stragglerInterval: Int64 = 10_000
    /// Records read at once to find those of the site.
    private static let wakeScanCount = 256
    /// What was woken and has not come by now (milliseconds) was dealt with otherwise.
    private static let wakeTimeout: Int64 = 5_000
    /// What is woken at a time is what a site takes in this (milliseconds), and no more than half a step of outputs.
    private static let wakeAhead: Int64 = 250
    private static let wakeRoomMax = 512

    /// A parked record fell due by itself: there may be more, which this node does not know of.
    mutating func noteParked(_ job: Job, _ number: Int, now: Int64) {
        guard job.wasParked, let shortest = self.configuration.retry.tiers.first,
            let delay = job.position.partition.topic.deferredDelay, delay * 1_000 > shortest,
            let longest = self.configuration.retry.tiers.last
        else { return }
        self.sites[number]?.mayBeParked(until: now + min(longest, self.configuration.retry.lifetime))
        // Another node may have spread it.
        if SpreadKey(job.key).bucket != nil { self.sites[number]?.isSpread = true }
    }

    /// The site takes mail: what is parked for it need not wait for its tier.
    mutating func wakeParked(_ number: Int, now: Int64) {
        guard let site = self.sites[number], site.parkedUntil > now, now - site.wokenAt >= Self.wakeInterval,
            self.wakes.count < Self.wakeCountMax, self.commands.count < Self.commandCountMax
        else { return }
        self.sites[number]?.wokenAt = now
        self.sites[number]?.parkedUntil = 0
        self.act(.wake(site: site.plan.id))
    }

    /// What was parked as the site came back may have been written too late for the wake: once there is nothing else to do,
    /// it is looked for once more.
    mutating func wakeStragglers(_ number: Int, now: Int64) {
        guard let site = self.sites[number], site.mayHaveStragglers, site.outageSince == nil,
            now - site.wokenAt >= Self.stragglerInterval,
            // One that is through is kept until what it woke is passed.
            !self.commands.contains(where: { self.isScanning($0, for: site.plan.id) }),
            self.commands.count < Self.commandCountMax
        else { return }
        self.sites[number]?.wokenAt = now
        self.act(.wake(site: site.plan.id))
    }

    private func isScanning(_ command: OperatorCommand, for site: String) -> Bool {
        command.isWake && command.predicate.site == site && command.marks.contains { $0.scanned < $0.end }
    }

    /// Whether a partition can have parked mail of the site.
    func mayHoldParked(_ partition: TopicPartition, of site: String, partitionCount: Int) -> Bool {
        guard (partition.topic.deferredDelay ?? 0) > 0 else { return false }
        if let number = self.siteNumbers[site], self.sites[number]?.isSpread == true { return true }
        return partition.partition == Partitioner(partitionCount: partitionCount).partition(for: SpreadKey.plain(site))
    }

    mutating func wakeFailed(site: String, now: Int64) {
        guard let number = self.siteNumbers[site], let longest = self.configuration.retry.tiers.last else { return }
        self.sites[number]?.mayBeParked(until: now + longest)
    }

    /// Nobody has mail for the site now, and some is parked: a connection shows whether the site is back.
    mutating func probe(_ number: Int, now: Int64) {
        guard let site = self.sites[number], site.outageSince != nil, site.parkedUntil > now,
            site.connectionCount == 0, site.connectionCountLimit > 0, !site.isBackingOff(now: now), self.mayBegin,
            self.connections.count < self.configuration.connectionCountMax / 4
        else { return }
        self.open(number)
    }

    /// Scans on for each wake whose site has room.
    mutating func wakeMore(now: Int64) {
        guard self.mayBegin else { return }
        for command in self.commands where command.isWake {
            guard let mark = command.marks.first(where: { $0.scanned < $0.end }),
                self.wakes[command.id]?.isScanning != true,
                self.wakeRoom(command, now: now) >= max(1, self.windowShare / 4)
            else { continue }
            self.wakes[command.id, default: Wake()].isScanning = true
            self.wakes[command.id]?.scannedAt = now
            let partition = TopicPartition(Topic(mark.topic), mark.partition)
            self.act(
                .scan(
                    command: command.id,
                    partition,
                    from: Offset(mark.scanned),
                    end: Offset(mark.end),
                    countMax: Self.wakeScanCount
                )
            )
        }
    }

    mutating func scanFailed(_ commandID: String) {
        self.wakes[commandID]?.isScanning = false
    }

    /// Records of parked mail that the site can take now: half of its share of a window, or what it takes in a moment.
    func wakeRoom(_ command: OperatorCommand, now: Int64) -> Int {
        let half = max(1, self.windowShare / 2)
        guard let id = command.predicate.site, let site = self.siteNumbers[id].flatMap({ self.sites[$0] }) else {
            return half
        }
        guard site.outageSince == nil, !site.isBackingOff(now: now) else { return 0 }
        let wake = self.wakes[command.id] ?? Wake()
        let underWayCount = now - wake.scannedAt > Self.wakeTimeout ? 0 : wake.underWayCount
        let isQuick = self.expectedWait(site, wasParked: true, now: now) <= Self.wakeAhead
        let room = isQuick ? max(half, min(site.jobCount(in: Self.wakeAhead), Self.wakeRoomMax)) : half
        return room - site.ready.parkedCount - underWayCount
    }

    /// Part of a mark was scanned. A mark that matched nothing is not needed once it is through.
    mutating func woke(_ count: Int, _ index: Int, _ markIndex: Int, now: Int64) {
        let id = self.commands[index].id
        if now - (self.wakes[id]?.scannedAt ?? 0) > Self.wakeTimeout { self.wakes[id]?.underWayCount = 0 }
        self.wakes[id, default: Wake()].underWayCount += count
        let mark = self.commands[index].marks[markIndex]
        if mark.scanned >= mark.end, mark.hasMatched != true { self.commands[index].marks.remove(at: markIndex) }
    }

    /// A woken job has come to its site's queue.
    mutating func wokenArrived(_ job: Job) {
        guard job.wasParked, job.position.partition.topic.deferredDelay == 0, !self.wakes.isEmpty,
            let site = job.site.flatMap({ self.sites[$0]?.plan.id }),
            let command = self.commands.first(where: { command in
                command.isWake && command.predicate.site == site && self.wakes[command.id]?.underWayCount ?? 0 > 0
            })
        else { return }
        self.wakes[command.id]?.underWayCount -= 1
    }
}
