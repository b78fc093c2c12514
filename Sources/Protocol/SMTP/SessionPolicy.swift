import Mail

/// What policy says to one step of a session.
public enum PolicyVerdict: Hashable, Sendable {
    case accept
    /// Answer so; the session goes on.
    case reject(Reply)
    /// Answer so and close.
    case close(Reply)
}

/// Who may do what: pure functions of what the session knows, called on the connection's event loop.
///
/// What a policy must look up (DNS lists, reverse names) is looked up before the session begins, or at the end of
/// content, where the driver can answer ``ServerSession/publishFailed(_:)`` with any reply.
public protocol SessionPolicy: Sendable {
    /// A client connected. `reject` makes a session that answers 503 to all but QUIT (RFC 5321 §3.1).
    func evaluateConnection(_ session: SessionFacts) -> PolicyVerdict
    /// EHLO or HELO; `session.clientName` is set.
    func evaluateHello(_ session: SessionFacts) -> PolicyVerdict
    /// MAIL, once its parameters are accepted.
    func evaluateMail(_ arguments: MailArguments, _ session: SessionFacts) -> PolicyVerdict
    /// RCPT: whether to relay there, for this session and sender.
    func evaluateRecipient(_ recipient: Recipient, _ transaction: AcceptedTransaction) -> PolicyVerdict
    /// Who a recipient that was accepted is from here on: itself, as a rule.
    func resolve(_ recipient: Recipient, _ transaction: AcceptedTransaction) -> Recipient
    /// DATA or the first BDAT: the last moment before content is read, for back-pressure.
    func evaluateContent(_ transaction: AcceptedTransaction) -> PolicyVerdict
}

extension SessionPolicy {
    public func evaluateConnection(_ session: SessionFacts) -> PolicyVerdict { .accept }
    public func evaluateHello(_ session: SessionFacts) -> PolicyVerdict { .accept }
    public func evaluateMail(_ arguments: MailArguments, _ session: SessionFacts) -> PolicyVerdict { .accept }
    public func resolve(_ recipient: Recipient, _ transaction: AcceptedTransaction) -> Recipient { recipient }
    public func evaluateContent(_ transaction: AcceptedTransaction) -> PolicyVerdict { .accept }
}
