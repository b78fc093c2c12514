/// Why mail for a domain has nowhere to go, now or ever (RFC 5321 §5.1, RFC 3463).
public struct RoutingFailure: Error, Hashable, Sendable {
    public enum Reason: Hashable, Sendable {
        /// The domain does not exist.
        case domainNotFound
        /// The domain, or the literal, is not something that can be looked up.
        case domainInvalid
        /// The domain says that it takes no mail (RFC 7505 §3).
        case nullMX
        /// The domain has neither mail exchangers nor addresses.
        case noMailHost
        /// Its mail exchangers have no names or addresses that can be used.
        case noUsableExchanger
        /// The best mail exchanger is this relay (RFC 5321 §5.1).
        case loopsBack
        /// The DNS could not say.
        case temporary(DNSFailure)
    }

    public var reason: Reason
    /// What was looked up.
    public var name: String

    public init(_ reason: Reason, name: String) {
        self.reason = reason
        self.name = name
    }

    public var isPermanent: Bool {
        switch self.reason {
        case .temporary: false
        case .domainNotFound, .domainInvalid, .nullMX, .noMailHost, .noUsableExchanger, .loopsBack: true
        }
    }

    /// The basic reply code that says this (RFC 5321 §4.2.2, RFC 7504 §2).
    public var replyCode: Int {
        switch self.reason {
        case .temporary: 451
        case .nullMX: 556
        case .domainNotFound, .domainInvalid, .noMailHost, .noUsableExchanger: 550
        case .loopsBack: 554
        }
    }

    /// Class, subject and detail (RFC 3463 §3, RFC 7505 §4.2 "5.1.10").
    public var enhancedStatusCode: (UInt8, UInt16, UInt16) {
        switch self.reason {
        case .temporary: (4, 4, 3)
        case .nullMX: (5, 1, 10)
        case .domainNotFound, .domainInvalid, .noMailHost: (5, 1, 2)
        case .noUsableExchanger: (5, 4, 4)
        case .loopsBack: (5, 4, 6)
        }
    }

    /// For notifications and outcomes: names what was asked, and nothing of ours.
    public var text: String {
        switch self.reason {
        case .domainNotFound: "\(self.name): domain not found"
        case .domainInvalid: "\(self.name): not a valid mail domain"
        case .nullMX: "\(self.name): domain does not accept mail (null MX)"
        case .noMailHost: "\(self.name): domain has no mail exchanger and no address"
        case .noUsableExchanger: "\(self.name): no usable mail exchanger"
        case .loopsBack: "\(self.name): mail loops back to myself"
        case .temporary(let failure): "\(self.name): name server: \(failure.text)"
        }
    }
}

extension DNSFailure {
    /// A few words for people.
    public var text: String {
        switch self {
        case .serverFailure: "server failure"
        case .refused: "query refused"
        case .timedOut: "query timed out"
        case .bogus: "DNSSEC validation failed"
        case .malformed: "malformed answer"
        case .overloaded: "too many queries"
        case .cancelled: "query cancelled"
        case .unavailable: "resolver unavailable"
        case .other(let responseCode): "response code \(responseCode)"
        }
    }
}
