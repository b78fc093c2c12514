import Mail
import NodeSupport
import SMTP

/// Who may send where: relay control for all sessions of one listener. Never an open relay unless configured as one.
final class RelayRules: Sendable {
    let hostname: Domain
    let networks: [Network]
    let domains: [DomainPattern]
    let gate: IntakeGate
    let requiresAuthentication: Bool
    /// The reply to MAIL from whom must authenticate and has not, without and with TLS.
    let demandInClear: Reply

    init(
        hostname: Domain,
        relay: NodeConfiguration.Relay,
        gate: IntakeGate,
        requiresAuthentication: Bool,
        demandInClear: Reply
    ) {
        self.hostname = hostname
        self.networks = relay.networks
        self.domains = relay.domains
        self.gate = gate
        self.requiresAuthentication = requiresAuthentication
        self.demandInClear = demandInClear
    }

    func isTrusted(_ address: IPAddress?) -> Bool {
        guard let address else { return false }
        return self.networks.contains { $0.contains(address) }
    }
}

/// The policy of one session.
struct RelayPolicy: SessionPolicy {
    let rules: RelayRules
    /// The client's address is in one of the networks that may relay.
    let isTrustedClient: Bool

    func evaluateConnection(_ session: SessionFacts) -> PolicyVerdict {
        self.rules.gate.logState == .unavailable ? .close(.logUnavailable) : .accept
    }

    func evaluateMail(_ arguments: MailArguments, _ session: SessionFacts) -> PolicyVerdict {
        if self.rules.requiresAuthentication, !Self.isIdentified(session) {
            return .reject(session.tls == nil ? self.rules.demandInClear : .authenticationRequired)
        }
        return self.evaluateIntake()
    }

    func evaluateRecipient(_ recipient: Recipient, _ transaction: AcceptedTransaction) -> PolicyVerdict {
        if self.isTrustedClient || Self.isIdentified(transaction.session) { return .accept }
        let mailbox = recipient.mailbox
        if self.rules.domains.contains(where: { $0.matches(mailbox.domain.text) }) { return .accept }
        // Whoever has trouble with the relay must reach those who run it (RFC 5321 §4.5.1).
        if mailbox.domain == self.rules.hostname, mailbox.localPart.lowercased() == "postmaster" { return .accept }
        return .reject(.relayDenied)
    }

    func evaluateContent(_ transaction: AcceptedTransaction) -> PolicyVerdict {
        self.evaluateIntake()
    }

    private func evaluateIntake() -> PolicyVerdict {
        switch self.rules.gate.logState {
        case .open: self.rules.gate.isFull ? .reject(.insufficientStorage) : .accept
        case .short: .reject(.insufficientStorage)
        case .unavailable: .reject(.notStored)
        }
    }

    private static func isIdentified(_ session: SessionFacts) -> Bool {
        session.authenticatedIdentity != nil || session.tls?.verifiedClientName != nil
    }
}
