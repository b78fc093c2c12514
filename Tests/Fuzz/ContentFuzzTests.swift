import Foundation
import Testing

@testable import Mail

/// The octets of mail itself. End of data, dot stuffing and chunks are in SMTPTests, conversion to 7bit in MailTests.
@Suite("Fuzz: header sections, media types, encodings")
struct ContentFuzzTests {
    private static let contents = [
        "From: a@b.example\r\nTo: c@d.example,\r\n e@f.example\r\nBcc: g@h.example\r\n\r\nHello.\r\n",
        "From mbox Thu Jan  1\nSubject : x\nReceived: y\n\tz\n\nBody\n", "Date:\r\nMessage-ID: <x@y>\r\nno field\r\n",
        "Content-Type: multipart/mixed; boundary=\"b c\"\r\n\r\n--b c\r\n\r\nx\r\n--b c--\r\n", "\r\nBody", ":\r\n",
        "A:",
    ]

    /// Goal: ranges that later code reads without looking lie within the content, one after the other, and no line is
    /// in two fields. Method: the fields, put together, are the header section.
    @Test("The fields are the header section, without a gap and within bounds", arguments: seeds)
    func headerSections(seed: UInt64) {
        var random = FuzzRandom(seed: seed)
        forEachInput(seed: seed, like: Self.contents) { content in
            content.withUnsafeBytes { octets in
                let limits = HeaderSection.Limits(
                    octetCountMax: Bool.random(using: &random) ? .max : Int.random(in: 0...80, using: &random),
                    fieldCountMax: Int.random(in: 0...6, using: &random)
                )
                let header = HeaderSection(octets, limits: limits)
                #expect(header.endOffset <= header.bodyOffset && header.bodyOffset <= octets.count)
                #expect(header.fields.count <= limits.fieldCountMax)
                var end = header.fields.first?.whole.lowerBound ?? 0
                for field in header.fields {
                    #expect(field.whole.lowerBound == end, "\(shown(content))")
                    #expect(field.name.lowerBound == field.whole.lowerBound && !field.name.isEmpty)
                    #expect(field.name.upperBound < field.value.lowerBound)
                    #expect(field.value.upperBound <= field.whole.upperBound)
                    let value = HeaderSection.unfolded(field, in: octets, max: 40)
                    #expect(value.count <= 40 && !value.contains { $0 == 0x0a || $0 == 0x0d })
                    end = field.whole.upperBound
                }
                if !header.fields.isEmpty { #expect(header.endOffset == end, "\(shown(content))") }
                #expect(header.receivedCount(limit: 2) <= 2)
            }
        }
    }

    /// Goal: a body cannot change what the header section says.
    @Test("What follows the header section does not change it", arguments: seeds)
    func bodies(seed: UInt64) {
        var random = FuzzRandom(seed: seed)
        forEachInput(seed: seed, like: Self.contents) { content in
            let header = content.withUnsafeBytes { HeaderSection($0) }
            guard header.bodyOffset > header.endOffset else { return }
            let other = content.prefix(header.bodyOffset) + random.octets(0...40)
            let again = other.withUnsafeBytes { HeaderSection($0) }
            #expect(again.fields == header.fields && again.bodyOffset == header.bodyOffset, "\(shown(content))")
        }
    }

    @Test("A media type has a type, a subtype and no empty boundary, or is none", arguments: seeds)
    func mediaTypes(seed: UInt64) {
        let vectors = [
            "multipart/mixed; boundary=\"a b\\\"c\"", "text/plain (a (nested\\) comment)); charset=utf-8",
            "message/rfc822", "multipart/signed; micalg=x; boundary==_a/b:c; protocol=\"p/q\"", "a/b;\"c\";d=", "(",
            "a/(\\",
        ]
        forEachInput(seed: seed, like: vectors, count: 300) { octets in
            guard let type = MediaType(octets) else { return }
            #expect(!type.type.isEmpty && !type.subtype.isEmpty)
            #expect(type.type == type.type.lowercased() && type.subtype == type.subtype.lowercased())
            #expect(type.boundary.map { !$0.isEmpty && $0.last?.isBlank == false } ?? true, "\(shown(octets))")
        }
    }

    @Test("An encoding's name is one of RFC 2045's or none, whatever stands behind it", arguments: seeds)
    func encodings(seed: UInt64) {
        forEachInput(seed: seed, like: ["7bit", "BASE64 (c)", "quoted-printable;x", "binary", "8bit", "x-uue"]) {
            octets in
            let word = octets.prefix { $0 != 0x20 && $0 != 0x09 && $0 != 0x3b && $0 != 0x28 }
            #expect(TransferEncoding(octets) == TransferEncoding(Array(word)), "\(shown(octets))")
        }
    }

    /// Goal: what is encoded for hosts without 8BITMIME says the same. Method: Foundation decodes the base 64.
    @Test("Encoded lines are short, 7bit, and decode to what they were made from", arguments: seeds)
    func encoders(seed: UInt64) throws {
        try forEachInput(seed: seed, like: ["From here\r\n.\r\n= \t\r\n", "é", String(repeating: "x", count: 80)]) {
            octets in
            var text: [UInt8] = []
            var base64: [UInt8] = []
            octets.withUnsafeBytes {
                TransferEncoder.appendQuotedPrintable($0, to: &text)
                TransferEncoder.appendBase64($0, to: &base64)
            }
            for encoded in [text, base64] {
                #expect(encoded.allSatisfy { $0 < 0x80 })
                #expect(encoded.split(separator: 0x0a).allSatisfy { $0.count <= 77 }, "\(shown(octets))")
            }
            let decoded = try #require(Data(base64Encoded: Data(base64), options: .ignoreUnknownCharacters))
            #expect(Array(decoded) == octets)
        }
    }
}
