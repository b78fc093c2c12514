import Mail
import Testing

@Suite("HeaderSection: fields by range (RFC 5322 §2.2)")
struct HeaderSectionTests {
    @Test("Fields, folded values and the blank line are found, in CRLF and in LF", arguments: ["\r\n", "\n"])
    func findsFields(ending: String) {
        let lines = [
            "Received: from a", "\tby b", "Subject : hello ", "X-Odd_Name:v", "FROM:<a@b>", "", "body: not a field", "",
        ]
        let content = octets(lines.joined(separator: ending))
        let header = HeaderSection(content)
        #expect(header.fields.map(\.known) == [.received, .subject, .other, .from])
        #expect(
            header.fields.map { String(decoding: content[$0.name], as: UTF8.self) } == [
                "Received", "Subject", "X-Odd_Name", "FROM",
            ]
        )
        content.withUnsafeBytes { content in
            #expect(HeaderSection.text(header.fields[0], in: content) == "from a\tby b")
            #expect(HeaderSection.text(header.fields[1], in: content) == "hello")
            #expect(header.first(named: "x-odd_name", in: content) == header.fields[2])
            #expect(header.first(named: "x-odd", in: content) == nil)
        }
        #expect(String(decoding: content[header.bodyOffset...], as: UTF8.self).hasPrefix("body: not"))
        #expect(header.endOffset + ending.utf8.count == header.bodyOffset)
        #expect(!header.isSeparatorMissing && !header.isTruncated)
        #expect(header.contains(.from) && header.contains(.received) && !header.contains(.bcc))
    }

    @Test(
        "The end of a broken header section is where other readers see it",
        arguments: [
            ("", 0, 0, 0, true),
            ("\r\n", 0, 0, 2, false),
            ("\r\nbody", 0, 0, 2, false),
            ("A: b", 1, 4, 4, true),
            ("A: b\r\n", 1, 6, 6, true),
            ("A: b\r\n\r\n", 1, 6, 8, false),
            ("A: b\r\nno field\r\n\r\nC: d", 1, 6, 6, true),
            (" folded\r\nA: b\r\n\r\n", 0, 0, 0, true),
            ("From x Mon\r\nA: b\r\n\r\n", 1, 18, 20, false),
            ("A:\r\n \r\n\r\n", 1, 7, 9, false),
            (": b\r\n\r\n", 0, 0, 0, true),
            ("A: b\rC: d\r\n\r\n", 1, 11, 13, false),
            ("A: b\r\n\r", 1, 6, 6, true),
        ]
    )
    func findsEnd(text: String, fieldCount: Int, end: Int, body: Int, isSeparatorMissing: Bool) {
        let header = HeaderSection(octets(text))
        #expect(header.fields.count == fieldCount)
        #expect(header.endOffset == end)
        #expect(header.bodyOffset == body)
        #expect(header.isSeparatorMissing == isSeparatorMissing)
        #expect(!header.isTruncated)
    }

    @Test("Every name the relay acts on is known in any case")
    func knowsNames() {
        let names: [(String, HeaderSection.Name)] = [
            ("To", .to), ("CC", .cc), ("bCC", .bcc), ("Date", .date), ("From", .from), ("Sender", .sender),
            ("Subject", .subject), ("RECEIVED", .received), ("Message-Id", .messageID), ("Resent-Bcc", .resentBcc),
            ("Return-path", .returnPath), ("Content-Type", .contentType), ("MIME-Version", .mimeVersion),
            ("Delivered-To", .deliveredTo), ("Auto-Submitted", .autoSubmitted), ("DKIM-Signature", .dkimSignature),
            ("Content-Transfer-Encoding", .contentTransferEncoding), ("Receivex", .other), ("Dat", .other),
        ]
        for (text, name) in names {
            let header = HeaderSection(octets("\(text): x\r\n\r\n"))
            #expect(header.fields.first?.known == name)
            #expect(header.contains(name))
            #expect(header.first(name) == header.fields.first)
        }
    }

    @Test("Hops are counted up to the limit")
    func countsHops() {
        let header = HeaderSection(octets(String(repeating: "Received: x\r\n", count: 30) + "\r\nReceived: x\r\n"))
        #expect(header.receivedCount() == 30)
        #expect(header.receivedCount(limit: 25) == 25)
        #expect(HeaderSection(octets("A: b\r\n\r\n")).receivedCount() == 0)
    }

    @Test("Limits on octets and fields end the reading and say so")
    func obeysLimits() {
        let content = octets("A: b\r\nC: d\r\nE: f\r\n\r\nbody")
        let byField = HeaderSection(content, limits: .init(fieldCountMax: 2))
        #expect(byField.isTruncated && byField.fields.count == 2 && byField.endOffset == 12)
        for max in 0..<18 {
            let byOctet = HeaderSection(content, limits: .init(octetCountMax: max))
            #expect(byOctet.isTruncated)
            #expect(byOctet.endOffset <= max)
            #expect(byOctet.fields.count == max / 6)
        }
        #expect(!HeaderSection(content, limits: .init(octetCountMax: 20)).isTruncated)
    }

    /// Goal: no content traps, and ranges are always in order. Method: every prefix of random content.
    @Test("Random and truncated content yields ordered ranges", arguments: UInt64(0)..<64)
    func survivesFuzz(seed: UInt64) {
        var random = ContentRandom(seed: seed)
        let pieces = ["\r\n", "\n", "\r", ":", " ", "\t", "Received: x", "From ", "Bcc:", "a", "\r\n\r\n"]
        let content = random.content(pieces: pieces, countMax: 40)
        for count in 0...content.count {
            let header = HeaderSection(Array(content[..<count]), limits: .init(octetCountMax: 60, fieldCountMax: 4))
            var position = 0
            for field in header.fields {
                #expect(field.whole.lowerBound >= position && field.name.lowerBound == field.whole.lowerBound)
                #expect(field.name.upperBound < field.value.lowerBound)
                #expect(field.value.upperBound <= field.whole.upperBound)
                position = field.whole.upperBound
            }
            #expect(position <= header.endOffset || header.isTruncated)
            #expect(header.endOffset <= header.bodyOffset && header.bodyOffset <= count)
        }
    }
}

@Suite("ContentSurvey: what the next hop must offer")
struct ContentSurveyTests {
    @Test("Octets above 127 are told apart by where they stand")
    func findsEightBit() {
        func survey(_ text: String) -> ContentSurvey {
            let content = octets(text)
            let header = HeaderSection(content)
            return content.withUnsafeBytes { ContentSurvey($0, bodyOffset: header.bodyOffset) }
        }
        #expect(survey("A: b\r\n\r\nbody\r\n") == ContentSurvey())
        #expect(survey("A: é\r\n\r\nbody\r\n") == ContentSurvey(hasEightBitHeader: true))
        #expect(survey("A: b\r\n\r\nbödy\r\n") == ContentSurvey(hasEightBitBody: true))
        #expect(survey("A: b\r\n\r\n" + String(repeating: "x", count: 999)) == ContentSurvey(hasLongLine: true))
    }

    /// Goal: the jumping search for long lines agrees with counting. Method: lines around the limit, both endings.
    @Test("Lines of 998 octets pass and of 999 do not", arguments: UInt64(0)..<40)
    func measuresLines(seed: UInt64) {
        var random = ContentRandom(seed: seed)
        var content: [UInt8] = []
        var isLong = false
        for _ in 0..<4 {
            let size = [0, 1, 70, 996, 997, 998, 999, 1000].randomElement(using: &random) ?? 0
            let isOften = seed % 2 == 0 && size > 998
            let used = isOften ? 998 : size
            content.append(contentsOf: repeatElement(UInt8(ascii: "x"), count: used))
            content.append(contentsOf: Bool.random(using: &random) ? [13, 10] : [10])
            if used > 998 { isLong = true }
        }
        let survey = content.withUnsafeBytes { ContentSurvey($0, bodyOffset: 0) }
        #expect(survey.hasLongLine == isLong)
        #expect(content.withUnsafeBytes { ContentSurvey($0, bodyOffset: .max).hasEightBitHeader } == false)
    }

    @Test("One octet above 127 is found wherever it stands")
    func findsEveryPosition() {
        for count in 1...80 {
            for position in 0..<count {
                var content = [UInt8](repeating: 0x7f, count: count)
                content[position] = 0x80
                let survey = content.withUnsafeBytes { ContentSurvey($0, bodyOffset: 0) }
                #expect(survey.hasEightBitBody && !survey.hasEightBitHeader)
            }
        }
    }

    @Test("SMTPUTF8 is needed for non-ASCII local parts and header fields only")
    func decidesSMTPUTF8() {
        let plain = Mailbox(localPart: "a", domain: Domain(normalized: "xn--bcher-kva.example"))
        let international = Mailbox(localPart: "jürgen", domain: Domain(normalized: "example.net"))
        func envelope(_ reversePath: Mailbox?, _ recipients: [Mailbox]) -> Envelope {
            Envelope(
                messageID: MessageID(high: 1, low: 2),
                reversePath: reversePath,
                recipients: recipients.enumerated().map { Recipient(mailbox: $1, index: UInt32($0)) },
                isInternationalized: true,
                acceptedAt: 0,
                contentSize: 0
            )
        }
        #expect(!envelope(nil, [plain]).requiresSMTPUTF8(ContentSurvey(hasEightBitBody: true)))
        #expect(envelope(nil, [plain]).requiresSMTPUTF8(ContentSurvey(hasEightBitHeader: true)))
        #expect(envelope(international, [plain]).requiresSMTPUTF8(ContentSurvey()))
        let mixed = envelope(plain, [plain, international])
        #expect(mixed.requiresSMTPUTF8(ContentSurvey()))
        #expect(!mixed.requiresSMTPUTF8(ContentSurvey(), for: mixed.recipients[0]))
        #expect(mixed.requiresSMTPUTF8(ContentSurvey(), for: mixed.recipients[1]))
    }
}
