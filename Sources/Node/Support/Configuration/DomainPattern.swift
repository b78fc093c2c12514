/// Which destination domains a rule is about. Domains are lower case, in A-label form, without trailing dot.
public enum DomainPattern: Hashable, Sendable {
    /// `*`
    case any
    /// `example.com`
    case exact(String)
    /// `.example.com`: the domain itself and everything under it.
    case suffix(String)
    /// `*.example.com`: everything under it, not the domain itself.
    case subdomains(String)

    public func matches(_ domain: String) -> Bool {
        switch self {
        case .any:
            true
        case .exact(let name):
            domain == name
        case .suffix(let name):
            domain == name || Self.isUnder(domain, name)
        case .subdomains(let name):
            Self.isUnder(domain, name)
        }
    }

    private static func isUnder(_ domain: String, _ name: String) -> Bool {
        let domain = domain.utf8
        let name = name.utf8
        guard domain.count > name.count + 1, domain.suffix(name.count).elementsEqual(name) else { return false }
        return domain.dropLast(name.count).last == UInt8(ascii: ".")
    }
}

/// How much TLS a connection must have.
public enum TLSLevel: String, Hashable, Sendable, CaseIterable {
    case none
    /// STARTTLS when offered, whatever the certificate says (RFC 7435); DANE and MTA-STS may raise it.
    case opportunistic
    /// No TLS, no delivery; the certificate is not checked.
    case required
    /// No delivery without a certificate that is valid for the host.
    case verified
}
