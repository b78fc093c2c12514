import ClusterLog
import Mail
import SwiftProtobuf

/// What a node of a later version wrote into an entry and this version does not know. It is kept beside what is known, and
/// written again where it came from, so that a record that passes through an older node loses nothing on the way.
struct LaterFields: Hashable, Sendable {
    /// The version that the entry was written in.
    var version: UInt32 = 0
    private var envelope = Fields()
    private var origin = Fields()
    /// By the recipient's index in the message.
    private var recipients: [UInt32: Fields] = [:]
    /// Said of this reference, and of no other that takes its place.
    private var content: (reference: Reference, fields: Fields)?

    /// As they were on the wire.
    private struct Fields: Hashable, Sendable {
        var storage = UnknownStorage()
        var isEmpty: Bool { self.storage.data.isEmpty }

        func hash(into hasher: inout Hasher) { hasher.combine(self.storage.data) }
    }

    init() {}

    /// - Parameter content: the reference as it was read.
    init(_ message: Posthorn_V1_Envelope, content: Reference?) {
        self.version = message.version
        self.envelope.storage = message.unknownFields
        self.origin.storage = message.origin.unknownFields
        for recipient in message.recipients where !recipient.unknownFields.data.isEmpty {
            self.recipients[recipient.index] = Fields(storage: recipient.unknownFields)
        }
        if let content, !message.content.unknownFields.data.isEmpty {
            self.content = (content, Fields(storage: message.content.unknownFields))
        }
    }

    private var isEmpty: Bool {
        self.envelope.isEmpty && self.origin.isEmpty && self.recipients.isEmpty && self.content == nil
    }

    /// Puts everything back that still has its place.
    ///
    /// - Parameter content: the entry's reference as it is now.
    func restore(to message: inout Posthorn_V1_Envelope, content: Reference?) {
        guard !self.isEmpty else { return }
        message.version = max(message.version, self.version)
        message.unknownFields = self.envelope.storage
        message.origin.unknownFields = self.origin.storage
        if !self.recipients.isEmpty {
            for index in message.recipients.indices {
                guard let fields = self.recipients[message.recipients[index].index] else { continue }
                message.recipients[index].unknownFields = fields.storage
            }
        }
        if let kept = self.content, kept.reference == content {
            message.content.unknownFields = kept.fields.storage
        }
    }

    static func == (left: LaterFields, right: LaterFields) -> Bool {
        left.envelope == right.envelope && left.origin == right.origin && left.recipients == right.recipients
            && left.content?.reference == right.content?.reference && left.content?.fields == right.content?.fields
    }

    func hash(into hasher: inout Hasher) {
        hasher.combine(self.envelope)
        hasher.combine(self.origin)
        hasher.combine(self.recipients)
        hasher.combine(self.content?.fields)
    }
}
