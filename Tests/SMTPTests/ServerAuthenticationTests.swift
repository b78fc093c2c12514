import Digests
import Mail
import Testing

@testable import SMTP

@Suite("Server authentication")
struct ServerAuthenticationTests {
    private static let record = CredentialRecord(
        userName: "user",
        password: "pencil",
        salt: Base64.decode("W22ZaJ0SNY7soEsUEjb6gQ==") ?? [],
        iterations: 4_096
    )

    private static func harness(tls: TLSFacts? = .test) -> SessionHarness {
        var harness = SessionHarness.greeted(.submission, tls: tls)
        harness.credentials["user"] = Self.record
        return harness
    }

    private static func encoded(_ text: String) -> String { Base64.encode(Array(text.utf8)) }

    @Test("The exchange of RFC 7677 §3, message for message")
    func scramVector() throws {
        var server = try SCRAMServer.begin(clientFirst: Array("n,,n=user,r=rOprNGfwEbeRWgbNEkqO".utf8)).get()
        #expect(server.userName == "user")
        let first = server.serverFirst(record: Self.record, serverNonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
        #expect(
            String(decoding: first, as: UTF8.self)
                == "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        )
        let final =
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        let verifier = try server.serverFinal(clientFinal: Array(final.utf8)).get()
        #expect(String(decoding: verifier, as: UTF8.self) == "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
    }

    @Test(
        "SCRAM through AUTH ends with 235 once the client acknowledges the server's signature",
        arguments: [true, false]
    )
    func scram(isRight: Bool) {
        var harness = Self.harness()
        let bare = "n=user,r=abc"
        let challenge = harness.send("AUTH SCRAM-SHA-256 \(Self.encoded("n,," + bare))\r\n")
        let first = String(decoding: Base64.decode(Array(challenge.utf8).dropFirst(4).dropLast(2)) ?? [], as: UTF8.self)
        #expect(
            first == "r=abc\(Base64.encode(Array(repeating: UInt8(7), count: 18))),s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        )
        let nonce = first.dropFirst(2).prefix { $0 != "," }
        let withoutProof = "c=biws,r=\(nonce)"
        let salted = CredentialRecord.saltedPassword(
            isRight ? "pencil" : "pen",
            salt: Self.record.salt,
            iterations: 4_096
        )
        let clientKey = Digest.hmacSHA256(key: salted, message: Array("Client Key".utf8))
        let signature = Digest.hmacSHA256(
            key: Digest.sha256(clientKey),
            message: Array("\(bare),\(first),\(withoutProof)".utf8)
        )
        let proof = Base64.encode(zip(clientKey, signature).map { $0 ^ $1 })
        let answer = harness.send("\(Self.encoded("\(withoutProof),p=\(proof)"))\r\n")
        guard isRight else {
            #expect(answer.hasPrefix("535 5.7.8"))
            return
        }
        let verifier = Digest.hmacSHA256(
            key: Self.record.serverKey,
            message: Array("\(bare),\(first),\(withoutProof)".utf8)
        )
        #expect(answer == "334 \(Self.encoded("v=\(Base64.encode(verifier))"))\r\n")
        #expect(harness.send("\r\n").hasPrefix("235 2.7.0"))
        #expect(harness.session.facts.authenticatedIdentity == "user")
    }

    @Test("An unknown user gets the same salt each time and fails as a wrong password does")
    func unknownUser() {
        var one = Self.harness()
        var other = Self.harness()
        let line = "AUTH SCRAM-SHA-256 \(Self.encoded("n,,n=nobody,r=abc"))\r\n"
        let challenge = one.send(line)
        #expect(challenge.hasPrefix("334 ") && challenge == other.send(line))
        let nonce = "abc" + Base64.encode(Array(repeating: UInt8(7), count: 18))
        let proof = Base64.encode(Array(repeating: UInt8(0), count: 32))
        #expect(one.send("\(Self.encoded("c=biws,r=\(nonce),p=\(proof)"))\r\n").hasPrefix("535 5.7.8"))
        #expect(other.send("*\r\n").hasPrefix("501"))
        #expect(other.send("AUTH PLAIN \(Self.encoded("\0nobody\0pencil"))\r\n").hasPrefix("535 5.7.8"))
    }

    static let malformed: [String] = [
        "", "n,,n=user", "p=tls-unique,,n=user,r=a", "n,,n=us=er,r=a", "n,,n=,r=a", "n,,n=user,r=", "n,,m=x,n=user,r=a",
        "x,,n=user,r=a",
        "n,b=user,n=user,r=a", "n,,r=a,n=user",
    ]

    @Test("501 for a SCRAM message against the grammar", arguments: malformed)
    func checkMalformed(message: String) {
        var harness = Self.harness()
        let initial = message.isEmpty ? "=" : Self.encoded(message)
        #expect(harness.send("AUTH SCRAM-SHA-256 \(initial)\r\n").hasPrefix("501"))
        #expect(harness.send("NOOP\r\n").hasPrefix("250"))
    }

    @Test("PLAIN with an initial response, and without one")
    func plain() {
        var initial = Self.harness()
        #expect(initial.codes("AUTH PLAIN \(Self.encoded("\0user\0pencil"))\r\n") == [235])
        #expect(initial.codes("AUTH PLAIN \(Self.encoded("\0user\0pencil"))\r\n") == [503])
        var later = Self.harness()
        #expect(later.send("AUTH PLAIN\r\n") == "334 \r\n")
        #expect(later.codes("\(Self.encoded("user\0user\0pencil"))\r\n") == [235])
        #expect(later.codes("MAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n.\r\n") == [250, 250, 354, 250])
        #expect(later.messages[0].transaction.transmissionType == "ESMTPSA")
        #expect(later.messages[0].transaction.session.authenticatedIdentity == "user")
        #expect(!later.send("EHLO c\r\n").contains("AUTH"))
    }

    @Test("LOGIN asks for name and password")
    func login() {
        var harness = Self.harness()
        #expect(harness.send("AUTH LOGIN\r\n") == "334 VXNlcm5hbWU6\r\n")
        #expect(harness.send("dXNlcg==\r\n") == "334 UGFzc3dvcmQ6\r\n")
        #expect(harness.codes("\(Self.encoded("pencil"))\r\n") == [235])
        var wrong = Self.harness()
        #expect(wrong.codes("AUTH LOGIN dXNlcg==\r\n\(Self.encoded("pen"))\r\n") == [334, 535])
    }

    static let refused: [(String, [Int])] = [
        ("AUTH PLAIN \(encoded("other\0user\0pencil"))\r\n", [535]),
        ("AUTH PLAIN \(encoded("\0user\0pen"))\r\n", [535]),
        ("AUTH PLAIN \(encoded("\0user\0"))\r\n", [501]), ("AUTH PLAIN \(encoded("user\0pencil"))\r\n", [501]),
        ("AUTH PLAIN \(encoded("\0user\0pencil\0x"))\r\n", [501]), ("AUTH PLAIN !!!\r\n", [501]),
        ("AUTH PLAIN =\r\n", [501]),
        ("AUTH PLAIN\r\n*\r\nNOOP\r\n", [334, 501, 250]), ("AUTH PLAIN\r\nnot base64\r\nNOOP\r\n", [334, 501, 250]),
        ("AUTH CRAM-MD5\r\n", [504]), ("MAIL FROM:<>\r\n", [530]),
        ("AUTH PLAIN\r\n\(String(repeating: "A", count: 13_000))\r\nNOOP\r\n", [334, 500, 250]),
    ]

    @Test("What is not a proof of identity is refused precisely", arguments: refused)
    func checkRefused(text: String, codes: [Int]) {
        var harness = Self.harness()
        #expect(harness.codes(text) == codes)
        #expect(harness.session.facts.authenticatedIdentity == nil)
    }

    @Test("AUTH is neither offered nor taken without TLS")
    func withoutTLS() {
        var harness = Self.harness(tls: nil)
        #expect(!harness.send("EHLO c\r\n").contains("AUTH"))
        #expect(harness.send("AUTH PLAIN \(Self.encoded("\0user\0pencil"))\r\n").hasPrefix("538 5.7.11"))
        #expect(harness.codes("MAIL FROM:<>\r\n") == [530])
        #expect(harness.codes("STARTTLS\r\n") == [220])
        #expect(harness.send("EHLO c\r\n").contains("AUTH SCRAM-SHA-256 PLAIN LOGIN\r\n"))
    }

    @Test("421 after too many wrong passwords")
    func tooManyFailures() {
        var harness = Self.harness()
        let line = "AUTH PLAIN \(Self.encoded("\0user\0pen"))\r\n"
        #expect(harness.codes(line + line + line) == [535, 535, 421])
        #expect(harness.isClosed)
    }

    @Test("AUTH is 503 within a transaction")
    func withinTransaction() {
        let authentication = ServerConfiguration.Authentication(isRequired: false, dummySecret: [1])
        var harness = SessionHarness.greeted(.test(authentication: authentication), tls: .test)
        #expect(harness.codes("MAIL FROM:<>\r\nAUTH PLAIN\r\n") == [250, 503])
    }
}

@Suite("Credential records")
struct CredentialRecordTests {
    @Test("A record written as a line comes back and matches its password only")
    func roundTrip() throws {
        let record = CredentialRecord(userName: "a:b@c", password: "p\u{e4}ss", salt: [1, 2, 3], iterations: 10)
        let read = try #require(CredentialRecord(line: record.line))
        #expect(read == record)
        // Composed and decomposed are one password.
        #expect(read.matches(password: "pa\u{308}ss"))
        #expect(!read.matches(password: "pass"))
        #expect(!read.matches(password: ""))
        #expect(!"\(read)".contains("$"))
    }

    @Test("The line for RFC 7677's user")
    func line() {
        let salt = Base64.decode("W22ZaJ0SNY7soEsUEjb6gQ==") ?? []
        let record = CredentialRecord(userName: "user", password: "pencil", salt: salt, iterations: 4_096)
        #expect(
            record.line
                == "user:SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        )
    }

    static let bad: [String] = [
        "", "user", "user:", ":SCRAM-SHA-256$1:AA==$AA==:AA==", "user:SCRAM-SHA-1$1:AA==$x:y", "user:SCRAM-SHA-256$",
        "user:SCRAM-SHA-256$0:AA==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        "user:SCRAM-SHA-256$99999999999999999999:AA==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        "user:SCRAM-SHA-256$4096:$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        "user:SCRAM-SHA-256$4096:AA==$AA==:AA==", "user:plaintext",
    ]

    @Test("Lines of another form are refused", arguments: bad)
    func checkBad(line: String) {
        #expect(CredentialRecord(line: line) == nil)
    }
}
