/// Why a question has no answer for now.
public enum DNSFailure: Hashable, Sendable {
    /// No server gave an answer, or said that it cannot (RFC 2308 §7).
    case serverFailure
    /// The servers refuse the question.
    case refused
    /// The resolver's own time ran out.
    case timedOut
    /// DNSSEC validation failed (RFC 4035 §5.5); the text is the resolver's explanation.
    case bogus(String)
    /// The answer's records could not be read.
    case malformed
    /// More questions are open than the resolver is allowed.
    case overloaded
    /// The asking task was cancelled.
    case cancelled
    /// The resolver has been shut down or could not work at all.
    case unavailable
    /// Another RCODE (RFC 1035 §4.1.1).
    case other(responseCode: UInt16)
}

/// What the DNS said about one name and one record type.
public struct DNSAnswer<Record: DNSRecord>: Hashable, Sendable {
    public enum Outcome: Hashable, Sendable {
        /// At least one record; aliases have been followed.
        case found([Record])
        /// The name exists, without records of this type (RFC 2308 §2.2).
        case noData
        /// The name does not exist (RFC 2308 §2.1).
        case nxDomain
        case temporaryFailure(DNSFailure)
    }

    public var outcome: Outcome
    /// How long the answer holds, the negative ones too; zero for a failure.
    public var timeToLive: Duration
    /// DNSSEC proves the outcome, which includes that there is nothing (RFC 4035 §4.3 "secure").
    public var isSecure: Bool

    public init(_ outcome: Outcome, timeToLive: Duration, isSecure: Bool = false) {
        self.outcome = outcome
        self.timeToLive = timeToLive
        self.isSecure = isSecure
    }

    public static func failure(_ failure: DNSFailure) -> DNSAnswer {
        DNSAnswer(.temporaryFailure(failure), timeToLive: .zero)
    }

    /// Empty unless something was found.
    public var records: [Record] {
        switch self.outcome {
        case .found(let records): records
        case .noData, .nxDomain, .temporaryFailure: []
        }
    }

    /// Why there is no answer, if there is none.
    public var failure: DNSFailure? {
        switch self.outcome {
        case .temporaryFailure(let failure): failure
        case .found, .noData, .nxDomain: nil
        }
    }

    var knownTimeToLive: Duration? { self.failure == nil ? self.timeToLive : nil }
}
