/// An IPv4 address, and the rdata of an A record (RFC 1035 §3.4.1).
public struct IPv4Address: Hashable, Sendable, CustomStringConvertible {
    /// In host order: 192.0.2.1 is `0xC0000201`.
    public let rawValue: UInt32

    public init(rawValue: UInt32) {
        self.rawValue = rawValue
    }

    /// Four decimal octets without leading zeros; `nil` for anything else.
    public init?(_ text: some StringProtocol) {
        var value: UInt32 = 0
        var partCount = 0
        for part in text.utf8.split(separator: UInt8(ascii: "."), maxSplits: 4, omittingEmptySubsequences: false) {
            guard partCount < 4, (1...3).contains(part.count), part.count == 1 || part.first != 0x30 else { return nil }
            var octet: UInt32 = 0
            for digit in part {
                guard (0x30...0x39).contains(digit) else { return nil }
                octet = octet * 10 + UInt32(digit - 0x30)
            }
            guard octet <= 255 else { return nil }
            value = value << 8 | octet
            partCount += 1
        }
        guard partCount == 4 else { return nil }
        self.rawValue = value
    }

    public var description: String {
        "\(self.rawValue >> 24).\(self.rawValue >> 16 & 255).\(self.rawValue >> 8 & 255).\(self.rawValue & 255)"
    }
}

/// An IPv6 address, and the rdata of an AAAA record (RFC 3596 §2.2).
public struct IPv6Address: Hashable, Sendable, CustomStringConvertible {
    /// The first 64 bits.
    public let high: UInt64
    /// The last 64 bits.
    public let low: UInt64

    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// Any form of RFC 4291 §2.2 without a zone; `nil` for anything else.
    public init?(_ text: some StringProtocol) {
        guard text.utf8.count <= 45 else { return nil }
        let parts = text.utf8.split(separator: UInt8(ascii: ":"), omittingEmptySubsequences: false)
        guard parts.count >= 3, parts.count <= 9 else { return nil }
        var groups: [UInt16] = []
        var gap: Int?
        for (index, part) in parts.enumerated() {
            let isLast = index == parts.count - 1
            if part.isEmpty {
                // A colon at either end is legal only as half of `::`.
                if index == 0 {
                    guard parts[1].isEmpty else { return nil }
                } else if isLast {
                    guard parts[index - 1].isEmpty, gap == groups.count else { return nil }
                } else {
                    guard gap == nil else { return nil }
                    gap = groups.count
                }
            } else if isLast, part.contains(UInt8(ascii: ".")) {
                guard let tail = IPv4Address(String(decoding: part, as: UTF8.self)) else { return nil }
                groups.append(UInt16(truncatingIfNeeded: tail.rawValue >> 16))
                groups.append(UInt16(truncatingIfNeeded: tail.rawValue))
            } else {
                guard part.count <= 4, part.first != UInt8(ascii: "+"), part.first != UInt8(ascii: "-"),
                    let group = UInt16(String(decoding: part, as: UTF8.self), radix: 16)
                else { return nil }
                groups.append(group)
            }
        }
        if let gap {
            guard groups.count < 8 else { return nil }
            groups.insert(contentsOf: repeatElement(0, count: 8 - groups.count), at: gap)
        }
        guard groups.count == 8 else { return nil }
        self.high = groups[..<4].reduce(0) { $0 << 16 | UInt64($1) }
        self.low = groups[4...].reduce(0) { $0 << 16 | UInt64($1) }
    }

    /// The canonical form (RFC 5952 §4).
    public var description: String {
        let groups = (0..<8)
            .map { index in
                UInt16(truncatingIfNeeded: (index < 4 ? self.high : self.low) >> UInt64((3 - index % 4) * 16))
            }
        if self.high == 0, self.low >> 32 == 0xffff {
            return "::ffff:\(IPv4Address(rawValue: UInt32(truncatingIfNeeded: self.low)))"
        }
        var longest = 0..<0
        var index = 0
        while index < 8 {
            var end = index
            while end < 8, groups[end] == 0 { end += 1 }
            if end - index >= 2, end - index > longest.count { longest = index..<end }
            index = max(end, index + 1)
        }
        let hexadecimal = { (part: ArraySlice<UInt16>) in part.map { String($0, radix: 16) }.joined(separator: ":") }
        guard !longest.isEmpty else { return hexadecimal(groups[...]) }
        return hexadecimal(groups[..<longest.lowerBound]) + "::" + hexadecimal(groups[longest.upperBound...])
    }
}

/// Where a connection can go.
public enum HostAddress: Hashable, Sendable, CustomStringConvertible {
    case v4(IPv4Address)
    case v6(IPv6Address)

    /// Either family's text form, without brackets.
    public init?(_ text: some StringProtocol) {
        if let address = IPv4Address(text) {
            self = .v4(address)
        } else if let address = IPv6Address(text) {
            self = .v6(address)
        } else {
            return nil
        }
    }

    /// An address literal with its brackets, `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3).
    public init?(literal text: some StringProtocol) {
        guard text.first == "[", text.last == "]", text.utf8.count > 2 else {
            return nil
        }
        let inner = text.dropFirst().dropLast()
        if inner.prefix(5).lowercased() == "ipv6:" {
            guard let address = IPv6Address(inner.dropFirst(5)) else { return nil }
            self = .v6(address)
        } else {
            guard let address = IPv4Address(inner) else { return nil }
            self = .v4(address)
        }
    }

    public var isV6: Bool {
        switch self {
        case .v4: false
        case .v6: true
        }
    }

    public var description: String {
        switch self {
        case .v4(let address): address.description
        case .v6(let address): address.description
        }
    }
}
