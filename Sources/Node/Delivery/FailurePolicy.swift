public import SMTP

/// The one table of what follows from a failure (DESIGN §5): reply, I/O, TLS or timeout in a phase, to scope and
/// permanence.
///
/// What is about the host falls through to the next one: connect, banner, EHLO, STARTTLS, AUTH. What is about the
/// message or a recipient does not. Where RFC 5321 leaves room, it does what administrators know from Postfix: a 5xx
/// banner is not final, a refused password waits for the administrator, a 5xx to EHLO is final once every host says so.
public enum FailurePolicy {
    /// Judges what the session reports.
    public static func failure(_ failure: ClientFailure) -> DeliveryFailure {
        let phase = DeliveryFailure.Phase(failure.phase)
        switch failure.cause {
        case .reply(let reply):
            return self.failure(phase, reply)
        case .unexpectedReply(let reply):
            return DeliveryFailure(
                scope: self.scope(ofLossIn: phase),
                isPermanent: false,
                phase: phase,
                reply: reply,
                status: EnhancedStatusCode(4, 5, 0),
                text: "The server sent a reply that answers no command."
            )
        case .malformedReply:
            return self.loss(phase, EnhancedStatusCode(4, 5, 0), "The server broke the protocol.")
        case .connectionLost:
            return self.loss(
                phase,
                EnhancedStatusCode(4, 4, phase == .connect ? 1 : 2),
                phase == .connect ? "Cannot connect." : "The connection was lost \(self.name(phase))."
            )
        case .timedOut:
            return self.loss(
                phase,
                EnhancedStatusCode(4, 4, phase == .connect ? 1 : 2),
                phase == .connect ? "Connecting took too long." : "The server took too long \(self.name(phase))."
            )
        case .aborted:
            return DeliveryFailure(
                scope: .session,
                isPermanent: false,
                phase: phase,
                status: EnhancedStatusCode(4, 3, 2),
                text: "The attempt was ended on this side before the message was handed over."
            )
        case .tlsNotOffered, .tlsFailed, .authenticationNotOffered, .authenticationUnprotected, .authenticationBroken:
            return self.securityFailure(phase, failure.cause)
        case .internationalizationNotOffered:
            return DeliveryFailure(
                scope: .message,
                isPermanent: true,
                phase: phase,
                status: EnhancedStatusCode(5, 6, 7),
                text: "The message needs SMTPUTF8, which the server does not offer."
            )
        case .eightBitNotOffered:
            return DeliveryFailure(
                scope: .message,
                isPermanent: true,
                phase: phase,
                status: EnhancedStatusCode(5, 6, 3),
                text: "The message needs 8BITMIME, which the server does not offer, and cannot be converted."
            )
        case .contentTooLarge(let limit):
            return DeliveryFailure(
                scope: .message,
                isPermanent: true,
                phase: phase,
                status: EnhancedStatusCode(5, 3, 4),
                text: "The message is larger than the \(limit) octets that the server takes."
            )
        case .unsendableEnvelope:
            return DeliveryFailure(
                scope: .message,
                isPermanent: true,
                phase: phase,
                status: EnhancedStatusCode(5, 1, 3),
                text: "An address of the envelope cannot be written as an SMTP command."
            )
        }
    }

    /// The most telling of what several hosts said, once no host is left: the site failed.
    ///
    /// It is permanent only if every host says so; then, and among temporary ones, a host that answered tells more
    /// than one that did not.
    public static func conclusion(_ failures: [DeliveryFailure]) -> DeliveryFailure {
        let temporary = failures.filter { !$0.isPermanent }
        let candidates = temporary.isEmpty ? failures : temporary
        guard var conclusion = candidates.max(by: { self.weight($0) < self.weight($1) }) else {
            return DeliveryFailure(
                scope: .site,
                isPermanent: false,
                phase: .routing,
                status: EnhancedStatusCode(4, 4, 4),
                text: "There is no address to connect to."
            )
        }
        if conclusion.scope == .host || conclusion.scope == .session { conclusion.scope = .site }
        return conclusion
    }

    /// Whether the server asked to be given this recipient in another transaction (RFC 5321 §4.5.3.1.10).
    public static func isTooManyRecipients(_ failure: DeliveryFailure) -> Bool {
        failure.phase == .rcpt && !failure.isPermanent && failure.status == EnhancedStatusCode(4, 5, 3)
    }

    // MARK: Replies

    private static func failure(_ phase: DeliveryFailure.Phase, _ reply: RemoteReply) -> DeliveryFailure {
        var isPermanent = reply.isPermanentNegative
        let scope: DeliveryFailure.Scope
        var status = reply.enhancedStatusCode ?? self.defaultStatus(phase, code: reply.code)
        switch phase {
        case .connect, .banner:
            scope = .host
            // A 5xx banner says nothing of the message; only 521 means "never any mail here" (RFC 7504 §3).
            isPermanent = reply.code == 521
        case .ehlo:
            scope = .host
        case .starttls:
            scope = .host
            isPermanent = false
        case .auth:
            // The password is ours to mend, and the same at every host.
            scope = .host
            isPermanent = false
        case .mail, .data, .content, .finalDot:
            scope = reply.code == 421 ? .session : .message
        case .rcpt:
            scope = reply.code == 421 ? .session : .recipient
            if self.isTooMany(reply) {
                isPermanent = false
                status = EnhancedStatusCode(4, 5, 3)
            }
        case .idle, .routing, .policy:
            scope = .session
            isPermanent = false
        }
        if isPermanent != (status.classification == 5) { status.classification = isPermanent ? 5 : 4 }
        return DeliveryFailure(
            scope: scope,
            isPermanent: isPermanent,
            phase: phase,
            reply: reply,
            status: status,
            text: "The server refused \(self.object(phase))."
        )
    }

    /// `452 4.5.3`, and 552 as RFC 821 had it: RFC 5321 §4.5.3.1.10 wants both taken for "the others later". A 552
    /// that names another reason, mostly a full mailbox, is what it says.
    private static func isTooMany(_ reply: RemoteReply) -> Bool {
        guard reply.code == 452 || reply.code == 552 else { return false }
        if let status = reply.enhancedStatusCode { return status.subject == 5 && status.detail == 3 }
        return reply.code == 452 && reply.text.lowercased().contains("too many")
    }

    /// What a code means where the server gave no enhanced code (RFC 5248 §2.4, RFC 5321 §4.2.3).
    private static func defaultStatus(_ phase: DeliveryFailure.Phase, code: Int) -> EnhancedStatusCode {
        let classification: UInt8 = code >= 500 ? 5 : 4
        let (subject, detail): (UInt16, UInt16) =
            switch code {
            case 421: (3, 2)
            case 450 where phase == .rcpt: (2, 0)
            case 451: (3, 0)
            case 452: (3, 1)
            case 454 where phase == .starttls || phase == .auth: (7, 0)
            case 500: (5, 2)
            case 501, 504, 555: (5, 4)
            case 502, 503: (5, 1)
            case 521: (3, 2)
            case 530, 538: (7, 0)
            case 535: (7, 8)
            case 551 where phase == .rcpt: (1, 6)
            case 552 where phase == .rcpt: (2, 2)
            case 552: (3, 4)
            case 553 where phase == .rcpt: (1, 3)
            case 553 where phase == .mail: (1, 7)
            case 556: (1, 10)
            default: (0, 0)
            }
        return EnhancedStatusCode(classification, subject, detail)
    }

    // MARK: No reply

    private static func loss(
        _ phase: DeliveryFailure.Phase,
        _ status: EnhancedStatusCode,
        _ text: String
    ) -> DeliveryFailure {
        DeliveryFailure(
            scope: self.scope(ofLossIn: phase),
            isPermanent: false,
            phase: phase,
            status: status,
            text: text
        )
    }

    /// Before anything was asked for a message, the next host may do better; later, another session may.
    private static func scope(ofLossIn phase: DeliveryFailure.Phase) -> DeliveryFailure.Scope {
        switch phase {
        case .connect, .banner, .ehlo, .starttls, .auth: .host
        case .mail, .rcpt, .data, .content, .finalDot, .idle, .routing, .policy: .session
        }
    }

    /// Without the protection that was asked for, mail waits: it is neither sent nor returned.
    private static func securityFailure(
        _ phase: DeliveryFailure.Phase,
        _ cause: ClientFailure.Cause
    ) -> DeliveryFailure {
        let (status, text): (EnhancedStatusCode, String) =
            switch cause {
            case .tlsNotOffered: (EnhancedStatusCode(4, 7, 4), "TLS is required, and the server does not offer it.")
            case .tlsFailed(let reason): (EnhancedStatusCode(4, 7, 5), "TLS is required, and \(reason).")
            case .authenticationNotOffered:
                (EnhancedStatusCode(4, 7, 4), "Authentication is required, and the server offers no way we know.")
            case .authenticationUnprotected:
                (EnhancedStatusCode(4, 7, 11), "Authentication is required, and the connection is not encrypted.")
            default: (EnhancedStatusCode(4, 7, 8), "The server did not prove that it knows the password.")
            }
        return DeliveryFailure(scope: .host, isPermanent: false, phase: phase, status: status, text: text)
    }

    // MARK: Words

    private static func weight(_ failure: DeliveryFailure) -> Int {
        if failure.reply != nil { return 3 }
        switch failure.phase {
        case .connect: return 0
        case .banner: return 1
        default: return 2
        }
    }

    private static func object(_ phase: DeliveryFailure.Phase) -> String {
        switch phase {
        case .connect, .banner, .ehlo, .idle, .routing, .policy: "the session"
        case .starttls: "TLS"
        case .auth: "the authentication"
        case .mail: "the sender"
        case .rcpt: "the recipient"
        case .data, .content, .finalDot: "the message"
        }
    }

    private static func name(_ phase: DeliveryFailure.Phase) -> String {
        switch phase {
        case .connect: "while connecting"
        case .banner: "before its banner"
        case .ehlo: "in answer to EHLO"
        case .starttls: "during the TLS handshake"
        case .auth: "during authentication"
        case .mail: "in answer to MAIL"
        case .rcpt: "in answer to RCPT"
        case .data: "in answer to DATA"
        case .content: "while the message was sent"
        case .finalDot: "after the message was sent"
        case .idle, .routing, .policy: "between messages"
        }
    }
}

extension DeliveryFailure.Phase {
    init(_ phase: ClientPhase) {
        self =
            switch phase {
            case .connect: .connect
            case .banner: .banner
            case .ehlo: .ehlo
            case .starttls: .starttls
            case .auth: .auth
            case .mail: .mail
            case .rcpt: .rcpt
            case .data: .data
            case .content: .content
            case .finalDot: .finalDot
            case .idle: .idle
            }
    }
}
