import Digests

/// The server side of one AUTH exchange (RFC 4954 §4, RFC 4422), without the base 64 around its messages.
///
/// The driver looks the user up and checks passwords: both are steps answered by events.
public struct SASLExchange: Sendable {
    public enum Mechanism: String, Hashable, Sendable, CaseIterable {
        case scramSHA256 = "SCRAM-SHA-256"
        case plain = "PLAIN"
        /// Obsolete (draft-murchison-sasl-login), and all that some clients know.
        case login = "LOGIN"
    }

    /// What happens next.
    public enum Step: Hashable, Sendable {
        /// Send the challenge, then feed the response.
        case challenge([UInt8])
        /// Find the user's record, then call ``foundCredential(_:nonce:)``.
        case lookUp(userName: String)
        /// Check the password, then call ``checkedPassword(isMatch:)``.
        case check(PasswordCheck)
        case success(userName: String)
        /// Wrong password, unknown user, or an identity the user may not take: not told apart.
        case failure
        /// The response is not what the mechanism's grammar allows.
        case malformed
    }

    private enum State: Sendable {
        case plain
        case loginUserName
        case loginPassword(userName: String)
        /// Waits for the record. Next: `checking`.
        case plainLookUp(userName: String, password: String)
        /// Waits for the password check. Next: `finished`.
        case checking(userName: String)
        case scramFirst
        /// Waits for the record. Next: `scramFinal`.
        case scramLookUp(SCRAMServer)
        case scramFinal(SCRAMServer)
        /// The server's signature is on its way; an empty response acknowledges it. Next: `finished`.
        case scramAcknowledgement(userName: String)
        case finished
    }

    private var state: State
    private let dummySecret: [UInt8]
    private let dummyIterations: Int

    /// - Parameters:
    ///   - dummySecret: from which unknown users' salts are made; the same on all nodes.
    ///   - dummyIterations: those of real records, so that unknown users cost the same.
    public init(mechanism: Mechanism, dummySecret: [UInt8], dummyIterations: Int) {
        switch mechanism {
        case .plain: self.state = .plain
        case .login: self.state = .loginUserName
        case .scramSHA256: self.state = .scramFirst
        }
        self.dummySecret = dummySecret
        self.dummyIterations = dummyIterations
    }

    /// The exchange begins; `initialResponse` is that of the AUTH command.
    public mutating func begin(initialResponse: [UInt8]?) -> Step {
        if let initialResponse { return self.received(initialResponse) }
        if case .loginUserName = self.state { return .challenge(Array("Username:".utf8)) }
        return .challenge([])
    }

    /// The client answered a challenge.
    public mutating func received(_ response: [UInt8]) -> Step {
        switch exchange(&self.state, with: .finished) {
        case .plain:
            return self.plain(response)
        case .loginUserName:
            guard let userName = Self.text(response[...]), !userName.isEmpty else { return .malformed }
            self.state = .loginPassword(userName: userName)
            return .challenge(Array("Password:".utf8))
        case .loginPassword(let userName):
            guard let password = Self.text(response[...]) else { return .malformed }
            self.state = .plainLookUp(userName: userName, password: password)
            return .lookUp(userName: userName)
        case .scramFirst:
            switch SCRAMServer.begin(clientFirst: response) {
            case .failure(.malformed): return .malformed
            case .failure(.refused): return .failure
            case .success(let server):
                self.state = .scramLookUp(server)
                return .lookUp(userName: server.userName)
            }
        case .scramFinal(let server):
            switch server.serverFinal(clientFinal: response) {
            case .failure(.malformed): return .malformed
            case .failure(.refused): return .failure
            case .success(let message):
                self.state = .scramAcknowledgement(userName: server.userName)
                return .challenge(message)
            }
        case .scramAcknowledgement(let userName):
            return response.isEmpty ? .success(userName: userName) : .malformed
        case .plainLookUp, .checking, .scramLookUp, .finished:
            preconditionFailure("Response fed while none is awaited.")
        }
    }

    /// The driver looked the user up.
    ///
    /// - Parameters:
    ///   - record: `nil` when there is no such user.
    ///   - nonce: random octets, at least 18; used by SCRAM only.
    public mutating func foundCredential(_ record: CredentialRecord?, nonce: [UInt8]) -> Step {
        switch exchange(&self.state, with: .finished) {
        case .plainLookUp(let userName, let password):
            self.state = .checking(userName: userName)
            return .check(PasswordCheck(record: record ?? self.dummy(userName), password: password))
        case .scramLookUp(var server):
            let challenge = server.serverFirst(record: record ?? self.dummy(server.userName), nonce: nonce)
            self.state = .scramFinal(server)
            return .challenge(challenge)
        case .plain, .loginUserName, .loginPassword, .checking, .scramFirst, .scramFinal, .scramAcknowledgement,
            .finished:
            preconditionFailure("Credential fed without a look-up.")
        }
    }

    /// The driver checked the password.
    public mutating func checkedPassword(isMatch: Bool) -> Step {
        switch exchange(&self.state, with: .finished) {
        case .checking(let userName):
            return isMatch ? .success(userName: userName) : .failure
        case .plain, .loginUserName, .loginPassword, .plainLookUp, .scramFirst, .scramLookUp, .scramFinal,
            .scramAcknowledgement, .finished:
            preconditionFailure("Password result fed without a check.")
        }
    }

    private func dummy(_ userName: String) -> CredentialRecord {
        .dummy(userName: userName, secret: self.dummySecret, iterations: self.dummyIterations)
    }

    /// ```
    /// message = [authzid] UTF8NUL authcid UTF8NUL passwd
    /// ```
    /// An authorization identity other than the user's own is refused (RFC 4616 §2).
    private mutating func plain(_ response: [UInt8]) -> Step {
        let parts = response.split(separator: 0, maxSplits: 3, omittingEmptySubsequences: false)
        guard parts.count == 3, let identity = Self.text(parts[0]), let userName = Self.text(parts[1]),
            let password = Self.text(parts[2]), !userName.isEmpty, !password.isEmpty
        else { return .malformed }
        guard identity.isEmpty || identity == userName else { return .failure }
        self.state = .plainLookUp(userName: userName, password: password)
        return .lookUp(userName: userName)
    }

    private static func text(_ octets: ArraySlice<UInt8>) -> String? {
        guard octets.count <= 1_024, !octets.contains(0) else { return nil }
        return String(validating: octets, as: UTF8.self)
    }
}
