import NodeSupport
import SMTP

/// Handles to what ingress counts; made once.
struct IngressMetrics: Sendable {
    /// Why something was refused; the label values of `posthorn_ingress_rejected_total`.
    enum Reason: String, CaseIterable, Sendable {
        case syntax
        case relayDenied = "relay_denied"
        case authentication
        case tlsRequired = "tls_required"
        case size
        case content
        case loop
        case recipients
        case storage
        case log
        case timeout
        case shutdown
        case errors
        case sessions
        case other

        init(_ reply: Reply) {
            let code = reply.enhancedStatusCode
            switch (reply.code, code?.subject ?? 0, code?.detail ?? 0) {
            case (_, 4, 6): self = .loop
            case (421, 4, 2): self = .timeout
            case (421, 3, 2): self = reply == .shuttingDown ? .shutdown : .log
            case (421, 7, 0): self = reply == .tooManySessions ? .sessions : .errors
            case (452, 5, 3): self = .recipients
            case (452, 3, 1): self = .storage
            case (451, 3, 0): self = .log
            case (530, 7, 0): self = reply == .tlsRequired ? .tlsRequired : .authentication
            case (535, _, _), (538, _, _), (454, 7, 0): self = .authentication
            case (550, 7, 1), (554, 7, 1): self = .relayDenied
            case (552, _, _): self = .size
            case (550, 6, _): self = .content
            case (500...504, _, _), (553, _, _), (555, _, _): self = .syntax
            default: self = .other
            }
        }
    }

    let sessionsTotal: Counter
    let messages: Counter
    let recipients: Counter
    let octets: Counter
    let appendDuration: Histogram
    let handshakes: Counter
    let handshakesFailed: Counter
    let authenticated: Counter
    let authenticationFailed: Counter
    private let rejected: [Reason: Counter]

    init(_ registry: MetricsRegistry, gate: IntakeGate) {
        self.sessionsTotal = registry.counter(
            "posthorn_ingress_sessions_total",
            help: "Sessions that clients opened."
        )
        self.messages = registry.counter(
            "posthorn_ingress_messages_total",
            help: "Messages accepted: durable, and answered with 250."
        )
        self.recipients = registry.counter(
            "posthorn_ingress_recipients_total",
            help: "Recipients of accepted messages."
        )
        self.octets = registry.counter("posthorn_ingress_bytes_total", help: "Content of accepted messages.")
        self.appendDuration = registry.histogram(
            "posthorn_ingress_append_seconds",
            help: "From end of data to 250."
        )
        let handshakeHelp = "TLS handshakes with clients."
        self.handshakes = registry.counter(
            "posthorn_ingress_tls_handshakes_total",
            help: handshakeHelp,
            labels: ["result": "ok"]
        )
        self.handshakesFailed = registry.counter(
            "posthorn_ingress_tls_handshakes_total",
            help: handshakeHelp,
            labels: ["result": "failed"]
        )
        let authenticationHelp = "AUTH exchanges by result."
        self.authenticated = registry.counter(
            "posthorn_ingress_authentications_total",
            help: authenticationHelp,
            labels: ["result": "ok"]
        )
        self.authenticationFailed = registry.counter(
            "posthorn_ingress_authentications_total",
            help: authenticationHelp,
            labels: ["result": "failed"]
        )
        self.rejected = registry.counters(
            "posthorn_ingress_rejected_total",
            help: "Negative replies by reason.",
            label: "reason"
        )
        registry.gauge("posthorn_ingress_sessions", help: "Sessions that are open.") { Double(gate.sessionCount) }
        registry.gauge(
            "posthorn_ingress_in_flight_bytes",
            help: "Content received and not yet durable."
        ) { Double(gate.octetsInFlight) }
    }

    func reject(_ reason: Reason) {
        self.rejected[reason]?.increment()
    }
}
