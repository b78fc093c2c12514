import ClusterLog
import Foundation
import Mail
import NIOCore
import Records
import Testing

@testable import Bounce

@Suite("NotificationBatch: which outcomes become which notifications (RFC 3461, RFC 3464)")
struct NotificationBatchTests {
    private let settings = BounceSettings(hostname: "relay.example.com")

    private func outputs(
        _ records: [Record],
        settings: BounceSettings? = nil,
        returnsNothing: Bool = false
    ) throws -> [Record] {
        var batch = NotificationBatch(settings: settings ?? self.settings, returnsNothing: returnsNothing)
        for (index, record) in records.enumerated() { batch.add(record.stored(at: Int64(index))) }
        return try batch.outputs(now: 1_795_475_100_000)
    }

    private func entry(_ record: Record) throws -> QueueEntry {
        try QueueEntry(record.stored())
    }

    @Test("A bounce becomes a message from the null reverse-path to the sender")
    func reportsBounce() throws {
        let record = try #require(try self.outputs([FailedMessage().record(.bounced)]).first)
        #expect(record.topic == .accepted)
        #expect(record.key == "sender.example")
        let envelope = try self.entry(record).envelope
        #expect(envelope.reversePath == nil)
        #expect(envelope.recipients.map(\.mailbox.description) == ["joe@sender.example"])
        #expect(envelope.recipients.first?.notify == .never)
        #expect(envelope.contentSize == record.value.readableBytes)
        #expect(record.header(Reference.messageIDHeader) == envelope.messageID.description)
        for line in [
            "Action: failed", "Status: 5.1.1", "Final-Recipient: rfc822; a@example.net",
            "Reporting-MTA: dns; relay.example.com", "Remote-MTA: dns; mx1.example.net",
            "550 5.1.1 No such user here", "The body.", "Message-ID: <\(envelope.messageID)@relay.example.com>",
        ] {
            #expect(record.text.contains(line), "\(line)")
        }
        #expect(!record.text.contains("Will-Retry-Until"))
    }

    @Test(
        "Each kind has its action, and the rest tell nobody",
        arguments: [
            (Outcome.Kind.bounced, "failed"), (.expired, "failed"), (.deferred, "delayed"), (.delivered, "relayed"),
            (.suppressed, ""), (.removed, ""), (.held, ""),
        ]
    )
    func mapsKinds(kind: Outcome.Kind, action: String) throws {
        var message = FailedMessage()
        message.recipients[0].notify = [.success, .failure, .delay]
        let records = try self.outputs([message.record(kind)])
        #expect(records.count == (action.isEmpty ? 0 : 1))
        if let record = records.first { #expect(record.text.contains("Action: \(action)")) }
        if kind == .deferred { #expect(records.first?.text.contains("Will-Retry-Until: ") == true) }
    }

    @Test("An outcome without the headers of a wanted notification is skipped without reading its value")
    func skipsUnwanted() throws {
        for kind in Outcome.Kind.allCases {
            var record = FailedMessage().plainRecord(kind)
            record.value = ByteBuffer(string: "not JSON")
            #expect(try self.outputs([record]).isEmpty)
        }
    }

    @Test("What is no outcome goes to posthorn.dead as it was; an outcome of a newer node does not")
    func buriesGarbage() throws {
        let garbage = Record(topic: .outcomes, key: "k", value: ByteBuffer(string: "garbage"))
        let records = try self.outputs([garbage])
        let dead = try #require(records.first.map { $0.stored() }.flatMap { DeadRecord($0) })
        #expect(records.count == 1 && records.first?.topic == .dead)
        #expect(dead.original == garbage && dead.reason == "it is no outcome")
        var newer = FailedMessage().plainRecord(.bounced)
        newer.headers = [RecordHeader(Outcome.typeHeader, ByteBuffer(string: Outcome.typePrefix + "returned"))]
        #expect(try self.outputs([newer]).isEmpty)
    }

    @Test("Never a notification to the null reverse-path", arguments: Outcome.Kind.allCases)
    func neverToNullPath(kind: Outcome.Kind) throws {
        var message = FailedMessage()
        message.reversePath = nil
        message.recipients[0].notify = [.success, .failure, .delay]
        #expect(try self.outputs([message.record(kind)]).isEmpty)
    }

    @Test(
        "NOTIFY is kept to (RFC 3461 §4.1)",
        arguments: [
            (Outcome.Kind.bounced, Recipient.Notify.never, false), (.bounced, .success, false),
            (.bounced, .failure, true),
            (.deferred, .failure, false), (.deferred, .delay, true), (.delivered, .failure, false),
            (.delivered, .success, true),
        ]
    )
    func obeysNotify(kind: Outcome.Kind, notify: Recipient.Notify, isTold: Bool) throws {
        var message = FailedMessage()
        message.recipients[0].notify = notify
        #expect(try self.outputs([message.record(kind)]).isEmpty == !isTold)
    }

    @Test("A success that the next host reports is not reported here")
    func leavesSuccessToDSNHosts() throws {
        var message = FailedMessage()
        message.recipients[0].notify = .success
        var outcome = message.outcome(.delivered)
        outcome.dsnPassedOn = true
        var record = message.record(.delivered)
        record.value = outcome.json
        #expect(try self.outputs([record]).isEmpty)
    }

    @Test("Recipients of one message and kind share a notification; other messages and kinds do not")
    func merges() throws {
        let message = FailedMessage()
        var other = FailedMessage()
        other.id = MessageID(milliseconds: 1, randomHigh: 1, randomLow: 1)
        let records = try self.outputs([
            message.record(.bounced, recipient: 0), other.record(.bounced), message.record(.expired, recipient: 1),
            message.record(.deferred, recipient: 1), message.record(.bounced, recipient: 0),
        ])
        #expect(records.count == 3)
        #expect(records[0].text.components(separatedBy: "Final-Recipient:").count - 1 == 2)
        #expect(records[0].text.contains("a@example.net") && records[0].text.contains("b@example.net"))
        #expect(records[1].text.components(separatedBy: "Final-Recipient:").count - 1 == 1)
        #expect(records[2].text.contains("Action: delayed"))
        #expect(Set(try records.map { try self.entry($0).envelope.messageID }).count == 3)
    }

    @Test("The id follows from message, recipients and kind, whatever their order and the time")
    func derivesIDs() throws {
        func id(_ records: [Record]) throws -> MessageID {
            try self.entry(try #require(try self.outputs(records).first)).envelope.messageID
        }
        let message = FailedMessage()
        let both = try id([message.record(.bounced, recipient: 0), message.record(.bounced, recipient: 1)])
        #expect(both == (try id([message.record(.bounced, recipient: 1), message.record(.bounced, recipient: 0)])))
        #expect(both != (try id([message.record(.bounced, recipient: 0)])))
        #expect((try id([message.record(.bounced)])) == (try id([message.record(.expired)])))
        #expect((try id([message.record(.bounced)])) != (try id([message.record(.deferred)])))
        // The derived part is pinned: another would make repeats unrecognisable across versions.
        #expect(both.description == "01M85AED9046P7AJB5A1PYRRZ6")
    }

    @Test("More than a hundred recipients are told of in more than one notification")
    func splitsRecipients() throws {
        var message = FailedMessage()
        message.recipients = (0..<150)
            .map { index in
                Recipient(
                    mailbox: Mailbox(localPart: "r\(index)", domain: Domain(normalized: "example.net")),
                    index: UInt32(index)
                )
            }
        let records = try self.outputs((0..<150).map { message.record(.bounced, recipient: $0) })
        #expect(records.map { $0.text.components(separatedBy: "Final-Recipient:").count - 1 } == [100, 50])
        #expect(records.allSatisfy { $0.size < 1 << 20 })
    }

    @Test("Content is returned as RET and the bound say (RFC 3461 §4.3)")
    func returnsContent() throws {
        var message = FailedMessage()
        #expect(try self.outputs([message.record(.bounced)])[0].text.contains("The body."))
        message.returnContent = .headers
        #expect(try !self.outputs([message.record(.bounced)])[0].text.contains("The body."))
        message.returnContent = .full
        var settings = self.settings
        settings.returnedSizeMax = message.returned.utf8.count - 1
        let bounded = try self.outputs([message.record(.bounced)], settings: settings)[0].text
        #expect(!bounded.contains("The body.") && bounded.contains("Subject: hello"))
        let bare = try self.outputs([message.record(.bounced)], returnsNothing: true)[0].text
        #expect(!bare.contains("Subject: hello"))
        message.returned = "Subject: only this\r\n"
        message.isReturnedFull = false
        #expect(try self.outputs([message.record(.bounced)])[0].text.contains("Subject: only this"))
    }

    @Test("What cannot be read goes to posthorn.dead as it was, with where it was and why")
    func keepsDeadRecords() throws {
        let message = FailedMessage()
        var badJSON = message.record(.bounced)
        badJSON.value = ByteBuffer(string: "{")
        var badEnvelope = message.record(.bounced)
        badEnvelope.headers = badEnvelope.headers.map {
            $0.name == QueueEntry.headerName ? RecordHeader($0.name, ByteBuffer(string: "\u{ff}\u{ff}x")) : $0
        }
        var otherMessage = message.outcome(.bounced)
        otherMessage.messageID = "0"
        var badID = message.record(.bounced)
        badID.value = otherMessage.json
        var otherRecipient = message.outcome(.bounced)
        otherRecipient.recipientIndex = 99
        var badIndex = message.record(.bounced)
        badIndex.value = otherRecipient.json
        var otherKind = message.record(.bounced)
        otherKind.value = message.outcome(.delivered).json
        var unknownKind = message.record(.bounced)
        unknownKind.headers.removeAll { $0.name == Outcome.typeHeader }
        var damaged = message.record(.bounced)
        damaged.headers = [RecordHeader(StoredRecord.damagedHeadersName, ByteBuffer(string: "\u{81}"))]
        for record in [badJSON, badEnvelope, badID, badIndex, otherKind, unknownKind, damaged] {
            let outputs = try self.outputs([message.plainRecord(.delivered), record])
            #expect(outputs.map(\.topic) == [.dead])
            #expect(outputs.first?.value == record.value)
            #expect(outputs.first?.header("posthorn-dead-position") == "posthorn.outcomes/0@1")
            #expect(outputs.first?.header("posthorn-dead-reason")?.isEmpty == false)
            #expect(outputs.first?.headers.starts(with: record.headers) == true)
        }
    }

    @Test("A batch says when it is full, by notifications and by octets")
    func saysWhenFull() {
        var batch = NotificationBatch(settings: self.settings)
        var message = FailedMessage()
        for index in 0..<NotificationBatch.notificationCountMax {
            #expect(!batch.isFull)
            message.id = MessageID(high: 1, low: UInt64(index))
            batch.add(message.record(.bounced).stored())
        }
        #expect(batch.isFull)
        var large = NotificationBatch(settings: self.settings)
        message.returned = String(repeating: "x", count: 1 << 20)
        var count = 0
        while !large.isFull {
            message.id = MessageID(high: 2, low: UInt64(count))
            large.add(message.record(.bounced).stored())
            count += 1
        }
        #expect(count == NotificationBatch.sizeMax / self.settings.returnedSizeMax)
    }

    /// Goal: no record traps. Method: octets of a good record's headers and value changed at random, 200 per seed.
    @Test("Random damage gives a notification, a dead record or nothing, and never traps", arguments: UInt64(0)..<16)
    func survivesDamage(seed: UInt64) throws {
        var random = SplitMix64(seed: seed)
        let good = FailedMessage().record(.expired)
        for _ in 0..<200 {
            var record = good
            for _ in 0..<Int.random(in: 1...6, using: &random) {
                let index = Int.random(in: 0...record.headers.count, using: &random)
                var octets = Array(
                    (index < record.headers.count ? record.headers[index].value : record.value).readableBytesView
                )
                guard let place = octets.indices.randomElement(using: &random) else { continue }
                octets[place] = UInt8.random(in: 0...255, using: &random)
                if Bool.random(using: &random) { octets.removeSubrange(place...) }
                if index < record.headers.count {
                    record.headers[index].value = ByteBuffer(bytes: octets)
                } else {
                    record.value = ByteBuffer(bytes: octets)
                }
            }
            #expect(try self.outputs([record]).count <= 1)
        }
    }
}
