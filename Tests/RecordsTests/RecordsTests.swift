import ClusterLog
import Foundation
import Mail
import NIOCore
import Testing

@testable import Records

@Suite("QueueEntry: the envelope in the log")
struct QueueEntryTests {
    static let full = QueueEntry(
        envelope: Envelope(
            messageID: MessageID(high: 0x0123_4567_89ab_cdef, low: 0xfedc_ba98_7654_3210),
            reversePath: Mailbox(localPart: "s", domain: Domain(normalized: "sender.example")),
            recipients: [
                Recipient(
                    mailbox: Mailbox(localPart: "r", domain: Domain(normalized: "dest.example")),
                    index: 3,
                    notify: [.success, .delay],
                    originalRecipient: "rfc822;r@dest.example"
                ),
                Recipient(mailbox: Mailbox(localPart: "\u{fc}", domain: Domain(normalized: "dest.example")), index: 4),
            ],
            bodyType: .eightBitMIME,
            isInternationalized: true,
            returnContent: .headers,
            envelopeID: "e1",
            acceptedAt: 1_800_000_000_123,
            contentSize: 4_096,
            origin: Origin(
                clientAddress: "192.0.2.7",
                clientName: "client.example",
                authenticatedIdentity: "user",
                transmissionType: "ESMTPSA",
                listener: "submission"
            )
        ),
        attemptCount: 2,
        content: Reference(
            clusterID: ClusterID("c"),
            position: Position(partition: TopicPartition(.content, 5), offset: Offset(77)),
            messageID: "01",
            size: 4_096,
            hash: Array(0..<16)
        ),
        firstDeferredAt: 1_800_000_001_000,
        isDelayNotified: true,
        parkedSince: 1_800_000_002_000,
        isContentShared: true
    )

    /// Version 1 as `protoc --encode` writes it. These octets never change: logs hold them.
    static let goldenV1 = """
        CAER782riWdFIwEZEDJUdpi63P4iAXMqDnNlbmRlci5leGFtcGxlMiwKAXISDGRlc3QuZXhhbXBsZRgDIAUqFXJmYzgyMjtyQGRl\
        c3QuZXhhbXBsZTIUCgLDvBIMZGVzdC5leGFtcGxlGAQ4AUABSAJSAmUxWPug8cKxNGCAIGo2CgkxOTIuMC4yLjcSDmNsaWVudC5l\
        eGFtcGxlGgR1c2VyIgdFU01UUFNBKgpzdWJtaXNzaW9ucAJ6MgoBYxIQcG9zdGhvcm4uY29udGVudBgFIE0qAjAxMIAgOhAAAQID\
        BAUGBwgJCgsMDQ4PgAHop/HCsTSIAQGQAdCv8cKxNJgBAQ==
        """

    @Test("What is written is read back")
    func roundTrips() throws {
        let record = try Self.full.record(topic: .accepted, key: "dest.example", content: ByteBuffer(string: "x"))
        let stored = StoredRecord(
            position: Position(partition: TopicPartition(.accepted, 0), offset: Offset(0)),
            timestamp: 0,
            key: record.key,
            headers: record.headers,
            value: record.value
        )
        #expect(try QueueEntry(stored) == Self.full)
    }

    @Test("The golden octets of version 1 are still read, and still written")
    func readsGolden() throws {
        let octets = try #require(Data(base64Encoded: Self.goldenV1))
        #expect(try QueueEntry(decoding: ByteBuffer(bytes: octets)) == Self.full)
        #expect(Data(Self.full.encoded()) == octets)
    }

    /// Version 2: the same with content in parts, as `protoc --encode` writes it.
    static let goldenV2 = """
        CAIR782riWdFIwEZEDJUdpi63P4iAXMqDnNlbmRlci5leGFtcGxlMiwKAXISDGRlc3QuZXhhbXBsZRgDIAUqFXJmYzgyMjtyQGRlc3Qu\
        ZXhhbXBsZTIUCgLDvBIMZGVzdC5leGFtcGxlGAQ4AUABSAJSAmUxWPug8cKxNGCAIGo2CgkxOTIuMC4yLjcSDmNsaWVudC5leGFtcGxl\
        GgR1c2VyIgdFU01UUFNBKgpzdWJtaXNzaW9ucAJ6OAoBYxIQcG9zdGhvcm4uY29udGVudBgFIE0qAjAxMIAgOhAAAQIDBAUGBwgJCgsM\
        DQ4PQgQBApgHgAHop/HCsTSIAQGQAdCv8cKxNJgBAQ==
        """

    @Test("The golden octets of version 2 name the parts of content, and are still written")
    func readsGoldenOfParts() throws {
        var entry = Self.full
        entry.content?.further = [Offset(78), Offset(80), Offset(1_000)]
        let octets = try #require(Data(base64Encoded: Self.goldenV2))
        #expect(try QueueEntry(decoding: ByteBuffer(bytes: octets)) == entry)
        #expect(Data(entry.encoded()) == octets)
    }

    @Test("A null reverse-path stays one")
    func keepsNullPath() throws {
        var entry = Self.full
        entry.envelope.reversePath = nil
        #expect(try QueueEntry(decoding: ByteBuffer(bytes: entry.encoded())).envelope.reversePath == nil)
    }

    @Test("Fields that a later version adds change nothing, and are there when the entry is written again")
    func keepsUnknownFields() throws {
        // Field 1000, length-delimited, three octets.
        let octets = Self.full.encoded() + [0xc2, 0x3e, 0x03, 1, 2, 3]
        let entry = try QueueEntry(decoding: ByteBuffer(bytes: octets))
        #expect(entry.envelope == Self.full.envelope && entry.content == Self.full.content)
        #expect(Array(entry.encoded()) == Array(octets))
    }

    @Test("Every truncation is an error or an entry, never a trap")
    func survivesTruncation() {
        let octets = Self.full.encoded()
        for count in octets.indices {
            _ = try? QueueEntry(decoding: ByteBuffer(bytes: octets[..<count]))
        }
        #expect(throws: RecordLogError.self) { try QueueEntry(decoding: ByteBuffer()) }
    }

    @Test("Random octets are an error or an entry, never a trap", arguments: UInt64(0)..<64)
    func survivesFuzz(seed: UInt64) {
        var state = seed
        func next() -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return state >> 33
        }
        for _ in 0..<200 {
            var octets = next() % 2 == 0 ? Self.full.encoded() : []
            for _ in 0..<(next() % 20) { octets.append(UInt8(truncatingIfNeeded: next())) }
            for _ in 0..<(next() % 5) where !octets.isEmpty {
                octets[Int(next() % UInt64(octets.count))] = UInt8(truncatingIfNeeded: next())
            }
            _ = try? QueueEntry(decoding: ByteBuffer(bytes: octets))
        }
        #expect(throws: RecordLogError.self) { try QueueEntry(decoding: ByteBuffer(bytes: [0xff])) }
    }

    @Test("An envelope over 64 KiB is refused before it is written")
    func boundsSize() {
        var entry = Self.full
        entry.envelope.envelopeID = String(repeating: "x", count: 70_000)
        #expect(throws: RecordLogError(.recordTooLarge, isRetriable: false)) {
            try entry.record(topic: .accepted, key: "k", content: ByteBuffer())
        }
    }
}

@Suite("Outcome: the event")
struct OutcomeTests {
    private var outcome: Outcome {
        var outcome = Outcome(
            kind: .bounced,
            messageID: "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            recipientIndex: 2,
            recipient: "\"a\\b\"@x.example",
            sender: "s@y.example",
            site: "mx.x.example",
            time: 5,
            acceptedAt: 1,
            contentSize: 10,
            attempt: 1,
            status: "5.1.1"
        )
        outcome.remote = Outcome.Remote(
            host: "mx.x.example",
            address: "192.0.2.1:25",
            tlsVersion: "TLSv1.3",
            tlsCipherSuite: "TLS_AES_128_GCM_SHA256",
            tlsVerified: true
        )
        outcome.reply = Outcome.Reply(code: 550, enhanced: "5.1.1", text: "no \"such\" user\u{1}\r\n\tf\u{fc}r Sie")
        outcome.phase = "rcpt"
        outcome.reason = "unknown"
        outcome.duration = 77
        outcome.nextDueAt = 9
        outcome.inDoubt = true
        outcome.dsnPassedOn = false
        return outcome
    }

    @Test("The JSON that is written is what a JSON decoder reads")
    func isJSON() throws {
        let outcome = self.outcome
        #expect(try JSONDecoder().decode(Outcome.self, from: Data(outcome.json.readableBytesView)) == outcome)
        var bare = outcome
        bare.remote = nil
        bare.reply = nil
        bare.phase = nil
        bare.reason = nil
        bare.duration = nil
        bare.nextDueAt = nil
        bare.inDoubt = nil
        bare.dsnPassedOn = nil
        #expect(try JSONDecoder().decode(Outcome.self, from: Data(bare.json.readableBytesView)) == bare)
    }

    @Test("A final outcome's id depends on message and recipient alone (G2)")
    func derivesID() {
        var first = self.outcome
        first.attempt = 1
        var second = self.outcome
        second.attempt = 9
        second.kind = .delivered
        #expect(first.id == second.id)
        second.kind = .deferred
        #expect(first.id != second.id)
    }

    @Test("Notifications follow NOTIFY (RFC 3461 §4.1)")
    func followsNotify() {
        func wants(_ notify: Recipient.Notify?, _ kind: Outcome.Kind, passedOn: Bool = false) -> Bool {
            Recipient(
                mailbox: Mailbox(localPart: "a", domain: Domain(normalized: "b")),
                index: 0,
                notify: notify
            )
            .wantsNotification(of: kind, isDSNPassedOn: passedOn)
        }
        #expect(wants(nil, .bounced) && wants(nil, .expired) && wants(.failure, .bounced))
        #expect(!wants(.never, .bounced) && !wants(.success, .bounced) && !wants(.delay, .expired))
        #expect(!wants(nil, .delivered) && wants(.success, .delivered) && !wants(.success, .delivered, passedOn: true))
        #expect(wants(nil, .deferred) && wants(.delay, .deferred) && !wants(.failure, .deferred))
        #expect(!wants(nil, .removed) && !wants(nil, .held))
    }
}

@Suite("DeadRecord: what could not be used, in the log")
struct DeadRecordTests {
    private static let position = Position(partition: TopicPartition(.deferred(delay: 60), 3), offset: Offset(17))

    private func stored(_ record: Record) -> StoredRecord {
        StoredRecord(
            position: Position(partition: TopicPartition(record.topic, 1), offset: Offset(5)),
            timestamp: 9,
            key: record.key,
            headers: record.headers,
            value: record.value
        )
    }

    private func dead(_ headers: [RecordHeader] = [], value: String = "v", key: String = "k") -> DeadRecord {
        DeadRecord(
            position: Self.position,
            reason: "why",
            key: key,
            timestamp: 1_800_000_000_000,
            headers: headers,
            value: ByteBuffer(string: value)
        )
    }

    @Test("What is written is read back, and the record it was comes out of it")
    func roundTrips() throws {
        var dead = self.dead([RecordHeader("a", ByteBuffer(bytes: [0, 255])), RecordHeader("a", ByteBuffer())])
        #expect(DeadRecord(self.stored(dead.record(valueSizeMax: 1_000))) == dead)
        dead.isConcluded = true
        let record = dead.record(valueSizeMax: 1_000)
        #expect(record.topic == .dead && record.key == "posthorn.deferred.1m")
        #expect(DeadRecord(self.stored(record)) == dead)
        #expect(dead.original.topic == .deferred(delay: 60) && dead.original.headers == dead.headers)
    }

    @Test("A record that was dead before does not speak for itself")
    func dropsForeignHeaders() throws {
        let liar = self.dead([RecordHeader("posthorn-dead-position", ByteBuffer(string: "posthorn.held/0@1"))])
        let read = try #require(DeadRecord(self.stored(liar.record(valueSizeMax: 1_000))))
        #expect(read.position == Self.position && read.headers.isEmpty)
    }

    @Test("What does not fit is cut and says so; the whole never exceeds a record", arguments: [0, 900, 2_000_000])
    func cuts(valueSize: Int) throws {
        let header = RecordHeader("h", ByteBuffer(repeating: 1, count: 40_000))
        let value = String(repeating: "x", count: valueSize)
        for dead in [self.dead([header, header, header], value: value), self.dead(value: value, key: value)] {
            let record = dead.record(valueSizeMax: 1_000)
            #expect(record.size < 1_000 + 70_000)
            let read = try #require(DeadRecord(self.stored(record)))
            #expect(read.originalSize == (read == dead ? nil : dead.size))
            let isLarge = dead.headers.count == 3 || valueSize > 1_000
            #expect((read.originalSize != nil) == isLarge)
        }
    }

    @Test(
        "Somebody else's record of the topic is none",
        arguments: [
            "", "posthorn.held", "posthorn.held/0", "posthorn.held/x@1", "/0@1", "posthorn.held/-1@1", "a/1@-1", "a/1@",
        ]
    )
    func refuses(position: String) {
        let headers = [RecordHeader("posthorn-dead-position", ByteBuffer(string: position))]
        #expect(DeadRecord(self.stored(Record(topic: .dead, key: "x", headers: headers))) == nil)
    }

    @Test("The mark of a replay names its record, and is no dead record itself")
    func marks() {
        let stored = self.stored(self.dead().record(valueSizeMax: 1_000))
        let mark = DeadRecord.replayMark(for: stored)
        #expect(mark.key == stored.key && mark.topic == .dead)
        #expect(DeadRecord.replayed(by: self.stored(mark)) == stored.position.offset)
        #expect(DeadRecord.replayed(by: stored) == nil)
        #expect(DeadRecord(self.stored(mark)) == nil)
    }
}

@Suite("QueueEntry: envelopes that somebody made up")
struct ForgedEnvelopeTests {
    @Test("Numbers that would overflow, and addresses that would break out of a command, are refused")
    func refusesNonsense() throws {
        var forged: [QueueEntry] = []
        func forge(_ change: (inout QueueEntry) -> Void) {
            var entry = QueueEntryTests.full
            change(&entry)
            forged.append(entry)
        }
        forge { $0.envelope.acceptedAt = .max }
        forge { $0.envelope.acceptedAt = -1 }
        forge { $0.firstDeferredAt = .min }
        forge { $0.parkedSince = .max }
        forge { $0.attemptCount = .max }
        forge { $0.envelope.contentSize = .max }
        forge { $0.content?.size = .max }
        let broken = [("x>\r\nDATA", "one.example"), ("x", "a\nb"), ("\u{7f}", "one.example")]
        for (local, domain) in broken {
            let mailbox = Mailbox(localPart: local, domain: Domain(normalized: domain))
            forge { $0.envelope.recipients[1].mailbox = mailbox }
            forge { $0.envelope.reversePath = mailbox }
        }
        for entry in forged {
            #expect(throws: RecordLogError(.corruptRecord, isRetriable: false)) {
                try QueueEntry(decoding: ByteBuffer(bytes: entry.encoded()))
            }
        }
    }
}

@Suite("Records of posthorn.control")
struct ControlRecordsTests {
    private func stored(_ record: Record) -> StoredRecord {
        StoredRecord(
            position: Position(partition: TopicPartition(.control, 0), offset: Offset(0)),
            timestamp: 0,
            key: record.key,
            headers: record.headers,
            value: record.value
        )
    }

    @Test("What a delivery node announces comes back, under its own key only; a withdrawal is none")
    func readsAnnouncements() {
        let site = DeliveryAnnouncement.Site(site: "mx.example", limit: 20, wanted: 12, held: 6, epoch: 7)
        let announcement = DeliveryAnnouncement(id: "a-1", sequence: 3, lease: 20_000, sites: [site])
        #expect(announcement.record.topic == .control && announcement.record.key == "delivery/a-1")
        #expect(DeliveryAnnouncement(self.stored(announcement.record)) == announcement)
        var foreign = announcement.record
        foreign.key = "delivery/b-1"
        #expect(DeliveryAnnouncement(self.stored(foreign)) == nil)
        #expect(DeliveryAnnouncement(self.stored(DeliveryAnnouncement.withdrawal(id: "a-1"))) == nil)
    }

    @Test("Shares of a limit come back, under their site's key only; a withdrawal is none")
    func readsShares() {
        let share = LimitShares.Share(node: "a-1", share: 12, sequence: 3, lease: 15_000)
        let shares = LimitShares(site: "mx.example", epoch: 7, limit: 20, lease: 20_000, shares: [share])
        #expect(shares.record.topic == .control && shares.record.key == "share/mx.example")
        #expect(LimitShares(self.stored(shares.record)) == shares)
        var foreign = shares.record
        foreign.key = "share/other.example"
        #expect(LimitShares(self.stored(foreign)) == nil)
        #expect(LimitShares(self.stored(LimitShares.withdrawal(id: "mx.example"))) == nil)
    }
}
