import Mail
import Reports
import Testing

private func mailbox(_ localPart: String, _ domain: String = "example.net") -> Mailbox {
    Mailbox(localPart: localPart, domain: Domain(normalized: domain))
}

private func octets(_ text: String) -> [UInt8] { Array(text.utf8) }

private let originalText =
    "Message-ID: <orig.1@example.org>\r\nFrom: alice@example.org\r\nSubject: Lunch\r\n\r\nHello\r\n"

private func notification(
    reversePath: Mailbox = mailbox("alice", "example.org"),
    recipients: [DeliveryStatusNotification.RecipientStatus]? = nil,
    returned: DeliveryStatusNotification.Returned = .content(octets(originalText)),
    returnContent: Envelope.ReturnContent? = nil,
    envelopeID: String? = "QQ314159"
) -> DeliveryStatusNotification {
    DeliveryStatusNotification(
        reportingMTA: "mx.example.org",
        original: .init(
            messageID: MessageID(high: 0, low: 33),
            reversePath: reversePath,
            envelopeID: envelopeID,
            returnContent: returnContent,
            arrivedAt: 1_795_475_400_000
        ),
        recipients: recipients ?? [
            .init(
                mailbox: mailbox("bob"),
                originalRecipient: "rfc822;bob+2Bx@example.net",
                action: .failed,
                status: "5.1.1",
                remoteMTA: "mail.example.net",
                diagnostic: "550-5.1.1 No such user\r\n550 5.1.1 See https://example.net/help",
                lastAttemptAt: 1_795_475_460_000
            )
        ],
        returned: returned,
        messageID: "01ABC.1@mx.example.org",
        date: 1_795_475_470_000
    )
}

/// Text with every run of blanks and line endings as one space.
private func unwrapped(_ text: String?) -> String {
    (text ?? "").split(whereSeparator: \.isWhitespace).joined(separator: " ")
}

@Suite("DeliveryStatusNotification: RFC 3464 reports, read by Python")
struct DeliveryStatusNotificationTests {
    @Test("A failure report has the three parts of RFC 6522, all fields and no defect")
    func reportsFailure() throws {
        let rendered = notification().rendered()
        #expect(rendered.bodyType == .sevenBit && !rendered.isInternationalized)
        #expect(rendered.content.allSatisfy { $0 < 0x80 })
        let report = try PythonReport(rendered.content)
        #expect(report.defects == [])
        #expect(report.type == "multipart/report" && report.reportType == "delivery-status")
        #expect(report.header("From") == ["Mail Delivery System <MAILER-DAEMON@mx.example.org>"])
        #expect(report.header("To") == ["alice@example.org"] || report.header("To") == ["<alice@example.org>"])
        #expect(report.header("Auto-Submitted") == ["auto-replied"])
        #expect(report.header("References") == ["<orig.1@example.org>"])
        #expect(report.header("Message-ID") == ["<01ABC.1@mx.example.org>"])
        #expect(report.header("Date") == ["Mon, 23 Nov 2026 23:11:10 +0000"])
        #expect(report.header("Subject").first?.hasPrefix("Undelivered mail") == true)
        #expect(report.parts.map(\.type) == ["text/plain", "message/delivery-status", "message/rfc822"])
        #expect(
            report.parts[1].blocks == [
                [
                    ["Reporting-MTA", "dns; mx.example.org"], ["Original-Envelope-Id", "QQ314159"],
                    ["Arrival-Date", "Mon, 23 Nov 2026 23:10:00 +0000"],
                    ["X-Posthorn-Message-ID", "00000000000000000000000011"],
                ],
                [
                    ["Original-Recipient", "rfc822; bob+x@example.net"],
                    ["Final-Recipient", "rfc822; bob@example.net"],
                    ["Action", "failed"], ["Status", "5.1.1"], ["Remote-MTA", "dns; mail.example.net"],
                    [
                        "Diagnostic-Code",
                        "smtp; 550-5.1.1 No such user 550 5.1.1 See https://example.net/help",
                    ],
                    ["Last-Attempt-Date", "Mon, 23 Nov 2026 23:11:00 +0000"],
                ],
            ]
        )
        #expect(report.parts[2].blocks?.first?.contains(["Subject", "Lunch"]) == true)
        #expect(report.parts[2].text == "Hello\n" || report.parts[2].text == "Hello\r\n")
        let text = report.parts[0].text ?? ""
        #expect(unwrapped(text).contains("could not be delivered to the recipient below"))
        #expect(text.contains("<bob@example.net>"))
        #expect(text.contains("There is no such address"))
        #expect(text.contains("The server mail.example.net answered:"))
        #expect(text.contains("550 5.1.1 See https://example.net/help"))
        #expect(text.contains("What you can do: Check the address"))
        #expect(text.contains("Subject: Lunch"))
        #expect(text.split(whereSeparator: \.isNewline).allSatisfy { $0.utf8.count <= 78 })
    }

    @Test("Delay and success reports say so and return only the header section")
    func reportsDelayAndSuccess() throws {
        let delayed = notification(
            recipients: [
                .init(
                    mailbox: mailbox("bob"),
                    action: .delayed,
                    status: "4.4.1",
                    diagnostic: "connect to mail.example.net: timed out",
                    willRetryUntil: 1_795_907_400_000
                )
            ],
            returnContent: .full
        )
        let delay = try PythonReport(delayed.rendered().content)
        #expect(delay.defects == [])
        #expect(delay.parts.map(\.type) == ["text/plain", "message/delivery-status", "text/rfc822-headers"])
        let fields = delay.parts[1].blocks?.last ?? []
        #expect(fields.contains(["Action", "delayed"]))
        #expect(fields.contains(["Will-Retry-Until", "Sat, 28 Nov 2026 23:10:00 +0000"]))
        #expect(fields.contains(["Diagnostic-Code", "x-posthorn; connect to mail.example.net: timed out"]))
        #expect(delay.header("Subject").first?.hasPrefix("Delayed mail") == true)
        #expect(unwrapped(delay.parts[0].text).contains("you need not send the message again"))
        #expect(delay.parts[2].text?.contains("Subject: Lunch") == true)
        #expect(delay.parts[2].text?.contains("Hello") == false)

        let actions: [DeliveryStatusNotification.Action] = [.delivered, .relayed, .expanded]
        let succeeded = notification(
            recipients: actions.map { .init(mailbox: mailbox($0.rawValue), action: $0, status: "2.0.0") }
        )
        #expect(succeeded.kind == .success)
        let success = try PythonReport(succeeded.rendered().content)
        #expect(success.defects == [])
        #expect(success.parts[1].blocks?.count == 4)
        #expect(unwrapped(success.parts[0].text).contains("reached the 3 recipients below"))
        #expect(success.header("Subject").first?.hasPrefix("Delivery report") == true)
    }

    @Test(
        "RET and size decide between content and header section",
        arguments: [nil, Envelope.ReturnContent.full, .headers]
    )
    func obeysReturnContent(returnContent: Envelope.ReturnContent?) throws {
        var subject = notification(returnContent: returnContent)
        func lastType() throws -> String? { try PythonReport(subject.rendered().content).parts.last?.type }
        #expect(try lastType() == (returnContent == .headers ? "text/rfc822-headers" : "message/rfc822"))
        subject.returnedSizeMax = 10
        #expect(try lastType() == (returnContent == .full ? "message/rfc822" : "text/rfc822-headers"))
        subject.requestedReturnedSizeMax = 10
        #expect(try lastType() == "text/rfc822-headers")
        subject.returned = .headers(octets(originalText))
        #expect(try lastType() == "text/rfc822-headers")
        subject.returned = .nothing
        #expect(try lastType() == "message/delivery-status")
    }

    @Test("8-bit content is returned as it is and asks for 8BITMIME")
    func returnsEightBit() throws {
        let content =
            "Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\n"
            + "Content-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n"
        let rendered = notification(returned: .content(octets(content))).rendered()
        #expect(rendered.bodyType == .eightBitMIME && !rendered.isInternationalized)
        let report = try PythonReport(rendered.content)
        #expect(report.defects == [])
        #expect(report.parts.map(\.type) == ["text/plain", "message/delivery-status", "message/rfc822"])
        #expect(report.parts[2].encoding == "8bit")
        #expect(report.parts[2].text?.contains("Grüße") == true)
    }

    @Test("Internationalised mail gets the report types of RFC 6533")
    func reportsInternationalised() throws {
        let content = "Subject: Grüße\r\nFrom: jürgen@example.org\r\n\r\nHallo\r\n"
        let rendered = notification(
            reversePath: mailbox("jürgen", "example.org"),
            recipients: [
                .init(
                    mailbox: mailbox("用户"),
                    originalRecipient: "utf-8;\\x{7528}\\x{6237}@example.net",
                    action: .failed,
                    status: "5.1.1",
                    diagnostic: "550 5.1.1 Unbekannter Empfänger"
                )
            ],
            returned: .content(octets(content))
        )
        .rendered()
        #expect(rendered.isInternationalized && rendered.bodyType == .eightBitMIME)
        let report = try PythonReport(rendered.content)
        #expect(report.reportType == "global-delivery-status")
        #expect(report.parts.map(\.type) == ["text/plain", "message/global-delivery-status", "message/global"])
        let status = String(decoding: rendered.content, as: UTF8.self)
        #expect(status.contains("\r\nFinal-Recipient: utf-8; 用户@example.net\r\n"))
        #expect(status.contains("\r\nOriginal-Recipient: utf-8; 用户@example.net\r\n"))
        #expect(status.contains("\r\nDiagnostic-Code: smtp; 550 5.1.1 Unbekannter Empfänger\r\n"))
        #expect(status.contains("\r\nTo: <jürgen@example.org>\r\n"))
        #expect(report.parts[0].encoding == "quoted-printable")
        #expect(report.parts[0].text?.contains("<用户@example.net>") == true)
        #expect(report.parts[0].text?.contains("Subject: Grüße") == true)
    }

    @Test("Non-ASCII text in an ordinary report stays out of its fields")
    func keepsOrdinaryReportsASCII() throws {
        let subject = notification(
            recipients: [
                .init(mailbox: mailbox("bob"), action: .failed, status: "oops", diagnostic: "550 Empfänger unbekannt")
            ],
            returned: .headers(octets("Subject: Gr") + [0xfc] + octets("n\r\n"))
        )
        let rendered = subject.rendered()
        #expect(rendered.bodyType == .sevenBit)
        let report = try PythonReport(rendered.content)
        #expect(report.defects == [])
        #expect(report.parts[1].blocks?[1].contains(["Diagnostic-Code", "smtp; 550 Empf?nger unbekannt"]) == true)
        #expect(report.parts[1].blocks?[1].contains(["Status", "5.0.0"]) == true)
        #expect(report.parts[0].text?.contains("550 Empfänger unbekannt") == true)
        #expect(report.parts[2].type == "text/rfc822-headers")
        #expect(report.parts[2].text?.contains("Subject: Gr?n") == true)
    }

    @Test("A null reverse-path makes no notification (RFC 5321 §4.5.5)")
    func refusesNullReversePath() {
        let envelope = Envelope(
            messageID: MessageID(high: 0, low: 0),
            reversePath: nil,
            recipients: [],
            acceptedAt: 0,
            contentSize: 0
        )
        #expect(DeliveryStatusNotification.Original(envelope) == nil)
    }

    @Test("Returned content that holds the boundary does not end the part")
    func choosesFreeBoundary() throws {
        let attack =
            "Subject: x\r\n\r\n--=_posthorn_01ABC1mxexampleorg\r\n--=_posthorn_01ABC1mxexampleorg_0--\r\nend\r\n"
        let report = try PythonReport(notification(returned: .content(octets(attack))).rendered().content)
        #expect(report.defects == [])
        #expect(report.parts.count == 3)
        #expect(report.parts[2].text?.contains("end") == true)
    }

    @Test(
        "A Message-ID that could break out is not repeated",
        arguments: ["<a b@c>", "<>", "none", "<a\u{1}@c>", "<ü@c>"]
    )
    func omitsUnsafeReference(value: String) throws {
        let content = octets("Message-ID: \(value)\r\n\r\nx")
        let text = String(decoding: notification(returned: .content(content)).rendered().content, as: UTF8.self)
        #expect(!text.contains("\r\nReferences:"))
    }

    /// Goal: nothing a sender or a remote host wrote changes the report's structure. Method: random hostile text in
    /// every field; the header fields, the parts and the report's field names must be those of a harmless one.
    @Test("No value injects a header field, a report field or a part", arguments: UInt64(0)..<40)
    func resistsInjection(seed: UInt64) throws {
        var random = ReportRandom(seed: seed)
        func text() -> String { random.text() }
        func status(_ action: DeliveryStatusNotification.Action) -> DeliveryStatusNotification.RecipientStatus {
            .init(
                mailbox: mailbox(text(), text()),
                originalRecipient: text() + ";" + text(),
                action: action,
                status: text(),
                remoteMTA: text() + "x",
                diagnostic: text() + "x",
                lastAttemptAt: .random(in: .min ... .max, using: &random.source),
                willRetryUntil: .random(in: .min ... .max, using: &random.source),
                reason: text()
            )
        }
        var subject = notification(
            reversePath: mailbox(text(), text()),
            recipients: [status(.failed), status(.delayed), status(.delivered)],
            returned: .headers(octets("Message-ID: <\(text())>\r\nSubject: \(text())\r\n")),
            envelopeID: text() + "x"
        )
        subject.reportingMTA = text()
        subject.messageID = text()
        let content = subject.rendered().content
        for line in content.split(separator: 10) { #expect(line.count <= 999) }
        let header = content.withUnsafeBytes { HeaderSection($0) }
        let names = header.fields.map { String(decoding: content[$0.name], as: UTF8.self) }
        #expect(
            names.filter { !["References", "Content-Transfer-Encoding"].contains($0) } == [
                "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type",
            ]
        )
        let all = String(decoding: content, as: UTF8.self)
        let lines = all.split(separator: "\r\n", omittingEmptySubsequences: false)
        let boundary = try #require(
            lines.first { $0.hasSuffix("\"") && $0.contains("boundary=\"") }?.split(separator: "\"").last
        )
        #expect(lines.filter { $0.hasPrefix("--\(boundary)") } == ["", "", "", "--"].map { "--\(boundary)\($0)" })
        #expect(lines.count { $0.hasPrefix("Final-Recipient:") } == 3)
        #expect(lines.count { $0.hasPrefix("Action:") } == 3)
        let report = try PythonReport(content)
        #expect(report.parts.count == 3)
        if report.parts[1].type == "message/delivery-status" {
            #expect(report.parts[1].blocks?.count == 4)
            let allowed: Set<String> = [
                "Reporting-MTA", "Original-Envelope-Id", "Arrival-Date", "X-Posthorn-Message-ID", "Original-Recipient",
                "Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code", "Last-Attempt-Date",
                "Will-Retry-Until",
            ]
            #expect(report.parts[1].blocks?.joined().allSatisfy { allowed.contains($0[0]) } == true)
        }
    }

    /// Goal: returned octets of any kind neither trap nor break the frame. Method: random octets.
    @Test("Random returned octets keep the three parts", arguments: UInt64(0)..<200)
    func survivesReturnedFuzz(seed: UInt64) {
        var random = ReportRandom(seed: seed)
        let junk = random.octets()
        for returned in [DeliveryStatusNotification.Returned.headers(junk), .content(junk)] {
            let rendered = notification(returned: returned).rendered()
            #expect(rendered.content.suffix(4).elementsEqual(octets("--\r\n")))
            #expect(rendered.bodyType == .eightBitMIME || rendered.content.allSatisfy { $0 < 0x80 })
        }
    }
}

/// A seeded source of hostile text.
private struct ReportRandom {
    struct Source: RandomNumberGenerator {
        var state: UInt64
        mutating func next() -> UInt64 {
            self.state &+= 0x9e37_79b9_7f4a_7c15
            var value = self.state
            value = (value ^ value >> 30) &* 0xbf58_476d_1ce4_e5b9
            value = (value ^ value >> 27) &* 0x94d0_49bb_1331_11eb
            return value ^ value >> 31
        }
    }

    var source: Source
    private static let pieces = [
        "\r\nX-Evil: 1", "\n\nX-Evil: 2", "\r\n\r\n--=_posthorn_", "\r", "\0", "a", "bc", " ", ">", "<", "\"", "\\",
        "(",
        ";", ",", "é", "\u{2028}", "\u{85}", "用", "+0D+0AX-Evil: 3", "\\x{0A}", "@", ":", "\t",
    ]

    init(seed: UInt64) { self.source = Source(state: seed &* 0x1234_5678_9abc_def1) }

    mutating func text() -> String {
        let count = Int.random(
            in: 0...(Int.random(in: 0..<8, using: &self.source) == 0 ? 1500 : 12),
            using: &self.source
        )
        var text = ""
        for _ in 0..<count { text += Self.pieces.randomElement(using: &self.source) ?? "" }
        return text
    }

    mutating func octets() -> [UInt8] {
        var result: [UInt8] = []
        for _ in 0..<Int.random(in: 0..<60, using: &self.source) {
            if Bool.random(using: &self.source) {
                result.append(.random(in: 0...255, using: &self.source))
            } else {
                result += Array((Self.pieces.randomElement(using: &self.source) ?? "").utf8)
            }
        }
        return result
    }
}
