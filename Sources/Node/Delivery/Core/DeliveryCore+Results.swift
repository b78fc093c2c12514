import ClusterLog
import Digests
import Mail
import NIOCore
import Records
import SMTP

/// What is final for one recipient, on its way into an outcome.
struct Conclusion: Sendable {
    var recipient: Recipient
    var kind: Outcome.Kind
    var result: RecipientResult
    var connection: OutboundSessionFacts?
    var duration: Int64?
    var isInDoubt = false
}

extension DeliveryCore {
    func expiry(_ entry: QueueEntry) -> Int64 {
        self.configuration.retry.expiry(
            acceptedAt: entry.envelope.acceptedAt,
            isNotification: entry.envelope.reversePath == nil
        )
    }

    // MARK: Decisions

    /// An attempt is over: each recipient is delivered, bounced, expired, or tried again.
    mutating func decide(
        _ jobID: UInt64,
        _ results: [RecipientResult],
        connection: OutboundSessionFacts?,
        duration: Int64?,
        isInDoubt: Bool,
        now: Int64
    ) {
        guard let job = self.jobs[jobID] else { return }
        self.jobs[jobID]?.entry.attemptCount += 1
        let attempt = job.entry.attemptCount + 1
        let expiry = self.expiry(job.entry)
        let canRetry = self.configuration.retry.tier(afterAttempt: attempt, now: now, expiry: expiry) != nil
        var final: [Conclusion] = []
        var retrying: [Conclusion] = []
        // Those beyond what the host takes in one transaction were not tried.
        var postponed = Array(job.entry.envelope.recipients.dropFirst(results.count))
        let isAnyTaken = results.contains { if case .delivered = $0 { true } else { false } }
        for (recipient, result) in zip(job.entry.envelope.recipients, results) {
            if isAnyTaken, case .failed(let failure) = result, FailurePolicy.isTooManyRecipients(failure) {
                // It wants them in a transaction of their own (RFC 5321 §4.5.3.1.10).
                postponed.append(recipient)
                continue
            }
            var conclusion = Conclusion(
                recipient: recipient,
                kind: .delivered,
                result: result,
                connection: connection,
                duration: duration,
                isInDoubt: isInDoubt
            )
            if case .failed(let failure) = result {
                conclusion.kind = failure.isPermanent ? .bounced : canRetry ? .deferred : .expired
                if let number = job.site { self.sites[number]?.lastFailure = failure.text }
            }
            if conclusion.kind.isFinal { final.append(conclusion) } else { retrying.append(conclusion) }
        }
        self.conclude(jobID, final, retrying: retrying, postponed: postponed, now: now)
    }

    /// Writes what was decided. Reads the content first when a notification has to return a part of it.
    ///
    /// - Parameters:
    ///   - postponed: recipients that go on at once, as if this attempt had not been.
    ///   - others: what else is written with it.
    mutating func conclude(
        _ jobID: UInt64,
        _ final: [Conclusion],
        retrying: [Conclusion],
        postponed: [Recipient] = [],
        others: [Record] = [],
        now: Int64
    ) {
        guard let job = self.jobs[jobID] else { return }
        let notifiesDelay = self.isDelayToBeNotified(job.entry, now: now)
        if job.content == nil, postponed.isEmpty,
            final.contains(where: { self.wantsNotification($0, job.entry) })
                || notifiesDelay && retrying.contains(where: { self.wantsNotification($0, job.entry) })
        {
            self.read(jobID, then: .conclude(final: final, retrying: retrying))
            return
        }
        var outputs = others
        for conclusion in final {
            outputs.append(self.outcome(conclusion, job, nextDueAt: nil, now: now))
        }
        var placed: [Placed] = []
        if !retrying.isEmpty {
            let delay = self.retryDelay(job.entry, now: now)
            var entry = job.entry
            entry.envelope.recipients = retrying.map(\.recipient)
            entry.firstDeferredAt = entry.firstDeferredAt ?? now
            entry.parkedSince = nil
            entry.isDelayNotified = entry.isDelayNotified || notifiesDelay
            for conclusion in retrying {
                let due = now + delay
                outputs.append(self.outcome(conclusion, job, nextDueAt: due, notifiesDelay: notifiesDelay, now: now))
            }
            placed.append((.deferred(milliseconds: delay), self.siteKey(job, now: now), entry))
        }
        if !postponed.isEmpty {
            var entry = job.entry
            entry.envelope.recipients = postponed
            entry.attemptCount -= 1
            placed.append((.deferredNow, SpreadKey.plain(self.siteName(job)), entry))
        }
        if placed.isEmpty {
            self.finish(job, outputs: outputs, isFinal: true)
        } else {
            self.republish(job, placed, outputs: outputs, now: now)
        }
    }

    private func retryDelay(_ entry: QueueEntry, now: Int64) -> Int64 {
        let expiry = self.expiry(entry)
        // Reading the content may have taken the life that was left: the shortest tier is where it expires.
        return self.configuration.retry.tier(afterAttempt: entry.attemptCount, now: now, expiry: expiry)
            ?? self.configuration.retry.tiers.first ?? 0
    }

    /// Whether the sender is due to be told that the message is late.
    private func isDelayToBeNotified(_ entry: QueueEntry, now: Int64) -> Bool {
        guard let after = self.configuration.retry.delayNotificationAfter, !entry.isDelayNotified else { return false }
        return entry.envelope.reversePath != nil && now - entry.envelope.acceptedAt >= after
    }

    /// The job waits without an attempt.
    mutating func park(_ jobID: UInt64, wait: Int64, outageSince: Int64?, now: Int64) {
        guard let job = self.jobs[jobID] else { return }
        var entry = job.entry
        // An outage that this node sees from the middle is as old as what was parked behind it.
        let since = min(entry.parkedSince ?? now, outageSince ?? now)
        entry.parkedSince = since
        entry.firstDeferredAt = entry.firstDeferredAt ?? now
        let delay =
            job.isFlushed
            ? 0
            : self.configuration.retry.tier(
                parkedFor: wait,
                outageAge: outageSince == nil ? 0 : now - since,
                now: now,
                expiry: self.expiry(entry)
            )
        var outputs: [Record] = []
        if self.isDelayToBeNotified(entry, now: now) {
            let waiting = self.waiting(job)
            if waiting.contains(where: { self.wantsNotification($0, entry) }) {
                guard job.content != nil else {
                    self.read(jobID, then: .park(wait: wait, outageSince: outageSince))
                    return
                }
                entry.isDelayNotified = true
                outputs = waiting.map {
                    self.outcome($0, job, nextDueAt: now + delay, notifiesDelay: true, now: now)
                }
            }
        }
        if outageSince != nil, let number = job.site {
            self.sites[number]?.mayBeParked(until: now + delay)
            self.sites[number]?.lastParkedAt = now
        }
        self.act(.parked(site: self.siteName(job), delay: delay))
        let key = self.siteKey(job, now: now)
        let topic = job.isFlushed ? Topic.deferredNow : .deferred(milliseconds: delay)
        self.republish(job, [(topic, key, entry)], outputs: outputs, now: now)
    }

    /// What is said of recipients that go on waiting without an attempt.
    private func waiting(_ job: Job) -> [Conclusion] {
        let text = job.site.flatMap { self.sites[$0]?.lastFailure } ?? "The site takes no mail at present."
        let failure = DeliveryFailure(
            scope: .site,
            isPermanent: false,
            phase: .policy,
            status: EnhancedStatusCode(4, 4, 1),
            text: text
        )
        return job.entry.envelope.recipients.map {
            Conclusion(recipient: $0, kind: .deferred, result: .failed(failure))
        }
    }

    /// Puts what is left of the job where it waits. Content that is still in its first record is copied to
    /// `posthorn.content` before, once (DESIGN §2).
    mutating func republish(_ job: Job, _ placed: [Placed], outputs: [Record], now: Int64) {
        var staged = Staged(outputs: outputs, entries: [])
        self.stage(placed, of: job, into: &staged, now: now)
        self.place(job, staged, isFinal: staged.entries.isEmpty)
    }

    /// Stages what is left of a job, as far as no command that was given meanwhile is about it: that is carried out instead.
    mutating func stage(_ placed: [Placed], of job: Job, into staged: inout Staged, now: Int64) {
        for item in placed {
            let site = Self.site(of: item.key, in: item.topic)
            if !self.commands.isEmpty,
                let command = self.pendingCommand(job.position, item.entry, in: item.topic, site: site)
            {
                let recipients = command.matching(item.entry, site: site)
                self.split(command, recipients, item.entry, key: item.key, topic: item.topic, into: &staged, now: now)
            } else {
                staged.entries.append(item)
            }
        }
    }

    /// Finishes the job with what is staged, once its content has a place of its own.
    mutating func place(_ job: Job, _ staged: Staged, isFinal: Bool) {
        guard job.entry.content == nil, !staged.entries.isEmpty else {
            var staged = staged
            let isShared = staged.entries.count > 1
            for index in staged.entries.indices where isShared { staged.entries[index].entry.isContentShared = true }
            self.publish(staged, of: job, isFinal: isFinal)
            return
        }
        if case .ready = job.stage, let site = job.site { self.sites[site]?.ready.remove(job.id) }
        self.jobs[job.id]?.stage = .appending
        self.jobs[job.id]?.staged = staged
        if let record = self.contentRecord(job.id) { self.act(.append(record, job: job.id)) }
    }

    /// Finishes the job with what is staged: its content has its place.
    mutating func publish(_ staged: Staged, of job: Job, isFinal: Bool) {
        var outputs = staged.outputs
        for item in staged.entries {
            self.publish(
                item.entry,
                topic: item.topic,
                key: item.key,
                content: ByteBuffer(),
                from: job.position,
                to: &outputs
            )
        }
        self.finish(job, outputs: outputs, isFinal: isFinal)
    }

    func siteName(_ job: Job) -> String {
        job.site.flatMap { self.sites[$0]?.plan.id } ?? job.entry.envelope.recipients.first?.mailbox.domain.text ?? ""
    }

    /// The key under which a job waits: its site, in the bucket that the message was accepted into, or in one of the
    /// site's own when the site has much that waits.
    ///
    /// Mail of a domain that is spread waits spread, however little of it waits: it would be much for one node.
    mutating func siteKey(_ job: Job, now: Int64) -> String {
        let site = self.siteName(job)
        var key = self.siteKeys.key(for: site, now: now)
        let current = SpreadKey(job.key)
        if job.position.partition.topic.deferredDelay != nil, current.name == site, let bucket = current.bucket {
            // It has waited here, and its content lies here.
            key = SpreadKey(name: site, bucket: bucket)
        } else if let bucket = job.entry.domainBucket, !self.siteKeys.isConfigured(site) {
            key = SpreadKey(name: site, bucket: bucket)
        }
        if key.bucket != nil, let number = job.site { self.sites[number]?.isSpread = true }
        return key.text
    }

    /// The record that holds the content of a job alone. It lies in the partition of what will refer to it, in the same
    /// order: whoever reads one forward reads the other forward (ADR 0016).
    func contentRecord(_ jobID: UInt64) -> Record? {
        guard let job = self.jobs[jobID], let content = job.content else { return nil }
        let messageID = job.entry.envelope.messageID.description
        return Record(
            topic: .content,
            key: job.staged?.entries.first?.key ?? job.key,
            headers: [RecordHeader(Reference.messageIDHeader, ByteBuffer(string: messageID))],
            value: content
        )
    }

    // MARK: Fan-out

    /// What recipients of one transaction share: their domain, and whether their addresses need SMTPUTF8, so that a host without
    /// it still takes the others (RFC 6531 §3.1).
    private struct Together: Hashable {
        var domain: Domain
        var isASCII: Bool

        init(_ mailbox: Mailbox) {
            self.domain = mailbox.domain
            self.isASCII = mailbox.isASCII
        }
    }

    /// A message for several domains becomes one record per domain, in one step. Returns whether it did.
    ///
    /// Small content is copied into each; large content is put into `posthorn.content` once and referenced.
    mutating func fanOut(_ job: inout Job, now: Int64) -> Bool {
        let recipients = job.entry.envelope.recipients
        guard let first = recipients.first.map({ Together($0.mailbox) }),
            recipients.contains(where: { Together($0.mailbox) != first })
        else { return false }
        var order: [Together] = []
        var groups: [Together: [Recipient]] = [:]
        for recipient in recipients {
            let group = Together(recipient.mailbox)
            if groups[group] == nil { order.append(group) }
            groups[group, default: []].append(recipient)
        }
        let entries = order.map { group -> (topic: Topic, key: String, entry: QueueEntry) in
            var entry = job.entry
            entry.envelope.recipients = groups[group] ?? []
            let key = self.domainKeys.key(for: group.domain.text, now: now)
            return (.accepted, key.text, entry)
        }
        var staged = Staged(outputs: [], entries: [])
        self.stage(entries, of: job, into: &staged, now: now)
        let size = job.content?.readableBytes ?? 0
        if job.content != nil, size * staged.entries.count > self.configuration.fanOutCopySizeMax {
            job.stage = .appending
            job.staged = staged
            self.jobs[job.id] = job
            if let record = self.contentRecord(job.id) { self.act(.append(record, job: job.id)) }
            return true
        }
        var outputs = staged.outputs
        for var item in staged.entries {
            item.entry.isContentShared = item.entry.content != nil
            self.publish(
                item.entry,
                topic: item.topic,
                key: item.key,
                content: job.content ?? ByteBuffer(),
                from: job.position,
                to: &outputs
            )
        }
        self.jobs[job.id] = job
        self.finish(job, outputs: outputs, isFinal: staged.entries.isEmpty)
        return true
    }

    // MARK: Outcomes

    private func wantsNotification(_ conclusion: Conclusion, _ entry: QueueEntry) -> Bool {
        guard entry.envelope.reversePath != nil else { return false }
        var isDSNPassedOn = false
        if case .delivered(_, let isPassedOn) = conclusion.result { isDSNPassedOn = isPassedOn }
        return conclusion.recipient.wantsNotification(of: conclusion.kind, isDSNPassedOn: isDSNPassedOn)
    }

    private mutating func outcome(
        _ conclusion: Conclusion,
        _ job: Job,
        nextDueAt: Int64?,
        notifiesDelay: Bool = false,
        now: Int64
    ) -> Record {
        let envelope = job.entry.envelope
        var outcome = Outcome(
            kind: conclusion.kind,
            messageID: envelope.messageID.description,
            recipientIndex: conclusion.recipient.index,
            recipient: conclusion.recipient.mailbox.description,
            sender: envelope.reversePath?.description ?? "",
            site: self.siteName(job),
            time: now,
            acceptedAt: envelope.acceptedAt,
            contentSize: envelope.contentSize,
            attempt: self.jobs[job.id]?.entry.attemptCount ?? job.entry.attemptCount,
            status: "2.0.0"
        )
        outcome.duration = conclusion.duration
        outcome.nextDueAt = nextDueAt
        if conclusion.isInDoubt { outcome.inDoubt = true }
        if let facts = conclusion.connection {
            outcome.remote = Outcome.Remote(
                host: facts.host,
                address: facts.address,
                tlsVersion: facts.tlsVersion,
                tlsCipherSuite: facts.tlsCipherSuite,
                tlsVerified: facts.isTLSVerified
            )
        }
        switch conclusion.result {
        case .delivered(let reply, let isDSNPassedOn):
            outcome.reply = Outcome.Reply(reply)
            outcome.status = reply.enhancedStatusCode.map(\.description) ?? "2.0.0"
            outcome.dsnPassedOn = isDSNPassedOn ? true : nil
        case .failed(let failure):
            outcome.reply = failure.reply.map(Outcome.Reply.init)
            outcome.status = failure.status.description
            outcome.phase = failure.phase.rawValue
            outcome.reason = failure.text
        }
        self.act(.report(outcome))
        let notifies = conclusion.kind == .deferred ? notifiesDelay : true
        var headers: [RecordHeader] = []
        if notifies && self.wantsNotification(conclusion, job.entry) {
            headers = self.notificationHeaders(conclusion, job)
        }
        return outcome.record(
            key: job.entry.outcomeKey(of: conclusion.recipient),
            source: self.configuration.source,
            extraHeaders: headers
        )
    }

    /// What the bounce service needs to write a notification without reading the content again.
    private func notificationHeaders(_ conclusion: Conclusion, _ job: Job) -> [RecordHeader] {
        var entry = self.jobs[job.id]?.entry ?? job.entry
        entry.envelope.recipients = [conclusion.recipient]
        entry.content = nil
        let content = job.content ?? self.jobs[job.id]?.content ?? ByteBuffer()
        let wantsFull = entry.envelope.returnContent == .full && conclusion.kind != .delivered
        let isFull = wantsFull && content.readableBytes <= self.configuration.returnedSizeMax
        let returned = isFull ? content : Self.headerSection(content, sizeMax: self.configuration.returnedSizeMax)
        var headers = [
            RecordHeader(QueueEntry.headerName, ByteBuffer(bytes: entry.encoded())),
            RecordHeader(Outcome.returnedHeader, returned),
        ]
        if isFull { headers.append(RecordHeader(Outcome.returnedIsFullHeader, ByteBuffer(string: "1"))) }
        return headers
    }

    /// The octets up to the empty line, cut at a line's end when there are too many.
    static func headerSection(_ content: ByteBuffer, sizeMax: Int) -> ByteBuffer {
        let view = content.readableBytesView.prefix(sizeMax)
        var end = view.startIndex
        var lineStart = view.startIndex
        while let lineEnd = view[lineStart...].firstIndex(of: UInt8(ascii: "\n")) {
            let next = view.index(after: lineEnd)
            let isEmptyLine = lineEnd == lineStart || (next - lineStart == 2 && view[lineStart] == UInt8(ascii: "\r"))
            if isEmptyLine { break }
            end = next
            lineStart = next
        }
        return content.getSlice(at: content.readerIndex, length: end - view.startIndex) ?? ByteBuffer()
    }
}

extension Outcome.Reply {
    init(_ reply: RemoteReply) {
        self.init(
            code: reply.code,
            enhanced: reply.enhancedStatusCode?.description,
            text: reply.lines.joined(separator: " ")
        )
    }
}

extension DeliveryFailure {
    /// What the log had of the message cannot be read any more.
    static let contentLost = DeliveryFailure(
        scope: .message,
        isPermanent: true,
        phase: .policy,
        status: EnhancedStatusCode(5, 3, 0),
        text: "The relay cannot read the message's content any more."
    )

    static func expired(lastFailure: String?) -> DeliveryFailure {
        DeliveryFailure(
            scope: .message,
            isPermanent: true,
            phase: .policy,
            status: EnhancedStatusCode(4, 4, 7),
            text: lastFailure.map { "The message was not delivered in time. The last failure: \($0)" }
                ?? "The message was not delivered in time."
        )
    }
}
