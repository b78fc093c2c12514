import Digests
@_spi(_Unicode) import Swift

/// What is kept of a password: enough to check it, not to know it (RFC 5802 §3, RFC 7677).
public struct CredentialRecord: Hashable, Sendable, CustomStringConvertible {
    public let userName: String
    public let iterations: Int
    public let salt: [UInt8]
    public let storedKey: [UInt8]
    public let serverKey: [UInt8]

    /// Iterations for new records (RFC 7677 §4 asks for at least 4,096).
    public static let defaultIterations = 4_096
    /// More than this in a credentials file is taken for an error: checking one password would stop a thread.
    public static let iterationsMax = 10_000_000

    private static let scheme = "SCRAM-SHA-256"

    /// Makes a record from a password; slow. `salt` is random, at least 16 octets are advised.
    public init(userName: String, password: String, salt: [UInt8], iterations: Int = Self.defaultIterations) {
        let salted = Self.saltedPassword(password, salt: salt, iterations: iterations)
        self.init(userName: userName, saltedPassword: salted, salt: salt, iterations: iterations)
    }

    init(userName: String, saltedPassword: [UInt8], salt: [UInt8], iterations: Int) {
        self.userName = userName
        self.iterations = iterations
        self.salt = salt
        self.storedKey = Digest.sha256(Digest.hmacSHA256(key: saltedPassword, message: Array("Client Key".utf8)))
        self.serverKey = Digest.hmacSHA256(key: saltedPassword, message: Array("Server Key".utf8))
    }

    /// Reads `user:SCRAM-SHA-256$<iterations>:<salt>$<storedKey>:<serverKey>`, PostgreSQL's form with base 64 values;
    /// `nil` for anything else. The user's name may hold colons.
    public init?(line: some StringProtocol) {
        let octets = Array(line.utf8)
        let marker = Array(":\(Self.scheme)$".utf8)
        guard octets.count > marker.count,
            let place = (0...(octets.count - marker.count)).last(where: { octets[$0...].starts(with: marker) })
        else { return nil }
        let userName = String(decoding: octets[..<place], as: UTF8.self)
        let fields = String(decoding: octets[(place + marker.count)...], as: UTF8.self)
            .split(separator: "$", omittingEmptySubsequences: false)
        guard !userName.isEmpty, fields.count == 2 else { return nil }
        let first = fields[0].split(separator: ":", omittingEmptySubsequences: false)
        let second = fields[1].split(separator: ":", omittingEmptySubsequences: false)
        guard first.count == 2, second.count == 2,
            let iterations = Int(first[0]), iterations >= 1, iterations <= Self.iterationsMax,
            let salt = Base64.decode(first[1]), !salt.isEmpty,
            let storedKey = Base64.decode(second[0]), storedKey.count == Digest.sha256Size,
            let serverKey = Base64.decode(second[1]), serverKey.count == Digest.sha256Size
        else { return nil }
        self.userName = userName
        self.iterations = iterations
        self.salt = salt
        self.storedKey = storedKey
        self.serverKey = serverKey
    }

    /// The line that ``init(line:)`` reads.
    public var line: String {
        "\(self.userName):\(Self.scheme)$\(self.iterations):\(Base64.encode(self.salt))"
            + "$\(Base64.encode(self.storedKey)):\(Base64.encode(self.serverKey))"
    }

    /// Without the keys: records end up in text logs by accident.
    public var description: String { "CredentialRecord(\(self.userName))" }

    /// A record that no password matches, for a user who does not exist: the same name always gets the same salt, so
    /// that an exchange looks like one with a wrong password (RFC 5802 §9).
    public static func dummy(userName: String, secret: [UInt8], iterations: Int) -> CredentialRecord {
        let salt = Digest.hmacSHA256(key: secret, message: Array("salt:\(userName)".utf8))
        let key = Digest.hmacSHA256(key: secret, message: Array("key:\(userName)".utf8))
        return CredentialRecord(
            userName: userName,
            saltedPassword: key,
            salt: Array(salt.prefix(16)),
            iterations: iterations
        )
    }

    /// Whether the password is the record's; slow on purpose: not for an event loop.
    public func matches(password: String) -> Bool {
        let salted = Self.saltedPassword(password, salt: self.salt, iterations: self.iterations)
        let clientKey = Digest.hmacSHA256(key: salted, message: Array("Client Key".utf8))
        return Digest.constantTimeEquals(Digest.sha256(clientKey), self.storedKey)
    }

    static func saltedPassword(_ password: String, salt: [UInt8], iterations: Int) -> [UInt8] {
        Digest.pbkdf2SHA256(
            password: Array(self.prepared(password).utf8),
            salt: salt,
            iterations: iterations
        )
    }

    /// NFC with all spaces made U+0020 (RFC 8265 §4.2, OpaqueString); nothing changes for ASCII.
    static func prepared(_ password: String) -> String {
        guard !password.utf8.allSatisfy({ $0 < 0x80 }) else { return password }
        var text = ""
        for scalar in password._nfc {
            text.unicodeScalars.append(scalar.properties.generalCategory == .spaceSeparator ? " " : scalar)
        }
        return text
    }
}

/// A password to be checked against a record: the slow part of PLAIN and LOGIN, which a driver runs off its event loop.
public struct PasswordCheck: Hashable, Sendable, CustomStringConvertible {
    public let record: CredentialRecord
    let password: String

    /// Whether the password matches; takes milliseconds.
    public func isMatch() -> Bool { self.record.matches(password: self.password) }

    public var description: String { "PasswordCheck(\(self.record.userName))" }
}
