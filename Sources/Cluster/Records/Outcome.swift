public import ClusterLog
public import Mail
public import NIOCore

/// What one attempt, or one decision without an attempt, came to for one recipient (DESIGN §6).
///
/// One record in `posthorn.outcomes`, keyed by destination domain: JSON as the value, CloudEvents 1.0 attributes in
/// headers `ce_...` (CloudEvents Kafka binding, binary mode). A final outcome's id is derived from message and
/// recipient alone, so that a second one would be recognised (G2).
public struct Outcome: Hashable, Sendable, Codable {
    public enum Kind: String, Hashable, Sendable, Codable, CaseIterable {
        case delivered
        case bounced
        case expired
        case suppressed
        case removed
        /// Not final: tried, and to be tried again.
        case deferred
        /// Not final: an operator holds it.
        case held

        public var isFinal: Bool {
            switch self {
            case .delivered, .bounced, .expired, .suppressed, .removed: true
            case .deferred, .held: false
            }
        }
    }

    /// What the remote said.
    public struct Reply: Hashable, Sendable, Codable {
        public var code: Int
        public var enhanced: String?
        public var text: String
        public init(code: Int, enhanced: String?, text: String) {
            self.code = code
            self.enhanced = enhanced
            self.text = text
        }
    }

    /// Where the attempt went; every field is absent when no connection was made.
    public struct Remote: Hashable, Sendable, Codable {
        public var host: String
        public var address: String
        /// `TLSv1.3`; `nil` in the clear.
        public var tlsVersion: String?
        /// IANA's name of the cipher suite: `TLS_AES_256_GCM_SHA384`; `nil` in the clear and from nodes that did not tell.
        public var tlsCipherSuite: String?
        public var tlsVerified: Bool
        public init(
            host: String,
            address: String,
            tlsVersion: String?,
            tlsCipherSuite: String? = nil,
            tlsVerified: Bool
        ) {
            self.host = host
            self.address = address
            self.tlsVersion = tlsVersion
            self.tlsCipherSuite = tlsCipherSuite
            self.tlsVerified = tlsVerified
        }
    }

    public var kind: Kind
    public var messageID: String
    /// The recipient's index in the message as accepted.
    public var recipientIndex: UInt32
    public var recipient: String
    /// Empty for the null reverse-path.
    public var sender: String
    public var site: String
    /// Milliseconds since 1970.
    public var time: Int64
    public var acceptedAt: Int64
    /// Octets of content.
    public var contentSize: Int
    /// 1 for the first attempt; 0 when nothing was tried.
    public var attempt: UInt32
    public var remote: Remote?
    public var reply: Reply?
    /// The enhanced status code of the outcome: the remote's or ours.
    public var status: String
    /// `connect`, `rcpt`, ...: where the attempt ended when it failed.
    public var phase: String?
    /// Our words when the remote said nothing.
    public var reason: String?
    /// Microseconds from handing the transaction to a connection to its last reply.
    public var duration: Int64?
    /// When it is tried again, milliseconds since 1970.
    public var nextDueAt: Int64?
    /// The remote had the final dot when the connection was lost: it may have delivered.
    public var inDoubt: Bool?
    /// The remote took the DSN parameters, so success is its to report (RFC 3461 §5.2.2).
    public var dsnPassedOn: Bool?

    public init(
        kind: Kind,
        messageID: String,
        recipientIndex: UInt32,
        recipient: String,
        sender: String,
        site: String,
        time: Int64,
        acceptedAt: Int64,
        contentSize: Int,
        attempt: UInt32,
        status: String
    ) {
        self.kind = kind
        self.messageID = messageID
        self.recipientIndex = recipientIndex
        self.recipient = recipient
        self.sender = sender
        self.site = site
        self.time = time
        self.acceptedAt = acceptedAt
        self.contentSize = contentSize
        self.attempt = attempt
        self.status = status
    }

    /// `<message>/<recipient index>/final` for the final one, `<message>/<recipient index>/<attempt>` otherwise.
    public var id: String {
        self.kind.isFinal
            ? "\(self.messageID)/\(self.recipientIndex)/final"
            : "\(self.messageID)/\(self.recipientIndex)/\(self.attempt)-\(self.kind.rawValue)"
    }
}

extension Outcome {
    public static let typeHeader = "ce_type"
    public static let typePrefix = "org.posthorn.outcome."
    /// What the bounce service needs for a notification, present only when one is wanted: the ``QueueEntry`` with this
    /// recipient, and the part of the content to return.
    public static let returnedHeader = "posthorn-returned"
    /// The value of ``returnedHeader`` is the whole content, not its header section.
    public static let returnedIsFullHeader = "posthorn-returned-full"

    /// The kind as the record's headers say it, without decoding the value.
    public static func kind(of record: StoredRecord) -> Kind? {
        guard let type = record.header(Self.typeHeader) else { return nil }
        let text = String(buffer: type)
        guard text.hasPrefix(Self.typePrefix) else { return nil }
        return Kind(rawValue: String(text.dropFirst(Self.typePrefix.count)))
    }

    /// The record for `posthorn.outcomes`.
    ///
    /// - Parameter source: the CloudEvents source: `/posthorn/` and the node's name.
    public func record(key: String, source: String, extraHeaders: [RecordHeader] = []) -> Record {
        var headers: [RecordHeader] = [
            RecordHeader("ce_specversion", Self.specversion),
            RecordHeader(Self.typeHeader, ByteBuffer(string: Self.typePrefix + self.kind.rawValue)),
            RecordHeader("ce_id", ByteBuffer(string: self.id)),
            RecordHeader("ce_source", ByteBuffer(string: source)),
            RecordHeader("content-type", Self.contentType),
        ]
        headers.append(contentsOf: extraHeaders)
        return Record(topic: .outcomes, key: key, headers: headers, value: self.json)
    }

    private static let specversion = ByteBuffer(string: "1.0")
    private static let contentType = ByteBuffer(string: "application/json")

    /// The event as one JSON object, with the keys of the synthesised `Codable`; absent fields are left out.
    public var json: ByteBuffer {
        var json = JSONWriter(capacity: 640)
        json.beginObject()
        json.field("kind", self.kind.rawValue)
        json.field("messageID", self.messageID)
        json.field("recipientIndex", Int64(self.recipientIndex))
        json.field("recipient", self.recipient)
        json.field("sender", self.sender)
        json.field("site", self.site)
        json.field("time", self.time)
        json.field("acceptedAt", self.acceptedAt)
        json.field("contentSize", Int64(self.contentSize))
        json.field("attempt", Int64(self.attempt))
        if let remote = self.remote {
            json.key("remote")
            json.beginObject()
            json.field("host", remote.host)
            json.field("address", remote.address)
            if let version = remote.tlsVersion { json.field("tlsVersion", version) }
            if let suite = remote.tlsCipherSuite { json.field("tlsCipherSuite", suite) }
            json.field("tlsVerified", remote.tlsVerified)
            json.endObject()
        }
        if let reply = self.reply {
            json.key("reply")
            json.beginObject()
            json.field("code", Int64(reply.code))
            if let enhanced = reply.enhanced { json.field("enhanced", enhanced) }
            json.field("text", reply.text)
            json.endObject()
        }
        json.field("status", self.status)
        if let phase = self.phase { json.field("phase", phase) }
        if let reason = self.reason { json.field("reason", reason) }
        if let duration = self.duration { json.field("duration", duration) }
        if let nextDueAt = self.nextDueAt { json.field("nextDueAt", nextDueAt) }
        if let inDoubt = self.inDoubt { json.field("inDoubt", inDoubt) }
        if let dsnPassedOn = self.dsnPassedOn { json.field("dsnPassedOn", dsnPassedOn) }
        json.endObject()
        return json.buffer
    }
}

extension Recipient {
    /// Whether the sender is to be told of this outcome (RFC 3461 §4.1); the null reverse-path is the caller's check.
    ///
    /// Without NOTIFY failures are reported; a success is reported only when asked for, and only when the next relay
    /// did not take over reporting it. Delays are reported unless NOTIFY leaves them out, once
    /// the configured time has passed, which is the caller's check.
    public func wantsNotification(of kind: Outcome.Kind, isDSNPassedOn: Bool) -> Bool {
        switch kind {
        case .bounced, .expired:
            self.notify.map { $0.contains(.failure) && !$0.contains(.never) } ?? true
        case .delivered:
            !isDSNPassedOn && (self.notify.map { $0.contains(.success) } ?? false)
        case .deferred:
            self.notify.map { $0.contains(.delay) && !$0.contains(.never) } ?? true
        case .suppressed, .removed, .held:
            false
        }
    }
}
