import Mail

// From the banner to readiness: EHLO, STARTTLS, AUTH.

extension ClientSession {
    mutating func receivedBanner(_ code: Int, isLast: Bool) -> Action {
        guard code / 100 == 2 else { return self.fail(self.cause(code, isExpected: code / 100 >= 4)) }
        // A server that says more before it is asked is out of step with us for good.
        guard isLast else { return self.fail(self.cause(code, isExpected: false)) }
        return self.sendHello()
    }

    mutating func sendHello() -> Action {
        switch self.configuration.wire {
        case .smtp: self.outbound.append(literal: "EHLO ")
        case .lmtp: self.outbound.append(literal: "LHLO ")
        }
        self.outbound.append(text: self.configuration.name)
        self.outbound.appendLineEnding()
        self.state = .hello
        return .wait
    }

    mutating func receivedHello(_ code: Int, isLast: Bool) -> Action {
        guard isLast else { return self.fail(self.cause(code, isExpected: false)) }
        if code / 100 == 5, self.mayFallBackToHELO {
            self.outbound.append(literal: "HELO ")
            self.outbound.append(text: self.configuration.name)
            self.outbound.appendLineEnding()
            self.state = .helo
            return .wait
        }
        guard code / 100 == 2 else { return self.fail(self.cause(code, isExpected: code / 100 >= 4)) }
        self.capabilities = ClientCapabilities(self.parser)
        if !self.isSecured {
            switch self.configuration.tls {
            case .never:
                break
            case .opportunistic, .required:
                if self.capabilities.hasTLS {
                    self.outbound.append(literal: "STARTTLS\r\n")
                    self.state = .startTLS
                    return .wait
                }
                if self.configuration.tls == .required {
                    self.state = .startTLS
                    return self.fail(.tlsNotOffered)
                }
            }
        }
        return self.authenticate()
    }

    /// HELO offers nothing: no TLS, no AUTH (RFC 5321 §3.2).
    private var mayFallBackToHELO: Bool {
        self.configuration.wire == .smtp && !self.isSecured && self.configuration.tls != .required
            && self.configuration.credentials == nil
    }

    mutating func receivedStartTLS(_ code: Int, isLast: Bool) -> Action {
        if code == 220 {
            // Octets after this reply were sent in the clear and would be taken for the server's own words.
            guard isLast else { return self.fail(self.cause(code, isExpected: false)) }
            self.state = .handshake
            return .startTLS
        }
        guard isLast, code != 421, code / 100 >= 4, self.configuration.tls == .opportunistic else {
            return self.fail(self.cause(code, isExpected: code / 100 >= 4))
        }
        // Refused although offered: the session goes on as if it had not been.
        return self.authenticate()
    }

    private mutating func authenticate() -> Action {
        guard let credentials = self.configuration.credentials else { return self.becomeReady() }
        var authentication = ClientAuthentication(credentials: credentials, nonce: self.configuration.nonce)
        guard self.isSecured || self.configuration.isLoopback else {
            self.state = .authentication(authentication)
            return self.fail(.authenticationUnprotected)
        }
        guard let command = authentication.begin(offered: self.capabilities.mechanisms) else {
            self.state = .authentication(authentication)
            return self.fail(.authenticationNotOffered)
        }
        self.outbound.append(text: command)
        self.outbound.appendLineEnding()
        self.state = .authentication(authentication)
        return .wait
    }

    mutating func receivedAuthentication(
        _ authentication: ClientAuthentication,
        _ code: Int,
        isLast: Bool
    ) -> Action {
        guard isLast else { return self.fail(self.cause(code, isExpected: false)) }
        var authentication = authentication
        switch code {
        case 334:
            var challenge: [UInt8] = []
            self.parser.forEachLine { challenge = Array($0) }
            let response = authentication.respond(to: challenge)
            self.state = .authentication(authentication)
            switch response {
            case .line(let line):
                self.outbound.append(text: line)
                self.outbound.appendLineEnding()
                return .wait
            case .derive(let derivation):
                return .deriveKey(derivation)
            case .broken:
                return self.fail(.authenticationBroken)
            }
        case 235:
            guard authentication.isServerProven else { return self.fail(.authenticationBroken) }
            return self.becomeReady()
        default:
            return self.fail(self.cause(code, isExpected: code >= 400))
        }
    }

    mutating func becomeReady() -> Action {
        self.state = .ready
        return .becameReady
    }
}
