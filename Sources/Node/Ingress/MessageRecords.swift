import ClusterLog
import Mail
import NIOCore
import Records

/// Turns an accepted message into the records that carry it (DESIGN §2).
enum MessageRecords {
    /// Octets of envelope a record is filled to; below ``QueueEntry/sizeMax`` so that the estimate may err.
    static let envelopeSizeMax = 60 * 1024
    /// Octets that copies of the content in all of a message's records come to at most (ADR 0003).
    static let copySizeMax = 1 << 20
    /// Octets that one recipient takes besides its texts.
    private static let recipientOverhead = 24

    /// One record as a rule: in its domain's partition if there is one domain, else under the message's id. More than
    /// one when the recipients or the envelope are too many for one; to be appended together.
    ///
    /// - Parameter key: what ``key(of:_:now:)`` gave.
    static func make(_ envelope: Envelope, content: ByteBuffer, key: String) throws(RecordLogError) -> [Record] {
        try Self.make(envelope, content: content, reference: nil, key: key)
    }

    /// The records of a message whose content is in `content` already.
    static func make(_ envelope: Envelope, reference: Reference, key: String) throws(RecordLogError) -> [Record] {
        try Self.make(envelope, content: ByteBuffer(), reference: reference, key: key)
    }

    /// Whether the content is better appended once and named: with many recipients there are many records, and a copy in
    /// each could be more than the log takes at a time.
    static func sharesContent(_ envelope: Envelope, size: Int) -> Bool {
        let count = Self.groups(envelope).count
        return count > 1 && size > Self.copySizeMax / count
    }

    /// The record that holds the content of a message too large to ride along, in the partition of those that refer to it.
    static func content(_ envelope: Envelope, _ content: ByteBuffer, key: String) -> Record {
        let id = envelope.messageID.description
        return Record(
            topic: .content,
            key: key,
            headers: [RecordHeader(Reference.messageIDHeader, ByteBuffer(string: id))],
            value: content
        )
    }

    private static func make(
        _ envelope: Envelope,
        content: ByteBuffer,
        reference: Reference?,
        key: String
    ) throws(RecordLogError) -> [Record] {
        let groups = Self.groups(envelope)
        if groups.count <= 1 {
            let entry = QueueEntry(envelope: envelope, content: reference)
            return [try entry.record(topic: .accepted, key: key, content: content)]
        }
        var records: [Record] = []
        records.reserveCapacity(groups.count)
        for group in groups {
            var part = envelope
            part.recipients = Array(envelope.recipients[group])
            let entry = QueueEntry(envelope: part, content: reference, isContentShared: reference != nil)
            records.append(try entry.record(topic: .accepted, key: key, content: content))
        }
        return records
    }

    /// Recipients given twice with the same wishes get the message once. Indices stay as they are.
    static func withoutDuplicates(_ recipients: [Recipient]) -> [Recipient] {
        guard recipients.count > 1 else { return recipients }
        var seen: Set<Recipient> = []
        seen.reserveCapacity(recipients.count)
        return recipients.filter { recipient in
            var key = recipient
            key.index = 0
            return seen.insert(key).inserted
        }
    }

    /// The key of a message: its domain, in a bucket when the domain is spread, or its id.
    ///
    /// - Parameter now: milliseconds.
    static func key(of envelope: Envelope, _ keys: inout KeySpreading, now: Int64) -> String {
        guard let first = envelope.recipients.first?.mailbox.domain,
            envelope.recipients.allSatisfy({ $0.mailbox.domain == first })
        else { return envelope.messageID.description }
        return keys.key(for: first.text, now: now).text
    }

    /// Ranges of recipients, one a record.
    private static func groups(_ envelope: Envelope) -> [Range<Int>] {
        var base = 256 + (envelope.envelopeID?.utf8.count ?? 0) + (envelope.reversePath?.size ?? 0)
        base += envelope.origin.clientName.utf8.count + (envelope.origin.authenticatedIdentity?.utf8.count ?? 0)
        base += envelope.origin.listener.utf8.count
        var groups: [Range<Int>] = []
        var start = 0
        var size = base
        for (index, recipient) in envelope.recipients.enumerated() {
            let count = recipient.mailbox.size + (recipient.originalRecipient?.utf8.count ?? 0) + Self.recipientOverhead
            if index > start, size + count > Self.envelopeSizeMax || index - start == QueueEntry.recipientCountMax {
                groups.append(start..<index)
                start = index
                size = base
            }
            size += count
        }
        groups.append(start..<envelope.recipients.count)
        return groups
    }
}

extension Mailbox {
    fileprivate var size: Int { self.localPart.utf8.count + self.domain.text.utf8.count }
}
