public import NIOCore
public import NIOSSL
public import SMTP

/// What all outbound connections of a node share.
public struct OutboundConfiguration: Sendable {
    /// What EHLO calls us: a domain or an address literal.
    public var name: String
    public var timeouts: ClientTimeouts
    /// Where connections come from; the first of the remote address's family is used, none is the system's choice.
    public var sourceAddresses: [SocketAddress]
    /// For TLS that protects from eavesdroppers only (RFC 7435).
    public var unverifiedTLS: NIOSSLContext
    /// For ``TLSLevel/verified``.
    public var verifiedTLS: NIOSSLContext
    /// Whom ``TLSLevel/verified`` trusts.
    public var verifier: CertificateVerifier
    /// How long one address may take before the next is tried beside it (RFC 8305 §5).
    public var addressDelay: TimeAmount

    public init(
        name: String,
        timeouts: ClientTimeouts = ClientTimeouts(),
        sourceAddresses: [SocketAddress] = [],
        unverifiedTLS: NIOSSLContext,
        verifiedTLS: NIOSSLContext,
        verifier: CertificateVerifier,
        addressDelay: TimeAmount = .milliseconds(250)
    ) {
        self.name = name
        self.timeouts = timeouts
        self.sourceAddresses = sourceAddresses
        self.unverifiedTLS = unverifiedTLS
        self.verifiedTLS = verifiedTLS
        self.verifier = verifier
        self.addressDelay = addressDelay
    }

    /// With TLS contexts of its own.
    ///
    /// - Parameter trustedCertificatesFile: the authorities that ``TLSLevel/verified`` trusts; `nil` is the system's.
    /// - Throws: ``CertificateVerifier/LoadFailure`` when they cannot be read.
    public init(
        name: String,
        timeouts: ClientTimeouts = ClientTimeouts(),
        sourceAddresses: [SocketAddress] = [],
        trustedCertificatesFile: String? = nil
    ) throws {
        var unverified = TLSConfiguration.makeClientConfiguration()
        // Any TLS is better than what comes instead, the clear.
        unverified.minimumTLSVersion = .tlsv1
        unverified.certificateVerification = .none
        unverified.trustRoots = .certificates([])
        var verified = TLSConfiguration.makeClientConfiguration()
        verified.minimumTLSVersion = .tlsv12
        verified.trustRoots = .certificates([])
        self.init(
            name: name,
            timeouts: timeouts,
            sourceAddresses: sourceAddresses,
            unverifiedTLS: try NIOSSLContext(configuration: unverified),
            verifiedTLS: try NIOSSLContext(configuration: verified),
            verifier: try CertificateVerifier(trustedCertificatesFile: trustedCertificatesFile)
        )
    }
}

extension TimeAmount {
    init(_ duration: Duration) {
        let (seconds, attoseconds) = duration.components
        let (whole, isOver) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        let (sum, isOverSum) = whole.addingReportingOverflow(attoseconds / 1_000_000_000)
        self = .nanoseconds(isOver || isOverSum ? .max / 4 : sum)
    }
}
