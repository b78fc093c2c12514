import ClusterLog
import DequeModule
import Mail
import Records

/// What is known of one partition of `posthorn.outcomes`: totals of all that the log holds, and its live and recent
/// recipients. Sans-IO; built from the partition's records alone, so that building it again gives the same.
struct PartitionIndex: Sendable {
    /// What an event was.
    enum Effect: Hashable, Sendable {
        case counted
        /// An event of this id was counted before.
        case duplicate
        /// Counted; there was no room to index its recipient.
        case notIndexed
    }

    /// How many recipients are indexed.
    struct Sizes: Hashable, Sendable {
        var live = 0
        var recent = 0
    }

    private struct Finished: Sendable {
        var slot: Int32
        var loggedAt: Int64
    }

    /// Tells this assignment of the partition from others.
    let generation: Int
    /// The first offset that has not been looked at.
    private(set) var next: Offset
    /// What was there when the partition was assigned has not all been read yet.
    var isRebuilding = true
    private(set) var sizes = Sizes()
    /// By site; those that were too many are in ``otherSites``.
    private(set) var sites: [String: SiteAggregate] = [:]
    private(set) var otherSites = OutcomeCounts()
    private(set) var firstAttempts = DurationCounts()
    private(set) var deliveries = DurationCounts()
    private(set) var recordCount: UInt64 = 0
    private(set) var duplicateCount: UInt64 = 0
    private(set) var unreadableCount: UInt64 = 0
    private(set) var notIndexedCount: UInt64 = 0

    private var slots: [IndexedRecipient?] = []
    private var freeSlots: [Int32] = []
    private var lookup: [IndexedRecipient.Key: Int32] = [:]
    /// In the order of the log.
    private var finished: Deque<Finished> = []
    private let siteCountMax: Int

    init(generation: Int, start: Offset, siteCountMax: Int) {
        self.generation = generation
        self.next = start
        self.siteCountMax = max(2, siteCountMax)
    }

    // MARK: Events

    /// Looks at a record, once: those below ``next`` have been counted.
    ///
    /// - Parameters:
    ///   - outcome: `nil` when the record is none.
    ///   - hasRoom: whether one more live recipient may be indexed.
    ///   - recentSince: what became final before, by the log's time, is counted and not kept.
    mutating func apply(_ record: IndexRecord, hasRoom: Bool, recentSince: Int64) -> Effect? {
        guard record.offset >= self.next else { return nil }
        self.next = record.offset.advanced(by: 1)
        self.recordCount += 1
        guard let outcome = record.outcome, let messageID = MessageID(outcome.messageID) else {
            self.unreadableCount += 1
            return nil
        }
        let key = IndexedRecipient.Key(messageID: messageID, recipientIndex: outcome.recipientIndex)
        let slot = self.lookup[key]
        let known = slot.flatMap { self.slots[Int($0)] }
        if let known, Self.isDuplicate(outcome, of: known) {
            self.duplicateCount += 1
            return .duplicate
        }
        let site = self.count(outcome, isFirst: (known?.attempt ?? 0) == 0)
        if let slot {
            self.update(slot, outcome, site: site, record)
            return .counted
        }
        if outcome.kind.isFinal {
            if record.loggedAt >= recentSince {
                let slot = self.insert(IndexedRecipient(outcome, messageID: messageID, site: site, at: record.offset))
                self.finished.append(Finished(slot: slot, loggedAt: record.loggedAt))
                self.sizes.recent += 1
            }
            return .counted
        }
        guard hasRoom else {
            self.notIndexedCount += 1
            return .notIndexed
        }
        _ = self.insert(IndexedRecipient(outcome, messageID: messageID, site: site, at: record.offset))
        self.sizes.live += 1
        return .counted
    }

    /// Whether the event's id is one that was seen: ids are made of the recipient and `final`, or the attempt and kind.
    private static func isDuplicate(_ outcome: Outcome, of known: IndexedRecipient) -> Bool {
        if outcome.kind.isFinal { return known.kind.isFinal }
        switch outcome.kind {
        case .deferred: return outcome.attempt <= known.deferredAttempt
        case .held: return known.kind == .held && outcome.attempt == known.attempt
        case .delivered, .bounced, .expired, .suppressed, .removed: return false
        }
    }

    /// - Returns: the site's name, as the table has it, so that recipients share it.
    private mutating func count(_ outcome: Outcome, isFirst: Bool) -> String {
        switch outcome.kind {
        case .delivered:
            self.deliveries.add(milliseconds: outcome.time.subtractingClamped(outcome.acceptedAt))
            fallthrough
        case .deferred, .bounced, .expired:
            guard isFirst, outcome.attempt == 1 else { break }
            let start = outcome.time.subtractingClamped((outcome.duration ?? 0) / 1_000)
            self.firstAttempts.add(milliseconds: start.subtractingClamped(outcome.acceptedAt))
        case .suppressed, .removed, .held:
            break
        }
        var entry = self.sites.index(forKey: outcome.site)
        if entry == nil {
            if self.sites.count >= self.siteCountMax { self.mergeSmallSites() }
            self.sites[outcome.site] = SiteAggregate()
            entry = self.sites.index(forKey: outcome.site)
        }
        guard let entry else { return outcome.site }
        self.sites.values[entry].counts.add(outcome.kind)
        if outcome.kind != .delivered {
            self.sites.values[entry].lastFailure = IndexedRecipient.reply(of: outcome)
            self.sites.values[entry].lastFailureAt = outcome.time
        }
        return self.sites.keys[entry]
    }

    private mutating func mergeSmallSites() {
        let order = self.sites.sorted { ($0.value.counts.total, $1.key) < ($1.value.counts.total, $0.key) }
        for (site, aggregate) in order.prefix(order.count - self.siteCountMax / 2) {
            self.otherSites.add(aggregate.counts)
            self.sites[site] = nil
        }
    }

    private mutating func update(_ slot: Int32, _ outcome: Outcome, site: String, _ record: IndexRecord) {
        guard self.slots[Int(slot)]?.isLive == true else { return }
        self.slots[Int(slot)]?.update(outcome, site: site, at: record.offset.rawValue)
        guard outcome.kind.isFinal else { return }
        self.sizes.live -= 1
        self.sizes.recent += 1
        self.finished.append(Finished(slot: slot, loggedAt: record.loggedAt))
    }

    private mutating func insert(_ recipient: IndexedRecipient) -> Int32 {
        let slot: Int32
        if let free = self.freeSlots.popLast() {
            slot = free
            self.slots[Int(free)] = recipient
        } else {
            slot = Int32(truncatingIfNeeded: self.slots.count)
            self.slots.append(recipient)
        }
        self.lookup[recipient.key] = slot
        return slot
    }

    private mutating func remove(_ slot: Int32) {
        guard let recipient = exchange(&self.slots[Int(slot)], with: nil) else { return }
        self.lookup[recipient.key] = nil
        self.freeSlots.append(slot)
    }

    // MARK: Forgetting

    /// When the oldest of the recent recipients became final; `nil` without any.
    var oldestFinished: Int64? { self.finished.first?.loggedAt }

    mutating func removeOldestFinished() {
        guard let oldest = self.finished.popFirst() else { return }
        self.remove(oldest.slot)
        self.sizes.recent -= 1
    }

    /// Forgets live recipients whose last event is older than any message lives: their final event was lost. What is
    /// held stays.
    mutating func removeStale(before time: Int64) {
        for slot in self.slots.indices {
            guard let recipient = self.slots[slot], recipient.kind == .deferred, recipient.time < time else { continue }
            self.remove(Int32(truncatingIfNeeded: slot))
            self.sizes.live -= 1
        }
    }

    // MARK: Reading

    /// All that are indexed, in no order.
    var recipients: some Sequence<IndexedRecipient> { self.slots.lazy.compactMap { $0 } }
}

/// A record as the index takes it.
struct IndexRecord: Sendable {
    var offset: Offset
    /// The log's time, milliseconds since 1970.
    var loggedAt: Int64
    /// `nil` when it could not be read.
    var outcome: Outcome?
}

extension IndexedRecipient {
    fileprivate init(_ outcome: Outcome, messageID: MessageID, site: String, at offset: Offset) {
        self.init(outcome, messageID: messageID, site: site, at: offset.rawValue)
    }
}

extension Int64 {
    /// Outcomes are read from outside: whatever numbers they have, nothing traps.
    func subtractingClamped(_ other: Int64) -> Int64 {
        let (difference, overflow) = self.subtractingReportingOverflow(other)
        return overflow ? (self < other ? .min : .max) : difference
    }
}
