import Mail
import Testing

@testable import SMTP

/// What passes in AUTH, and what is kept of passwords.
@Suite("Fuzz: authentication")
struct AuthenticationFuzzTests {
    private static let user = "us=er,ü"
    private static let password = "pä ss"
    private static let record = CredentialRecord(userName: user, password: password, salt: [1, 2, 3, 4], iterations: 2)

    /// Goal: no response traps, and none but the right one succeeds. Method: both sides of each mechanism play by the
    /// book, but for one message that is changed on its way.
    @Test("A changed response never succeeds", arguments: seeds, SASLExchange.Mechanism.allCases)
    func responses(seed: UInt64, mechanism: SASLExchange.Mechanism) {
        var random = FuzzRandom(seed: seed)
        for round in 0..<60 {
            let changed = round == 0 ? -1 : Int.random(in: 0..<3, using: &random)
            var exchange = SASLExchange(mechanism: mechanism, dummySecret: [9], dummyIterations: 2)
            var client = ClientAuthentication(
                credentials: .init(user: Self.user, password: Self.password),
                nonce: "fyko+d2lbbFgONRv9qkxdawL"
            )
            var isChanged = false
            func pass(_ message: [UInt8], _ number: Int) -> [UInt8] {
                guard number == changed else { return message }
                let other = random.input(like: [message])
                isChanged = other != message
                return other
            }
            let command = client.begin(offered: Self.offered(mechanism)) ?? ""
            let initial = command.split(separator: " ").dropFirst(2).first.flatMap { Base64.decode($0) }
            var number = 0
            var step = exchange.begin(initialResponse: initial.map { pass($0, 0) })
            var isOver = false
            while !isOver {
                switch step {
                case .challenge(let challenge):
                    number += 1
                    let answer =
                        switch client.respond(to: Array(Base64.encode(challenge).utf8)) {
                        case .line(let text): text
                        case .derive(let derivation): client.derived(derivation.key()) ?? ""
                        case .broken: ""
                        }
                    step = exchange.received(pass(Base64.decode(answer) ?? [], number))
                case .lookUp(let userName):
                    let record = userName == Self.user ? Self.record : nil
                    step = exchange.foundCredential(record, nonce: Array(repeating: 5, count: 18))
                case .check(let check):
                    step = exchange.checkedPassword(isMatch: check.isMatch())
                case .success(let userName):
                    #expect(userName == Self.user)
                    #expect(!isChanged || Self.isHarmless(mechanism), "\(mechanism), message \(changed)")
                    isOver = true
                case .failure, .malformed:
                    #expect(isChanged, "\(mechanism) fails by the book")
                    isOver = true
                }
            }
        }
    }

    /// PLAIN and LOGIN protect nothing but the password itself: another spelling of the same message is as good.
    private static func isHarmless(_ mechanism: SASLExchange.Mechanism) -> Bool { mechanism != .scramSHA256 }

    private static func offered(_ mechanism: SASLExchange.Mechanism) -> ClientCapabilities.Mechanisms {
        switch mechanism {
        case .plain: .plain
        case .login: .login
        case .scramSHA256: .scramSHA256
        }
    }

    /// Goal: a server that does not know the password is not believed, and no challenge traps.
    @Test("A client takes no changed challenge for the server's proof", arguments: seeds)
    func challenges(seed: UInt64) {
        var random = FuzzRandom(seed: seed)
        for _ in 0..<60 {
            var client = ClientAuthentication(credentials: .init(user: "u", password: "p"), nonce: "abc")
            _ = client.begin(offered: .scramSHA256)
            let first = Array(Base64.encode(Array("r=abcdef,s=AQIDBA==,i=2".utf8)).utf8)
            _ = client.respond(to: random.input(like: [first]))
            let final = Array(Base64.encode(Array("v=".utf8) + random.octets(0...40)).utf8)
            _ = client.respond(to: random.input(like: [final]))
            #expect(!client.isServerProven)
        }
    }

    @Test("A credentials line that is read, written again, is the same record", arguments: seeds)
    func credentials(seed: UInt64) {
        forEachInput(seed: seed, like: [Self.record.line, "a:b:" + Self.record.line]) { line in
            guard let record = CredentialRecord(line: String(decoding: line, as: UTF8.self)) else { return }
            #expect(CredentialRecord(line: record.line) == record, "\(shown(line))")
            #expect((1...CredentialRecord.iterationsMax).contains(record.iterations))
        }
    }

    @Test("Base 64 and xtext that are read, written again, are the same", arguments: seeds)
    func encodings(seed: UInt64) {
        forEachInput(seed: seed, like: ["QUJD", "QUI=", "QQ==", "a+2Bb+3D", "rfc822;a+20b", "+00", "+2b"]) { octets in
            if let decoded = Base64.decode(octets) { #expect(Array(Base64.encode(decoded).utf8) == octets) }
            guard let text = octets.withUnsafeBytes({ XText.decode($0) }) else { return }
            #expect(text.utf8.allSatisfy { $0 >= 32 && $0 <= 126 })
            #expect(Array(XText.encode(text).utf8).withUnsafeBytes { XText.decode($0) } == text, "\(shown(octets))")
        }
    }
}
