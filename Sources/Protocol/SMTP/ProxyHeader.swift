import Mail

/// The header by which a proxy tells where a connection really comes from (PROXY protocol 1 and 2, as specified by
/// HAProxy's `proxy-protocol.txt`).
///
/// Feed it the first octets of a connection, all of them again each time, until the answer is not `needsMore`. Only
/// for listeners whose peers are the proxies: anyone could claim to be anyone.
public struct ProxyHeader: Hashable, Sendable {
    /// One end of the connection.
    public struct Endpoint: Hashable, Sendable {
        /// As text, IPv6 as RFC 5952 has it.
        public var address: String
        public var port: UInt16

        public init(address: String, port: UInt16) {
            self.address = address
            self.port = port
        }
    }

    public enum Progress: Hashable, Sendable {
        case needsMore
        /// The header took `consumedCount` octets; what follows is the client's.
        case complete(ProxyHeader, consumedCount: Int)
        case malformed
    }

    /// `nil` for a connection the proxy makes on its own account (LOCAL, UNKNOWN) or of another family: the addresses
    /// of the connection itself hold.
    public var source: Endpoint?
    public var destination: Endpoint?

    /// Octets in the longest header of version 1, `<CR><LF>` included (§2.1).
    static let version1CountMax = 107
    /// Octets taken of a version 2 header, TLVs included; the format would allow 65,551.
    static let version2CountMax = 4_096

    private static let signature: [UInt8] = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a]
    private static let version1Prefix = Array("PROXY ".utf8)

    /// Reads the header at the start of a connection.
    public static func parse(_ octets: UnsafeRawBufferPointer) -> Progress {
        guard let first = octets.first else { return .needsMore }
        if first == self.signature[0] {
            guard zip(octets, self.signature).allSatisfy({ $0 == $1 }) else { return .malformed }
            return octets.count < 16 ? .needsMore : self.version2(octets)
        }
        guard zip(octets, self.version1Prefix).allSatisfy({ $0 == $1 }) else { return .malformed }
        return octets.count < self.version1Prefix.count ? .needsMore : self.version1(octets)
    }

    /// ```
    /// PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n
    /// PROXY UNKNOWN ...\r\n
    /// ```
    private static func version1(_ octets: UnsafeRawBufferPointer) -> Progress {
        let bound = min(octets.count, self.version1CountMax)
        guard let lineFeed = find(0x0a, in: octets, 0, bound) else {
            return octets.count >= self.version1CountMax ? .malformed : .needsMore
        }
        guard octets[lineFeed - 1] == 0x0d else { return .malformed }
        let line = octets[self.version1Prefix.count..<(lineFeed - 1)]
        guard line.allSatisfy({ $0 >= 0x20 && $0 <= 0x7e }) else { return .malformed }
        let fields = line.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false)
            .map { UnsafeRawBufferPointer(rebasing: $0) }
        guard let family = fields.first else { return .malformed }
        if family.elementsEqual("UNKNOWN".utf8) {
            return .complete(ProxyHeader(source: nil, destination: nil), consumedCount: lineFeed + 1)
        }
        let isIPv6 = family.elementsEqual("TCP6".utf8)
        guard isIPv6 || family.elementsEqual("TCP4".utf8), fields.count == 5,
            let source = self.address(fields[1], isIPv6: isIPv6),
            let destination = self.address(fields[2], isIPv6: isIPv6),
            let sourcePort = self.port(fields[3]), let destinationPort = self.port(fields[4])
        else { return .malformed }
        let header = ProxyHeader(
            source: Endpoint(address: source, port: sourcePort),
            destination: Endpoint(address: destination, port: destinationPort)
        )
        return .complete(header, consumedCount: lineFeed + 1)
    }

    private static func version2(_ octets: UnsafeRawBufferPointer) -> Progress {
        let command = octets[12]
        let family = octets[13]
        let length = Int(octets[14]) << 8 | Int(octets[15])
        guard command == 0x20 || command == 0x21, family >> 4 <= 3, family & 15 <= 2,
            16 + length <= self.version2CountMax
        else { return .malformed }
        let isLocal = command == 0x20
        let addressCount =
            switch family >> 4 {
            case 1: 12
            case 2: 36
            case 3: 216
            default: 0
            }
        guard isLocal || length >= addressCount else { return .malformed }
        guard octets.count >= 16 + length else { return .needsMore }
        var header = ProxyHeader(source: nil, destination: nil)
        let block = UnsafeRawBufferPointer(rebasing: octets[16..<(16 + length)])
        // Of the families only IP over a stream says something about a mail client.
        if !isLocal, family == 0x11 {
            header.source = Endpoint(address: self.ipv4Text(block[0..<4]), port: self.number(block, 8))
            header.destination = Endpoint(address: self.ipv4Text(block[4..<8]), port: self.number(block, 10))
        } else if !isLocal, family == 0x21 {
            header.source = Endpoint(address: self.ipv6Text(block, 0), port: self.number(block, 32))
            header.destination = Endpoint(address: self.ipv6Text(block, 16), port: self.number(block, 34))
        }
        return .complete(header, consumedCount: 16 + length)
    }

    private static func number(_ octets: UnsafeRawBufferPointer, _ offset: Int) -> UInt16 {
        UInt16(octets[offset]) << 8 | UInt16(octets[offset + 1])
    }

    private static func ipv4Text(_ octets: Slice<UnsafeRawBufferPointer>) -> String {
        octets.map { String($0) }.joined(separator: ".")
    }

    private static func ipv6Text(_ octets: UnsafeRawBufferPointer, _ offset: Int) -> String {
        AddressLiteral.text(ofIPv6: (0..<8).map { self.number(octets, offset + 2 * $0) })
    }

    private static func address(_ octets: UnsafeRawBufferPointer, isIPv6: Bool) -> String? {
        if isIPv6 { return AddressLiteral.ipv6(octets).map { AddressLiteral.text(ofIPv6: $0) } }
        return AddressLiteral.ipv4(octets).map { "\($0.0).\($0.1).\($0.2).\($0.3)" }
    }

    private static func port(_ octets: UnsafeRawBufferPointer) -> UInt16? {
        guard octets.count <= 5, octets.first != 0x30 || octets.count == 1 else { return nil }
        return decimal(octets).flatMap { UInt16(exactly: $0) }
    }
}
