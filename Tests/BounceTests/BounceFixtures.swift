import ClusterLog
import Mail
import NIOCore
import Records

/// A message that outcomes are about, and the records that tell them.
struct FailedMessage {
    var id = MessageID(milliseconds: 1_795_475_000_000, randomHigh: 7, randomLow: 42)
    var reversePath: Mailbox? = Mailbox(localPart: "joe", domain: Domain(normalized: "sender.example"))
    var recipients: [Recipient] = [
        Recipient(mailbox: Mailbox(localPart: "a", domain: Domain(normalized: "example.net")), index: 0),
        Recipient(mailbox: Mailbox(localPart: "b", domain: Domain(normalized: "example.net")), index: 1),
    ]
    var returnContent: Envelope.ReturnContent?
    var returned = "From: joe@sender.example\r\nSubject: hello\r\nMessage-ID: <1@sender.example>\r\n\r\nThe body.\r\n"
    var isReturnedFull = true

    func envelope(_ recipients: [Recipient]) -> Envelope {
        Envelope(
            messageID: self.id,
            reversePath: self.reversePath,
            recipients: recipients,
            returnContent: self.returnContent,
            acceptedAt: 1_795_475_000_000,
            contentSize: self.returned.utf8.count
        )
    }

    func outcome(_ kind: Outcome.Kind, recipient index: Int = 0) -> Outcome {
        let recipient = self.recipients[index]
        var outcome = Outcome(
            kind: kind,
            messageID: self.id.description,
            recipientIndex: recipient.index,
            recipient: recipient.mailbox.description,
            sender: self.reversePath?.description ?? "",
            site: "mx.example.net",
            time: 1_795_475_060_000,
            acceptedAt: 1_795_475_000_000,
            contentSize: 90,
            attempt: 1,
            status: kind == .deferred ? "4.2.2" : kind == .delivered ? "2.1.5" : "5.1.1"
        )
        outcome.remote = Outcome.Remote(
            host: "mx1.example.net",
            address: "192.0.2.1:25",
            tlsVersion: nil,
            tlsVerified: false
        )
        outcome.reply = Outcome.Reply(code: 550, enhanced: "5.1.1", text: "No such user here")
        return outcome
    }

    /// As the delivery role writes it, when a notification is wanted.
    func record(_ kind: Outcome.Kind, recipient index: Int = 0) -> Record {
        let entry = QueueEntry(envelope: self.envelope([self.recipients[index]]), attemptCount: 1)
        var headers = [
            RecordHeader(QueueEntry.headerName, ByteBuffer(bytes: entry.encoded())),
            RecordHeader(Outcome.returnedHeader, ByteBuffer(string: self.returned)),
        ]
        if self.isReturnedFull { headers.append(RecordHeader(Outcome.returnedIsFullHeader, ByteBuffer(string: "1"))) }
        return self.outcome(kind, recipient: index)
            .record(
                key: self.recipients[index].mailbox.domain.text,
                source: "/posthorn/test",
                extraHeaders: headers
            )
    }

    /// As it is written when nobody is to be told.
    func plainRecord(_ kind: Outcome.Kind) -> Record {
        self.outcome(kind).record(key: "example.net", source: "/posthorn/test")
    }
}

extension Record {
    func stored(at offset: Int64 = 0, partition: Int32 = 0) -> StoredRecord {
        StoredRecord(
            position: Position(partition: TopicPartition(self.topic, partition), offset: Offset(offset)),
            timestamp: 1_795_475_061_000,
            key: self.key,
            headers: self.headers,
            value: self.value
        )
    }

    func header(_ name: String) -> String? {
        self.headers.first { $0.name == name }.map { String(buffer: $0.value) }
    }

    var text: String { String(buffer: self.value) }
}

struct SplitMix64: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { self.state = seed }

    mutating func next() -> UInt64 {
        self.state &+= 0x9e37_79b9_7f4a_7c15
        var z = self.state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}
