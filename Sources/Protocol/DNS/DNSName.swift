/// A domain name as the DNS compares it: lower case, no trailing dot, the root written `.` (RFC 1035 §2.3).
public struct DNSName: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// Octets of a name on the wire (RFC 1035 §2.3.4).
    public static let octetCountMax = 255
    /// Octets of one label (RFC 1035 §2.3.4).
    public static let labelOctetCountMax = 63

    public static let root = DNSName(text: ".")

    /// Presentation form; octets a host name cannot have are written `\DDD` (RFC 1035 §5.1).
    public let text: String

    private init(text: String) {
        self.text = text
    }

    /// Reads what may be asked for: labels of letters, digits, `-` and `_`, at most 255 octets on the wire.
    ///
    /// Stricter than the DNS, so that no octet of a peer's can change the meaning of a query.
    public init?(_ text: some StringProtocol) {
        var octets: [UInt8] = []
        octets.reserveCapacity(text.utf8.count)
        var labelSize = 0
        for octet in text.utf8 {
            switch octet {
            case UInt8(ascii: "."):
                // The root stands alone; everywhere else a label comes before its dot.
                guard labelSize > 0 || (octets.isEmpty && text.utf8.count == 1) else { return nil }
                labelSize = 0
                octets.append(octet)
            case 0x41...0x5a:
                labelSize += 1
                octets.append(octet | 0x20)
            case 0x61...0x7a, 0x30...0x39, UInt8(ascii: "-"), UInt8(ascii: "_"):
                labelSize += 1
                octets.append(octet)
            default:
                return nil
            }
            guard labelSize <= Self.labelOctetCountMax, octets.count < Self.octetCountMax else { return nil }
        }
        guard !octets.isEmpty else { return nil }
        if octets.count > 1, octets.last == UInt8(ascii: ".") { octets.removeLast() }
        // Each label costs its length octet, and the root one more: two above the text.
        guard octets.count + 2 <= Self.octetCountMax else { return nil }
        self.text = String(decoding: octets, as: UTF8.self)
    }

    /// Reads an uncompressed name from the start of `wire` and says how many octets it took.
    ///
    /// `nil` for a name that does not end within the octets, is too long, or holds a compression pointer, which has no
    /// meaning outside its message.
    public static func parse(wire: UnsafeRawBufferPointer) -> (name: DNSName, octetCount: Int)? {
        var octets: [UInt8] = []
        var index = 0
        while index < wire.count, index < Self.octetCountMax {
            let size = Int(wire[index])
            index += 1
            if size == 0 {
                guard !octets.isEmpty else { return (.root, index) }
                return (DNSName(text: String(decoding: octets, as: UTF8.self)), index)
            }
            guard size <= Self.labelOctetCountMax, wire.count - index >= size else { return nil }
            if !octets.isEmpty { octets.append(UInt8(ascii: ".")) }
            for octet in wire[index..<index + size] {
                Self.append(octet, to: &octets)
            }
            index += size
        }
        return nil
    }

    private static func append(_ octet: UInt8, to octets: inout [UInt8]) {
        switch octet {
        case 0x41...0x5a:
            octets.append(octet | 0x20)
        case UInt8(ascii: "."), UInt8(ascii: "\\"):
            octets.append(UInt8(ascii: "\\"))
            octets.append(octet)
        case 0x21...0x7e:
            octets.append(octet)
        default:
            octets.append(UInt8(ascii: "\\"))
            octets.append(0x30 + octet / 100)
            octets.append(0x30 + octet / 10 % 10)
            octets.append(0x30 + octet % 10)
        }
    }

    public var description: String { self.text }

    public var isRoot: Bool { self.text == "." }

    /// Whether the name can be asked for and connected to: it has only what ``init(_:)`` takes, and is not the root.
    public var isHostName: Bool {
        !self.isRoot
            && self.text.utf8.allSatisfy { octet in
                switch octet {
                case 0x61...0x7a, 0x30...0x39, UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."): true
                default: false
                }
            }
    }

    /// The name with `label` before it, as for `_25._tcp` (RFC 6698 §3); `nil` when that is no name.
    public func prefixed(by labels: String) -> DNSName? {
        DNSName(self.isRoot ? labels : "\(labels).\(self.text)")
    }

    public static func < (left: DNSName, right: DNSName) -> Bool { left.text < right.text }
}
