import ClusterLog
import Mail
import NIOCore
import Records
import Reports

/// Turns a run of outcome records into the records to append: notifications, and what could not be used.
///
/// Pure: the same records in the same order give the same notifications with the same ids, whenever and wherever that
/// happens. Outcomes of one message and kind share a notification.
struct NotificationBatch {
    /// One notification in the making.
    private struct Group {
        var first: WantedNotification
        /// In the order they came, each recipient once.
        var recipients: [(recipient: Recipient, outcome: Outcome)]
    }

    private struct Key: Hashable {
        var messageID: MessageID
        var kind: WantedNotification.Kind
    }

    /// Recipients one notification tells of; for more there are more notifications.
    static let recipientCountMax = 100
    /// Notifications and octets to return that a batch gathers; each step stays small enough for any log.
    static let notificationCountMax = 100
    static let sizeMax = 4 << 20

    private let settings: BounceSettings
    /// Content is left out, since the log would not take a notification with it.
    private let returnsNothing: Bool
    private var groups: [Group] = []
    private var openGroups: [Key: Int] = [:]
    private(set) var deadRecords: [Record] = []
    private var size = 0

    init(settings: BounceSettings, returnsNothing: Bool = false) {
        self.settings = settings
        self.returnsNothing = returnsNothing
    }

    var isEmpty: Bool { self.groups.isEmpty && self.deadRecords.isEmpty }

    /// Whether to step before more is added.
    var isFull: Bool {
        self.groups.count + self.deadRecords.count >= Self.notificationCountMax || self.size >= Self.sizeMax
    }

    /// Notifications by kind, for metrics.
    func notificationCount(_ kind: WantedNotification.Kind) -> Int {
        self.groups.reduce(0) { $0 + ($1.first.kind == kind ? 1 : 0) }
    }

    /// Takes in one record of `posthorn.outcomes`.
    mutating func add(_ record: StoredRecord) {
        switch WantedNotification.read(record) {
        case .nothing:
            break
        case .wanted(let wanted):
            self.add(wanted)
        case .unusable(let reason):
            let dead = DeadRecord(record, reason: reason).record(valueSizeMax: self.settings.valueSizeMax)
            self.deadRecords.append(dead)
            self.size += dead.size
        }
    }

    private mutating func add(_ wanted: WantedNotification) {
        let key = Key(messageID: wanted.envelope.messageID, kind: wanted.kind)
        if let index = self.openGroups[key], self.groups[index].recipients.count < Self.recipientCountMax {
            // A recipient has one outcome of a kind to tell of; a second is a repeat of the first (G2).
            let isKnown = self.groups[index].recipients.contains { $0.recipient.index == wanted.recipient.index }
            if !isKnown { self.groups[index].recipients.append((wanted.recipient, wanted.outcome)) }
            return
        }
        self.openGroups[key] = self.groups.count
        self.groups.append(Group(first: wanted, recipients: [(wanted.recipient, wanted.outcome)]))
        self.size += min(wanted.returned.readableBytes, self.settings.returnedSizeMax)
    }

    /// The records to append.
    ///
    /// - Parameter now: milliseconds since 1970; the date of the notifications, and not part of their ids.
    func outputs(now: Int64) throws(RecordLogError) -> [Record] {
        var records = self.deadRecords
        records.reserveCapacity(records.count + self.groups.count)
        for group in self.groups { records.append(try self.notification(group, now: now)) }
        return records
    }

    private func notification(_ group: Group, now: Int64) throws(RecordLogError) -> Record {
        let first = group.first
        let id = Self.notificationID(group)
        let notification = DeliveryStatusNotification(
            reportingMTA: self.settings.hostname,
            original: DeliveryStatusNotification.Original(
                messageID: first.envelope.messageID,
                reversePath: first.reversePath,
                envelopeID: first.envelope.envelopeID,
                returnContent: first.envelope.returnContent,
                arrivedAt: first.envelope.acceptedAt
            ),
            recipients: group.recipients.map { self.status(of: $0.recipient, $0.outcome) },
            returned: self.returned(first),
            messageID: "\(id)@\(self.settings.hostname)",
            date: now
        )
        let rendered = notification.rendered()
        let entry = QueueEntry(
            envelope: Envelope(
                messageID: id,
                reversePath: nil,
                // RFC 3461 §6.1: a notification is never itself notified about.
                recipients: [Recipient(mailbox: first.reversePath, index: 0, notify: .never)],
                bodyType: rendered.bodyType,
                isInternationalized: rendered.isInternationalized,
                acceptedAt: now,
                contentSize: rendered.content.count,
                origin: Origin(clientName: self.settings.hostname, listener: "bounce")
            )
        )
        return try entry.record(
            topic: .accepted,
            key: first.reversePath.domain.text,
            content: ByteBuffer(bytes: rendered.content)
        )
    }

    private func returned(_ wanted: WantedNotification) -> DeliveryStatusNotification.Returned {
        if self.returnsNothing { return .nothing }
        let octets = Array(wanted.returned.readableBytesView)
        guard wanted.isReturnedFull, octets.count <= self.settings.returnedSizeMax else { return .headers(octets) }
        return .content(octets)
    }

    private func status(
        of recipient: Recipient,
        _ outcome: Outcome
    ) -> DeliveryStatusNotification.RecipientStatus {
        let action: DeliveryStatusNotification.Action
        switch outcome.kind {
        case .deferred: action = .delayed
        // Who takes over the DSN parameters reports success itself; who does not has had the mail relayed to it
        // (RFC 3461 §5.2.2).
        case .delivered: action = .relayed
        case .bounced, .expired, .suppressed, .removed, .held: action = .failed
        }
        let lifeEnd = outcome.acceptedAt.addingReportingOverflow(self.settings.lifetime)
        return DeliveryStatusNotification.RecipientStatus(
            mailbox: recipient.mailbox,
            originalRecipient: recipient.originalRecipient,
            action: action,
            status: outcome.status,
            remoteMTA: outcome.remote?.host,
            diagnostic: outcome.reply.map { reply in
                let enhanced = reply.enhanced.map { "\($0) " } ?? ""
                let text = String(decoding: reply.text.utf8.prefix(Self.diagnosticSizeMax), as: UTF8.self)
                return "\(reply.code) \(enhanced)\(text)"
            } ?? outcome.reason,
            lastAttemptAt: outcome.attempt > 0 ? outcome.time : nil,
            willRetryUntil: lifeEnd.overflow ? nil : lifeEnd.partialValue
        )
    }

    /// Octets of a remote's reply that are repeated.
    private static let diagnosticSizeMax = 2_000

    /// The id follows from the message, the recipients and the kind, so that a repeat has the same one. Its time is
    /// that of the first outcome.
    private static func notificationID(_ group: Group) -> MessageID {
        let indices = group.recipients.map(\.recipient.index).sorted().map(String.init).joined(separator: ",")
        let name = "\(group.first.envelope.messageID)/\(group.first.kind.rawValue)/\(indices)"
        var hash = ByteBuffer(bytes: Reference.hash(of: ByteBuffer(string: name)))
        let time = group.recipients.reduce(Int64.max) { min($0, $1.outcome.time) }
        return MessageID(
            milliseconds: time,
            randomHigh: hash.readInteger() ?? 0,
            randomLow: hash.readInteger() ?? 0
        )
    }
}
