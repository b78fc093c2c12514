import Mail
import Testing

@Suite("ContentDowngrade: 8bit to 7bit (RFC 6152 §3)")
struct ContentDowngradeTests {
    private static func convert(
        _ text: String,
        limits: ContentDowngrade.Limits = .init()
    ) -> ContentDowngrade.Result {
        octets(text).withUnsafeBytes { ContentDowngrade.convert($0, limits: limits) }
    }

    private static func converted(_ text: String) -> String? {
        guard case .converted(let result) = Self.convert(text) else { return nil }
        #expect(result.allSatisfy { $0 < 0x80 })
        return String(decoding: result, as: UTF8.self)
    }

    private static func multipart(_ type: String = "mixed", _ parts: String..., preamble: String = "") -> String {
        "MIME-Version: 1.0\r\nContent-Type: multipart/\(type); boundary=\"b 1\"\r\n"
            + "Content-Transfer-Encoding: 8bit\r\n\r\n\(preamble)\r\n"
            + parts.map { "--b 1\r\n\($0)\r\n" }.joined() + "--b 1--\r\n"
    }

    @Test("7bit content is unchanged, whatever its labels say")
    func leavesSevenBit() {
        #expect(Self.convert("") == .unchanged)
        #expect(Self.convert("A: b\r\nContent-Transfer-Encoding: 8bit\r\n\r\nplain\r\n") == .unchanged)
    }

    @Test("Plain text becomes quoted-printable, its encoding field rewritten, the rest kept")
    func convertsText() {
        #expect(
            Self.converted(
                "MIME-Version: 1.0\r\nContent-Transfer-Encoding:\r\n 8BIT\r\nContent-Type: text/plain; charset=utf-8\r\n"
                    + "X: y\r\n\r\nGrüße = \r\n.\r\nFrom me\r\n"
            )
                == "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nX: y\r\n"
                + "Content-Transfer-Encoding: quoted-printable\r\n\r\n"
                + "Gr=C3=BC=C3=9Fe =3D=20\r\n=2E\r\n=46rom me\r\n"
        )
    }

    @Test("Content that is not MIME is labelled unknown-8bit (RFC 1428 §3)")
    func labelsNonMIME() {
        #expect(
            Self.converted("A: b\r\n\r\nü\r\n")
                == "A: b\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n"
                + "Content-Transfer-Encoding: quoted-printable\r\n\r\n=C3=BC\r\n"
        )
    }

    @Test("Only the parts with 8-bit octets change; boundaries and labels follow")
    func convertsParts() {
        let plain = "Content-Type: text/plain\r\nContent-Transfer-Encoding: 8bit\r\n\r\nplain\r\n"
        let text = "Content-Type: text/html\r\nContent-Transfer-Encoding: 8bit\r\n\r\n<p>ü</p>"
        let data = "Content-Type: image/png\r\nContent-Transfer-Encoding: binary\r\n\r\nü\r\n"
        let quoted = "Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=3D\r\n"
        let result = Self.converted(Self.multipart("mixed", plain, text, data, quoted, preamble: "pré"))
        #expect(
            result
                == "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"b 1\"\r\n"
                + "Content-Transfer-Encoding: 7bit\r\n\r\npr??\r\n"
                + "--b 1\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: 7bit\r\n\r\nplain\r\n\r\n"
                + "--b 1\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
                + "<p>=C3=BC</p>\r\n"
                + "--b 1\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\nw7wNCg==\r\n\r\n"
                + "--b 1\r\n\(quoted)\r\n--b 1--\r\n"
        )
    }

    @Test("A nested message is converted inside; its 8-bit header fields refuse")
    func convertsNestedMessage() {
        let message = "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        let inner = "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\nü\r\n"
        let result = Self.converted(Self.multipart("mixed", message + inner))
        #expect(
            result?.contains("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 7bit\r\n\r\nSubject") == true
        )
        #expect(result?.contains("\r\n\r\n=C3=BC\r\n") == true)
        let refused = Self.multipart("mixed", message + "Subject: ü\r\n\r\nx\r\n")
        #expect(Self.convert(refused) == .impossible(.nonASCIIHeader))
        let digest = Self.converted(Self.multipart("digest", "\r\nSubject: x\r\n\r\nü\r\n"))
        #expect(digest?.contains("Content-Transfer-Encoding: quoted-printable\r\n\r\n=C3=BC") == true)
    }

    @Test("Raw octets left in quoted-printable are escaped, what is encoded stays")
    func mendsQuotedPrintable() {
        #expect(
            Self.converted("MIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=3Dü=\r\n")
                == "MIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=3D=C3=BC=\r\n"
        )
    }

    @Test("What cannot be converted without loss is refused with the reason")
    func refuses() {
        let eight = "Content-Type: text/plain\r\n\r\nü"
        #expect(Self.convert("Subject: ü\r\n\r\nx") == .impossible(.nonASCIIHeader))
        #expect(Self.convert(Self.multipart("signed; micalg=x", eight)) == .impossible(.signedContent))
        #expect(
            Self.convert("Content-Transfer-Encoding: base64\r\n\r\nü") == .impossible(.malformedStructure)
        )
        #expect(
            Self.convert("Content-Transfer-Encoding: x-uuencode\r\n\r\nü") == .impossible(.malformedStructure)
        )
        #expect(
            Self.convert("Content-Type: message/delivery-status\r\n\r\nA: ü") == .impossible(.unconvertibleType)
        )
        #expect(Self.convert("Content-Type: multipart/mixed\r\n\r\nü") == .impossible(.malformedStructure))
        #expect(
            Self.convert("Content-Type: multipart/mixed; boundary=x\r\n\r\nno part ü")
                == .impossible(.malformedStructure)
        )
        #expect(Self.convert(Self.multipart("mixed", "X: ü\r\n\r\nx")) == .impossible(.nonASCIIHeader))
    }

    @Test("Depth and number of parts are bounded")
    func bounds() {
        var nested = "Subject: x\r\n\r\nü\r\n"
        for _ in 0..<5 { nested = "Content-Type: message/rfc822\r\n\r\n" + nested }
        #expect(Self.convert(nested, limits: .init(depthMax: 4)) == .impossible(.tooComplex))
        #expect(Self.convert(nested, limits: .init(depthMax: 5)) != .impossible(.tooComplex))
        let wide =
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n" + String(repeating: "--b\r\n\r\nü\r\n", count: 20)
        #expect(Self.convert(wide, limits: .init(partCountMax: 20)) == .impossible(.tooComplex))
        #expect(Self.convert(wide, limits: .init(partCountMax: 21)) != .impossible(.tooComplex))
        var deep = ""
        for _ in 0..<100_000 { deep += "Content-Type: message/rfc822\r\n\r\n" }
        #expect(Self.convert(deep + "\r\nü") == .impossible(.tooComplex))
    }

    /// Goal: conversion changes no part's content. Method: random MIME trees; Python's `email` package decodes every
    /// leaf before and after, and must find no defect after.
    @Test("Python decodes the same parts before and after")
    func agreesWithPython() throws {
        var files: [[UInt8]] = []
        for seed in UInt64(0)..<120 {
            var random = ContentRandom(seed: seed)
            let content = Self.randomContent(using: &random)
            let result = content.withUnsafeBytes { ContentDowngrade.convert($0) }
            guard case .converted(let converted) = result else {
                #expect(result == .unchanged, "seed \(seed)")
                continue
            }
            #expect(converted.allSatisfy { $0 < 0x80 }, "seed \(seed)")
            let survey = converted.withUnsafeBytes { ContentSurvey($0, bodyOffset: 0) }
            #expect(!survey.hasLongLine)
            files.append(content)
            files.append(converted)
        }
        #expect(files.count > 100)
        let script = """
            import sys, email
            from email import policy
            def leaves(path):
                with open(path, 'rb') as f: m = email.message_from_bytes(f.read(), policy=policy.default)
                out = []
                for part in m.walk():
                    if part.defects: out.append(('DEFECT', repr(part.defects)))
                    if part.is_multipart(): out.append(part.get_content_type()); continue
                    data = part.get_payload(decode=True)
                    if part.get_content_maintype() == 'text':
                        # Text loses nothing when its last line ending moves into the encoding.
                        data = data.rstrip(b'\\r\\n')
                    out.append((part.get_content_type(), data, part.get('x-tag')))
                return out
            files = sys.argv[1:]
            for a, b in zip(files[::2], files[1::2]):
                before, after = leaves(a), leaves(b)
                if before != after:
                    sys.exit('%s\\n%r\\n%r\\n%s' % (a, before, after, open(b).read()))
            print('agreed', len(files) // 2)
            """
        #expect(try Python.run(script, files: files) == "agreed \(files.count / 2)\n")
    }

    private static func randomContent(using random: inout ContentRandom) -> [UInt8] {
        var count = 0
        return octets("From: a@b\r\nMIME-Version: 1.0\r\n")
            + Self.randomEntity(depth: 0, count: &count, using: &random)
    }

    private static func randomEntity(depth: Int, count: inout Int, using random: inout ContentRandom) -> [UInt8] {
        count += 1
        let tag = octets("X-Tag: t\(count)\r\n")
        switch depth < 4 ? Int.random(in: 0..<4, using: &random) : 0 {
        case 1, 2:
            let boundary = "=_b\(count)"
            var result =
                tag + octets("Content-Type: multipart/mixed;\r\n boundary=\"\(boundary)\"\r\n")
                + octets("Content-Transfer-Encoding: 8bit\r\n\r\nPreamble\r\n")
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                result += octets("--\(boundary)\r\n")
                result += Self.randomEntity(depth: depth + 1, count: &count, using: &random)
                result += octets("\r\n")
            }
            return result + octets("--\(boundary)--\r\n")
        case 3 where depth > 0:
            return tag + octets("Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n")
                + octets("Subject: nested\r\nMIME-Version: 1.0\r\n")
                + Self.randomEntity(depth: depth + 1, count: &count, using: &random)
        default:
            let isText = Bool.random(using: &random)
            var body: [UInt8] = []
            for _ in 0..<Int.random(in: 1...6, using: &random) {
                for _ in 0..<Int.random(in: 0...200, using: &random) {
                    let octet = UInt8.random(in: 0x20...0xff, using: &random)
                    body.append(octet == 0x7f ? 0x20 : octet)
                }
                body += octets("\r\n")
            }
            let type = isText ? "text/plain; charset=iso-8859-1" : "application/x-data"
            return tag + octets("Content-Type: \(type)\r\nContent-Transfer-Encoding: 8bit\r\n\r\n") + body
        }
    }

    /// Goal: no content traps, and what is converted is 7bit. Method: random mail-like octets and all their prefixes.
    @Test("Random content is converted to 7bit or refused", arguments: UInt64(0)..<150)
    func survivesFuzz(seed: UInt64) {
        var random = ContentRandom(seed: seed)
        let pieces = [
            "\r\n", "\n", "\r\n\r\n", "--b", "--b\r\n", "\r\n--b--", "Content-Type: ",
            "multipart/mixed; boundary=b\r\n",
            "message/rfc822\r\n", "text/plain;", "; boundary=\"b\\", "(", "ü", "Content-Transfer-Encoding: 8bit\r\n",
            "quoted-printable", "base64", "--", " ", ":", "\0",
        ]
        var content = octets("Content-Type: multipart/mixed; boundary=b\r\n")
        content += random.content(pieces: pieces, countMax: 60)
        for count in 0...content.count {
            let result = content[..<count].withUnsafeBytes { ContentDowngrade.convert($0) }
            if case .converted(let converted) = result {
                #expect(converted.allSatisfy { $0 < 0x80 })
            }
        }
    }
}

@Suite("TransferEncoder: quoted-printable and base64 (RFC 2045 §6.7, §6.8)")
struct TransferEncoderTests {
    /// Goal: decoders get the octets back, and lines keep to 76. Method: random octets judged by Python.
    @Test("Python decodes what was encoded")
    func roundTrips() throws {
        var files: [[UInt8]] = []
        for seed in UInt64(0)..<60 {
            var random = ContentRandom(seed: seed)
            var text: [UInt8] = []
            for _ in 0..<Int(seed) * 7 {
                let pieces: [[UInt8]] = [
                    [13, 10], [32], [9], [61], [46], [13], octets("From "), [UInt8.random(in: 0...255, using: &random)],
                    octets("abcdefghij"),
                ]
                var piece = pieces.randomElement(using: &random) ?? []
                // A line feed alone is a line ending to the encoder and would not come back as it was.
                if piece == [10] { piece = [11] }
                text += piece
                if text.last == 13 { text.append(33) }
            }
            var quoted: [UInt8] = []
            var base64: [UInt8] = []
            text.withUnsafeBytes {
                TransferEncoder.appendQuotedPrintable($0, to: &quoted)
                TransferEncoder.appendBase64($0, to: &base64)
            }
            files += [text, quoted, base64]
        }
        let script = """
            import sys, quopri, base64
            files = [open(f, 'rb').read() for f in sys.argv[1:]]
            for t, q, b in zip(files[::3], files[1::3], files[2::3]):
                assert quopri.decodestring(q) == t, (t, q)
                assert base64.b64decode(b) == t, (t, b)
                for line in q.split(b'\\r\\n') + b.split(b'\\r\\n'):
                    assert len(line) <= 76, line
                    assert line[-1:] not in (b' ', b'\\t'), line
                    assert all(c == 9 or 32 <= c < 127 for c in line), line
            print(len(files))
            """
        #expect(try Python.run(script, files: files) == "180\n")
    }

    @Test("Lines are broken so that neither they nor escapes are cut")
    func breaksLines() {
        func quoted(_ text: String) -> String {
            var output: [UInt8] = []
            octets(text).withUnsafeBytes { TransferEncoder.appendQuotedPrintable($0, to: &output) }
            return String(decoding: output, as: UTF8.self)
        }
        let full = String(repeating: "x", count: 76)
        #expect(quoted(full) == full)
        #expect(quoted(full + "\r\n") == full + "\r\n")
        #expect(quoted(full + "y") == String(repeating: "x", count: 75) + "=\r\nxy")
        #expect(quoted(String(repeating: "x", count: 73) + "=\r\n") == String(repeating: "x", count: 73) + "=3D\r\n")
        #expect(quoted("a \r\n\t") == "a=20\r\n=09")
        #expect(quoted("") == "")
    }
}
