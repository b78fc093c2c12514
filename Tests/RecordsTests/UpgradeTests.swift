import ClusterLog
import Foundation
import Mail
import NIOCore
import Testing

@testable import NextSchema
@testable import Records

/// Nodes of this version and of the next one in one cluster, each reading what the other wrote.
@Suite("QueueEntry: next to a later version")
struct UpgradeTests {
    /// What a node of the next version writes: a field more in every message.
    static func next(_ entry: QueueEntry, version: UInt32 = 3) throws -> Next_Envelope {
        var next = try Next_Envelope(octets: entry.encoded())
        next.version = version
        next.urgency = 7
        next.labels = ["campaign": "spring"]
        for index in next.recipients.indices { next.recipients[index].deliverAfter = 1_000 + Int64(index) }
        next.origin.tlsCipher = "TLS_AES_256_GCM_SHA384"
        if next.hasContent { next.content.archive = "s3://mail/77" }
        return next
    }

    /// A record of the next version as `protoc --encode` writes it.
    static let golden = """
        CAMR782riWdFIwEZEDJUdpi63P4iAXMqDnNlbmRlci5leGFtcGxlMi8KAXISDGRlc3QuZXhhbXBsZRgDIAUqFXJmYzgyMjty\
        QGRlc3QuZXhhbXBsZTDoBzIXCgLDvBIMZGVzdC5leGFtcGxlGAQw6Qc4AUABSAJSAmUxWPug8cKxNGCAIGpOCgkxOTIuMC4y\
        LjcSDmNsaWVudC5leGFtcGxlGgR1c2VyIgdFU01UUFNBKgpzdWJtaXNzaW9uMhZUTFNfQUVTXzI1Nl9HQ01fU0hBMzg0cAJ6\
        QAoBYxIQcG9zdGhvcm4uY29udGVudBgFIE0qAjAxMIAgOhAAAQIDBAUGBwgJCgsMDQ4PSgxzMzovL21haWwvNzeAAein8cKx\
        NIgBAZAB0K/xwrE0mAEBoAEHqgESCghjYW1wYWlnbhIGc3ByaW5n
        """

    @Test("What this version knows is read, and what it does not know comes out as it went in")
    func keepsWhatItDoesNotKnow() throws {
        let next = try Self.next(QueueEntryTests.full)
        let read = try QueueEntry(decoding: ByteBuffer(bytes: next.octets))
        #expect(read.envelope == QueueEntryTests.full.envelope && read.content == QueueEntryTests.full.content)
        #expect(read != QueueEntryTests.full)
        #expect(try Next_Envelope(octets: read.encoded()) == next)
    }

    @Test("The golden octets of a later version are read and written again as they were")
    func readsGolden() throws {
        let octets = try #require(Data(base64Encoded: Self.golden))
        let read = try QueueEntry(decoding: ByteBuffer(bytes: octets))
        #expect(read.envelope == QueueEntryTests.full.envelope)
        #expect(try Next_Envelope(octets: read.encoded()) == Next_Envelope(octets: Array(octets)))
    }

    @Test("A changed entry keeps it too: each recipient its own, the reference only while it is the same")
    func keepsItThroughChanges() throws {
        let next = try Self.next(QueueEntryTests.full)
        var entry = try QueueEntry(decoding: ByteBuffer(bytes: next.octets))
        entry.envelope.recipients.removeFirst()
        entry.attemptCount += 1
        entry.parkedSince = nil
        var expected = next
        expected.recipients.removeFirst()
        expected.attemptCount += 1
        expected.parkedSince = 0
        #expect(try Next_Envelope(octets: entry.encoded()) == expected)

        entry.content?.position.offset = Offset(1_000)
        expected.content.offset = 1_000
        expected.content.archive = ""
        #expect(try Next_Envelope(octets: entry.encoded()) == expected, "It was said of another record.")

        entry.content = nil
        expected.clearContent()
        #expect(try Next_Envelope(octets: entry.encoded()) == expected)
    }

    @Test("The next version reads what this one wrote, and finds nothing in its own fields")
    func isReadByTheNext() throws {
        let next = try Next_Envelope(octets: QueueEntryTests.full.encoded())
        #expect(next.version == 1 && next.recipients.count == 2 && next.content.offset == 77)
        #expect(next.urgency == 0 && next.labels.isEmpty && next.origin.tlsCipher.isEmpty)
        #expect(next.recipients.allSatisfy { $0.deliverAfter == 0 } && next.content.archive.isEmpty)
    }

    @Test("A version that this one would misunderstand is refused, and the reason says to upgrade first")
    func refusesMajorVersions() throws {
        let next = try Self.next(QueueEntryTests.full, version: 1 << 16 | 2)
        do throws(RecordLogError) {
            _ = try QueueEntry(decoding: ByteBuffer(bytes: try! next.octets))
            Issue.record("It was read.")
        } catch {
            #expect(error == RecordLogError(.corruptRecord, isRetriable: false))
            #expect(error.reason.contains("version 1.2") && error.reason.contains("upgrade every node"))
        }
        let last = try Self.next(QueueEntryTests.full, version: 1 << 16 - 1)
        #expect(try QueueEntry(decoding: ByteBuffer(bytes: last.octets)).envelope == QueueEntryTests.full.envelope)
    }

    /// Consumers of outcomes know kinds and fields by name; nobody writes an outcome again.
    @Test("An outcome with fields of a later version is read; the golden JSON of this version stays what it is")
    func readsLaterOutcomes() throws {
        let golden = """
            {"kind":"bounced","messageID":"01ARZ3NDEKTSV4RRFFQ69G5FAV","recipientIndex":2,"recipient":"a@x.example",\
            "sender":"s@y.example","site":"mx.x.example","time":5,"acceptedAt":1,"contentSize":10,"attempt":1,\
            "remote":{"host":"mx.x.example","address":"192.0.2.1:25","tlsVersion":"TLSv1.3","tlsVerified":true},\
            "reply":{"code":550,"enhanced":"5.1.1","text":"no such user"},"status":"5.1.1","phase":"rcpt",\
            "reason":"unknown","duration":77,"nextDueAt":9,"inDoubt":true,"dsnPassedOn":false}
            """
        let outcome = try JSONDecoder().decode(Outcome.self, from: Data(golden.utf8))
        #expect(String(buffer: outcome.json) == golden)
        let later = golden.dropLast() + #","bounceClass":"bad-mailbox","remoteLater":{"x":[1,null,2.5]}}"#
        #expect(try JSONDecoder().decode(Outcome.self, from: Data(later.utf8)) == outcome)
    }

    @Test("JSON that is passed on comes out as it went in")
    func passesJSONOn() throws {
        let text = #"{"a":[1,-9007199254740993,2.5,true,null,"ü"],"b":{"c":{}}}"#
        let value = try JSONDecoder().decode(JSONValue.self, from: Data(text.utf8))
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        #expect(String(decoding: try encoder.encode(value), as: UTF8.self) == text)
    }
}
