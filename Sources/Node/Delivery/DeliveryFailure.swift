public import SMTP

/// Why an attempt did not deliver: a value, not an error (STYLE).
public struct DeliveryFailure: Hashable, Sendable {
    /// What the failure says something about.
    public enum Scope: UInt8, Hashable, Sendable {
        /// This recipient only.
        case recipient
        /// This message, for all its recipients here.
        case message
        /// This connection: another one to the same host may work.
        case session
        /// This host: try the next mail exchanger.
        case host
        /// All hosts of the site: back off.
        case site
    }

    /// Where in the attempt it happened.
    public enum Phase: String, Hashable, Sendable {
        case routing, connect, banner, ehlo, starttls, auth, mail, rcpt, data, content, finalDot, idle, policy
    }

    public var scope: Scope
    public var isPermanent: Bool
    public var phase: Phase
    /// What the remote said; `nil` when it said nothing (I/O, TLS, DNS).
    public var reply: RemoteReply?
    /// `4.4.1` and the like: the remote's where it gave one that agrees with its code, else ours (RFC 3463).
    public var status: EnhancedStatusCode
    /// In our words, for people; says nothing of our configuration.
    public var text: String

    public init(
        scope: Scope,
        isPermanent: Bool,
        phase: Phase,
        reply: RemoteReply? = nil,
        status: EnhancedStatusCode,
        text: String
    ) {
        self.scope = scope
        self.isPermanent = isPermanent
        self.phase = phase
        self.reply = reply
        self.status = status
        self.text = text
    }
}
