import Digests

/// The server's messages of SCRAM-SHA-256 without channel binding (RFC 5802 §5, RFC 7677).
struct SCRAMServer: Hashable, Sendable {
    enum Failure: Error {
        case malformed
        case refused
    }

    let userName: String
    private let gs2Header: [UInt8]
    private let clientFirstBare: [UInt8]
    private let clientNonce: [UInt8]
    private var record: CredentialRecord?
    private var nonce: [UInt8] = []
    private var serverFirst: [UInt8] = []

    /// ```
    /// client-first-message = gs2-cbind-flag "," [ authzid ] "," username "," nonce ["," extensions]
    /// ```
    static func begin(clientFirst message: [UInt8]) -> Result<SCRAMServer, Failure> {
        guard message.count <= 2_048, !message.contains(0), String(validating: message, as: UTF8.self) != nil else {
            return .failure(.malformed)
        }
        let parts = message.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false)
        guard parts.count >= 4 else { return .failure(.malformed) }
        // "p=" asks for a binding that was not offered; "y" says the client would have liked one.
        guard parts[0].elementsEqual("n".utf8) || parts[0].elementsEqual("y".utf8) else { return .failure(.malformed) }
        // "m=" in the user name's place is an extension that must be understood.
        guard let userName = self.value("n", parts[2]).flatMap(self.saslName), !userName.isEmpty,
            let nonce = self.value("r", parts[3]), (1...512).contains(nonce.count),
            nonce.allSatisfy({ $0 >= 0x21 && $0 <= 0x7e })
        else { return .failure(.malformed) }
        if !parts[1].isEmpty {
            guard let identity = self.value("a", parts[1]).flatMap(self.saslName) else { return .failure(.malformed) }
            guard identity == userName else { return .failure(.refused) }
        }
        let headerCount = parts[0].count + parts[1].count + 2
        return .success(
            SCRAMServer(
                userName: userName,
                gs2Header: Array(message[..<headerCount]),
                clientFirstBare: Array(message[headerCount...]),
                clientNonce: Array(nonce)
            )
        )
    }

    private init(userName: String, gs2Header: [UInt8], clientFirstBare: [UInt8], clientNonce: [UInt8]) {
        self.userName = userName
        self.gs2Header = gs2Header
        self.clientFirstBare = clientFirstBare
        self.clientNonce = clientNonce
    }

    /// ```
    /// server-first-message = nonce "," salt "," iteration-count
    /// ```
    /// `serverNonce` is what the client's nonce is continued with, printable and without commas.
    mutating func serverFirst(record: CredentialRecord, nonce: [UInt8]) -> [UInt8] {
        self.serverFirst(record: record, serverNonce: Base64.encode(nonce))
    }

    mutating func serverFirst(record: CredentialRecord, serverNonce: String) -> [UInt8] {
        self.record = record
        self.nonce = self.clientNonce + Array(serverNonce.utf8)
        self.serverFirst =
            Array("r=".utf8) + self.nonce + Array(",s=\(Base64.encode(record.salt)),i=\(record.iterations)".utf8)
        return self.serverFirst
    }

    /// ```
    /// client-final-message = channel-binding "," nonce ["," extensions] "," proof
    /// server-final-message = verifier
    /// ```
    func serverFinal(clientFinal message: [UInt8]) -> Result<[UInt8], Failure> {
        guard let record = self.record else { preconditionFailure("Client-final-message before server-first-message.") }
        let parts = message.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false)
        guard message.count <= 4_096, parts.count >= 3, let last = parts.last,
            let binding = Self.value("c", parts[0]), let nonce = Self.value("r", parts[1]),
            let proof = Self.value("p", last).flatMap({ Base64.decode($0) }), proof.count == Digest.sha256Size
        else { return .failure(.malformed) }
        guard binding.elementsEqual(Base64.encode(self.gs2Header).utf8), nonce.elementsEqual(self.nonce) else {
            return .failure(.refused)
        }
        let withoutProof = message[..<(message.count - last.count - 1)]
        let comma = UInt8(ascii: ",")
        let authMessage = self.clientFirstBare + [comma] + self.serverFirst + [comma] + withoutProof
        let signature = Digest.hmacSHA256(key: record.storedKey, message: authMessage)
        let clientKey = zip(proof, signature).map { $0 ^ $1 }
        guard Digest.constantTimeEquals(Digest.sha256(clientKey), record.storedKey) else { return .failure(.refused) }
        let verifier = Digest.hmacSHA256(key: record.serverKey, message: authMessage)
        return .success(Array("v=\(Base64.encode(verifier))".utf8))
    }

    private static func value(_ name: Character, _ part: ArraySlice<UInt8>) -> ArraySlice<UInt8>? {
        guard part.count >= 2, part.first == name.asciiValue, part[part.startIndex + 1] == UInt8(ascii: "=") else {
            return nil
        }
        return part.dropFirst(2)
    }

    /// ```
    /// saslname = 1*(value-safe-char / "=2C" / "=3D")
    /// ```
    private static func saslName(_ octets: ArraySlice<UInt8>) -> String? {
        guard octets.count <= 1_024 else { return nil }
        var out: [UInt8] = []
        var rest = octets
        while let octet = rest.popFirst() {
            guard octet == UInt8(ascii: "=") else {
                out.append(octet)
                continue
            }
            if rest.starts(with: "2C".utf8) {
                out.append(UInt8(ascii: ","))
            } else if rest.starts(with: "3D".utf8) {
                out.append(UInt8(ascii: "="))
            } else {
                return nil
            }
            rest = rest.dropFirst(2)
        }
        return String(validating: out, as: UTF8.self)
    }
}
