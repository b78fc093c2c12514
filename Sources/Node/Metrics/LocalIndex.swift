import ClusterLog
import FoundationEssentials
import Mail
import NIOCore
import NodeSupport
import Records
import Synchronization

/// Answers from the index of this node alone: its partitions of outcomes. Safe from any thread.
final class LocalIndex: QueueViews, MessageTracing {
    /// Events that are read from the log at once.
    private static let readCountMax = 16
    /// How long a trace reads at most; whoever asks for all nodes does not wait much longer.
    private static let traceTime: Duration = .milliseconds(1_500)

    private let log: any RecordLog
    private let settings: MetricsSettings
    private let clock: any NodeClock
    private let index: Mutex<OutcomeIndex>
    /// Records by topic that delivery is not done with, in this node's partitions; `nil` until they were counted.
    private let backlog = Mutex<[Topic: Int]?>(nil)

    init(log: any RecordLog, settings: MetricsSettings, clock: any NodeClock) {
        self.log = log
        self.settings = settings
        self.clock = clock
        self.index = Mutex(OutcomeIndex(settings: settings))
    }

    // MARK: What the consumer feeds

    func with<Result: Sendable>(_ body: (inout OutcomeIndex) -> Result) -> Result {
        self.index.withLock { body(&$0) }
    }

    /// - Returns: whether the partition is still assigned as it was.
    func apply(_ records: [StoredRecord], to partition: Int32, generation: Int) -> Bool {
        let decoder = JSONDecoder()
        let records = records.map { record in
            IndexRecord(
                offset: record.position.offset,
                loggedAt: record.timestamp,
                outcome: try? decoder.decode(Outcome.self, from: Data(record.value.readableBytesView))
            )
        }
        let now = self.clock.milliseconds
        return self.with { $0.apply(records, to: partition, generation: generation, now: now) }
    }

    func setBacklog(_ backlog: [Topic: Int]) {
        self.backlog.withLock { $0 = backlog }
    }

    var waitingRecords: [Topic: Int]? { self.backlog.withLock { $0 } }

    var partitions: [Int32] { self.with { $0.partitions.keys.sorted() } }

    // MARK: QueueViews

    func summary() async throws(QueueAdministrationError) -> AdminAPI.QueueSummary {
        var summary = AdminAPI.QueueSummary(messages: 0, recipients: 0, octets: 0, sites: [])
        var sites: [String: AdminAPI.QueueSummary.Site] = [:]
        var failures: [String: SiteAggregate] = [:]
        var messages: Set<MessageID> = []
        self.forEachPartition { index in
            for recipient in index.recipients where recipient.isLive {
                if messages.insert(recipient.messageID).inserted { summary.octets += Int(recipient.contentSize) }
                summary.recipients += 1
                sites[recipient.site, default: AdminAPI.QueueSummary.Site(site: recipient.site)].add(recipient)
            }
            for (site, aggregate) in index.sites where aggregate.lastFailureAt >= failures[site]?.lastFailureAt ?? 0 {
                failures[site] = aggregate
            }
        }
        for site in sites.keys { sites[site]?.lastError = failures[site]?.lastFailure }
        summary.messages = messages.count
        summary.sites = sites.values.sorted()
        summary.oldest = sites.values.compactMap(\.oldest).min()
        summary.nextDue = sites.values.compactMap(\.nextDue).min()
        if let waiting = self.waitingRecords {
            summary.notAttempted = waiting[.accepted] ?? 0
            summary.tiers =
                waiting.filter { $0.key != .accepted }
                .map { AdminAPI.QueueSummary.Backlog(topic: $0.key.name, records: $0.value) }
                .sorted { $0.topic < $1.topic }
        }
        summary.missing = self.missing
        return summary
    }

    func messages(_ query: QueueQuery) async throws(QueueAdministrationError) -> AdminAPI.QueueList {
        var oldest = OldestMessages(countMax: query.limit)
        self.forEachPartition { index in
            for recipient in index.recipients where recipient.isLive && recipient.matches(query) {
                oldest.add(recipient.messageID)
            }
        }
        let wanted = Set(oldest.ids)
        var list = AdminAPI.QueueList(
            messages: self.collect { wanted.contains($0.messageID) && $0.matches(query) },
            isTruncated: oldest.isTruncated
        )
        list.missing = self.missing
        return list
    }

    func message(_ id: String) async throws(QueueAdministrationError) -> AdminAPI.QueuedMessage? {
        guard let id = MessageID(id) else {
            throw QueueAdministrationError(.invalidRequest, reason: "\(id) is not a message id: 26 letters and digits")
        }
        return self.collect { $0.messageID == id }.first
    }

    /// Live recipients, by message, the oldest first.
    private func collect(_ isWanted: (IndexedRecipient) -> Bool) -> [AdminAPI.QueuedMessage] {
        var messages: [MessageID: AdminAPI.QueuedMessage] = [:]
        var found: [IndexedRecipient] = []
        self.forEachPartition { index in
            for recipient in index.recipients where recipient.isLive && isWanted(recipient) {
                found.append(recipient)
            }
        }
        for recipient in found.sorted(by: { $0.recipientIndex < $1.recipientIndex }) {
            messages[recipient.messageID, default: self.message(of: recipient)].recipients.append(recipient.view)
        }
        return messages.values.sorted { $0.id < $1.id }
    }

    private func message(of recipient: IndexedRecipient) -> AdminAPI.QueuedMessage {
        let lifetime = recipient.sender.isEmpty ? self.settings.notificationLifetime : self.settings.lifetime
        return AdminAPI.QueuedMessage(
            id: recipient.messageID.description,
            sender: recipient.sender,
            octets: Int(recipient.contentSize),
            accepted: recipient.acceptedAt,
            expires: recipient.acceptedAt.subtractingClamped(-lifetime.milliseconds),
            recipients: []
        )
    }

    /// One lock a partition, so that records go on being indexed meanwhile.
    private func forEachPartition(_ body: (PartitionIndex) -> Void) {
        for partition in self.partitions {
            self.index.withLock { index in
                if let partition = index.partitions[partition] { body(partition) }
            }
        }
    }

    private var missing: [String]? {
        let rebuilding = self.with { $0.rebuilding }
        guard !rebuilding.isEmpty else { return nil }
        return ["\(self.settings.nodeID) is still reading partition \(PartitionText(rebuilding))"]
    }

    // MARK: MessageTracing

    func trace(_ query: TraceQuery) async throws(QueueAdministrationError) -> AdminAPI.Trace {
        guard let subject = TraceSubject(query.subject) else {
            throw QueueAdministrationError(.invalidRequest, reason: "that is no message id: 26 letters and digits")
        }
        var newest = NewestEvents(countMax: query.limit)
        for partition in self.partitions {
            self.index.withLock { index in
                guard let recipients = index.partitions[partition]?.recipients else { return }
                for recipient in recipients where recipient.matches(subject) { newest.add(recipient, in: partition) }
            }
        }
        let (places, isTruncated) = newest.places
        let (events, isComplete) = try await self.read(places)
        return AdminAPI.Trace(
            events: events.sorted { $0.time < $1.time },
            isTruncated: isTruncated || !isComplete,
            missing: self.missing
        )
    }

    /// Events that retention has taken meanwhile are left out.
    private func read(
        _ places: [Position]
    ) async throws(QueueAdministrationError) -> (events: [AdminAPI.TraceEvent], isComplete: Bool) {
        let log = self.log
        let start = self.clock.monotonicNanoseconds
        var results: [Result<AdminAPI.TraceEvent?, RecordLogError>] = []
        var rest = places[...]
        while !rest.isEmpty {
            let elapsed = Duration.nanoseconds(self.clock.monotonicNanoseconds - start)
            if !results.isEmpty, elapsed > Self.traceTime { break }
            let some = rest.prefix(Self.readCountMax)
            rest = rest.dropFirst(some.count)
            results += await withTaskGroup { group in
                for place in some { group.addTask { await Self.event(at: place, in: log) } }
                return await group.reduce(into: []) { $0.append($1) }
            }
        }
        var events: [AdminAPI.TraceEvent] = []
        for result in results {
            switch result {
            case .success(let event): if let event { events.append(event) }
            case .failure(let error):
                throw QueueAdministrationError(.unavailable, reason: "the log cannot be read: \(error)")
            }
        }
        return (events, rest.isEmpty)
    }

    private static func event(
        at place: Position,
        in log: any RecordLog
    ) async -> Result<AdminAPI.TraceEvent?, RecordLogError> {
        do throws(RecordLogError) {
            let record = try await log.scan(place.partition, from: place.offset, recordCountMax: 1).first
            guard let record, record.position == place else { return .success(nil) }
            let data = Data(record.value.readableBytesView)
            return .success(try? JSONDecoder().decode(AdminAPI.TraceEvent.self, from: data))
        } catch {
            return .failure(error)
        }
    }
}

/// The smallest ids among many, each once: ids sort by the time of acceptance.
private struct OldestMessages {
    let countMax: Int
    private(set) var ids: [MessageID] = []
    private(set) var isTruncated = false

    init(countMax: Int) { self.countMax = countMax }

    mutating func add(_ id: MessageID) {
        if self.ids.count == self.countMax, let last = self.ids.last, id > last {
            self.isTruncated = true
            return
        }
        var low = 0
        var high = self.ids.count
        while low < high {
            let middle = (low + high) / 2
            if self.ids[middle] < id { low = middle + 1 } else { high = middle }
        }
        if low < self.ids.count, self.ids[low] == id { return }
        self.ids.insert(id, at: low)
        if self.ids.count > self.countMax {
            self.ids.removeLast()
            self.isTruncated = true
        }
    }
}

/// Where the events of the recipients with the newest events are.
private struct NewestEvents {
    private struct Found {
        var time: Int64
        var partition: Int32
        var offsets: [Int64]
    }

    private let countMax: Int
    private var found: [Found] = []
    private var isCut = false

    init(countMax: Int) { self.countMax = countMax }

    mutating func add(_ recipient: IndexedRecipient, in partition: Int32) {
        self.found.append(
            Found(
                time: recipient.time,
                partition: partition,
                offsets: recipient.earlierOffsets + CollectionOfOne(recipient.lastOffset)
            )
        )
        if self.found.count > 4 * self.countMax { self.cut() }
    }

    private mutating func cut() {
        self.found.sort { $0.time > $1.time }
        guard self.found.count > self.countMax else { return }
        self.found.removeLast(self.found.count - self.countMax)
        self.isCut = true
    }

    var places: (places: [Position], isTruncated: Bool) {
        var sorted = self
        sorted.cut()
        let all = sorted.found.flatMap { found in
            found.offsets.reversed()
                .map { Position(partition: TopicPartition(.outcomes, found.partition), offset: Offset($0)) }
        }
        let chosen = all.prefix(self.countMax)
            .sorted { ($0.partition.partition, $0.offset) < ($1.partition.partition, $1.offset) }
        return (chosen, sorted.isCut || all.count > self.countMax)
    }
}

extension AdminAPI.QueueSummary.Site {
    fileprivate mutating func add(_ recipient: IndexedRecipient) {
        if recipient.kind == .held {
            self.held += 1
        } else {
            self.deferred += 1
            if recipient.nextDueAt > 0 { self.nextDue = min(self.nextDue ?? .max, recipient.nextDueAt) }
        }
        self.oldest = min(self.oldest ?? .max, recipient.acceptedAt)
    }
}
