import Digests
import SMTP
import Testing

@Suite("Base 64, xtext, replies")
struct CodecTests {
    // RFC 4648 §10.
    static let vectors: [(String, String)] = [
        ("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ]

    @Test("The vectors of RFC 4648", arguments: vectors)
    func base64(plain: String, encoded: String) {
        #expect(Base64.encode(Array(plain.utf8)) == encoded)
        #expect(Base64.decode(encoded) == Array(plain.utf8))
    }

    @Test(
        "What is not canonical base 64 is refused",
        arguments: ["Zg", "Zg=", "Z===", "====", "Zh==", "Zm9=", "Zm 9", "Zm9v\n", "=Zm9", "Zg==Zg==", "Zm9-", "Zg=a"]
    )
    func badBase64(text: String) {
        #expect(Base64.decode(text) == nil)
    }

    @Test("Random octets come back from base 64", arguments: 0..<50 as Range<UInt64>)
    func base64RoundTrip(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        let octets = (0..<Int(seed)).map { _ in UInt8.random(in: 0...255, using: &random) }
        #expect(Base64.decode(Base64.encode(octets)) == octets)
    }

    @Test("xtext is decoded strictly, and encoding it comes back")
    func xtext() {
        let decode = { (text: String) in Array(text.utf8).withUnsafeBytes { XText.decode($0) } }
        #expect(decode("a+2Bb+3Dc+20") == "a+b=c ")
        for bad in ["+2b", "+2", "+", "a=b", "a b", "+00", "+FF"] { #expect(decode(bad) == nil) }
        #expect(decode(XText.encode("a+b=c d~")) == "a+b=c d~")
    }

    @Test("Every line of a reply carries code and enhanced code, and no text can forge a line")
    func replies() {
        #expect(Reply.ok.octets == Array("250 2.0.0 Ok\r\n".utf8))
        let reply = Reply(550, EnhancedStatusCode(5, 7, 1), "one\r\n250 two\0\u{e4}")
        #expect(String(decoding: reply.octets, as: UTF8.self) == "550-5.7.1 one\r\n550 5.7.1 250 two ?\r\n")
        let long = Reply(250, String(repeating: "a", count: 1_000))
        for line in String(decoding: long.octets, as: UTF8.self).split(separator: "\r\n") {
            #expect(line.utf8.count <= 510)
        }
        #expect(Reply(250, lines: []).octets == Array("250 \r\n".utf8))
    }

    @Test(
        "Enhanced status codes are read",
        arguments: [
            ("2.1.5", true), ("5.999.999", true), ("3.1.1", false), ("5.1", false), ("5.1.1000", false),
            ("5..1", false), ("5.1.1.", false),
        ]
    )
    func enhancedStatusCode(text: String, isValid: Bool) {
        #expect(EnhancedStatusCode(text)?.description == (isValid ? text : nil))
    }
}

@Suite("Digests")
struct DigestTests {
    private func hex(_ octets: [UInt8]) -> String {
        octets.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }

    @Test("SHA-256 and its 128-bit form, whole and in pieces")
    func sha256() {
        #expect(self.hex(Digest.sha256([])) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        let abc = Array("abc".utf8)
        #expect(self.hex(Digest.sha256(abc)) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        let hash = abc.withUnsafeBytes { ContentHash(of: $0) }
        #expect(hash.description == "ba7816bf8f01cfea414140de5dae2223")
        var hasher = ContentHasher()
        for _ in 0..<2 {
            for octet in abc { [octet].withUnsafeBytes { hasher.update($0) } }
            #expect(hasher.finish() == hash)
        }
    }

    @Test("HMAC-SHA-256 of RFC 4231 and with an empty key")
    func hmac() {
        let mac = Digest.hmacSHA256(key: Array(repeating: UInt8(0x0b), count: 20), message: Array("Hi There".utf8))
        #expect(self.hex(mac) == "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7")
        #expect(
            self.hex(Digest.hmacSHA256(key: [], message: []))
                == "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad"
        )
    }

    @Test("PBKDF2 of RFC 7914 §11")
    func pbkdf2() {
        let key = Digest.pbkdf2SHA256(password: Array("passwd".utf8), salt: Array("salt".utf8), iterations: 1, size: 16)
        #expect(self.hex(key) == "55ac046e56e3089fec1691c22544b605")
    }

    @Test("Comparison in constant time compares")
    func constantTime() {
        #expect(Digest.constantTimeEquals([1, 2], [1, 2]))
        #expect(!Digest.constantTimeEquals([1, 2], [1, 3]))
        #expect(!Digest.constantTimeEquals([1, 2], [1]))
    }
}
