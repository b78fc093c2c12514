extension NodeConfiguration {
    /// A place where the node takes mail.
    public struct Listener: Hashable, Sendable {
        public enum Kind: String, Hashable, Sendable, CaseIterable {
            /// Mail from other servers and from the networks we relay for; STARTTLS where there is a certificate.
            case relay
            /// Mail from users, STARTTLS (RFC 6409).
            case submission
            /// Mail from users, TLS from the first octet (RFC 8314 §3.3).
            case submissions

            /// What IANA assigned.
            public var defaultPort: Int {
                switch self {
                case .relay: 25
                case .submission: 587
                case .submissions: 465
                }
            }
        }

        /// A certificate chain and its key, PEM files.
        public struct TLSFiles: Hashable, Sendable {
            public var certificateFile: String
            public var keyFile: String

            public init(certificateFile: String, keyFile: String) {
                self.certificateFile = certificateFile
                self.keyFile = keyFile
            }
        }

        /// Clients that prove who they are with a certificate may relay as if they had authenticated.
        public struct ClientCertificates: Hashable, Sendable {
            /// The authorities that issue them (PEM).
            public var authorityFile: String
            /// The subject alternative names that are let in; empty is every certificate of the authority.
            public var names: [String]

            public init(authorityFile: String, names: [String] = []) {
                self.authorityFile = authorityFile
                self.names = names
            }
        }

        /// In logs, metrics and Received's place; unique.
        public var name: String
        public var kind: Kind
        /// Loopback unless told otherwise: nobody is reachable from elsewhere without having said so. `::` is every address
        /// of both families.
        public var address: String
        /// 0 lets the system choose, for tests.
        public var port: Int
        public var tls: TLSFiles?
        /// MAIL is refused before STARTTLS.
        public var requiresTLS: Bool
        /// MAIL is refused before AUTH.
        public var requiresAuthentication: Bool
        /// Load balancers in these networks must begin each connection with a PROXY protocol header.
        public var proxyProtocolNetworks: [Network]
        public var clientCertificates: ClientCertificates?

        public static let defaultAddress = "127.0.0.1"

        /// Submission requires authentication, and TLS where there is a certificate, unless told otherwise.
        public init(
            name: String,
            kind: Kind,
            address: String = Self.defaultAddress,
            port: Int? = nil,
            tls: TLSFiles? = nil,
            requiresTLS: Bool? = nil,
            requiresAuthentication: Bool? = nil,
            proxyProtocolNetworks: [Network] = [],
            clientCertificates: ClientCertificates? = nil
        ) {
            self.name = name
            self.kind = kind
            self.address = address
            self.port = port ?? kind.defaultPort
            self.tls = tls
            self.requiresTLS = requiresTLS ?? (kind != .relay && tls != nil)
            self.requiresAuthentication = requiresAuthentication ?? (kind != .relay)
            self.proxyProtocolNetworks = proxyProtocolNetworks
            self.clientCertificates = clientCertificates
        }
    }
}
