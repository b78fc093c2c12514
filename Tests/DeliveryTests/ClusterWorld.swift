import ClusterLog
import DequeModule
import Mail
import NIOCore
import NodeSupport
import Records
import SMTP

@testable import Delivery

/// Several ``DeliveryCore``s over one log in memory, with a clock that the test moves: partitions go from node to node,
/// nodes come, leave and die, records of `posthorn.control` are lost or read late, and each node's own clock says
/// something else.
struct ClusterWorld {
    struct Node {
        /// What its monotonic clock is ahead by.
        var clockOffset: Int64
        var starts: [TopicPartition: Progress] = [:]
        var cursors: [TopicPartition: Int] = [:]
        var paused: Set<TopicPartition> = []
        var revoking: Set<TopicPartition> = []
        /// How much of `posthorn.control` it has read.
        var controlCursor = 0
        var connecting: [UInt64] = []
        /// Open connections, by the host they are to.
        var open: [UInt64: String] = [:]
        var transactions: [(endsAt: Int64, connection: UInt64, transaction: OutboundTransaction)] = []
        var isLeaving = false
    }

    /// Connections that each site takes, by its name.
    var limits: [String: Int] = [:]
    var now: Int64 = 1_800_000_000_000
    var random: SplitMix64
    var nodes: [Int: Node] = [:]
    /// Theirs; apart, so that they are changed in place.
    var cores: [Int: DeliveryCore] = [:]
    var partitions: [TopicPartition: [StoredRecord]] = [:]
    var progress: [TopicPartition: Progress] = [:]
    var owners: [TopicPartition: Int] = [:]
    /// Partitions of nodes that died, until the group finds out.
    var unowned: [(partition: TopicPartition, from: Int64)] = []
    var control: [StoredRecord] = []
    /// Part of the records of `posthorn.control` that is lost.
    var lossRate = 0.0
    /// Milliseconds that a node reads them late at most.
    var lagMax: Int64 = 0
    /// Part of the transactions that fail for now.
    var failureRate = 0.0
    var transactionTime: ClosedRange<Int64> = 100...1_000
    var nextNode = 0
    /// When the members of the group, their partitions, or who counts whom last changed.
    var changedAt: Int64 = 0
    /// How many nodes each counts; `nil` while it waits to be heard.
    var counts: [Int: Int?] = [:]
    var accepted: Set<String> = []
    var finals: [String: Int] = [:]
    var handedOver: [String: Int] = [:]
    var publishedCount = 0
    /// The most connections that a site had at once while nothing had changed for the time that is stated.
    var peaks: [String: Int] = [:]

    static let partitionCount = 4
    static let clusterID = ClusterID("test")
    static let sessionTimeout: Int64 = 6_000
    /// After a change of members a sum may be above its limit for so long: a lease and its grace, the group's own time to
    /// find out, and the longest that a record is late (ADR 0010).
    var settleTime: Int64 {
        let shares = SiteShares.Configuration(node: "", partitionCount: 1)
        return shares.lease + shares.grace + Self.sessionTimeout + self.lagMax
    }

    let topics: [Topic]
    /// Partitions that are consumed, in the order of reading.
    let order: [TopicPartition]
    let configuration: DeliveryCore.Configuration

    init(seed: UInt64, nodeCount: Int, limits: [String: Int]) {
        let retry = NodeConfiguration.Retry()
        self.random = SplitMix64(seed: seed)
        self.configuration = DeliveryCore.Configuration(retry: RetrySchedule(retry))
        self.topics =
            [.accepted, .held, .deferredNow] + retry.tiers.map { Topic.deferred(delay: $0.components.seconds) }
        self.order = self.topics.flatMap { topic in
            (0..<Self.partitionCount).map { TopicPartition(topic, Int32($0)) }
        }
        self.limits = limits
        for topic in self.topics + [.content] {
            for number in 0..<Self.partitionCount {
                let id = TopicPartition(topic, Int32(number))
                self.partitions[id] = []
                if topic != .content { self.progress[id] = Progress(watermark: Offset(0)) }
            }
        }
        for _ in 0..<nodeCount { self.join() }
    }

    // MARK: Members

    @discardableResult
    mutating func join() -> Int {
        let id = self.nextNode
        self.nextNode += 1
        let shares = SiteShares.Configuration(node: "n\(id)", partitionCount: Self.partitionCount)
        self.nodes[id] = Node(clockOffset: Int64.random(in: 0...1_000_000_000, using: &self.random))
        self.cores[id] = DeliveryCore(configuration: self.configuration, shares: SiteShares(configuration: shares))
        // As at start: all of the topic is read before the first partition comes.
        for record in self.control { self.feed(id) { core, now in core.controlRead(record, now: now) } }
        self.nodes[id]?.controlCursor = self.control.count
        self.rebalance()
        return id
    }

    /// All that it had in memory is gone; the group finds out later.
    mutating func kill(_ id: Int) {
        self.nodes[id] = nil
        self.cores[id] = nil
        for (partition, owner) in self.owners where owner == id {
            self.owners[partition] = nil
            self.unowned.append((partition, self.now + Self.sessionTimeout))
        }
        self.changedAt = self.now
    }

    /// It ends what it can, says so, and goes.
    mutating func stop(_ id: Int) {
        self.nodes[id]?.isLeaving = true
        self.feed(id) { core, _ in core.drain() }
    }

    private mutating func rebalance() {
        self.changedAt = self.now
        let members = self.nodes.filter { !$0.value.isLeaving }.keys.sorted()
        guard !members.isEmpty else { return }
        for (index, topic) in self.topics.enumerated() {
            for number in 0..<Self.partitionCount {
                let partition = TopicPartition(topic, Int32(number))
                // Topics are not assigned alike: the cooperative assignor does not either.
                let target = members[(number + index) % members.count]
                guard let owner = self.owners[partition] else {
                    let isHeld = self.unowned.contains { $0.partition == partition }
                    if !isHeld { self.assign(partition, to: target) }
                    continue
                }
                guard owner != target, self.nodes[owner]?.revoking.insert(partition).inserted == true else { continue }
                self.feed(owner) { core, now in core.revoking([partition], now: now) }
            }
        }
    }

    private mutating func assign(_ partition: TopicPartition, to id: Int) {
        let progress = self.progress[partition] ?? Progress(watermark: Offset(0))
        self.owners[partition] = id
        self.nodes[id]?.starts[partition] = progress
        self.nodes[id]?.cursors[partition] = Int(progress.watermark.rawValue)
        self.nodes[id]?.paused.remove(partition)
        self.feed(id) { core, _ in core.assigned([Assignment(partition: partition, progress: progress)]) }
        self.changedAt = self.now
    }

    private mutating func tickGroup() {
        var isChanged = false
        for (id, node) in self.nodes
        where !node.revoking.isEmpty && self.cores[id]?.isSettled(Array(node.revoking)) == true {
            self.feed(id) { core, _ in core.revoked(Array(node.revoking)) }
            for partition in node.revoking { self.owners[partition] = nil }
            self.nodes[id]?.revoking = []
            isChanged = true
        }
        for (id, node) in self.nodes where node.isLeaving && self.cores[id]?.isQuiet == true {
            if let withdrawal = self.cores[id]?.shares?.withdrawal { self.publish(withdrawal) }
            self.nodes[id] = nil
            self.cores[id] = nil
            for (partition, owner) in self.owners where owner == id { self.owners[partition] = nil }
            isChanged = true
        }
        let now = self.now
        if self.unowned.contains(where: { $0.from <= now }) {
            self.unowned.removeAll { $0.from <= now }
            isChanged = true
        }
        if isChanged { self.rebalance() }
    }

    // MARK: Log

    @discardableResult
    private mutating func append(_ record: Record) -> Position {
        let number = Partitioner(partitionCount: Self.partitionCount).partition(for: record.key)
        let id = TopicPartition(record.topic, number)
        let position = Position(partition: id, offset: Offset(Int64(self.partitions[id, default: []].count)))
        self.partitions[id, default: []].append(StoredRecord(record, at: position, timestamp: self.now))
        return position
    }

    private mutating func publish(_ record: Record) {
        self.publishedCount += 1
        guard Double.random(in: 0..<1, using: &self.random) >= self.lossRate else { return }
        self.control.append(StoredRecord(control: record, timestamp: self.now))
    }

    mutating func accept(_ domain: String) throws {
        let id = UInt64(self.accepted.count)
        let entry = QueueEntry(
            envelope: Envelope(
                messageID: MessageID(high: 7, low: id),
                reversePath: Mailbox(localPart: "s", domain: Domain(normalized: "sender.example")),
                recipients: [
                    Recipient(mailbox: Mailbox(localPart: "r", domain: Domain(normalized: domain)), index: 0)
                ],
                acceptedAt: self.now,
                contentSize: 20
            )
        )
        self.accepted.insert(entry.envelope.messageID.description)
        let content = ByteBuffer(string: "Subject: x\r\n\r\nhello\r\n")
        self.append(try entry.record(topic: .accepted, key: domain, content: content))
    }

    // MARK: Time

    mutating func run(for milliseconds: Int64, tick: Int64 = 100) throws {
        let end = self.now + milliseconds
        while self.now < end {
            self.now += tick
            self.tickGroup()
            for id in self.nodes.keys.sorted() {
                self.readControl(id)
                self.answer(id)
                self.readRecords(id)
                self.feed(id) { core, now in core.tick(now: now) }
            }
            self.measure()
        }
    }

    private mutating func readControl(_ id: Int) {
        guard let cursor = self.nodes[id]?.controlCursor, cursor < self.control.count else { return }
        // It reads all there is, or nothing for now; never later than the longest lag.
        let isDue = self.now - self.control[cursor].timestamp >= self.lagMax
        guard isDue || Double.random(in: 0..<1, using: &self.random) < 0.3 else { return }
        for record in self.control[cursor...] { self.feed(id) { core, now in core.controlRead(record, now: now) } }
        self.nodes[id]?.controlCursor = self.control.count
    }

    private mutating func readRecords(_ id: Int) {
        for partition in self.order where self.owners[partition] == id {
            guard let node = self.nodes[id], !node.paused.contains(partition), !node.revoking.contains(partition),
                let records = self.partitions[partition], let start = node.starts[partition]
            else { continue }
            let from = node.cursors[partition] ?? 0
            let batch = records[from..<min(from + 256, records.count)]
            guard !batch.isEmpty else { continue }
            self.nodes[id]?.cursors[partition] = from + batch.count
            let fresh = batch.filter { !start.isDone($0.position.offset) }
            self.feed(id) { core, now in
                core.received(partition, Array(fresh), now: now)
                core.flush(now: now)
            }
        }
    }

    private mutating func answer(_ id: Int) {
        let connecting = self.nodes[id]?.connecting ?? []
        self.nodes[id]?.connecting = []
        for connection in connecting {
            let host = self.nodes[id]?.open[connection] ?? ""
            self.feed(id) { core, now in
                core.connectionReady(connection, facts: DeliveryWorld.facts(host), now: now)
            }
        }
        let now = self.now
        let ended = self.nodes[id]?.transactions.filter { $0.endsAt <= now } ?? []
        self.nodes[id]?.transactions.removeAll { $0.endsAt <= now }
        for (_, connection, transaction) in ended {
            let hasFailed = Double.random(in: 0..<1, using: &self.random) < self.failureRate
            let result: RecipientResult =
                hasFailed
                ? .failed(DeliveryWorld.tempfail) : .delivered(RemoteReply(code: 250), isDSNPassedOn: false)
            let results = transaction.recipients.map { _ in result }
            self.feed(id) { core, now in
                core.finished(
                    connection: connection,
                    result: TransactionResult(
                        transactionID: transaction.id,
                        results: results,
                        duration: 500_000,
                        isInDoubt: false
                    ),
                    isReusable: true,
                    now: now
                )
            }
        }
    }

    /// Connections of all nodes to a site.
    func connectionCount(_ site: String) -> Int {
        self.nodes.values.reduce(0) { $0 + $1.open.values.filter { $0 == site }.count }
    }

    private mutating func measure() {
        let counts = self.cores.mapValues { core in
            core.shares.flatMap { $0.isSettled ? $0.nodeCount : nil }
        }
        if counts != self.counts { self.changedAt = self.now }
        self.counts = counts
        guard self.now - self.changedAt > self.settleTime else { return }
        for site in self.limits.keys { self.peaks[site] = max(self.peaks[site] ?? 0, self.connectionCount(site)) }
    }

    // MARK: Actions

    /// Feeds a node, by its own clock, and performs what it decides.
    private mutating func feed(_ id: Int, _ event: (inout DeliveryCore, Int64) -> Void) {
        guard let offset = self.nodes[id]?.clockOffset, var core = self.cores.removeValue(forKey: id) else { return }
        core.shares?.advance(to: self.now + offset)
        event(&core, self.now)
        while true {
            let actions = core.takeActions()
            if actions.isEmpty { break }
            for action in actions { self.perform(action, id, &core) }
        }
        self.cores[id] = core
    }

    /// The site of `a.one.example` and of all other domains under `one.example` is `one.example`.
    private func site(of domain: String) -> SitePlan {
        let name = domain.split(separator: ".").suffix(2).joined(separator: ".")
        return SitePlan(
            id: name,
            target: OutboundTarget(endpoints: [OutboundTarget.Endpoint(host: name, addresses: [])]),
            connectionCountMax: self.limits[name] ?? 20,
            messagesPerConnectionMax: 100
        )
    }

    private mutating func perform(_ action: DeliveryCore.Action, _ id: Int, _ core: inout DeliveryCore) {
        switch action {
        case .resolve(let domain):
            core.routed(domain, .site(self.site(of: domain)), validUntil: self.now + 600_000, now: self.now)
        case .read(let reference, let job):
            let record = self.partitions[reference.position.partition]?[Int(reference.position.offset.rawValue)]
            do throws(RecordLogError) {
                guard let record else { throw RecordLogError(.notFound, isRetriable: false) }
                try reference.check(record)
                core.contentRead(job, .success(record.value), now: self.now)
            } catch {
                core.contentRead(job, .failure(error), now: self.now)
            }
        case .append(let record, let job):
            let reference = Reference(to: record, at: self.append(record), in: Self.clusterID)
            core.contentAppended(job, .success(reference), now: self.now)
            core.flush(now: self.now)
        case .open(let connection, let target):
            self.nodes[id]?.open[connection] = target.endpoints.first?.host ?? ""
            self.nodes[id]?.connecting.append(connection)
        case .send(let connection, let transaction):
            let time = Int64.random(in: self.transactionTime, using: &self.random)
            self.nodes[id]?.transactions.append((self.now + time, connection, transaction))
        case .close(let connection):
            guard self.nodes[id]?.open.removeValue(forKey: connection) != nil else { return }
            self.nodes[id]?.connecting.removeAll { $0 == connection }
            core.connectionClosed(connection, failure: nil, now: self.now)
        case .step(let step):
            for output in step.outputs {
                self.append(output)
                guard output.topic == .outcomes, let outcome = try? DeliveryWorld.decode(output.value),
                    outcome.kind.isFinal
                else { continue }
                self.finals[outcome.messageID, default: 0] += 1
            }
            for (partition, progress) in step.progress { self.progress[partition] = progress }
            core.stepped(.success(()), now: self.now)
        case .publish(let records):
            for record in records { self.publish(record) }
        case .handedOver(let site):
            self.handedOver[site, default: 0] += 1
        case .pause(let ids): self.nodes[id]?.paused.formUnion(ids)
        case .resume(let ids): self.nodes[id]?.paused.subtract(ids)
        case .wake(let site): core.wakeFailed(site: site, now: self.now)
        case .abort, .release, .report, .parked, .scan, .dead, .trim: break
        }
    }
}

extension StoredRecord {
    init(_ record: Record, at position: Position, timestamp: Int64) {
        self.init(
            position: position,
            timestamp: timestamp,
            key: record.key,
            headers: record.headers,
            value: record.value
        )
    }

    /// One of `posthorn.control`, whose position does not matter.
    init(control record: Record, timestamp: Int64) {
        let position = Position(partition: TopicPartition(.control, 0), offset: Offset(0))
        self.init(record, at: position, timestamp: timestamp)
    }
}
