import ClusterLog
import Logging
import Mail
public import NodeSupport
import Records

/// Views of the queue and commands on it, for the admin listener.
///
/// Views read the log (``DeliveryEngine/forEachQueued(_:)``): they cost a scan, and nothing while nobody asks.
extension DeliveryEngine: QueueAdministration {
    static let scanCount = 500
    private static let settleDeadline: Duration = .seconds(2)

    public func summary() async throws(QueueAdministrationError) -> AdminAPI.QueueSummary {
        var messages: Set<MessageID> = []
        var summary = AdminAPI.QueueSummary(messages: 0, recipients: 0, octets: 0, sites: [])
        var sites: [String: AdminAPI.QueueSummary.Site] = [:]
        try await self.forEachQueued { queued in
            let envelope = queued.entry.envelope
            summary.recipients += envelope.recipients.count
            if messages.insert(envelope.messageID).inserted { summary.octets += envelope.contentSize }
            summary.oldest = min(summary.oldest ?? envelope.acceptedAt, envelope.acceptedAt)
            var site = sites[queued.site] ?? AdminAPI.QueueSummary.Site(site: queued.site)
            switch queued.state {
            case .active: site.active += envelope.recipients.count
            case .deferred: site.deferred += envelope.recipients.count
            case .held: site.held += envelope.recipients.count
            }
            site.oldest = min(site.oldest ?? envelope.acceptedAt, envelope.acceptedAt)
            sites[queued.site] = site
            return true
        }
        summary.messages = messages.count
        for site in self.core.sites.values {
            guard var row = sites[site.plan.id] else { continue }
            row.connections = site.connectionCount
            row.connectionMax = site.connectionCountLimit
            row.suspendedUntil = site.backoffUntil > self.now ? site.backoffUntil : nil
            row.lastError = site.lastFailure
            sites[site.plan.id] = row
        }
        summary.sites = sites.values.sorted {
            ($0.active + $0.deferred + $0.held, $1.site) > ($1.active + $1.deferred + $1.held, $0.site)
        }
        return summary
    }

    public func messages(_ query: QueueQuery) async throws(QueueAdministrationError) -> AdminAPI.QueueList {
        let predicate = AdminAPI.QueuePredicate(domain: query.domain, site: query.site, sender: query.sender, all: true)
        return try await self.list(predicate, limit: query.limit)
    }

    public func message(_ id: String) async throws(QueueAdministrationError) -> AdminAPI.QueuedMessage? {
        guard let messageID = MessageID(id) else {
            throw QueueAdministrationError(.invalidRequest, reason: "\(id) is not a message id: 26 letters and digits")
        }
        let predicate = AdminAPI.QueuePredicate(message: messageID.description)
        return try await self.list(predicate, limit: 1).messages.first
    }

    private func list(
        _ predicate: AdminAPI.QueuePredicate,
        limit: Int
    ) async throws(QueueAdministrationError) -> AdminAPI.QueueList {
        var list = AdminAPI.QueueList(messages: [])
        var indices: [String: Int] = [:]
        try await self.forEachQueued { queued in
            let recipients = predicate.matching(queued.entry, site: queued.site)
            guard !recipients.isEmpty else { return true }
            let envelope = queued.entry.envelope
            let id = envelope.messageID.description
            if indices[id] == nil {
                guard list.messages.count < limit else {
                    list.isTruncated = true
                    return false
                }
                indices[id] = list.messages.count
                list.messages.append(
                    AdminAPI.QueuedMessage(
                        id: id,
                        sender: envelope.reversePath?.description ?? "",
                        octets: envelope.contentSize,
                        accepted: envelope.acceptedAt,
                        expires: self.core.expiry(queued.entry),
                        recipients: []
                    )
                )
            }
            let lastReply = self.lastFailure(queued.site)
            for recipient in recipients {
                list.messages[indices[id] ?? 0].recipients
                    .append(
                        AdminAPI.QueuedMessage.Recipient(
                            address: recipient.mailbox.description,
                            site: queued.site,
                            state: queued.state,
                            attempts: Int(queued.entry.attemptCount),
                            nextAttempt: queued.dueAt,
                            lastReply: queued.entry.attemptCount > 0 ? lastReply : nil
                        )
                    )
            }
            return true
        }
        return list
    }

    private func lastFailure(_ site: String) -> String? {
        self.core.siteNumbers[site].flatMap { self.core.sites[$0]?.lastFailure }
    }

    // MARK: Commands

    public func perform(
        _ command: AdminAPI.Command,
        on predicate: AdminAPI.QueuePredicate
    ) async throws(QueueAdministrationError) -> AdminAPI.QueueCommandResult {
        guard !predicate.isEmpty else {
            throw QueueAdministrationError(
                .invalidRequest,
                reason: "say which mail: domain, site, sender, recipient, message, or all"
            )
        }
        guard self.core.commands.count < DeliveryCore.commandCountMax else {
            throw QueueAdministrationError(.unavailable, reason: "too many commands are under way; try again later")
        }
        await self.settleSteps()
        var marks: [OperatorCommand.Mark] = []
        for partition in self.core.partitions.keys {
            if let mark = try await self.mark(partition) { marks.append(mark) }
        }
        let new = OperatorCommand(
            id: self.makeCommandID(),
            kind: command,
            predicate: predicate,
            marks: marks
        )
        let concerned = marks.filter { new.concerns(Topic($0.topic)) }
        var scoped = new
        scoped.marks = concerned
        var matched = 0
        for mark in concerned { self.remember(scoped.key(mark)) }
        self.feed { core, now in matched += core.begin(scoped, now: now) }
        // Without those that went to another node while the marks were made: it is told like the others.
        let begun = Set(concerned.map(\.place)).intersection(self.core.partitions.keys)
        do throws(QueueAdministrationError) {
            for mark in concerned { matched += try await self.scan(scoped.id, mark) }
        } catch {
            // It was begun, and goes on when the log can be read.
            self.resumeSoon(scoped)
            throw error
        }
        if self.log.isShared { try await self.tellOthers(new, except: begun) }
        return AdminAPI.QueueCommandResult(matched: matched, toldOthers: self.log.isShared ? true : nil)
    }

    /// Waits until the log has what was decided so far: mail that was parked a moment ago is below the marks made then.
    private func settleSteps() async {
        let count = self.core.builder.settledCount
        let deadline = ContinuousClock.now + Self.settleDeadline
        // Paced, not synchronised: steps end by themselves. A log that does not take them is not waited for.
        while self.core.builder.durableCount < count, ContinuousClock.now < deadline, !Task.isCancelled {
            try? await Task.sleep(for: .milliseconds(5))
        }
    }

    /// What a command that is given now is about in a partition.
    private func mark(_ partition: TopicPartition) async throws(QueueAdministrationError) -> OperatorCommand.Mark? {
        let bounds = try await self.ask { () async throws(RecordLogError) in try await self.log.bounds(partition) }
        // After the wait, what was read meanwhile is memory's: the scan begins at the window's end of now.
        guard let window = self.core.partitions[partition]?.window else { return nil }
        return OperatorCommand.Mark(
            topic: partition.topic.name,
            partition: partition.partition,
            end: bounds.upperBound.rawValue,
            scanned: min(window.end, bounds.upperBound).rawValue,
            excluded: window.incompleteOffsets.map(\.rawValue)
        )
    }

    // MARK: Waking

    /// Begins to wake what is parked for a site, the longest tier first: it has waited longest.
    func wake(_ site: String) async {
        await self.settleSteps()
        let tiers = self.core.partitions.keys
            .filter { self.core.mayHoldParked($0, of: site, partitionCount: self.log.partitionCount) }
            .sorted { ($0.topic.deferredDelay ?? 0) > ($1.topic.deferredDelay ?? 0) }
        var marks: [OperatorCommand.Mark] = []
        do throws(QueueAdministrationError) {
            for tier in tiers {
                if let mark = try await self.mark(tier), mark.scanned < mark.end { marks.append(mark) }
            }
        } catch {
            self.logger.warning("Parked mail could not be woken", metadata: [LogKeys.reason: "\(error.reason)"])
            self.feed { core, now in core.wakeFailed(site: site, now: now) }
            return
        }
        guard !marks.isEmpty else { return }
        let command = OperatorCommand.wake(id: self.makeCommandID(), site: site, marks: marks)
        for mark in marks { self.remember(command.key(mark)) }
        self.logger.debug("Waking parked mail", metadata: [LogKeys.site: "\(site)"])
        self.feed { core, now in _ = core.begin(command, now: now) }
    }

    /// Reads on for a wake.
    func scan(
        _ command: String,
        _ partition: TopicPartition,
        from offset: Offset,
        end: Offset,
        countMax: Int
    ) async {
        do throws(RecordLogError) {
            let records = try await self.log.scan(partition, from: offset, recordCountMax: countMax)
            let next = records.last.map { min($0.position.offset.advanced(by: 1), end) } ?? end
            self.feed { core, now in _ = core.scanned(command, partition, records, from: offset, upTo: next, now: now) }
        } catch {
            self.feed { core, _ in core.scanFailed(command) }
        }
    }

    // MARK: Scanning

    /// Goes through a partition's records between what has been worked on and the command's end.
    func scan(
        _ commandID: String,
        _ mark: OperatorCommand.Mark
    ) async throws(QueueAdministrationError) -> Int {
        let partition = TopicPartition(Topic(mark.topic), mark.partition)
        var matched = 0
        // The mark itself says how far it is: there may be another scan, and the partition may go, and come back.
        while let current = self.core.commands.first(where: { $0.id == commandID })?.mark(partition),
            current.scanned < mark.end, self.core.partitions[partition] != nil
        {
            let from = Offset(current.scanned)
            let records = try await self.ask { () async throws(RecordLogError) in
                try await self.log.scan(partition, from: from, recordCountMax: Self.scanCount)
            }
            // Nothing more: the rest of the offsets are not records.
            let end = Offset(mark.end)
            let next = records.last.map { min($0.position.offset.advanced(by: 1), end) } ?? end
            self.feed { core, now in
                matched += core.scanned(commandID, partition, records, from: from, upTo: next, now: now)
            }
            // Paced, not synchronised: what attempts have come to has to fit into the steps as well.
            while self.core.isCrowded, !Task.isCancelled { try? await Task.sleep(for: .milliseconds(5)) }
        }
        return matched
    }

    func ask<Value: Sendable>(
        _ question: () async throws(RecordLogError) -> Value
    ) async throws(QueueAdministrationError) -> Value {
        do throws(RecordLogError) {
            return try await question()
        } catch {
            throw QueueAdministrationError(.unavailable, reason: "the log cannot be read: \(error)")
        }
    }
}
