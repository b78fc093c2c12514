extension ServerSession {
    // MARK: Events

    /// The driver looked a user up.
    ///
    /// - Parameters:
    ///   - record: `nil` when there is no such user: the exchange goes on as if there were one.
    ///   - nonce: at least 18 random octets.
    public mutating func foundCredential(_ record: CredentialRecord?, nonce: [UInt8]) -> Action {
        guard case .lookingUp(var exchange) = self.takeState() else {
            preconditionFailure("Credential fed without a look-up.")
        }
        let step = exchange.foundCredential(record, nonce: nonce)
        return self.perform(step, exchange)
    }

    /// The credentials cannot be read at present.
    public mutating func lookUpFailed() -> Action {
        guard case .lookingUp = self.takeState() else { preconditionFailure("Look-up failed without a look-up.") }
        self.state = .ready
        return self.answer(.authenticationUnavailable)
    }

    /// The driver ran a ``PasswordCheck``.
    public mutating func checkedPassword(isMatch: Bool) -> Action {
        guard case .checking(var exchange) = self.takeState() else {
            preconditionFailure("Password result fed without a check.")
        }
        let step = exchange.checkedPassword(isMatch: isMatch)
        return self.perform(step, exchange)
    }

    // MARK: Lines

    mutating func auth(_ mechanism: String, _ initialResponse: [UInt8]?) -> Action {
        guard case .ready = self.state, self.facts.isExtended else { return self.answer(.badSequence) }
        guard let authentication = self.configuration.authentication else { return self.answer(.notImplemented) }
        guard self.facts.authenticatedIdentity == nil else { return self.answer(.alreadyAuthenticated) }
        if self.facts.tls == nil {
            if self.configuration.isTLSRequired { return self.answer(.tlsRequired) }
            guard authentication.isAllowedWithoutTLS else { return self.answer(.encryptionRequired) }
        }
        guard let mechanism = SASLExchange.Mechanism(rawValue: mechanism),
            authentication.mechanisms.contains(mechanism)
        else { return self.answer(.unknownMechanism) }
        var response: [UInt8]?
        if let initialResponse {
            // "=" is an empty response, as against none (RFC 4954 §4).
            let decoded = initialResponse.elementsEqual("=".utf8) ? [] : Base64.decode(initialResponse)
            guard let decoded else { return self.answer(.badAuthenticationResponse) }
            response = decoded
        }
        var exchange = SASLExchange(
            mechanism: mechanism,
            dummySecret: authentication.dummySecret,
            dummyIterations: authentication.dummyIterations
        )
        let step = exchange.begin(initialResponse: response)
        return self.perform(step, exchange)
    }

    mutating func receivedResponse(_ line: UnsafeRawBufferPointer) -> Action {
        guard case .authenticating(var exchange) = self.takeState() else {
            preconditionFailure("Response taken outside an exchange.")
        }
        self.state = .ready
        if line.elementsEqual("*".utf8) { return self.answer(.authenticationCancelled) }
        guard let response = Base64.decode(line) else { return self.answer(.badAuthenticationResponse) }
        let step = exchange.received(response)
        return self.perform(step, exchange)
    }

    private mutating func perform(_ step: SASLExchange.Step, _ exchange: SASLExchange) -> Action {
        switch step {
        case .challenge(let challenge):
            self.state = .authenticating(exchange)
            return .reply(Reply(challenge: challenge))
        case .lookUp(let userName):
            self.state = .lookingUp(exchange)
            return .lookUpCredential(userName: userName)
        case .check(let check):
            self.state = .checking(exchange)
            return .checkPassword(check)
        case .success(let userName):
            self.state = .ready
            self.facts.authenticatedIdentity = userName
            return .reply(.authenticated)
        case .failure:
            self.state = .ready
            self.authenticationFailureCount += 1
            guard self.authenticationFailureCount < self.configuration.limits.authenticationFailureCountMax else {
                return self.close(.tooManyErrors)
            }
            return self.answer(.badCredentials)
        case .malformed:
            self.state = .ready
            return self.answer(.badAuthenticationResponse)
        }
    }
}
