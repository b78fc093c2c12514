/// What the rdata of one record type says.
///
/// `init?(rdata:)` takes any octets: what is malformed is `nil`, never a trap.
public protocol DNSRecord: Hashable, Sendable {
    /// The TYPE value to ask for (RFC 1035 §3.2.2).
    static var recordType: UInt16 { get }

    init?(rdata: UnsafeRawBufferPointer)
}

extension IPv4Address: DNSRecord {
    public static let recordType: UInt16 = 1

    public init?(rdata: UnsafeRawBufferPointer) {
        guard rdata.count == 4 else { return nil }
        self.init(rawValue: rdata.reduce(0) { $0 << 8 | UInt32($1) })
    }
}

extension IPv6Address: DNSRecord {
    public static let recordType: UInt16 = 28

    public init?(rdata: UnsafeRawBufferPointer) {
        guard rdata.count == 16 else { return nil }
        self.init(
            high: rdata[..<8].reduce(0) { $0 << 8 | UInt64($1) },
            low: rdata[8...].reduce(0) { $0 << 8 | UInt64($1) }
        )
    }
}

/// The canonical name an alias stands for (RFC 1035 §3.3.1).
public struct CNAMERecord: DNSRecord {
    public static let recordType: UInt16 = 5
    public let target: DNSName

    public init(target: DNSName) {
        self.target = target
    }

    public init?(rdata: UnsafeRawBufferPointer) {
        guard let (name, octetCount) = DNSName.parse(wire: rdata), octetCount == rdata.count else { return nil }
        self.target = name
    }
}

/// A mail exchanger of a domain (RFC 1035 §3.3.9).
public struct MXRecord: DNSRecord {
    public static let recordType: UInt16 = 15
    /// Lower is preferred.
    public let preference: UInt16
    public let exchange: DNSName

    public init(preference: UInt16, exchange: DNSName) {
        self.preference = preference
        self.exchange = exchange
    }

    public init?(rdata: UnsafeRawBufferPointer) {
        guard rdata.count > 2,
            let (name, octetCount) = DNSName.parse(wire: UnsafeRawBufferPointer(rebasing: rdata[2...])),
            octetCount == rdata.count - 2
        else { return nil }
        self.preference = UInt16(rdata[0]) << 8 | UInt16(rdata[1])
        self.exchange = name
    }
}

/// Descriptive text (RFC 1035 §3.3.14).
public struct TXTRecord: DNSRecord {
    public static let recordType: UInt16 = 16
    /// The character-strings joined without anything between them, as their users want them (RFC 7208 §3.3).
    public let octets: [UInt8]

    public init(_ text: String) {
        self.octets = Array(text.utf8)
    }

    public init?(rdata: UnsafeRawBufferPointer) {
        guard !rdata.isEmpty else { return nil }
        var octets: [UInt8] = []
        octets.reserveCapacity(rdata.count)
        var index = 0
        while index < rdata.count {
            let size = Int(rdata[index])
            index += 1
            guard rdata.count - index >= size else { return nil }
            octets.append(contentsOf: rdata[index..<index + size])
            index += size
        }
        self.octets = octets
    }

    /// What is not UTF-8 is replaced.
    public var text: String { String(decoding: self.octets, as: UTF8.self) }
}

/// What a TLS server's certificate must match (RFC 6698 §2.1).
///
/// The fields are as received: the TLS layer decides which values it can use (RFC 7672 §3.1).
public struct TLSARecord: DNSRecord {
    public static let recordType: UInt16 = 52
    public let usage: UInt8
    public let selector: UInt8
    public let matchingType: UInt8
    public let association: [UInt8]

    public init(usage: UInt8, selector: UInt8, matchingType: UInt8, association: [UInt8]) {
        self.usage = usage
        self.selector = selector
        self.matchingType = matchingType
        self.association = association
    }

    public init?(rdata: UnsafeRawBufferPointer) {
        guard rdata.count > 3 else { return nil }
        self.usage = rdata[0]
        self.selector = rdata[1]
        self.matchingType = rdata[2]
        self.association = Array(rdata[3...])
    }

    /// Where a host's records for a TCP port are, `_25._tcp.host` (RFC 6698 §3).
    public static func name(of host: DNSName, port: UInt16 = 25) -> DNSName? {
        host.prefixed(by: "_\(port)._tcp")
    }
}
