/// What stands between the brackets of an address literal (RFC 5321 §4.1.3).
public struct AddressLiteral: Hashable, Sendable {
    /// Brackets included, in canonical form (RFC 5952 for IPv6).
    public let text: String

    /// ```
    /// address-literal  = "[" ( IPv4-address-literal / IPv6-address-literal ) "]"
    /// IPv6-address-literal  = "IPv6:" IPv6-addr
    /// ```
    /// General-address-literal has no registered tag and is refused.
    public init?(_ octets: UnsafeRawBufferPointer) {
        let tag = "ipv6:".utf8
        if octets.count > tag.count, zip(octets, tag).allSatisfy({ ($0 >= 0x41 && $0 <= 0x5a ? $0 | 0x20 : $0) == $1 })
        {
            guard let address = Self.ipv6(UnsafeRawBufferPointer(rebasing: octets[tag.count...])) else { return nil }
            self.text = "[IPv6:\(Self.text(ofIPv6: address))]"
        } else {
            guard let address = Self.ipv4(octets) else { return nil }
            self.text = "[\(address.0).\(address.1).\(address.2).\(address.3)]"
        }
    }

    /// Reads `Snum 3("." Snum)`, without leading zeros.
    public static func ipv4(_ octets: UnsafeRawBufferPointer) -> (UInt8, UInt8, UInt8, UInt8)? {
        var parts: [UInt8] = []
        for part in octets.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false) {
            guard parts.count < 4, (1...3).contains(part.count), part.count == 1 || part.first != 0x30 else {
                return nil
            }
            var value = 0
            for digit in part {
                guard digit >= 0x30, digit <= 0x39 else { return nil }
                value = value * 10 + Int(digit - 0x30)
            }
            guard let octet = UInt8(exactly: value) else { return nil }
            parts.append(octet)
        }
        return parts.count == 4 ? (parts[0], parts[1], parts[2], parts[3]) : nil
    }

    /// Reads an IPv6 address into its eight groups (RFC 5321 §4.1.3, RFC 4291 §2.2).
    public static func ipv6(_ octets: UnsafeRawBufferPointer) -> [UInt16]? {
        guard octets.count >= 2, octets.count <= 45 else { return nil }
        var groups: [UInt16] = []
        var gap: Int?
        let colon = UInt8(ascii: ":")
        var index = 0
        if octets[0] == colon {
            guard octets[1] == colon else { return nil }
            gap = 0
            index = 2
        }
        while index < octets.count {
            let end = octets[index...].firstIndex(of: colon) ?? octets.count
            if end == index {
                // The second colon of "::" after a group.
                guard gap == nil else { return nil }
                gap = groups.count
                index += 1
                continue
            }
            if end == octets.count, octets[index...].contains(UInt8(ascii: ".")) {
                guard let tail = self.ipv4(UnsafeRawBufferPointer(rebasing: octets[index...])) else { return nil }
                groups.append(UInt16(tail.0) << 8 | UInt16(tail.1))
                groups.append(UInt16(tail.2) << 8 | UInt16(tail.3))
            } else {
                guard let group = self.group(octets[index..<end]) else { return nil }
                groups.append(group)
                // A lone colon at the end.
                if end == octets.count - 1 { return nil }
            }
            guard groups.count <= 8 else { return nil }
            index = end + 1
        }
        guard let gap else { return groups.count == 8 ? groups : nil }
        guard groups.count < 8 else { return nil }
        groups.insert(contentsOf: repeatElement(0, count: 8 - groups.count), at: gap)
        return groups
    }

    private static func group(_ digits: Slice<UnsafeRawBufferPointer>) -> UInt16? {
        guard (1...4).contains(digits.count) else { return nil }
        var value: UInt16 = 0
        for digit in digits {
            switch digit {
            case 0x30...0x39: value = value << 4 | UInt16(digit - 0x30)
            case 0x41...0x46: value = value << 4 | UInt16(digit - 0x41 + 10)
            case 0x61...0x66: value = value << 4 | UInt16(digit - 0x61 + 10)
            default: return nil
            }
        }
        return value
    }

    /// Writes eight groups: the longest run of two or more zero groups becomes `::` (RFC 5952 §4.2).
    public static func text(ofIPv6 groups: [UInt16]) -> String {
        var best = 0..<0
        var index = 0
        while index < groups.count {
            var end = index
            while end < groups.count, groups[end] == 0 { end += 1 }
            if end - index >= 2, end - index > best.count { best = index..<end }
            index = max(end, index + 1)
        }
        let hexadecimal = { (part: ArraySlice<UInt16>) in part.map { String($0, radix: 16) }.joined(separator: ":") }
        guard !best.isEmpty else { return hexadecimal(groups[...]) }
        return hexadecimal(groups[..<best.lowerBound]) + "::" + hexadecimal(groups[best.upperBound...])
    }
}
