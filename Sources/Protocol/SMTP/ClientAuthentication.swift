import Digests

/// The client side of a SASL exchange (RFC 4954): SCRAM-SHA-256 (RFC 7677), else PLAIN (RFC 4616), else LOGIN.
struct ClientAuthentication: Sendable {
    /// Beyond this the server, not the password, is what costs (RFC 5802 §5.1 leaves it to us).
    static let iterationCountMax = 100_000

    private enum Step: Sendable {
        case initial
        case plain
        case loginUser
        case loginPassword
        case scramFirst(clientFirstBare: String)
        /// The driver derives the key.
        case scramDeriving(authMessage: [UInt8], withoutProof: [UInt8])
        case scramFinal(serverSignature: [UInt8])
        case done
    }

    /// What follows a challenge.
    enum Response: Sendable {
        case line(String)
        /// First ``derived(_:)``.
        case derive(KeyDerivation)
        /// The server broke the exchange.
        case broken
    }

    private let credentials: ClientConfiguration.Credentials
    private let nonce: String
    private var step = Step.initial
    /// 235 counts: in SCRAM only after the server's signature was right.
    private(set) var isServerProven = true

    init(credentials: ClientConfiguration.Credentials, nonce: String) {
        self.credentials = credentials
        self.nonce = nonce
    }

    /// The AUTH command without its line ending; `nil` when no mechanism fits.
    mutating func begin(offered: ClientCapabilities.Mechanisms) -> String? {
        if offered.contains(.scramSHA256), !self.nonce.isEmpty {
            // saslname: "," and "=" are escaped (RFC 5802 §5.1).
            let user = self.credentials.user.reduce(into: "") { text, character in
                switch character {
                case ",": text += "=2C"
                case "=": text += "=3D"
                default: text.append(character)
                }
            }
            let bare = "n=\(user),r=\(self.nonce)"
            self.step = .scramFirst(clientFirstBare: bare)
            self.isServerProven = false
            return "AUTH SCRAM-SHA-256 \(Base64.encode("n,,\(bare)".utf8))"
        }
        if offered.contains(.plain) {
            self.step = .plain
            let message = "\0\(self.credentials.user)\0\(self.credentials.password)"
            return "AUTH PLAIN \(Base64.encode(message.utf8))"
        }
        if offered.contains(.login) {
            self.step = .loginUser
            return "AUTH LOGIN"
        }
        return nil
    }

    /// The answer to a 334.
    mutating func respond(to challenge: [UInt8]) -> Response {
        switch self.step {
        case .initial, .plain, .scramDeriving, .done:
            return .broken
        case .loginUser:
            self.step = .loginPassword
            return .line(Base64.encode(self.credentials.user.utf8))
        case .loginPassword:
            self.step = .done
            return .line(Base64.encode(self.credentials.password.utf8))
        case .scramFirst(let clientFirstBare):
            guard let message = Base64.decode(challenge),
                let derivation = self.beginDerivation(clientFirstBare, serverFirst: message)
            else { return .broken }
            return .derive(derivation)
        case .scramFinal(let serverSignature):
            guard let message = Base64.decode(challenge), message.starts(with: "v=".utf8),
                let signature = Base64.decode(message.dropFirst(2)),
                Digest.constantTimeEquals(signature, serverSignature)
            else { return .broken }
            self.step = .done
            self.isServerProven = true
            return .line("")
        }
    }

    /// `server-first-message = nonce "," salt "," iteration-count` (RFC 5802 §7)
    private mutating func beginDerivation(_ clientFirstBare: String, serverFirst: [UInt8]) -> KeyDerivation? {
        let fields = serverFirst.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false)
        guard fields.count >= 3, fields[0].starts(with: "r=".utf8), fields[1].starts(with: "s=".utf8),
            fields[2].starts(with: "i=".utf8),
            let salt = Base64.decode(fields[1].dropFirst(2)),
            let iterations = Int(String(decoding: fields[2].dropFirst(2), as: UTF8.self)),
            (1...Self.iterationCountMax).contains(iterations)
        else { return nil }
        let nonce = fields[0].dropFirst(2)
        guard nonce.starts(with: self.nonce.utf8), nonce.count > self.nonce.utf8.count else { return nil }
        let withoutProof = Array("c=biws,r=".utf8) + nonce
        let authMessage = Array("\(clientFirstBare),".utf8) + serverFirst + Array(",".utf8) + withoutProof
        self.step = .scramDeriving(authMessage: authMessage, withoutProof: withoutProof)
        return KeyDerivation(password: self.credentials.password, salt: salt, iterations: iterations)
    }

    /// The proof, once the key is there; `nil` when nobody waits for it.
    mutating func derived(_ salted: [UInt8]) -> String? {
        guard case .scramDeriving(let authMessage, let withoutProof) = self.step else { return nil }
        let clientKey = Digest.hmacSHA256(key: salted, message: Array("Client Key".utf8))
        let storedKey = Digest.sha256(clientKey)
        let clientSignature = Digest.hmacSHA256(key: storedKey, message: authMessage)
        let proof = zip(clientKey, clientSignature).map { $0 ^ $1 }
        let serverKey = Digest.hmacSHA256(key: salted, message: Array("Server Key".utf8))
        self.step = .scramFinal(serverSignature: Digest.hmacSHA256(key: serverKey, message: authMessage))
        return Base64.encode(withoutProof + Array(",p=\(Base64.encode(proof))".utf8))
    }
}
