/// A place in the octets of one command line.
struct OctetCursor {
    private let octets: UnsafeRawBufferPointer
    private var index = 0
    private var end: Int

    init(_ octets: UnsafeRawBufferPointer) {
        self.octets = octets
        self.end = octets.count
    }

    var isAtEnd: Bool { self.index == self.end }

    var containsControlCharacter: Bool {
        self.octets.contains { ($0 < 0x20 && $0 != 0x09) || $0 == 0x7f }
    }

    mutating func dropTrailingSpaces() {
        while self.end > self.index, Self.isSpace(self.octets[self.end - 1]) { self.end -= 1 }
    }

    /// The verb in upper case; empty when there is none of a plausible length.
    mutating func takeVerb() -> String {
        let word = self.takeWord()
        // Up to 15 octets live in the String itself: no allocation.
        guard word.count <= 8 else { return "" }
        return String(unsafeUninitializedCapacity: word.count) { out in
            for (index, octet) in word.enumerated() {
                out[index] = octet >= 0x61 && octet <= 0x7a ? octet & 0xdf : octet
            }
            return word.count
        }
    }

    /// Returns whether there was at least one.
    mutating func takeSpaces() -> Bool {
        let start = self.index
        while self.index < self.end, Self.isSpace(self.octets[self.index]) { self.index += 1 }
        return self.index > start
    }

    /// Everything up to a space or the end.
    mutating func takeWord() -> UnsafeRawBufferPointer {
        let start = self.index
        while self.index < self.end, !Self.isSpace(self.octets[self.index]) { self.index += 1 }
        return UnsafeRawBufferPointer(rebasing: self.octets[start..<self.index])
    }

    mutating func takeKeyword(_ keyword: StaticString) -> Bool {
        let count = keyword.utf8CodeUnitCount
        guard self.end - self.index >= count,
            equalsIgnoringCase(
                UnsafeRawBufferPointer(rebasing: self.octets[self.index..<self.index + count]),
                keyword
            )
        else { return false }
        self.index += count
        return true
    }

    /// What stands between `<` and the `>` that is not inside quotes.
    mutating func takeAngleBrackets() -> UnsafeRawBufferPointer? {
        guard self.index < self.end, self.octets[self.index] == UInt8(ascii: "<") else { return nil }
        let start = self.index + 1
        var place = start
        var isQuoted = false
        while place < self.end {
            switch self.octets[place] {
            case UInt8(ascii: "\\") where isQuoted:
                place += 1
            case UInt8(ascii: "\""):
                isQuoted.toggle()
            case UInt8(ascii: ">") where !isQuoted:
                self.index = place + 1
                return UnsafeRawBufferPointer(rebasing: self.octets[start..<place])
            default:
                break
            }
            place += 1
        }
        return nil
    }

    /// ```
    /// esmtp-param    = esmtp-keyword ["=" esmtp-value]
    /// esmtp-keyword  = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")
    /// esmtp-value    = 1*(%d33-60 / %d62-126 / UTF8-non-ascii)
    /// ```
    mutating func takeParameter() throws(CommandError) -> (
        keyword: UnsafeRawBufferPointer, value: UnsafeRawBufferPointer?
    )? {
        let hadSpace = self.takeSpaces()
        guard !self.isAtEnd else { return nil }
        guard hadSpace else { throw CommandError(.syntax, .badParameter) }
        let word = self.takeWord()
        let separator = word.firstIndex(of: UInt8(ascii: "="))
        let keyword = UnsafeRawBufferPointer(rebasing: word[..<(separator ?? word.count)])
        guard let first = keyword.first, first != UInt8(ascii: "-"),
            keyword.allSatisfy({ Self.isKeywordCharacter($0) })
        else { throw CommandError(.syntax, .badParameter) }
        guard let separator else { return (keyword, nil) }
        let value = UnsafeRawBufferPointer(rebasing: word[(separator + 1)...])
        guard value.count > 0, !value.contains(UInt8(ascii: "=")) else {
            throw CommandError(.syntax, .badParameter)
        }
        return (keyword, value)
    }

    static func isKeywordCharacter(_ octet: UInt8) -> Bool {
        switch octet {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"):
            true
        default:
            false
        }
    }

    private static func isSpace(_ octet: UInt8) -> Bool { octet == 0x20 || octet == 0x09 }
}

/// Compares with ASCII text, letters without regard to case.
func equalsIgnoringCase(_ octets: UnsafeRawBufferPointer, _ text: StaticString) -> Bool {
    guard octets.count == text.utf8CodeUnitCount else { return false }
    for index in 0..<octets.count {
        let left = octets[index]
        let right = text.utf8Start[index]
        let isLetter = (right | 0x20) >= 0x61 && (right | 0x20) <= 0x7a
        guard left == right || (isLetter && left | 0x20 == right | 0x20) else { return false }
    }
    return true
}

/// Decimal digits; `nil` for anything else, `Int.max` for what does not fit.
func decimal(_ digits: UnsafeRawBufferPointer) -> Int? {
    guard digits.count > 0 else { return nil }
    var value = 0
    for digit in digits {
        guard digit >= 0x30, digit <= 0x39 else { return nil }
        let (product, isTooLarge) = value.multipliedReportingOverflow(by: 10)
        let (sum, isSumTooLarge) = product.addingReportingOverflow(Int(digit - 0x30))
        value = isTooLarge || isSumTooLarge || value == Int.max ? Int.max : sum
    }
    return value
}
