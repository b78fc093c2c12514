@_spi(_Unicode) import Swift

/// Labels of internationalized domain names (RFC 3492, RFC 5891).
public enum Punycode {
    /// Turns one U-label into its A-label, `xn--` included; `nil` when no such label may exist.
    ///
    /// The label is put in lower case and NFC first. The character rules are those of the general categories, not the
    /// full table of RFC 5892: a name that passes here and is not registrable simply does not resolve.
    public static func aLabel(of label: some StringProtocol) -> String? {
        let lowered = label.unicodeScalars.reduce(into: "") { $0 += $1.properties.lowercaseMapping }
        var scalars: [Unicode.Scalar] = []
        for scalar in lowered._nfc {
            guard self.isAllowed(scalar), scalars.count < 63 else { return nil }
            scalars.append(scalar)
        }
        guard let first = scalars.first, !self.isMark(first), first != "-", scalars.last != "-" else { return nil }
        // RFC 5891 §4.2.3.1: no "--" in the third and fourth place.
        if scalars.count >= 4, scalars[2] == "-", scalars[3] == "-" { return nil }
        guard let encoded = self.encode(scalars), encoded.utf8.count <= 59 else { return nil }
        return "xn--" + encoded
    }

    /// Turns one A-label into its U-label; `nil` for what is not a well-formed A-label.
    public static func uLabel(of label: some StringProtocol) -> String? {
        guard label.utf8.count > 4, label.lowercased().hasPrefix("xn--"),
            let scalars = self.decode(label.lowercased().dropFirst(4))
        else { return nil }
        var text = ""
        text.unicodeScalars.append(contentsOf: scalars)
        guard let again = self.aLabel(of: text), again == label.lowercased() else { return nil }
        return text
    }

    // Bootstring parameters of RFC 3492 §5.
    private static let base = 36
    private static let tMin = 1
    private static let tMax = 26
    private static let skew = 38
    private static let damp = 700
    private static let initialBias = 72
    private static let initialN: UInt32 = 128

    static func encode(_ scalars: [Unicode.Scalar]) -> String? {
        var out: [UInt8] = scalars.compactMap { $0.isASCII ? UInt8($0.value) : nil }
        let basicCount = out.count
        guard basicCount < scalars.count else { return nil }
        if basicCount > 0 { out.append(UInt8(ascii: "-")) }
        var n = self.initialN
        var delta = 0
        var bias = self.initialBias
        var handled = basicCount
        while handled < scalars.count {
            guard let next = scalars.lazy.map(\.value).filter({ $0 >= n }).min() else { return nil }
            // At most 63 scalars below 0x110000: this cannot overflow 64 bits.
            delta += Int(next - n) * (handled + 1)
            n = next
            for scalar in scalars {
                if scalar.value < n { delta += 1 }
                guard scalar.value == n else { continue }
                self.appendInteger(delta, bias: bias, to: &out)
                bias = self.adapt(delta, count: handled + 1, isFirst: handled == basicCount)
                delta = 0
                handled += 1
            }
            delta += 1
            n += 1
        }
        return String(decoding: out, as: UTF8.self)
    }

    static func decode(_ text: some StringProtocol) -> [Unicode.Scalar]? {
        let octets = Array(text.utf8)
        guard octets.count <= 59, octets.allSatisfy({ $0 < 0x80 }) else { return nil }
        var scalars: [Unicode.Scalar] = []
        var index = 0
        if let delimiter = octets.lastIndex(of: UInt8(ascii: "-")) {
            scalars = octets[..<delimiter].map { Unicode.Scalar($0) }
            index = delimiter + 1
        }
        var n = Int(self.initialN)
        var i = 0
        var bias = self.initialBias
        while index < octets.count {
            let before = i
            var weight = 1
            var k = self.base
            while true {
                guard index < octets.count, let digit = self.digit(octets[index]) else { return nil }
                index += 1
                let (product, isTooLarge) = digit.multipliedReportingOverflow(by: weight)
                guard !isTooLarge, product <= Int(Int32.max), i <= Int(Int32.max) else { return nil }
                i += product
                let threshold = k <= bias ? self.tMin : min(k - bias, self.tMax)
                if digit < threshold { break }
                weight *= self.base - threshold
                guard weight <= Int(Int32.max) else { return nil }
                k += self.base
            }
            let count = scalars.count + 1
            bias = self.adapt(i - before, count: count, isFirst: before == 0)
            n += i / count
            i %= count
            guard n <= 0x10ffff, let scalar = Unicode.Scalar(UInt32(n)) else { return nil }
            scalars.insert(scalar, at: i)
            i += 1
        }
        return scalars
    }

    private static func appendInteger(_ value: Int, bias: Int, to out: inout [UInt8]) {
        var rest = value
        var k = self.base
        while true {
            let threshold = k <= bias ? self.tMin : min(k - bias, self.tMax)
            if rest < threshold { break }
            out.append(self.character(threshold + (rest - threshold) % (self.base - threshold)))
            rest = (rest - threshold) / (self.base - threshold)
            k += self.base
        }
        out.append(self.character(rest))
    }

    private static func character(_ digit: Int) -> UInt8 {
        digit < 26 ? UInt8(ascii: "a") + UInt8(digit) : UInt8(ascii: "0") + UInt8(digit - 26)
    }

    private static func digit(_ octet: UInt8) -> Int? {
        switch octet {
        case UInt8(ascii: "a")...UInt8(ascii: "z"): Int(octet - UInt8(ascii: "a"))
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): Int(octet - UInt8(ascii: "A"))
        case UInt8(ascii: "0")...UInt8(ascii: "9"): Int(octet - UInt8(ascii: "0")) + 26
        default: nil
        }
    }

    private static func adapt(_ delta: Int, count: Int, isFirst: Bool) -> Int {
        var delta = isFirst ? delta / self.damp : delta / 2
        delta += delta / count
        var k = 0
        while delta > (self.base - self.tMin) * self.tMax / 2 {
            delta /= self.base - self.tMin
            k += self.base
        }
        return k + (self.base - self.tMin + 1) * delta / (delta + self.skew)
    }

    private static func isMark(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.properties.generalCategory {
        case .nonspacingMark, .spacingMark, .enclosingMark: true
        default: false
        }
    }

    private static func isAllowed(_ scalar: Unicode.Scalar) -> Bool {
        if scalar.isASCII {
            return scalar == "-" || (scalar >= "0" && scalar <= "9") || (scalar >= "a" && scalar <= "z")
        }
        switch scalar.properties.generalCategory {
        case .lowercaseLetter, .otherLetter, .modifierLetter, .nonspacingMark, .spacingMark, .decimalNumber: return true
        // Middle dot, Greek keraia, Hebrew punctuation, katakana middle dot, joiners (RFC 5892 appendix A).
        default: return [0xb7, 0x375, 0x5f3, 0x5f4, 0x30fb, 0x200c, 0x200d].contains(scalar.value)
        }
    }
}
