/// Everything an operator can decide about a node.
///
/// Pure values with safe defaults: `NodeConfiguration()` is a relay for this machine alone. The executable reads it
/// from YAML and the environment and checks it; whoever is given one may rely on the checks having passed.
public struct NodeConfiguration: Hashable, Sendable {
    /// What the node calls itself in greetings, EHLO, Received and notifications. The loader puts the machine's own
    /// name here when the file says nothing.
    public var hostname: String = "localhost"
    /// Where the node keeps what must survive: the embedded log, above all.
    public var dataDirectory: String = "/var/lib/posthorn"
    public var listeners: [Listener] = [Listener(name: "smtp", kind: .relay)]
    public var relay = Relay()
    public var limits = Limits()
    public var timeouts = Timeouts()
    public var smtp = SMTPPolicy()
    /// SCRAM verifiers, one identity a line; see `posthorn credentials`.
    public var credentialsFile: String?
    /// Where mail for the postmaster of `hostname` goes (RFC 5321 §4.5.1); `nil`: where the routes say.
    public var postmaster: String?
    /// First match wins; after the last one everything goes to its mail exchangers.
    public var routes: [Route] = []
    public var retry = Retry()
    public var delivery = Delivery()
    public var dns = DNSSettings()
    /// What this node does; everything on the embedded log.
    public var roles: Set<Role> = Set(Role.allCases)
    public var log = LogSettings()
    public var kafka = Kafka()
    public var partitioning = Partitioning()
    public var admin = AdminSettings()
    public var logging = LoggingSettings()

    public init() {}

    /// The route a destination domain takes: the first that matches, or the mail exchangers.
    ///
    /// - Parameter domain: lower case, in A-label form.
    public func route(for domain: String) -> Route {
        self.routes.first { $0.match.matches(domain) } ?? Route(match: .any, via: .mailExchangers)
    }

    /// Whether anybody has said where mail for the postmaster of `hostname` goes: its own mail exchangers are this node
    /// again, or a guess.
    public var hasPostmaster: Bool {
        self.postmaster != nil || self.routes.contains { $0.match.matches(self.hostname) }
            || self.relay.domains.contains { $0.matches(self.hostname) }
    }

    /// Where the admin listener's token is; `nil` when none is asked for.
    public var adminTokenFile: String? {
        switch self.admin.token {
        case .made: self.dataDirectory + "/admin-token"
        case .file(let path): path
        case .notAsked: nil
        }
    }
}

extension NodeConfiguration {
    /// Who may relay where (RFC 5321 §3.6).
    public struct Relay: Hashable, Sendable {
        /// Clients in these networks may send to any domain without authenticating.
        public var networks: [Network] = Network.loopback
        /// Anybody may send to these domains.
        public var domains: [DomainPattern] = []
        /// The operator insists on `networks` or `domains` that let the whole Internet relay anywhere.
        public var isKnownOpenRelay = false

        public init() {}
    }

    /// What the SMTP server tolerates.
    public struct SMTPPolicy: Hashable, Sendable {
        /// What happens to content with a CR or LF that is not part of a CRLF (RFC 5321 §2.3.8).
        public enum BareNewlines: String, Hashable, Sendable, CaseIterable {
            /// The message is refused: nobody downstream can be smuggled to.
            case refuse
            /// Each becomes a CRLF; end of data is still CRLF.CRLF alone.
            case normalise
        }

        public var bareNewlines: BareNewlines = .refuse
        /// Submission listeners add a Date and a Message-ID that a message lacks (RFC 6409 §8).
        public var addMissingHeaders = true
        /// Passwords are taken in the clear. Only for networks where nobody can listen.
        public var allowsPlainAuthWithoutTLS = false

        public init() {}
    }

    /// How long and how often a recipient is tried.
    public struct Retry: Hashable, Sendable {
        /// The delays there are, ascending: each is a topic.
        public var tiers: [Duration] = [.seconds(60), .seconds(300), .seconds(900), .seconds(3600), .seconds(4 * 3600)]
        /// The delay after the first, second, ... failed attempt; the last one repeats. Each is one of `tiers`.
        public var schedule: [Duration] = [
            .seconds(60), .seconds(300), .seconds(900), .seconds(3600), .seconds(4 * 3600),
        ]
        /// A message this old expires and is returned.
        public var lifetime: Duration = .seconds(5 * 86400)
        /// The same for notifications, whose null reverse-path leaves nobody to tell.
        public var notificationLifetime: Duration = .seconds(86400)
        /// When the sender is told that a message is late; `nil` is never.
        public var delayNotificationAfter: Duration? = .seconds(4 * 3600)

        public init() {}
    }

    /// The bounds on sending.
    public struct Delivery: Hashable, Sendable {
        /// Which address family is tried first where a host has both.
        public enum AddressPreference: String, Hashable, Sendable, CaseIterable {
            /// IPv6, as ``ipv6``.
            case any
            case ipv6
            case ipv4
            case ipv6Only = "ipv6-only"
            case ipv4Only = "ipv4-only"
        }

        /// Open connections of the node, all sites together.
        public var connectionCountMax = 500
        /// Open connections to one site, unless its route says otherwise.
        public var connectionCountPerSiteMax = 20
        /// Transactions on one connection before it is closed; 0 is no bound.
        public var messagesPerConnectionMax = 100
        /// How long an idle connection is kept for the next message.
        public var idleTimeout: Duration = .seconds(5)
        public var addressPreference: AddressPreference = .any
        /// Local addresses to send from; empty leaves the choice to the system.
        public var sourceAddresses: [IPAddress] = []
        /// For destinations whose route does not say.
        public var tls: TLSLevel = .opportunistic
        /// The certificates that verification trusts (PEM); `nil` is the system's.
        public var trustedCertificatesFile: String?

        public init() {}
    }

    public struct DNSSettings: Hashable, Sendable {
        /// Resolvers to ask, port 53 unless given; empty is what `resolvConf` names, or full recursion without one.
        public var forwarders: [Endpoint] = []
        /// Where the machine's resolvers are listed; `nil` resolves from the root servers.
        public var resolvConf: String? = "/etc/resolv.conf"
        /// The DNSSEC root key file (RFC 5011); `nil` switches validation off.
        public var trustAnchorFile: String?
        /// For one query, retransmissions included.
        public var timeout: Duration = .seconds(10)

        public init() {}
    }

    /// The embedded log.
    public struct LogSettings: Hashable, Sendable {
        /// Fixed when the log is created.
        public var partitionCount = 8
        /// Octets in one segment file; retention deletes whole segments.
        public var segmentSizeMax = 64 << 20
        /// Octets of disk that only delivery may use: below this, mail is refused with 452.
        public var diskReserve = 64 << 20
        /// How long outcomes are kept.
        public var outcomeRetention: Duration = .seconds(30 * 86400)

        public init() {}
    }

    public struct AdminSettings: Hashable, Sendable {
        /// What callers of the queue's paths must present as a bearer token.
        public enum Token: Hashable, Sendable {
            /// What the node puts into a file of its own in the data directory, for its user alone.
            case made
            /// A file's first line.
            case file(String)
            /// Nothing; allowed on loopback only.
            case notAsked
        }

        /// `nil` serves no administration at all.
        public var address: Endpoint? = Endpoint(host: "127.0.0.1", port: 9925)
        public var token = Token.made

        public init() {}
    }

    public struct LoggingSettings: Hashable, Sendable {
        public enum Level: String, Hashable, Sendable, CaseIterable {
            case trace
            case debug
            case info
            case notice
            case warning
            case error
            case critical
        }

        public enum Format: String, Hashable, Sendable, CaseIterable {
            case text
            case json
        }

        public var level: Level = .info
        public var format: Format = .text
        /// The local parts of mail addresses are left out.
        public var redactsAddresses = true

        public init() {}
    }
}
