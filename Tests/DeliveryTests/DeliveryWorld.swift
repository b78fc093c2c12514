import ClusterLog
import DequeModule
import Mail
import NIOCore
import NodeSupport
import Records
import SMTP
import Testing

@testable import Delivery

/// A log, sites and a clock in memory around one ``DeliveryCore``: performs its actions at once or when told to.
struct DeliveryWorld {
    /// What a remote does with one recipient of one attempt.
    typealias Remote = (OutboundTransaction, Recipient) -> RecipientResult

    var core: DeliveryCore
    /// The log's time, and so that of its records.
    var now: Int64 = 1_800_000_000_000
    /// How far the node's clock is ahead of it.
    var skew: Int64 = 0
    var partitions: [TopicPartition: [StoredRecord]] = [:]
    var progress: [TopicPartition: Progress] = [:]
    var paused: Set<TopicPartition> = []
    /// How far the core has been given each partition.
    var cursors: [TopicPartition: Int] = [:]
    /// Final and other outcomes, in the order of their steps.
    var outcomes: [Outcome] = []
    var outcomeRecords: [Record] = []
    var released: [Reference] = []
    var deadCount = 0
    var parkedDelays: [Int64] = []
    var handedOverCount = 0
    /// Content of messages that remotes took, by message and recipient.
    var arrived: [String: Int] = [:]
    var stepFailuresLeft = 0
    var contentFailuresLeft = 0
    /// As by a log that is not sure of the step before.
    var refusesEmptySteps = false
    /// Steps are written only when the test says so.
    var holdsSteps = false
    /// No content can be read for now.
    var isContentUnavailable = false
    var heldStep: Step?
    /// What `posthorn.control` says of commands, by key.
    var control: [String: OperatorCommand] = [:]
    var wakeCount = 0
    /// What the log was asked to trim, and when.
    var trims: [(time: Int64, offsets: [TopicPartition: Offset])] = []
    var trimReports: [TrimSchedule.Report] = []
    var trimFailure: RecordLogError?
    /// Where trimmed partitions begin.
    var starts: [TopicPartition: Offset] = [:]
    var refusesConnections: Set<String> = []
    /// Domains whose routing fails, and how.
    var routingFailures: [String: DeliveryFailure] = [:]
    /// Routes are never found.
    var holdsRouting = false
    /// What every host says it takes in one transaction.
    var recipientCountMax = 100
    /// Appends of content are answered only when the test says so.
    var holdsAppends = false
    var heldAppends: Deque<DeliveryCore.Action> = []
    var refusedCount = 0
    var openConnections: [UInt64: String] = [:]
    var sent: [(connection: UInt64, transaction: OutboundTransaction)] = []
    /// Content is read only when the test says so.
    var holdsReads = false
    var heldReads: Deque<DeliveryCore.Action> = []
    /// Domains whose hosts never answer a transaction; it ends when this side ends it.
    var silentDomains: Set<String> = []
    private var unanswered: [UInt64: OutboundTransaction] = [:]
    /// Held back: transactions are answered only when the test says so.
    var holdsTransactions = false
    var remote: Remote = { _, _ in .delivered(RemoteReply(code: 250), isDSNPassedOn: false) }

    static let clusterID = ClusterID("test")
    let configuration: DeliveryCore.Configuration

    init(
        partitionCount: Int = 1,
        retry: NodeConfiguration.Retry = NodeConfiguration.Retry(),
        adjust: (inout DeliveryCore.Configuration) -> Void = { _ in }
    ) {
        var configuration = DeliveryCore.Configuration(retry: RetrySchedule(retry))
        adjust(&configuration)
        self.configuration = configuration
        self.core = DeliveryCore(configuration: configuration)
        var topics: [Topic] = [.accepted, .held, .deferredNow]
        topics += retry.tiers.map { Topic.deferred(delay: $0.components.seconds) }
        for topic in topics {
            for partition in 0..<partitionCount {
                let id = TopicPartition(topic, Int32(partition))
                self.partitions[id] = []
                self.progress[id] = Progress(watermark: Offset(0))
            }
        }
        for partition in 0..<partitionCount { self.partitions[TopicPartition(.content, Int32(partition))] = [] }
        self.assign()
    }

    /// What the node takes for the time.
    var clock: Int64 { self.now + self.skew }

    var partitionCount: Int { self.partitions.keys.filter { $0.topic == .accepted }.count }

    mutating func assign() {
        self.core.assigned(self.progress.map { Assignment(partition: $0.key, progress: $0.value) })
        self.cursors = self.progress.mapValues { Int($0.watermark.rawValue) }
        self.paused = []
    }

    /// The node dies: everything in memory is gone, the log stays.
    mutating func crash() {
        self.core = DeliveryCore(configuration: self.configuration)
        for key in self.control.keys.sorted() {
            if let command = self.control[key] { self.core.restored(command) }
        }
        self.heldReads.removeAll()
        self.heldAppends.removeAll()
        self.openConnections.removeAll()
        self.sent.removeAll()
        self.assign()
    }

    // MARK: Log

    @discardableResult
    mutating func append(_ record: Record) -> Position {
        let partition = Partitioner(partitionCount: self.partitionCount).partition(for: record.key)
        let id = TopicPartition(record.topic, partition)
        let position = Position(partition: id, offset: Offset(Int64(self.partitions[id, default: []].count)))
        self.partitions[id, default: []]
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

    @discardableResult
    mutating func accept(
        _ recipients: [String],
        from sender: String? = "s@sender.example",
        id: UInt64 = 1,
        content: String = "Subject: x\r\n\r\nhello\r\n",
        notify: Recipient.Notify? = nil,
        returning: Envelope.ReturnContent? = nil,
        envelopeID: String? = nil,
        bucket: Int? = nil
    ) throws -> QueueEntry {
        func mailbox(_ text: String) -> Mailbox {
            let parts = text.split(separator: "@")
            return Mailbox(localPart: String(parts[0]), domain: Domain(normalized: String(parts[1])))
        }
        let entry = QueueEntry(
            envelope: Envelope(
                messageID: MessageID(high: 7, low: id),
                reversePath: sender.map(mailbox),
                recipients: recipients.enumerated()
                    .map {
                        Recipient(mailbox: mailbox($1), index: UInt32($0), notify: notify)
                    },
                returnContent: returning,
                envelopeID: envelopeID,
                acceptedAt: self.now,
                contentSize: content.utf8.count
            )
        )
        let key = SpreadKey(name: entry.envelope.recipients[0].mailbox.domain.text, bucket: bucket).text
        self.append(try entry.record(topic: .accepted, key: key, content: ByteBuffer(string: content)))
        return entry
    }

    /// Gives the core what it has not read yet, as a member would: not for paused partitions, without what is done.
    mutating func deliverRecords() {
        for id in self.progress.keys.sorted(by: { ($0.topic.name, $0.partition) < ($1.topic.name, $1.partition) }) {
            guard !self.paused.contains(id), let records = self.partitions[id] else { continue }
            let from = self.cursors[id] ?? 0
            let batch = records[from..<min(from + 256, records.count)]
            guard !batch.isEmpty else { continue }
            self.cursors[id] = from + batch.count
            let start = self.startProgress(id)
            let fresh = batch.filter { !start.isDone($0.position.offset) }
            if !fresh.isEmpty { self.core.received(id, Array(fresh), now: self.clock) }
            self.core.flush(now: self.clock)
            self.perform()
        }
    }

    private var assignedProgress: [TopicPartition: Progress] { self.progress }
    private func startProgress(_ id: TopicPartition) -> Progress {
        self.assignedProgress[id] ?? Progress(watermark: Offset(0))
    }

    // MARK: Actions

    /// Performs what the core decides until it decides nothing more.
    mutating func perform() {
        while true {
            let actions = self.core.takeActions()
            if actions.isEmpty { return }
            for action in actions { self.perform(action) }
        }
    }

    private mutating func perform(_ action: DeliveryCore.Action) {
        switch action {
        case .resolve(let domain) where self.routingFailures[domain] != nil:
            let failure = self.routingFailures[domain] ?? .notResolved
            self.core.routed(domain, .failed(failure), validUntil: self.now, now: self.now)
        case .resolve where self.holdsRouting: break
        case .resolve(let domain):
            let site = self.site(of: domain)
            self.core.routed(domain, .site(site), validUntil: self.clock + 60_000, now: self.clock)
        case .read where self.holdsReads:
            self.heldReads.append(action)
        case .read(_, let job) where self.isContentUnavailable:
            self.core.contentRead(job, .failure(RecordLogError(.unavailable, isRetriable: true)), now: self.clock)
        case .read(let reference, let job):
            let record = self.partitions[reference.position.partition]?[Int(reference.position.offset.rawValue)]
            do throws(RecordLogError) {
                guard let record else { throw RecordLogError(.notFound, isRetriable: false) }
                try reference.check(record)
                self.core.contentRead(job, .success(record.value), now: self.clock)
            } catch {
                self.core.contentRead(job, .failure(error), now: self.clock)
            }
        case .append where self.holdsAppends:
            self.heldAppends.append(action)
        case .append(_, let job) where self.contentFailuresLeft > 0:
            self.contentFailuresLeft -= 1
            let error = RecordLogError(.notDurable, isRetriable: true)
            self.core.contentAppended(job, .failure(error), now: self.clock)
        case .append(let record, let job):
            let position = self.append(record)
            self.core.contentAppended(
                job,
                .success(Reference(to: record, at: position, in: Self.clusterID)),
                now: self.clock
            )
            self.core.flush(now: self.clock)
        case .open(let id, let target):
            let host = target.endpoints.first?.host ?? ""
            if self.refusesConnections.contains(host) {
                self.refusedCount += 1
                self.core.connectionClosed(id, failure: Self.refused, now: self.clock)
            } else {
                self.openConnections[id] = host
                var facts = Self.facts(host)
                facts.recipientCountMax = self.recipientCountMax
                self.core.connectionReady(id, facts: facts, now: self.clock)
            }
        case .send(let id, let transaction)
        where self.silentDomains.contains(transaction.recipients.first?.mailbox.domain.text ?? ""):
            self.unanswered[id] = transaction
        case .send(let id, let transaction):
            self.sent.append((id, transaction))
            if !self.holdsTransactions { self.answerNext() }
        case .abort(let id):
            // What else is under way here is past its final dot: its answer decides.
            guard let transaction = self.unanswered.removeValue(forKey: id) else { break }
            self.sent.insert((id, transaction), at: 0)
            self.answerNext(failingWith: FailurePolicy.failure(ClientFailure(.mail, .aborted)), isReusable: false)
        case .close(let id):
            if self.openConnections.removeValue(forKey: id) != nil {
                self.core.connectionClosed(id, failure: nil, now: self.clock)
            }
        case .pause(let ids): self.paused.formUnion(ids)
        case .resume(let ids): self.paused.subtract(ids)
        case .step(let step) where self.holdsSteps: self.heldStep = step
        case .step(let step): self.write(step)
        case .release(let references): self.released += references
        case .report: break
        case .parked(_, let delay): self.parkedDelays.append(delay)
        case .handedOver: self.handedOverCount += 1
        case .publish: break
        case .wake(let site): self.wake(site)
        case .scan(let command, let partition, let from, let end, let countMax):
            let records = (self.partitions[partition] ?? []).dropFirst(Int(from.rawValue)).prefix(countMax)
            let next = records.last.map { min($0.position.offset.advanced(by: 1), end) } ?? end
            _ = self.core.scanned(command, partition, Array(records), from: from, upTo: next, now: self.clock)
        case .dead: self.deadCount += 1
        case .trim(let offsets):
            self.trims.append((self.now, offsets))
            if self.trimFailure == nil { self.starts.merge(offsets) { max($0, $1) } }
            let result: Result<Void, RecordLogError> = self.trimFailure.map { .failure($0) } ?? .success(())
            self.trimReports.append(self.core.trimmed(result, now: self.now))
        }
    }

    mutating func performHeldAppends() {
        self.holdsAppends = false
        while let action = self.heldAppends.popFirst() { self.perform(action) }
        self.perform()
    }

    mutating func performHeldReads() {
        while let action = self.heldReads.popFirst() { self.perform(action) }
        self.perform()
    }

    /// As the engine does: the longest tier first.
    private mutating func wake(_ site: String) {
        self.wakeCount += 1
        let partitionCount = self.partitionCount
        var marks: [OperatorCommand.Mark] = []
        for (id, state) in self.core.partitions.sorted(by: { $0.value.delay > $1.value.delay })
        where self.core.mayHoldParked(id, of: site, partitionCount: partitionCount) {
            let end = Int64(self.partitions[id]?.count ?? 0)
            let scanned = min(state.window.end.rawValue, end)
            let open = state.window.incompleteOffsets.map(\.rawValue)
            guard scanned < end else { continue }
            marks.append(
                .init(topic: id.topic.name, partition: id.partition, end: end, scanned: scanned, excluded: open)
            )
        }
        guard !marks.isEmpty else { return }
        _ = self.core.begin(.wake(id: "w\(self.wakeCount)", site: site, marks: marks), now: self.clock)
    }

    mutating func performHeldStep() {
        guard let step = self.heldStep else { return }
        self.heldStep = nil
        self.write(step)
        self.perform()
    }

    private mutating func write(_ step: Step) {
        let isRefused = self.refusesEmptySteps && step.outputs.isEmpty && step.progress.isEmpty
        if self.stepFailuresLeft > 0 || isRefused {
            self.stepFailuresLeft -= isRefused ? 0 : 1
            self.core.stepped(.failure(RecordLogError(.notDurable, isRetriable: true)), now: self.clock)
            return
        }
        for output in step.outputs {
            let position = self.append(output)
            if output.topic == .control { self.control[output.key] = self.command(at: position) }
            if output.topic == .outcomes {
                self.outcomeRecords.append(output)
                if let outcome = try? DeliveryWorld.decode(output.value) { self.outcomes.append(outcome) }
            }
        }
        for (id, progress) in step.progress { self.progress[id] = progress }
        self.core.stepped(.success(()), now: self.clock)
    }

    private func command(at position: Position) -> OperatorCommand? {
        (self.partitions[position.partition]?[Int(position.offset.rawValue)]).flatMap { OperatorCommand($0) }
    }

    /// The remote answers the oldest transaction that waits.
    mutating func answerNext(
        failingWith failure: DeliveryFailure? = nil,
        isReusable: Bool = true,
        isInDoubt: Bool = false
    ) {
        let (connection, transaction) = self.sent.removeFirst()
        var results: [RecipientResult] = []
        for recipient in transaction.recipients {
            let result = failure.map { RecipientResult.failed($0) } ?? self.remote(transaction, recipient)
            if case .delivered = result {
                self.arrived["\(transaction.content.readableBytes)/\(recipient.mailbox)", default: 0] += 1
            }
            results.append(result)
        }
        if !isReusable { self.openConnections[connection] = nil }
        self.core.finished(
            connection: connection,
            result: TransactionResult(
                transactionID: transaction.id,
                results: results,
                duration: 5,
                isInDoubt: isInDoubt
            ),
            isReusable: isReusable,
            now: self.clock
        )
        if !isReusable { self.core.connectionClosed(connection, failure: nil, now: self.clock) }
    }

    /// Lets time pass in ticks, reading and performing as it goes.
    mutating func run(for milliseconds: Int64, tick: Int64 = 200) {
        let end = self.now + milliseconds
        while self.now < end {
            self.now += tick
            self.core.tick(now: self.clock)
            self.perform()
            self.deliverRecords()
        }
    }

    func site(of domain: String) -> SitePlan {
        SitePlan(
            id: "mx.\(domain)",
            target: OutboundTarget(endpoints: [OutboundTarget.Endpoint(host: "mx.\(domain)", addresses: [])]),
            connectionCountMax: 20,
            messagesPerConnectionMax: 100
        )
    }

    static func facts(_ host: String) -> OutboundSessionFacts {
        OutboundSessionFacts(host: host, address: "192.0.2.1:25", tlsVersion: nil, isTLSVerified: false)
    }

    static let refused = DeliveryFailure(
        scope: .site,
        isPermanent: false,
        phase: .connect,
        status: EnhancedStatusCode(4, 4, 1),
        text: "refused"
    )
    static let tempfail = DeliveryFailure(
        scope: .recipient,
        isPermanent: false,
        phase: .rcpt,
        reply: RemoteReply(code: 451, lines: ["4.7.1 later"]),
        status: EnhancedStatusCode(4, 7, 1),
        text: "later"
    )
    static let unknownUser = DeliveryFailure(
        scope: .recipient,
        isPermanent: true,
        phase: .rcpt,
        reply: RemoteReply(code: 550, lines: ["5.1.1 unknown"]),
        status: EnhancedStatusCode(5, 1, 1),
        text: "unknown"
    )
    static let lost = DeliveryFailure(
        scope: .session,
        isPermanent: false,
        phase: .mail,
        status: EnhancedStatusCode(4, 4, 2),
        text: "lost"
    )

    func queued(_ topic: Topic) -> Int {
        self.partitions.filter { $0.key.topic == topic }.reduce(0) { $0 + $1.value.count }
    }

    var finals: [Outcome] { self.outcomes.filter(\.kind.isFinal) }
}
