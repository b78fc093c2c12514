import Mail
import Testing

@Suite("Addresses")
struct AddressTests {
    static let mailboxes: [(String, String?)] = [
        ("a@b", "a@b"), ("A.b@Example.COM.", "A.b@example.com"),
        ("!#$%&'*+-/=?^_`{|}~@x.example", "!#$%&'*+-/=?^_`{|}~@x.example"),
        ("\"john doe\"@x.example", "\"john doe\"@x.example"), ("\"john\"@x.example", "john@x.example"),
        ("\"j\\ohn\"@x.example", "john@x.example"), ("\"a@b\"@x.example", "\"a@b\"@x.example"),
        ("\"\"@x.example", "\"\"@x.example"), ("\"a\\\\\"@x.example", "\"a\\\\\"@x.example"),
        ("a@[192.0.2.1]", "a@[192.0.2.1]"), ("a@[ipv6:2001:DB8:0:0:0:0:0:1]", "a@[IPv6:2001:db8::1]"),
        ("a@[IPv6:::ffff:192.0.2.1]", "a@[IPv6:::ffff:c000:201]"),
        ("a@[IPv6:1:2:3:4:5:6:7:8]", "a@[IPv6:1:2:3:4:5:6:7:8]"),
        ("a@[IPv6:::]", "a@[IPv6:::]"), ("a@[IPv6:1::]", "a@[IPv6:1::]"),
        ("j\u{fc}rgen@x.example", "j\u{fc}rgen@x.example"), ("a@B\u{fc}cher.example", "a@xn--bcher-kva.example"),
        ("a@bu\u{308}cher.example", "a@xn--bcher-kva.example"), ("a@under_score.example", "a@under_score.example"),
        (String(repeating: "a", count: 64) + "@x.example", String(repeating: "a", count: 64) + "@x.example"),
        ("", nil), ("@", nil), ("a", nil), ("a@", nil), ("@b", nil), ("a b@c", nil), (".a@c", nil), ("a.@c", nil),
        ("a..b@c", nil), ("a@b..c", nil), ("a@.b", nil), ("a@b-.c", nil), ("a@-b.c", nil), ("a@b c", nil), ("a@.", nil),
        ("a@1.2.3.4", nil), ("a@b.123", nil), ("\"a@b", nil), ("\"a\"b@c", nil), ("\"a\\\"@c", nil),
        ("\"a\nb\"@c", nil),
        ("a@[1.2.3]", nil), ("a@[1.2.3.256]", nil), ("a@[01.2.3.4]", nil), ("a@[1.2.3.4", nil), ("a@[]", nil),
        ("a@[IPv6:1::2::3]", nil), ("a@[IPv6:1:2:3:4:5:6:7]", nil), ("a@[IPv6:12345::]", nil),
        ("a@[IPv6:1:2:3:4:5:6:7:8:9]", nil),
        ("a@[IPv6:1:]", nil), ("a@[IPv6::1]", nil), ("a@[IPv6:]", nil), ("a@[IPv6:g::]", nil),
        ("a@[IPv6:1:2:3:4:5:6:7:1.2.3.4]", nil),
        ("a@[X-tag:foo]", nil), ("a@b@c", nil), ("a@x.example>", nil),
        (String(repeating: "a", count: 65) + "@x.example", nil), ("a@" + String(repeating: "b", count: 64), nil),
        ("a@" + String(repeating: "b.", count: 128) + "c", nil), ("a@\u{2603}.example", nil),
        ("a@\u{301}a.example", nil),
    ]

    @Test("Mailboxes follow the grammar of RFC 5321 and RFC 6531 and are normalised", arguments: mailboxes)
    func mailbox(text: String, expected: String?) {
        #expect(Mailbox(parsing: text)?.description == expected)
    }

    @Test("Invalid UTF-8 is no local part and no domain")
    func invalidUTF8() {
        for octets: [UInt8] in [[0xff, 0x40, 0x62], [0x61, 0x40, 0xc3, 0x28], [0x61, 0x40, 0xc0, 0xaf]] {
            let mailbox = octets.withUnsafeBytes { Mailbox(parsing: $0) }
            #expect(mailbox == nil)
        }
    }

    static let labels: [(String, String)] = [
        ("b\u{fc}cher", "xn--bcher-kva"), ("m\u{fc}nchen", "xn--mnchen-3ya"), ("\u{4f8b}\u{3048}", "xn--r8jz45g"),
        ("\u{43f}\u{440}\u{438}\u{43c}\u{435}\u{440}", "xn--e1afmkfd"), ("fa\u{df}", "xn--fa-hia"),
        // RFC 3492 §7.1 (A) and (B).
        (
            "\u{644}\u{64a}\u{647}\u{645}\u{627}\u{628}\u{62a}\u{643}\u{644}\u{645}\u{648}\u{634}\u{639}\u{631}\u{628}"
                + "\u{64a}\u{61f}", "?"
        ),
        ("\u{4ed6}\u{4eec}\u{4e3a}\u{4ec0}\u{4e48}\u{4e0d}\u{8bf4}\u{4e2d}\u{6587}", "xn--ihqwcrb4cv8a8dqg056pqjye"),
    ]

    @Test("U-labels become A-labels and come back", arguments: labels)
    func checkLabels(unicode: String, ascii: String) {
        guard ascii != "?" else {
            // It holds a question mark, which no label may.
            #expect(Punycode.aLabel(of: unicode) == nil)
            return
        }
        #expect(Punycode.aLabel(of: unicode) == ascii)
        #expect(Punycode.uLabel(of: ascii) == unicode)
    }

    @Test("Random A-labels never trap", arguments: 0..<300 as Range<UInt64>)
    func fuzz(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        let alphabet = Array("abz019-".utf8)
        let label = (0..<Int.random(in: 0...59, using: &random))
            .map { _ in alphabet.randomElement(using: &random) ?? 0 }
        let text = "xn--" + String(decoding: label, as: UTF8.self)
        if let unicode = Punycode.uLabel(of: text) { #expect(Punycode.aLabel(of: unicode) == text) }
    }
}
