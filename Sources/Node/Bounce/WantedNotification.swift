import ClusterLog
import Foundation
import Mail
import NIOCore
import Records

/// What an outcome asks the bounce service to tell, read from one record of `posthorn.outcomes`.
struct WantedNotification {
    /// What a notification is about; outcomes of one kind may share one.
    enum Kind: String, Hashable, CaseIterable {
        case failure
        case delay
        case success
    }

    /// What a record says.
    enum Reading {
        /// Nobody is to be told.
        case nothing
        case wanted(WantedNotification)
        /// It claims that somebody is to be told and cannot be read, or is no outcome at all.
        case unusable(reason: String)
    }

    var kind: Kind
    /// Where the notification goes.
    var reversePath: Mailbox
    var envelope: Envelope
    var recipient: Recipient
    var outcome: Outcome
    /// Header section or content of the message reported on.
    var returned: ByteBuffer
    var isReturnedFull: Bool

    /// Reads a record; one that wants no notification costs a look at its headers.
    static func read(_ record: StoredRecord) -> Reading {
        guard record.header(StoredRecord.damagedHeadersName) == nil else {
            return .unusable(reason: "its headers are damaged on disk")
        }
        guard let returned = record.header(Outcome.returnedHeader),
            let encodedEntry = record.header(QueueEntry.headerName)
        else { return Self.isOutcome(record) ? .nothing : .unusable(reason: "it is no outcome") }
        guard let outcomeKind = Outcome.kind(of: record) else {
            return .unusable(reason: "a notification is wanted for a kind of outcome that is not known")
        }
        guard let kind = Kind(outcomeKind) else { return .nothing }
        let entry: QueueEntry
        let outcome: Outcome
        do {
            entry = try QueueEntry(decoding: encodedEntry)
            outcome = try JSONDecoder().decode(Outcome.self, from: Data(record.value.readableBytesView))
        } catch let error as RecordLogError {
            return .unusable(reason: error.reason)
        } catch {
            return .unusable(reason: "the outcome is not JSON of an outcome")
        }
        guard outcome.kind == outcomeKind, outcome.messageID == entry.envelope.messageID.description,
            let recipient = entry.envelope.recipients.first(where: { $0.index == outcome.recipientIndex })
        else { return .unusable(reason: "headers and value are not about the same recipient") }
        // The null reverse-path: a notification about a notification is never sent (RFC 5321 §4.5.5).
        guard let reversePath = entry.envelope.reversePath,
            recipient.wantsNotification(of: outcomeKind, isDSNPassedOn: outcome.dsnPassedOn ?? false)
        else { return .nothing }
        return .wanted(
            WantedNotification(
                kind: kind,
                reversePath: reversePath,
                envelope: entry.envelope,
                recipient: recipient,
                outcome: outcome,
                returned: returned,
                isReturnedFull: record.header(Outcome.returnedIsFullHeader) != nil
            )
        )
    }

    /// Whether somebody wrote the record as an outcome, of whatever kind: a newer node may know more of them.
    private static func isOutcome(_ record: StoredRecord) -> Bool {
        record.header(Outcome.typeHeader).map { String(buffer: $0).hasPrefix(Outcome.typePrefix) } ?? false
    }
}

extension WantedNotification.Kind {
    /// `nil` for outcomes nobody is told of.
    init?(_ kind: Outcome.Kind) {
        switch kind {
        case .bounced, .expired: self = .failure
        case .deferred: self = .delay
        case .delivered: self = .success
        case .suppressed, .removed, .held: return nil
        }
    }
}
