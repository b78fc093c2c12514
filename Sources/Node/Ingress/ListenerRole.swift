import Mail
import NIOSSL
import NodeSupport
import SMTP

/// What one listener is, made once and shared by its sessions.
struct ListenerRole: Sendable {
    let listener: NodeConfiguration.Listener
    let server: ServerConfiguration
    let rules: RelayRules
    let certificate: ListenerCertificate?
    let receiverName: String

    var isTLSImplicit: Bool { self.listener.kind == .submissions }

    /// - Throws: ``IngressError`` when certificates cannot be used.
    init(
        _ listener: NodeConfiguration.Listener,
        configuration: NodeConfiguration,
        credentials: CredentialStore?,
        gate: IntakeGate
    ) throws(IngressError) {
        let hostname = Domain(parsing: configuration.hostname) ?? Domain(normalized: configuration.hostname)
        let certificate = try Self.certificate(listener)
        let allowsClear = configuration.smtp.allowsPlainAuthWithoutTLS
        self.listener = listener
        self.certificate = certificate
        self.receiverName = hostname.text
        self.rules = RelayRules(
            hostname: hostname,
            configuration: configuration,
            gate: gate,
            requiresAuthentication: listener.requiresAuthentication,
            demandInClear: certificate != nil && !allowsClear ? .tlsRequired : .authenticationRequired
        )
        self.server = ServerConfiguration(
            hostname: hostname,
            listener: listener.name,
            kind: Self.kind(of: listener),
            isTLSAvailable: certificate != nil,
            isTLSRequired: listener.requiresTLS,
            // The rules demand it, since a client certificate will do as well.
            authentication: credentials.map {
                .init(
                    isRequired: false,
                    isAllowedWithoutTLS: allowsClear,
                    dummySecret: $0.dummySecret(),
                    dummyIterations: $0.commonIterations()
                )
            },
            limits: Self.limits(configuration.limits),
            contentRules: ContentRules(
                bareNewline: configuration.smtp.bareNewlines == .refuse ? .refuse : .normalise,
                sizeMax: max(1, configuration.limits.messageSizeMax)
            )
        )
    }

    private static func kind(of listener: NodeConfiguration.Listener) -> ServerConfiguration.Kind {
        switch listener.kind {
        case .relay: .relay
        case .submission: .submission
        case .submissions: .submissionOverTLS
        }
    }

    private static func limits(_ limits: NodeConfiguration.Limits) -> ServerConfiguration.Limits {
        // Six digits are the most that the LIMITS keyword can say (RFC 9422 §4).
        ServerConfiguration.Limits(
            recipientCountMax: min(max(100, limits.recipientCountMax), 999_999),
            messageCountMax: limits.messagesPerSessionMax <= 0 ? 999_999 : min(limits.messagesPerSessionMax, 999_999),
            errorCountMax: max(1, limits.errorCountMax),
            junkCommandCountMax: max(1, limits.junkCommandCountMax)
        )
    }

    private static func certificate(_ listener: NodeConfiguration.Listener) throws(IngressError) -> ListenerCertificate?
    {
        guard let files = listener.tls else {
            guard listener.kind != .submissions else {
                throw IngressError(reason: "listener \(listener.name): submissions needs a certificate")
            }
            return nil
        }
        return try ListenerCertificate(listener, files: files)
    }

    /// The name by which a client whose certificate was verified is let in; `nil` when it is not.
    func clientName(in certificate: NIOSSLCertificate?) -> String? {
        guard let certificate, let clients = self.listener.clientCertificates else { return nil }
        let names = certificate._subjectAlternativeNames()
            .filter { $0.nameType == .dnsName || $0.nameType == .email }
            .map { name in name.contents.withUnsafeBufferPointer { String(decoding: $0, as: UTF8.self) } }
        guard !clients.names.isEmpty else { return names.first ?? "certificate" }
        return names.first { name in clients.names.contains { $0.lowercased() == name.lowercased() } }
    }
}

/// Why ingress could not start.
public struct IngressError: Error, Hashable, Sendable, CustomStringConvertible {
    /// For people: what is wrong and where to change it.
    public var reason: String
    public var description: String { self.reason }
}
