/// An IPv4 or IPv6 address. An IPv4 address mapped into IPv6 (`::ffff:192.0.2.1`) is the IPv4 address.
public struct IPAddress: Hashable, Sendable, CustomStringConvertible {
    /// The upper 64 bits; 0 for IPv4.
    public let high: UInt64
    /// The lower 64 bits; the 32 bits of an IPv4 address.
    public let low: UInt64
    public let isIPv4: Bool

    /// IPv4, from its 32 bits in host order.
    public init(ipv4 bits: UInt32) {
        self.high = 0
        self.low = UInt64(bits)
        self.isIPv4 = true
    }

    /// IPv6, from its 128 bits.
    public init(high: UInt64, low: UInt64) {
        let isMapped = high == 0 && low >> 32 == 0xffff
        self.high = high
        self.low = isMapped ? low & 0xffff_ffff : low
        self.isIPv4 = isMapped
    }

    /// Reads `192.0.2.1` or any form of RFC 4291 §2.2, without brackets or zone.
    public init?(_ text: some StringProtocol) {
        if text.utf8.contains(UInt8(ascii: ":")) {
            guard let (high, low) = Self.parseIPv6(text) else { return nil }
            self.init(high: high, low: low)
        } else {
            guard let bits = Self.parseIPv4(text) else { return nil }
            self.init(ipv4: bits)
        }
    }

    private static func parseIPv4(_ text: some StringProtocol) -> UInt32? {
        let parts = text.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        guard parts.count == 4 else { return nil }
        var bits: UInt32 = 0
        for part in parts {
            guard 1...3 ~= part.count, part.count == 1 || part.first != UInt8(ascii: "0") else { return nil }
            var value: UInt32 = 0
            for octet in part {
                guard 0x30...0x39 ~= octet else { return nil }
                value = value * 10 + UInt32(octet - 0x30)
            }
            guard value <= 255 else { return nil }
            bits = bits << 8 | value
        }
        return bits
    }

    private static func parseIPv6(_ text: some StringProtocol) -> (UInt64, UInt64)? {
        // No form is longer, and the bound keeps hostile text cheap.
        guard text.utf8.count <= 45 else { return nil }
        let octets = Array(text.utf8)
        let colon = UInt8(ascii: ":")
        let gap = octets.indices.dropLast().first { octets[$0] == colon && octets[$0 + 1] == colon }
        let groups: [UInt16]
        if let gap {
            guard let before = Self.parseGroups(octets[..<gap], isEnd: false),
                let after = Self.parseGroups(octets[(gap + 2)...], isEnd: true),
                before.count + after.count < 8
            else { return nil }
            groups = before + Array(repeating: 0, count: 8 - before.count - after.count) + after
        } else {
            guard let all = Self.parseGroups(octets[...], isEnd: true), all.count == 8 else { return nil }
            groups = all
        }
        let high = groups[0..<4].reduce(UInt64(0)) { $0 << 16 | UInt64($1) }
        let low = groups[4..<8].reduce(UInt64(0)) { $0 << 16 | UInt64($1) }
        return (high, low)
    }

    /// Groups of hexadecimal digits between colons; the last may be an IPv4 address when `isEnd`.
    private static func parseGroups(_ octets: ArraySlice<UInt8>, isEnd: Bool) -> [UInt16]? {
        guard !octets.isEmpty else { return [] }
        var groups: [UInt16] = []
        let parts = octets.split(separator: UInt8(ascii: ":"), omittingEmptySubsequences: false)
        for (index, part) in parts.enumerated() {
            let text = String(decoding: part, as: UTF8.self)
            if isEnd, index == parts.count - 1, part.contains(UInt8(ascii: ".")) {
                guard let bits = Self.parseIPv4(text) else { return nil }
                groups.append(UInt16(truncatingIfNeeded: bits >> 16))
                groups.append(UInt16(truncatingIfNeeded: bits))
            } else {
                guard 1...4 ~= part.count, part.first != UInt8(ascii: "+"), let group = UInt16(text, radix: 16) else {
                    return nil
                }
                groups.append(group)
            }
        }
        return groups
    }

    /// The form of RFC 5952.
    public var description: String {
        if self.isIPv4 {
            return stride(from: 24, through: 0, by: -8).map { String(self.low >> UInt64($0) & 255) }
                .joined(separator: ".")
        }
        let groups = (0..<8)
            .map { index in
                let half = index < 4 ? self.high : self.low
                return UInt16(truncatingIfNeeded: half >> UInt64((3 - index % 4) * 16))
            }
        var longest = 0..<0
        var start = 0
        for index in 0...8 where index == 8 || groups[index] != 0 {
            if index - start > max(longest.count, 1) { longest = start..<index }
            start = index + 1
        }
        let texts = groups.map { String($0, radix: 16) }
        guard !longest.isEmpty else { return texts.joined(separator: ":") }
        return texts[..<longest.lowerBound].joined(separator: ":") + "::"
            + texts[longest.upperBound...].joined(separator: ":")
    }
}

/// Addresses that share a prefix, in CIDR notation (RFC 4632, RFC 4291 §2.3).
public struct Network: Hashable, Sendable, CustomStringConvertible {
    /// With all bits behind the prefix zero.
    public let base: IPAddress
    /// 0 to 32, or 0 to 128.
    public let prefixLength: Int

    /// 127.0.0.0/8 and ::1/128.
    public static let loopback = [
        Network(IPAddress(ipv4: 0x7f00_0000), prefixLength: 8),
        Network(IPAddress(high: 0, low: 1), prefixLength: 128),
    ]

    /// Bits behind the prefix are cleared; the length is brought into its range.
    public init(_ address: IPAddress, prefixLength: Int) {
        let length = min(max(prefixLength, 0), address.isIPv4 ? 32 : 128)
        self.prefixLength = length
        self.base = Self.masked(address, length)
    }

    /// Reads `192.0.2.0/24`, `2001:db8::/32`, or an address alone. `nil` as well when bits behind the prefix are set:
    /// `10.0.0.1/8` is more likely a slip than a wish.
    public init?(_ text: some StringProtocol) {
        let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard let first = parts.first, let address = IPAddress(first) else { return nil }
        let widest = address.isIPv4 ? 32 : 128
        var length = widest
        if parts.count == 2 {
            guard 1...3 ~= parts[1].utf8.count, parts[1].utf8.allSatisfy({ 0x30...0x39 ~= $0 }),
                let value = Int(parts[1]), value <= widest
            else { return nil }
            length = value
        }
        self.init(address, prefixLength: length)
        guard self.base == address else { return nil }
    }

    public func contains(_ address: IPAddress) -> Bool {
        address.isIPv4 == self.base.isIPv4 && Self.masked(address, self.prefixLength) == self.base
    }

    private static func masked(_ address: IPAddress, _ length: Int) -> IPAddress {
        if address.isIPv4 {
            return IPAddress(ipv4: UInt32(truncatingIfNeeded: address.low) & ~(UInt32.max >> length))
        }
        let high = length >= 64 ? address.high : address.high & ~(UInt64.max >> UInt64(length))
        let low = length <= 64 ? 0 : address.low & ~(UInt64.max >> UInt64(length - 64))
        return IPAddress(high: high, low: low)
    }

    public var description: String { "\(self.base)/\(self.prefixLength)" }
}
