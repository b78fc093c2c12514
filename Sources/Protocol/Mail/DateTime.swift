/// An instant, written the ways mail writes it. Always UTC.
///
/// Years are kept within 0000-9999, the only ones the formats can say.
public struct DateTime: Hashable, Comparable, Sendable {
    /// UTC.
    public let millisecondsSince1970: Int64

    public init(millisecondsSince1970: Int64) {
        self.millisecondsSince1970 = min(max(millisecondsSince1970, -62_167_219_200_000), 253_402_300_799_999)
    }

    public static func < (left: DateTime, right: DateTime) -> Bool {
        left.millisecondsSince1970 < right.millisecondsSince1970
    }

    /// `Mon, 23 Nov 2026 23:10:00 +0000` (RFC 5322 §3.3).
    public var rfc5322: String {
        var octets: [UInt8] = []
        self.appendRFC5322(to: &octets)
        return String(decoding: octets, as: UTF8.self)
    }

    /// `2026-11-23T23:10:00.000Z` (RFC 3339 §5.6).
    public var rfc3339: String {
        var octets: [UInt8] = []
        self.appendRFC3339(to: &octets)
        return String(decoding: octets, as: UTF8.self)
    }

    /// Appends the 31 octets of ``rfc5322``.
    public func appendRFC5322(to octets: inout [UInt8]) {
        let parts = Components(self.millisecondsSince1970)
        octets.reserveCapacity(octets.count + 31)
        Self.weekdays[parts.weekday].withUTF8Buffer { octets.append(contentsOf: $0) }
        octets.append(literal: ", ")
        octets.append(decimal: parts.day, width: 2)
        octets.append(UInt8.space)
        Self.months[parts.month - 1].withUTF8Buffer { octets.append(contentsOf: $0) }
        octets.append(UInt8.space)
        octets.append(decimal: parts.year, width: 4)
        octets.append(UInt8.space)
        octets.append(time: parts)
        octets.append(literal: " +0000")
    }

    /// Appends the 24 octets of ``rfc3339``.
    public func appendRFC3339(to octets: inout [UInt8]) {
        let parts = Components(self.millisecondsSince1970)
        octets.reserveCapacity(octets.count + 24)
        octets.append(decimal: parts.year, width: 4)
        octets.append(UInt8(ascii: "-"))
        octets.append(decimal: parts.month, width: 2)
        octets.append(UInt8(ascii: "-"))
        octets.append(decimal: parts.day, width: 2)
        octets.append(UInt8(ascii: "T"))
        octets.append(time: parts)
        octets.append(UInt8(ascii: "."))
        octets.append(decimal: parts.millisecond, width: 3)
        octets.append(UInt8(ascii: "Z"))
    }

    private static let weekdays: [StaticString] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"]
    private static let months: [StaticString] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ]

    fileprivate struct Components {
        var year: Int
        var month: Int
        var day: Int
        /// 0 is Sunday.
        var weekday: Int
        var hour: Int
        var minute: Int
        var second: Int
        var millisecond: Int

        /// Days to a Gregorian date by eras of 400 years counted from 1 March 0000.
        init(_ milliseconds: Int64) {
            let dayLength: Int64 = 86_400_000
            var days = milliseconds / dayLength
            if milliseconds % dayLength < 0 { days -= 1 }
            let rest = Int(milliseconds - days * dayLength)
            self.hour = rest / 3_600_000
            self.minute = rest / 60_000 % 60
            self.second = rest / 1000 % 60
            self.millisecond = rest % 1000
            let weekday = Int((days + 4) % 7)
            self.weekday = weekday < 0 ? weekday + 7 : weekday

            let shifted = Int(days) + 719_468
            let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
            let dayOfEra = shifted - era * 146_097
            let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
            let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
            let monthFromMarch = (5 * dayOfYear + 2) / 153
            self.day = dayOfYear - (153 * monthFromMarch + 2) / 5 + 1
            self.month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
            self.year = yearOfEra + era * 400 + (self.month <= 2 ? 1 : 0)
        }
    }
}

extension [UInt8] {
    fileprivate mutating func append(decimal value: Int, width: Int) {
        var divisor = 1
        for _ in 1..<width { divisor *= 10 }
        while divisor > 0 {
            self.append(UInt8(truncatingIfNeeded: 0x30 + value / divisor % 10))
            divisor /= 10
        }
    }

    fileprivate mutating func append(time parts: DateTime.Components) {
        self.append(decimal: parts.hour, width: 2)
        self.append(UInt8(ascii: ":"))
        self.append(decimal: parts.minute, width: 2)
        self.append(UInt8(ascii: ":"))
        self.append(decimal: parts.second, width: 2)
    }
}
