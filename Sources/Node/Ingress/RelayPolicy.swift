import Mail
import NodeSupport
import SMTP

/// Who may send where: relay control for all sessions of one listener. Never an open relay unless configured as one.
final class RelayRules: Sendable {
    let hostname: Domain
    let networks: [Network]
    let domains: [DomainPattern]
    /// Who gets mail for our postmaster.
    let postmaster: Mailbox?
    let hasPostmaster: Bool
    let gate: IntakeGate
    let requiresAuthentication: Bool
    /// The reply to MAIL from whom must authenticate and has not, without and with TLS.
    let demandInClear: Reply

    init(
        hostname: Domain,
        configuration: NodeConfiguration,
        gate: IntakeGate,
        requiresAuthentication: Bool,
        demandInClear: Reply
    ) {
        self.hostname = hostname
        self.networks = configuration.relay.networks
        self.domains = configuration.relay.domains
        self.postmaster = configuration.postmaster.flatMap { Mailbox(parsing: $0) }
        self.hasPostmaster = configuration.hasPostmaster
        self.gate = gate
        self.requiresAuthentication = requiresAuthentication
        self.demandInClear = demandInClear
    }

    func isTrusted(_ address: IPAddress?) -> Bool {
        guard let address else { return false }
        return self.networks.contains { $0.contains(address) }
    }

    func isPostmaster(_ mailbox: Mailbox) -> Bool {
        mailbox.domain == self.hostname && mailbox.localPart.lowercased() == "postmaster"
    }

    func isOurs(_ domain: Domain) -> Bool {
        self.domains.contains { $0.matches(domain.text) }
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
        if self.isTrusted(transaction) || self.rules.isOurs(recipient.mailbox.domain) { return .accept }
        // Whoever has trouble with the relay must reach those who run it (RFC 5321 §4.5.1). Where nobody said who that is,
        // to accept would be to lose the message, or to return it to a sender who may be forged.
        if self.rules.isPostmaster(recipient.mailbox) {
            return self.rules.hasPostmaster ? .accept : .reject(.noPostmaster)
        }
        return .reject(.relayDenied)
    }

    func resolve(_ recipient: Recipient, _ transaction: AcceptedTransaction) -> Recipient {
        guard self.rules.isPostmaster(recipient.mailbox) else { return recipient }
        var recipient = recipient
        // Strangers may write to the postmaster, and not have us write to whom they name.
        if !self.isTrusted(transaction), !self.rules.isOurs(recipient.mailbox.domain) { recipient.notify = .never }
        if let postmaster = self.rules.postmaster { recipient.mailbox = postmaster }
        return recipient
    }

    private func isTrusted(_ transaction: AcceptedTransaction) -> Bool {
        self.isTrustedClient || Self.isIdentified(transaction.session)
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
