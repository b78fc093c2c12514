public import ClusterLog
import FoundationEssentials
public import Mail
public import NIOCore
import SwiftProtobuf

/// What a record of `posthorn.accepted` or of a deferred tier says: the envelope, where the content is, and what was
/// tried so far. It travels in the record's header ``headerName`` as protobuf (`envelope.proto`).
public struct QueueEntry: Hashable, Sendable {
    public static let headerName = "posthorn-envelope"
    /// The newest version of the envelope that this build writes.
    public static let version: UInt32 = 2
    /// Versions from here on say what this build would misunderstand: the next major version.
    public static let versionEnd: UInt32 = 1 << 16
    /// Octets an encoded entry may have (DESIGN §2).
    public static let sizeMax = 65_536
    /// Recipients a record may have (DESIGN §2).
    public static let recipientCountMax = 100

    public var envelope: Envelope
    /// Attempts made at these recipients.
    public var attemptCount: UInt32
    /// Where the content is; `nil` when it is the record's own value.
    public var content: Reference?
    /// When these recipients first had to wait, milliseconds since 1970.
    public var firstDeferredAt: Int64?
    /// A delay notification has been asked for.
    public var isDelayNotified: Bool
    /// When the outage began that the record is parked behind, milliseconds since 1970.
    public var parkedSince: Int64?
    /// Other records reference the same content, so that the end of this one does not release it.
    public var isContentShared: Bool
    /// The bucket of the destination domain that the message was accepted into, when the domain is spread. Chosen once:
    /// the outcomes of a recipient stay in one partition, in order, whatever is learned meanwhile.
    public var domainBucket: Int?
    /// What a later version has to say besides.
    var later = LaterFields()

    public init(
        envelope: Envelope,
        attemptCount: UInt32 = 0,
        content: Reference? = nil,
        firstDeferredAt: Int64? = nil,
        isDelayNotified: Bool = false,
        parkedSince: Int64? = nil,
        isContentShared: Bool = false,
        domainBucket: Int? = nil
    ) {
        self.envelope = envelope
        self.attemptCount = attemptCount
        self.content = content
        self.firstDeferredAt = firstDeferredAt
        self.isDelayNotified = isDelayNotified
        self.parkedSince = parkedSince
        self.isContentShared = isContentShared
        self.domainBucket = domainBucket
    }

    /// The record that carries this entry.
    ///
    /// - Parameter content: the record's value; empty when ``content`` is a reference.
    /// - Throws: `recordTooLarge` when the encoded entry is over ``sizeMax``.
    public func record(topic: Topic, key: String, content: ByteBuffer) throws(RecordLogError) -> Record {
        let headers = self.headers
        let size = headers.first?.value.readableBytes ?? 0
        guard size <= Self.sizeMax else {
            throw RecordLogError(
                .recordTooLarge,
                isRetriable: false,
                reason: "an envelope of \(size) octets; split its recipients"
            )
        }
        return Record(topic: topic, key: key, headers: headers, value: content)
    }

    /// The headers that say this entry; the first is the entry itself.
    public var headers: [RecordHeader] {
        [
            RecordHeader(Self.headerName, ByteBuffer(bytes: self.encoded())),
            RecordHeader(Reference.messageIDHeader, ByteBuffer(string: self.envelope.messageID.description)),
        ]
    }

    /// Reads the entry of a stored record.
    ///
    /// - Throws: `corruptRecord` with what is wrong.
    public init(_ record: StoredRecord) throws(RecordLogError) {
        guard let header = record.header(Self.headerName) else {
            let isDamaged = record.header(StoredRecord.damagedHeadersName) != nil
            throw RecordLogError(
                .corruptRecord,
                isRetriable: false,
                reason: isDamaged ? "its headers are damaged on disk" : "no header \(Self.headerName)"
            )
        }
        try self.init(decoding: header)
        if record.position.partition.topic == .accepted { self.domainBucket = SpreadKey(record.key).bucket }
    }

    /// The key of a recipient's outcomes: the destination domain, in the bucket that the message was accepted into.
    public func outcomeKey(of recipient: Recipient) -> String {
        SpreadKey(name: recipient.mailbox.domain.text, bucket: self.domainBucket).text
    }

    public init(decoding header: ByteBuffer) throws(RecordLogError) {
        let message: Posthorn_V1_Envelope
        do {
            message = try Posthorn_V1_Envelope(serializedBytes: Array(buffer: header))
        } catch {
            throw RecordLogError(.corruptRecord, isRetriable: false, reason: "the envelope cannot be decoded: \(error)")
        }
        try self.init(message)
    }

    public func encoded() -> [UInt8] {
        // A message whose only submessages are set in memory always serialises; an empty result fails decoding.
        (try? self.message.serializedBytes() as [UInt8]) ?? []
    }
}

extension QueueEntry {
    private init(_ message: Posthorn_V1_Envelope) throws(RecordLogError) {
        guard message.version >= 1, !message.recipients.isEmpty else {
            throw RecordLogError(
                .corruptRecord,
                isRetriable: false,
                reason: "an envelope without version or recipients"
            )
        }
        guard message.version < Self.versionEnd else {
            let version = "\(message.version >> 16).\(message.version & 0xffff)"
            throw RecordLogError(
                .corruptRecord,
                isRetriable: false,
                reason: "an envelope of version \(version), which a later Posthorn wrote and this one cannot read: "
                    + "upgrade every node, then put the record back"
            )
        }
        try Self.check(message)
        let isNullPath = message.reverseLocalPart.isEmpty && message.reverseDomain.isEmpty
        let envelope = Envelope(
            messageID: MessageID(high: message.messageIDHigh, low: message.messageIDLow),
            reversePath: isNullPath
                ? nil
                : Mailbox(
                    localPart: message.reverseLocalPart,
                    domain: Domain(normalized: message.reverseDomain)
                ),
            recipients: message.recipients.map(Recipient.init),
            bodyType: message.bodyType == 1 ? .eightBitMIME : .sevenBit,
            isInternationalized: message.internationalized,
            returnContent: UInt8(exactly: message.returnContent).flatMap(Envelope.ReturnContent.init),
            envelopeID: message.hasEnvelopeID ? message.envelopeID : nil,
            acceptedAt: message.acceptedAt,
            contentSize: Int(clamping: message.contentSize),
            origin: Origin(message.origin)
        )
        self.init(
            envelope: envelope,
            attemptCount: message.attemptCount,
            content: message.hasContent ? Reference(message.content) : nil,
            firstDeferredAt: message.firstDeferredAt == 0 ? nil : message.firstDeferredAt,
            isDelayNotified: message.delayNotified,
            parkedSince: message.parkedSince == 0 ? nil : message.parkedSince,
            isContentShared: message.contentShared,
            // Whatever somebody wrote: a bucket that cannot be is none.
            domainBucket: message.domainBucket <= SpreadKey.bucketCountMax && message.domainBucket > 0
                ? Int(message.domainBucket) - 1 : nil
        )
        self.later = LaterFields(message, content: self.content)
    }

    /// Refuses what this program never wrote and could not work with: whoever can write to the topic must not stop a
    /// node with numbers that overflow, nor put commands into its SMTP sessions.
    private static func check(_ message: Posthorn_V1_Envelope) throws(RecordLogError) {
        let instants = [message.acceptedAt, message.firstDeferredAt, message.parkedSince]
        let sizes = [message.contentSize, message.hasContent ? message.content.size : 0]
        let mailboxes =
            [(message.reverseLocalPart, message.reverseDomain)] + message.recipients.map { ($0.localPart, $0.domain) }
        let isSane =
            instants.allSatisfy { (0...Self.instantMax).contains($0) }
            && sizes.allSatisfy { $0 <= Self.contentSizeMax } && message.attemptCount <= Self.attemptCountMax
        guard isSane else {
            throw RecordLogError(.corruptRecord, isRetriable: false, reason: "an envelope with impossible numbers")
        }
        guard mailboxes.allSatisfy({ Self.isOneLine($0.0) && Self.isOneLine($0.1) }) else {
            throw RecordLogError(
                .corruptRecord,
                isRetriable: false,
                reason: "an envelope with control characters in an address"
            )
        }
    }

    /// The year 10889, in milliseconds since 1970.
    private static let instantMax: Int64 = 1 << 48
    /// More than any log takes.
    private static let contentSizeMax: UInt64 = 1 << 40
    private static let attemptCountMax: UInt32 = 1 << 24

    private static func isOneLine(_ text: String) -> Bool {
        text.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7f }
    }

    private var message: Posthorn_V1_Envelope {
        var message = Posthorn_V1_Envelope()
        // The oldest version that says all there is: what need not be new is read by every node during an upgrade.
        message.version = self.content?.further.isEmpty == false ? 2 : 1
        message.messageIDHigh = self.envelope.messageID.high
        message.messageIDLow = self.envelope.messageID.low
        if let reversePath = self.envelope.reversePath {
            message.reverseLocalPart = reversePath.localPart
            message.reverseDomain = reversePath.domain.text
        }
        message.recipients = self.envelope.recipients.map(Posthorn_V1_Recipient.init)
        message.bodyType = UInt32(self.envelope.bodyType.rawValue)
        message.internationalized = self.envelope.isInternationalized
        message.returnContent = UInt32(self.envelope.returnContent?.rawValue ?? 0)
        if let envelopeID = self.envelope.envelopeID { message.envelopeID = envelopeID }
        message.acceptedAt = self.envelope.acceptedAt
        message.contentSize = UInt64(clamping: self.envelope.contentSize)
        message.origin = Posthorn_V1_Origin(self.envelope.origin)
        message.attemptCount = self.attemptCount
        if let content = self.content { message.content = Posthorn_V1_Reference(content) }
        message.firstDeferredAt = self.firstDeferredAt ?? 0
        message.delayNotified = self.isDelayNotified
        message.parkedSince = self.parkedSince ?? 0
        message.contentShared = self.isContentShared
        message.domainBucket = self.domainBucket.map { UInt32(clamping: $0 + 1) } ?? 0
        self.later.restore(to: &message, content: self.content)
        return message
    }
}

extension Recipient {
    fileprivate init(_ message: Posthorn_V1_Recipient) {
        self.init(
            mailbox: Mailbox(localPart: message.localPart, domain: Domain(normalized: message.domain)),
            index: message.index,
            notify: message.hasNotify ? Notify(rawValue: UInt8(truncatingIfNeeded: message.notify)) : nil,
            originalRecipient: message.hasOriginalRecipient ? message.originalRecipient : nil
        )
    }
}

extension Posthorn_V1_Recipient {
    fileprivate init(_ recipient: Recipient) {
        self.init()
        self.localPart = recipient.mailbox.localPart
        self.domain = recipient.mailbox.domain.text
        self.index = recipient.index
        if let notify = recipient.notify { self.notify = UInt32(notify.rawValue) }
        if let originalRecipient = recipient.originalRecipient { self.originalRecipient = originalRecipient }
    }
}

extension Origin {
    fileprivate init(_ message: Posthorn_V1_Origin) {
        self.init(
            clientAddress: message.clientAddress,
            clientName: message.clientName,
            authenticatedIdentity: message.hasAuthenticatedIdentity ? message.authenticatedIdentity : nil,
            transmissionType: message.transmissionType,
            listener: message.listener
        )
    }
}

extension Posthorn_V1_Origin {
    fileprivate init(_ origin: Origin) {
        self.init()
        self.clientAddress = origin.clientAddress
        self.clientName = origin.clientName
        if let identity = origin.authenticatedIdentity { self.authenticatedIdentity = identity }
        self.transmissionType = origin.transmissionType
        self.listener = origin.listener
    }
}

extension Reference {
    fileprivate init(_ message: Posthorn_V1_Reference) {
        self.init(
            clusterID: ClusterID(message.clusterID),
            position: Position(
                partition: TopicPartition(Topic(message.topic), message.partition),
                offset: Offset(message.offset)
            ),
            further: Self.offsets(message),
            messageID: message.messageID,
            size: Int(clamping: message.size),
            hash: message.hash.map { $0 }
        )
    }

    private static func offsets(_ message: Posthorn_V1_Reference) -> [Offset] {
        var offset = message.offset
        return message.further.map { distance in
            // Whatever somebody wrote: an offset that is not there is not found.
            offset = offset.addingReportingOverflow(Int64(clamping: distance)).partialValue
            return Offset(offset)
        }
    }
}

extension Posthorn_V1_Reference {
    fileprivate init(_ reference: Reference) {
        self.init()
        self.clusterID = reference.clusterID.name
        self.topic = reference.position.partition.topic.name
        self.partition = reference.position.partition.partition
        self.offset = reference.position.offset.rawValue
        self.messageID = reference.messageID
        self.size = UInt64(clamping: reference.size)
        self.hash = Data(reference.hash)
        var previous = reference.position.offset.rawValue
        self.further = reference.further.map { offset in
            defer { previous = offset.rawValue }
            // What was read wraps around where somebody made it: as ``Reference`` reads it, so it is written.
            return UInt64(clamping: offset.rawValue &- previous)
        }
    }
}
