/// How an ``UnboundResolver`` works.
public struct UnboundOptions: Sendable {
    /// Who answers our questions.
    public enum Upstream: Hashable, Sendable {
        /// Full recursion from the root servers; hints from a file in place of the built-in ones.
        case recursion(rootHintsFile: String?)
        /// The name servers that a resolv.conf lists.
        case resolvConf(file: String)
        /// `address` or `address@port`, tried in the resolver's own order.
        case forwarders([String])
    }

    public var upstream = Upstream.resolvConf(file: "/etc/resolv.conf")
    /// DS or DNSKEY records of the root; without one nothing is ever secure.
    public var trustAnchorFile: String?
    /// Keep the trust anchor up to date by writing to its file (RFC 5011).
    public var updatesTrustAnchor = false
    /// Names answered from a file such as `/etc/hosts`.
    public var hostsFile: String?
    /// After this a question has failed for whoever asked; its answer may still fill the cache.
    public var queryTimeout: Duration = .seconds(15)
    /// Questions being resolved at one time.
    public var activeQueryCountMax = 2_000
    /// Questions being resolved or waiting for it; beyond that they fail at once.
    public var queryCountMax = 20_000
    /// Octets of the caches for messages, record sets and keys together.
    public var cacheSize = 64 << 20
    /// Sockets towards name servers, UDP; the library's own default of 16 lets few dead servers hold up everybody.
    public var udpSocketCountMax = 512
    /// Sockets towards name servers, TCP.
    public var tcpSocketCountMax = 64
    /// unbound.conf options set last, such as `("do-ip6", "no")`.
    public var extra: [(key: String, value: String)] = []

    public init() {}
}

/// Why a resolver could not be set up.
public struct ResolverError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: Hashable, Sendable {
        case outOfMemory
        /// An option, or a file it names, was not taken.
        case configuration
        /// No thread or pipe.
        case system
    }

    public var code: Code
    /// What was being set, and what the library or the system said.
    public var explanation: String

    public init(_ code: Code, _ explanation: String) {
        self.code = code
        self.explanation = explanation
    }

    public var description: String { self.explanation }
}
