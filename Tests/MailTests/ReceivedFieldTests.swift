import Mail
import Testing

@Suite("ReceivedField: trace (RFC 5321 §4.4)")
struct ReceivedFieldTests {
    private static let recipient = Mailbox(localPart: "bob", domain: Domain(normalized: "example.net"))

    private static func field(
        clientName: String = "client.example",
        clientAddress: String = "192.0.2.1",
        clientHostName: String? = "host.example",
        transmissionType: String = "ESMTPSA",
        tlsVersion: String? = "TLSv1.3",
        tlsCipherSuite: String? = "TLS_AES_256_GCM_SHA384",
        recipient: Mailbox? = Self.recipient
    ) -> String {
        let field = ReceivedField(
            clientName: clientName,
            clientAddress: clientAddress,
            clientHostName: clientHostName,
            receiverName: "mx.example.org",
            transmissionType: transmissionType,
            messageID: MessageID(high: 0, low: 33),
            tlsVersion: tlsVersion,
            tlsCipherSuite: tlsCipherSuite,
            recipient: recipient,
            receivedAt: 1_795_475_400_000
        )
        return String(decoding: field.octets, as: UTF8.self)
    }

    @Test("A full field is folded one clause to a line")
    func writesFullField() {
        #expect(
            Self.field() == """
                Received: from client.example (host.example [192.0.2.1])\r
                \tby mx.example.org with ESMTPSA\r
                \t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384)\r
                \tid 00000000000000000000000011 for <bob@example.net>;\r
                \tMon, 23 Nov 2026 23:10:00 +0000\r

                """
        )
    }

    @Test("Absent parts leave no trace, IPv6 addresses are tagged, several recipients are not named")
    func writesSparseField() {
        #expect(Self.field(tlsCipherSuite: nil).contains("\r\n\t(using TLSv1.3)\r\n"))
        let text = Self.field(clientAddress: "2001:db8::1", clientHostName: nil, tlsVersion: nil, recipient: nil)
        #expect(
            text == """
                Received: from client.example ([IPv6:2001:db8::1])\r
                \tby mx.example.org with ESMTPSA\r
                \tid 00000000000000000000000011; Mon, 23 Nov 2026 23:10:00 +0000\r

                """
        )
        #expect(
            Self.field(clientName: "", clientAddress: "", clientHostName: nil).hasPrefix("Received: from unknown\r\n")
        )
    }

    @Test("A non-ASCII recipient is named only when the session was SMTPUTF8")
    func namesInternationalRecipient() {
        let recipient = Mailbox(localPart: "jürgen", domain: Domain(normalized: "example.net"))
        #expect(Self.field(transmissionType: "UTF8SMTPS", recipient: recipient).contains("for <jürgen@example.net>;"))
        #expect(!Self.field(recipient: recipient).contains("for <"))
    }

    @Test(
        "A recipient that could break the syntax is not named",
        arguments: ["", "a b", "a>;\r\nX: y", "\"a", "\"a\"b", "a(b", "\"a\r\nb\"", "\"a\\"]
    )
    func omitsUnsafeRecipient(localPart: String) {
        let recipient = Mailbox(localPart: localPart, domain: Domain(normalized: "example.net"))
        #expect(!Self.field(recipient: recipient).contains("for <"))
    }

    /// Goal: a peer cannot add a line, a comment or a clause. Method: random text in every value it controls; the
    /// shape of the field must not change.
    @Test("Nothing from the peer changes the field's shape", arguments: UInt64(0)..<100)
    func resistsInjection(seed: UInt64) {
        var random = ContentRandom(seed: seed)
        let pieces = ["\r\n", "\n", "\0", "(", ")", ";", " ", "\r\nX: y", "é", "\"", "<", "[", "]", "\\", "a"]
        func text() -> String {
            String(decoding: random.content(pieces: pieces, countMax: 400), as: UTF8.self)
        }
        let field = Self.field(
            clientName: text(),
            clientAddress: text() + "1",
            clientHostName: text() + "1",
            transmissionType: text(),
            tlsVersion: text(),
            tlsCipherSuite: text(),
            recipient: Mailbox(localPart: text(), domain: Domain(normalized: text()))
        )
        let header = HeaderSection(octets(field + "\r\n"))
        #expect(header.fields.count == 1 && header.receivedCount() == 1)
        #expect(field.utf8.allSatisfy { $0 >= 0x20 && $0 < 0x7f || $0 == 13 || $0 == 10 || $0 == 9 })
        #expect(field.count { $0 == "(" } == 2)
        #expect(field.count { $0 == ")" } == 2)
        #expect(field.count { $0 == ";" } == 1)
        for line in field.split(separator: "\r\n") {
            #expect(line.utf8.count <= 998)
            #expect(line.hasPrefix("Received:") || line.hasPrefix("\t"))
        }
    }

    @Test("Transmission types are the registered ones (RFC 3848, RFC 6531 §4.3)")
    func namesTransmissionTypes() {
        #expect(ReceivedField.transmissionType(isExtended: false) == "SMTP")
        #expect(ReceivedField.transmissionType(isExtended: true) == "ESMTP")
        #expect(ReceivedField.transmissionType(isExtended: true, isTLS: true, isAuthenticated: true) == "ESMTPSA")
        #expect(ReceivedField.transmissionType(isExtended: true, isTLS: true, isLMTP: true) == "LMTPS")
        #expect(
            ReceivedField.transmissionType(isExtended: true, isAuthenticated: true, isInternationalized: true)
                == "UTF8SMTPA"
        )
    }
}

@Suite("SubmissionFixup: what a submission server mends (RFC 6409 §8)")
struct SubmissionFixupTests {
    private static func fixup(_ text: String) -> SubmissionFixup? {
        let content = octets(text)
        let header = HeaderSection(content)
        return content.withUnsafeBytes {
            SubmissionFixup(header: header, content: $0, date: 1_795_475_400_000, messageID: "1@mx.example")
        }
    }

    private static func applied(_ text: String) -> String? {
        guard let fixup = Self.fixup(text) else { return nil }
        let result = octets(text).withUnsafeBytes { fixup.applied(to: $0) }
        #expect(result.count == fixup.resultSize(contentSize: text.utf8.count))
        return String(decoding: result, as: UTF8.self)
    }

    private static let date = "Date: Mon, 23 Nov 2026 23:10:00 +0000\r\n"
    private static let messageID = "Message-ID: <1@mx.example>\r\n"

    @Test("Complete content is left alone")
    func leavesComplete() {
        let text = "Date: x\r\nmessage-id: <y>\r\nTo: z\r\n\r\nBcc: not a field\r\n"
        #expect(Self.fixup(text)?.isEmpty == true)
        #expect(Self.fixup(text)?.segments(contentSize: text.utf8.count) == [.content(0..<text.utf8.count)])
        #expect(Self.applied(text) == text)
    }

    @Test("Date and Message-ID are added, Bcc and Return-Path removed with their folds")
    func mends() {
        let text = "Return-Path: <x>\r\nBCC: a,\r\n b\r\nTo: c\r\nbcc : d\r\nResent-Bcc: e\r\n\r\nBcc: body\r\n"
        #expect(Self.applied(text) == Self.date + Self.messageID + "To: c\r\n\r\nBcc: body\r\n")
        #expect(Self.fixup(text)?.removed.count == 2)
    }

    @Test("A header section without blank line gets one, an mbox line goes")
    func mendsSeparator() {
        #expect(Self.applied("To: a\r\nhello\r\n") == Self.date + Self.messageID + "To: a\r\n\r\nhello\r\n")
        #expect(Self.applied("hello\r\n") == Self.date + Self.messageID + "\r\nhello\r\n")
        #expect(Self.applied("") == Self.date + Self.messageID)
        #expect(Self.applied("From x\r\nBcc: y\r\nTo: a\r\n\r\n") == Self.date + Self.messageID + "To: a\r\n\r\n")
        #expect(Self.applied("From x\r\nhello\r\n") == Self.date + Self.messageID + "\r\nhello\r\n")
        #expect(Self.applied("From x\r\nBcc: y\r\nhello") == Self.date + Self.messageID + "\r\nhello")
    }

    @Test("A header section beyond the limits is refused, since Bcc may hide in it")
    func refusesTruncated() {
        let content = octets("To: a\r\nBcc: b\r\n\r\n")
        let header = HeaderSection(content, limits: .init(fieldCountMax: 1))
        let fixup = content.withUnsafeBytes { SubmissionFixup(header: header, content: $0, date: 0, messageID: "x") }
        #expect(fixup == nil)
    }

    @Test("Random content never keeps a Bcc field and always has one Date", arguments: UInt64(0)..<200)
    func survivesFuzz(seed: UInt64) throws {
        var random = ContentRandom(seed: seed)
        let pieces = [
            "\r\n", "Bcc: x\r\n", "Date: y\r\n", "To: z\r\n", " fold\r\n", "\r\n\r\n", "From ", "Return-Path:",
        ]
        let content = random.content(pieces: pieces, countMax: 30)
        let header = HeaderSection(content)
        let fixup = content.withUnsafeBytes {
            SubmissionFixup(header: header, content: $0, date: 0, messageID: "1@\r\nX: y")
        }
        let result = try #require(fixup.map { fixup in content.withUnsafeBytes { fixup.applied(to: $0) } })
        let after = HeaderSection(result)
        #expect(!after.contains(.bcc) && !after.contains(.returnPath))
        #expect(after.contains(.date) && after.contains(.messageID))
        #expect(result.count == fixup?.resultSize(contentSize: content.count))
        #expect(result[after.bodyOffset...].elementsEqual(content[header.bodyOffset...]))
    }
}
