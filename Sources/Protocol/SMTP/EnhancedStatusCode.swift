/// `class "." subject "." detail` (RFC 3463 §2, RFC 2034 §4).
public struct EnhancedStatusCode: Hashable, Sendable, CustomStringConvertible {
    /// 2 success, 4 persistent transient failure, 5 permanent failure.
    public var classification: UInt8
    /// 0...999.
    public var subject: UInt16
    /// 0...999.
    public var detail: UInt16

    public init(_ classification: UInt8, _ subject: UInt16, _ detail: UInt16) {
        self.classification = classification
        self.subject = subject
        self.detail = detail
    }

    /// Reads `class "." subject "." detail`; `nil` for anything else.
    public init?(_ text: some StringProtocol) {
        var parts: [UInt16] = []
        for part in text.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false) {
            guard (1...3).contains(part.count), parts.count < 3 else { return nil }
            var value: UInt16 = 0
            for digit in part {
                guard digit >= 0x30, digit <= 0x39 else { return nil }
                value = value * 10 + UInt16(digit - 0x30)
            }
            parts.append(value)
        }
        guard parts.count == 3, [2, 4, 5].contains(parts[0]) else { return nil }
        self.init(UInt8(parts[0]), parts[1], parts[2])
    }

    public var description: String { "\(self.classification).\(self.subject).\(self.detail)" }
}
