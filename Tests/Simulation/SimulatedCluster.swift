import ClusterLog
import Mail
import NIOCore
import NodeSupport
import Records
import SMTP
import TestSupport

@testable import Delivery

/// Delivery nodes over one log, in virtual time: real ``DeliveryCore``s, keys and partitions; a group, remotes and
/// transactions that take as long as the scenario says.
struct SimulatedCluster {
    struct Scenario {
        var nodeCount: Int
        var partitionCount: Int
        var messageCount: Int
        var seed: UInt64 = 1
        /// Hot names are learned; without, a domain is a partition.
        var spreads = true
        /// One group consumes all topics together, as librdkafka assigns them; without, tiers follow `accepted`.
        var assignsTopicsTogether = false
        /// Milliseconds that a transaction takes, and more for a record.
        var stepTime = 20.0
        var stepRecordTime = 0.02
        /// Milliseconds that a message takes on a connection.
        var serviceTime: UInt64 = 50
        /// One of so many recipients is told to come again, once.
        var deferralDivisor: UInt64 = 20
    }

    /// What a node did.
    struct Load: Equatable {
        var delivered = 0
        var attempts = 0
        var steps = 0
        var records = 0
    }

    struct Node {
        var core: DeliveryCore
        var load = Load()
        var paused: Set<TopicPartition> = []
        /// The progress that the assignment began with, and how far the core has been given each partition.
        var starts: [TopicPartition: Progress] = [:]
        var cursors: [TopicPartition: Int] = [:]
        /// There may be something to read here.
        var unread: [TopicPartition] = []
    }

    enum Event {
        case connected(UInt64)
        case answered(UInt64, OutboundTransaction)
        case closed(UInt64)
        case stepped(Step)
        case tick
    }

    static let tickInterval: Int64 = 500
    static let connectTime: Int64 = 20
    static let sessionTimeout: Int64 = 6_000
    static let tier: Int64 = 60

    let scenario: Scenario
    private let partitioner: Partitioner
    private let coreConfiguration: DeliveryCore.Configuration
    private var queue = EventQueue<(node: Int, event: Event)>()
    private(set) var group: GroupModel
    private(set) var nodes: [Int: Node] = [:]
    private var nextNode = 0
    private(set) var log: [TopicPartition: [StoredRecord]] = [:]
    private(set) var progress: [TopicPartition: Progress] = [:]
    /// Who reads each partition now.
    private var readers: [TopicPartition: Int] = [:]
    private(set) var now: Int64 = 1_800_000_000_000
    private(set) var arrivals: [MessageID: Int] = [:]
    /// When each of them arrived for the first time, since the beginning.
    private(set) var arrivalTimes: [Int64] = []
    private let start: Int64 = 1_800_000_000_000

    init(_ scenario: Scenario) throws {
        self.scenario = scenario
        self.partitioner = Partitioner(partitionCount: scenario.partitionCount)
        var retry = NodeConfiguration.Retry()
        retry.tiers = [.seconds(Self.tier)]
        retry.schedule = retry.tiers
        var configuration = DeliveryCore.Configuration(retry: RetrySchedule(retry))
        configuration.keys = Self.keys(scenario)
        self.coreConfiguration = configuration
        let topics = [Topic.accepted, .deferredNow, .deferred(delay: Self.tier), .held]
        self.group = GroupModel(
            topics: scenario.assignsTopicsTogether ? topics : [.accepted],
            partitionCount: scenario.partitionCount
        )
        for topic in topics + [.content] {
            for number in 0..<scenario.partitionCount {
                let partition = TopicPartition(topic, Int32(number))
                self.log[partition] = []
                if topic != .content { self.progress[partition] = Progress(watermark: Offset(0)) }
            }
        }
        try self.accept()
        for _ in 0..<scenario.nodeCount { self.group.join(self.addNode()) }
        self.assign(self.rebalanced())
    }

    private static func keys(_ scenario: Scenario) -> KeySpreading.Configuration {
        var keys = KeySpreading.Configuration(partitionCount: scenario.partitionCount)
        keys.aliases = KeySpreading.wellKnownAliases
        keys.learns = scenario.spreads
        return keys
    }

    /// Puts the scenario's mail into the log as ingress keys it, after it has seen a minute of the same mail.
    private mutating func accept() throws {
        var stream = MailStream.provider(tailCount: 5_000, seed: self.scenario.seed)
        var keys = KeySpreading(Self.keys(self.scenario))
        for number in 0..<20_000 {
            let (name, _) = stream.next()
            _ = keys.key(for: name, now: Int64(number / 4))
        }
        let content = ByteBuffer(string: "Subject: x\r\n\r\nhello\r\n")
        for number in 0..<self.scenario.messageCount {
            let (name, message) = stream.next()
            let recipient = Recipient(mailbox: Mailbox(localPart: "r", domain: Domain(normalized: name)), index: 0)
            let entry = QueueEntry(
                envelope: Envelope(
                    messageID: message,
                    reversePath: Mailbox(localPart: "s", domain: Domain(normalized: "sender.example")),
                    recipients: [recipient],
                    acceptedAt: self.now,
                    contentSize: content.readableBytes
                )
            )
            let key = keys.key(for: name, now: Int64(5_000 + number / 4)).text
            self.append(try entry.record(topic: .accepted, key: key, content: content))
        }
    }

    // MARK: Membership

    private mutating func addNode() -> Int {
        self.nextNode += 1
        self.nodes[self.nextNode] = Node(core: DeliveryCore(configuration: self.coreConfiguration))
        self.queue.push((self.nextNode, .tick), at: self.now + Self.tickInterval)
        return self.nextNode
    }

    /// What the group gives to whom that did not have it: of every topic.
    private mutating func rebalanced() -> [TopicPartition: Int] {
        let moved = self.group.rebalance()
        guard !self.scenario.assignsTopicsTogether else { return moved }
        var all: [TopicPartition: Int] = [:]
        for (lead, node) in moved {
            for partition in self.progress.keys where partition.partition == lead.partition { all[partition] = node }
        }
        return all
    }

    private mutating func assign(_ partitions: [TopicPartition: Int]) {
        let groups = Dictionary(grouping: partitions.keys, by: { partitions[$0] ?? 0 })
        for (node, group) in groups.sorted(by: { $0.key < $1.key }) {
            let assignments = group.map { partition in
                Assignment(partition: partition, progress: self.progress[partition] ?? Progress(watermark: Offset(0)))
            }
            self.nodes[node]?.core.assigned(assignments)
            for assignment in assignments {
                self.readers[assignment.partition] = node
                self.nodes[node]?.starts[assignment.partition] = assignment.progress
                self.nodes[node]?.cursors[assignment.partition] = Int(assignment.progress.watermark.rawValue)
                self.nodes[node]?.paused.remove(assignment.partition)
                self.nodes[node]?.unread.append(assignment.partition)
            }
            self.advance(node)
        }
    }

    /// A node joins; partitions are handed over as their owners have settled.
    ///
    /// - Returns: how many partitions moved, of all topics, and how long the slowest was nobody's.
    mutating func join() -> (moved: Int, idle: Int64) {
        let previous = self.readers
        self.group.join(self.addNode())
        let moved = self.rebalanced()
        return (moved.count, self.handOver(moved, from: previous))
    }

    /// A node dies without a word: its partitions go to the others after the session timeout.
    mutating func crash(_ node: Int) -> Int {
        self.nodes[node] = nil
        self.readers = self.readers.filter { $0.value != node }
        self.run(until: self.now + Self.sessionTimeout)
        self.group.leave(node)
        let moved = self.rebalanced()
        self.assign(moved)
        return moved.count
    }

    private mutating func handOver(_ moved: [TopicPartition: Int], from owners: [TopicPartition: Int]) -> Int64 {
        let begin = self.now
        var waiting = Dictionary(grouping: moved.keys, by: { owners[$0] ?? 0 })
        for (node, partitions) in waiting {
            self.nodes[node]?.core.revoking(partitions, now: self.now)
            self.perform(node)
        }
        while !waiting.isEmpty {
            for (node, partitions) in waiting where self.nodes[node]?.core.isSettled(partitions) ?? true {
                self.nodes[node]?.core.revoked(partitions)
                for partition in partitions { self.readers[partition] = nil }
                waiting[node] = nil
            }
            if !waiting.isEmpty { self.run(until: self.now + 5) }
        }
        self.assign(moved)
        return self.now - begin
    }

    // MARK: Time

    /// Goes on until everything was delivered, or the virtual time is over.
    mutating func drain(timeMax: Int64 = 3_600_000, until arrivalCount: Int? = nil) {
        let wanted = arrivalCount ?? self.scenario.messageCount
        while self.arrivals.count < wanted, self.now < self.start + timeMax { self.next() }
    }

    private mutating func run(until end: Int64) {
        while let time = self.queue.firstTime, time <= end { self.next() }
        self.now = max(self.now, end)
    }

    private mutating func next() {
        guard let (time, item) = self.queue.pop() else { return }
        self.now = max(self.now, time)
        guard self.nodes[item.node] != nil else { return }
        switch item.event {
        case .tick:
            self.nodes[item.node]?.core.tick(now: self.now)
            self.queue.push((item.node, .tick), at: self.now + Self.tickInterval)
        case .connected(let id):
            let facts = OutboundSessionFacts(host: "h", address: "192.0.2.1:25", tlsVersion: nil, isTLSVerified: false)
            self.nodes[item.node]?.core.connectionReady(id, facts: facts, now: self.now)
        case .closed(let id):
            self.nodes[item.node]?.core.connectionClosed(id, failure: nil, now: self.now)
        case .answered(let connection, let transaction):
            self.answer(connection, transaction, node: item.node)
        case .stepped(let step):
            self.write(step, node: item.node)
        }
        self.advance(item.node)
    }

    private mutating func advance(_ node: Int) {
        self.perform(node)
        self.deliverRecords(node)
    }

    // MARK: Actions

    private mutating func perform(_ node: Int) {
        while let actions = self.nodes[node]?.core.takeActions(), !actions.isEmpty {
            for action in actions { self.perform(action, node) }
        }
    }

    private mutating func perform(_ action: DeliveryCore.Action, _ node: Int) {
        switch action {
        case .resolve(let domain):
            let site = Self.site(of: domain)
            self.nodes[node]?.core.routed(domain, .site(site), validUntil: .max, now: self.now)
        case .read(let reference, let job):
            let record = self.log[reference.position.partition]?[Int(reference.position.offset.rawValue)]
            let result: Result<ByteBuffer, RecordLogError> =
                record.map { .success($0.value) } ?? .failure(RecordLogError(.notFound, isRetriable: false))
            self.nodes[node]?.core.contentRead(job, result, now: self.now)
        case .append(let record, let job):
            let reference = Reference(to: record, at: self.append(record), in: ClusterID("simulation"))
            self.nodes[node]?.load.records += 1
            self.nodes[node]?.core.contentAppended(job, .success(reference), now: self.now)
            self.nodes[node]?.core.flush(now: self.now)
        case .open(let id, _):
            self.queue.push((node, .connected(id)), at: self.now + Self.connectTime)
        case .send(let id, let transaction):
            // Half to three halves of the mean, by the message.
            let jitter = Partitioner.hash(transaction.id, UInt64(node)) % self.scenario.serviceTime
            let time = Int64(self.scenario.serviceTime / 2 + jitter)
            self.queue.push((node, .answered(id, transaction)), at: self.now + time)
        case .close(let id):
            self.queue.push((node, .closed(id)), at: self.now)
        case .pause(let partitions): self.nodes[node]?.paused.formUnion(partitions)
        case .resume(let partitions):
            self.nodes[node]?.paused.subtract(partitions)
            self.nodes[node]?.unread += partitions
        case .step(let step):
            let time = self.scenario.stepTime + self.scenario.stepRecordTime * Double(step.outputs.count)
            self.queue.push((node, .stepped(step)), at: self.now + Int64(time.rounded()))
        case .wake(let site): self.nodes[node]?.core.wakeFailed(site: site, now: self.now)
        case .scan(let command, _, _, _, _): self.nodes[node]?.core.scanFailed(command)
        // Every transaction here is past its final dot: its answer is waited for.
        case .abort, .release, .report, .parked, .dead, .trim, .handedOver, .publish: break
        }
    }

    private mutating func answer(_ connection: UInt64, _ transaction: OutboundTransaction, node: Int) {
        guard let job = self.nodes[node]?.core.jobs[transaction.id] else { return }
        let message = job.entry.envelope.messageID
        let isDeferred = job.entry.attemptCount == 0 && message.low % self.scenario.deferralDivisor == 0
        self.nodes[node]?.load.attempts += 1
        if !isDeferred {
            self.nodes[node]?.load.delivered += 1
            self.arrivals[message, default: 0] += 1
            if self.arrivals[message] == 1 { self.arrivalTimes.append(self.now - self.start) }
        }
        let result: RecipientResult =
            isDeferred ? .failed(Self.tempfail) : .delivered(RemoteReply(code: 250), isDSNPassedOn: false)
        self.nodes[node]?.core
            .finished(
                connection: connection,
                result: TransactionResult(
                    transactionID: transaction.id,
                    results: [result],
                    duration: Int64(self.scenario.serviceTime) * 1_000,
                    isInDoubt: false
                ),
                isReusable: true,
                now: self.now
            )
    }

    private static let tempfail = DeliveryFailure(
        scope: .recipient,
        isPermanent: false,
        phase: .rcpt,
        reply: RemoteReply(code: 451, lines: ["4.7.1 later"]),
        status: EnhancedStatusCode(4, 7, 1),
        text: "later"
    )

    private static func site(of domain: String) -> SitePlan {
        SitePlan(
            id: "mx.\(domain)",
            target: OutboundTarget(endpoints: [OutboundTarget.Endpoint(host: "mx.\(domain)", addresses: [])]),
            connectionCountMax: 20,
            messagesPerConnectionMax: 0
        )
    }

    // MARK: Log

    @discardableResult
    private mutating func append(_ record: Record) -> Position {
        let partition = TopicPartition(record.topic, self.partitioner.partition(for: record.key))
        let position = Position(partition: partition, offset: Offset(Int64(self.log[partition]?.count ?? 0)))
        self.log[partition, default: []]
            .append(
                StoredRecord(
                    position: position,
                    timestamp: self.now,
                    key: record.key,
                    headers: record.headers,
                    value: record.value
                )
            )
        return position
    }

    private mutating func write(_ step: Step, node: Int) {
        self.nodes[node]?.load.steps += 1
        self.nodes[node]?.load.records += step.outputs.count
        var touched: Set<Int> = []
        for output in step.outputs where output.topic != .outcomes {
            let partition = self.append(output).partition
            guard let reader = self.readers[partition] else { continue }
            self.nodes[reader]?.unread.append(partition)
            touched.insert(reader)
        }
        for output in step.outputs where output.topic == .outcomes {
            self.outcomeCounts[self.partitioner.partition(for: output.key), default: 0] += 1
        }
        for (partition, progress) in step.progress { self.progress[partition] = progress }
        self.nodes[node]?.core.stepped(.success(()), now: self.now)
        for other in touched where other != node { self.advance(other) }
    }

    /// Outcomes by partition.
    private(set) var outcomeCounts: [Int32: Int] = [:]

    /// Gives the core what it has not read yet, as a member would.
    private mutating func deliverRecords(_ id: Int) {
        while let partition = self.nodes[id]?.unread.popLast() {
            guard self.readers[partition] == id, self.nodes[id]?.paused.contains(partition) == false,
                let cursor = self.nodes[id]?.cursors[partition], let start = self.nodes[id]?.starts[partition]
            else { continue }
            // Copies of what the node or the log hold would be copied whole by the next change.
            let count = self.log[partition]?.count ?? 0
            let end = min(cursor + 64, count)
            let fresh = (self.log[partition]?[cursor..<end] ?? []).filter { !start.isDone($0.position.offset) }
            self.nodes[id]?.cursors[partition] = end
            if end < count { self.nodes[id]?.unread.append(partition) }
            guard !fresh.isEmpty else { continue }
            self.nodes[id]?.core.received(partition, fresh, now: self.now)
            self.nodes[id]?.core.flush(now: self.now)
            self.perform(id)
        }
    }

    var loads: [Load] { self.group.members.map { self.nodes[$0]?.load ?? Load() } }
}

/// Items by time, and in the order of their coming where that is the same.
struct EventQueue<Item> {
    private struct Entry {
        var time: Int64
        var number: Int
        var item: Item
    }

    private var heap: [Entry] = []
    private var count = 0

    var firstTime: Int64? { self.heap.first?.time }

    mutating func push(_ item: Item, at time: Int64) {
        self.count += 1
        self.heap.append(Entry(time: time, number: self.count, item: item))
        var child = self.heap.count - 1
        while child > 0, self.isBefore(child, (child - 1) / 2) {
            self.heap.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }

    mutating func pop() -> (Int64, Item)? {
        guard let first = self.heap.first else { return nil }
        let last = self.heap.removeLast()
        guard !self.heap.isEmpty else { return (first.time, first.item) }
        self.heap[0] = last
        var parent = 0
        while true {
            var least = parent
            for child in [2 * parent + 1, 2 * parent + 2] where child < self.heap.count && self.isBefore(child, least) {
                least = child
            }
            guard least != parent else { return (first.time, first.item) }
            self.heap.swapAt(parent, least)
            parent = least
        }
    }

    private func isBefore(_ left: Int, _ right: Int) -> Bool {
        (self.heap[left].time, self.heap[left].number) < (self.heap[right].time, self.heap[right].number)
    }
}
