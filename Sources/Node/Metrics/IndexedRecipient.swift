import Mail
import NodeSupport
import Records

/// What the index keeps of one recipient. About 150 octets, and two to three strings on the heap.
struct IndexedRecipient: Sendable {
    /// Names a recipient.
    struct Key: Hashable, Sendable {
        var messageID: MessageID
        var recipientIndex: UInt32
    }

    /// Events of one recipient that a trace can find, the newest; a message that is tried for five days has 36.
    static let eventCountMax = 64
    /// Octets of a reply that are kept.
    static let replySizeMax = 120

    let messageID: MessageID
    let recipientIndex: UInt32
    let contentSize: UInt32
    let acceptedAt: Int64
    let recipient: String
    let sender: String
    var site: String
    /// When the last event was, by the clock of the node that wrote it.
    var time: Int64
    /// 0 when it is not known.
    var nextDueAt: Int64
    /// Where the last event is in the partition, and those before it.
    var lastOffset: Int64
    var earlierOffsets: [Int64] = []
    /// What the site said last; empty once the state is final.
    var reply: String
    var attempt: UInt32
    /// The last attempt that a deferral told of.
    var deferredAttempt: UInt32 = 0
    var kind: Outcome.Kind

    var key: Key { Key(messageID: self.messageID, recipientIndex: self.recipientIndex) }
    var isLive: Bool { !self.kind.isFinal }

    init(_ outcome: Outcome, messageID: MessageID, site: String, at offset: Int64) {
        self.messageID = messageID
        self.recipientIndex = outcome.recipientIndex
        self.contentSize = UInt32(clamping: outcome.contentSize)
        self.acceptedAt = outcome.acceptedAt
        self.recipient = outcome.recipient
        self.sender = outcome.sender
        self.site = site
        self.time = outcome.time
        self.nextDueAt = outcome.nextDueAt ?? 0
        self.lastOffset = offset
        self.reply = outcome.kind.isFinal ? "" : Self.reply(of: outcome)
        self.attempt = outcome.attempt
        self.deferredAttempt = outcome.kind == .deferred ? outcome.attempt : 0
        self.kind = outcome.kind
    }

    /// A later event of the same recipient.
    mutating func update(_ outcome: Outcome, site: String, at offset: Int64) {
        if self.earlierOffsets.count >= Self.eventCountMax - 1 { self.earlierOffsets.removeFirst() }
        self.earlierOffsets.append(self.lastOffset)
        self.lastOffset = offset
        self.site = site
        self.time = outcome.time
        self.nextDueAt = outcome.nextDueAt ?? 0
        self.attempt = max(self.attempt, outcome.attempt)
        if outcome.kind == .deferred { self.deferredAttempt = max(self.deferredAttempt, outcome.attempt) }
        self.kind = outcome.kind
        self.reply = outcome.kind.isFinal ? "" : Self.reply(of: outcome)
    }

    static func reply(of outcome: Outcome) -> String {
        guard let reply = outcome.reply else { return Self.shortened(outcome.reason ?? outcome.status) }
        let code = reply.enhanced.map { "\(reply.code) \($0)" } ?? "\(reply.code)"
        return Self.shortened("\(code) \(reply.text)")
    }

    private static func shortened(_ text: String) -> String {
        guard text.utf8.count > Self.replySizeMax else { return text }
        return String(decoding: text.utf8.prefix(Self.replySizeMax - 3), as: UTF8.self) + "..."
    }

    // MARK: Questions

    var domain: Substring {
        guard let at = self.recipient.lastIndex(of: "@") else { return "" }
        return self.recipient[self.recipient.index(after: at)...]
    }

    func matches(_ query: QueueQuery) -> Bool {
        if let site = query.site, site != self.site { return false }
        if let sender = query.sender, sender != self.sender { return false }
        if let domain = query.domain, domain != self.domain { return false }
        return true
    }

    func matches(_ subject: TraceSubject) -> Bool {
        subject.matches(messageID: self.messageID, recipient: self.recipient, sender: self.sender)
    }

    var view: AdminAPI.QueuedMessage.Recipient {
        AdminAPI.QueuedMessage.Recipient(
            address: self.recipient,
            site: self.site,
            state: self.kind == .held ? .held : .deferred,
            attempts: Int(self.attempt),
            nextAttempt: self.nextDueAt > 0 ? self.nextDueAt : nil,
            lastReply: self.reply.isEmpty ? nil : self.reply
        )
    }
}

/// What is looked for, made ready to be compared a million times.
enum TraceSubject: Sendable {
    case message(MessageID)
    /// In lower case.
    case address([UInt8])

    /// `nil` when the message's id is none.
    init?(_ subject: TraceQuery.Subject) {
        switch subject {
        case .message(let id):
            guard let id = MessageID(id) else { return nil }
            self = .message(id)
        case .address(let address):
            self = .address(address.utf8.map(\.folded))
        }
    }

    func matches(messageID: MessageID, recipient: String, sender: String) -> Bool {
        switch self {
        case .message(let id): id == messageID
        case .address(let octets): octets.equalsFolded(recipient) || octets.equalsFolded(sender)
        }
    }
}

extension UInt8 {
    /// Lower case of an ASCII letter.
    fileprivate var folded: UInt8 { 0x41...0x5a ~= self ? self + 0x20 : self }
}

extension [UInt8] {
    fileprivate func equalsFolded(_ text: String) -> Bool {
        self.count == text.utf8.count && zip(self, text.utf8).allSatisfy { $0 == $1.folded }
    }
}
