// Text that came from a peer, made safe to stand in a header field or a report.

/// Writes header fields from untrusted parts: no part can end the field, and no line outgrows 998 octets.
package struct HeaderFieldWriter {
    /// Where lines are folded when a blank allows it (RFC 5322 §2.1.1).
    package static let lineSizePreferred = 78

    package private(set) var octets: [UInt8]
    private var lineStart: Int
    private var isAtNameEnd = false
    private var isAfterFold = false
    private let foldOctet: UInt8

    /// - Parameter foldOctet: what starts a continuation line: a space unfolds to what was written.
    package init(capacity: Int = 512, foldOctet: UInt8 = UInt8.space) {
        self.foldOctet = foldOctet
        self.octets = []
        self.octets.reserveCapacity(capacity)
        self.lineStart = 0
    }

    package mutating func begin(_ name: StaticString) {
        self.lineStart = self.octets.count
        self.octets.append(literal: name)
        self.octets.append(UInt8(ascii: ":"))
        self.isAtNameEnd = true
    }

    package mutating func end() {
        self.octets.appendLineEnding()
        self.lineStart = self.octets.count
    }

    /// Starts a new line of the same field.
    package mutating func fold() {
        self.octets.appendLineEnding()
        self.lineStart = self.octets.count
        self.octets.append(self.foldOctet)
        self.isAtNameEnd = true
        self.isAfterFold = true
    }

    /// Appends what `write` writes, after a blank, or after a fold if it does not fit on the line.
    ///
    /// `write` must write no line ending; ``HeaderText`` and literals do not. More than 900 octets are cut.
    package mutating func token(_ write: (inout [UInt8]) -> Void) {
        let separator = self.octets.count
        if !self.isAfterFold { self.octets.append(UInt8.space) }
        let start = self.octets.count
        write(&self.octets)
        if self.octets.count - start > 900 {
            var cut = start + 900
            // Not within a character.
            while cut > start, self.octets[cut] & 0xc0 == 0x80 { cut -= 1 }
            self.octets.removeSubrange(cut...)
        }
        if self.octets.count - self.lineStart > Self.lineSizePreferred, !self.isAtNameEnd {
            self.octets.replaceSubrange(separator..<start, with: [0x0d, 0x0a, self.foldOctet])
            self.lineStart = separator + 2
        }
        self.isAtNameEnd = false
        self.isAfterFold = false
    }

    package mutating func token(_ text: StaticString) {
        self.token { $0.append(literal: text) }
    }

    /// Appends one octet directly to the last token.
    package mutating func appendToToken(_ octet: UInt8) {
        self.octets.append(octet)
    }

    /// Appends untrusted text, folded at its blanks.
    package mutating func words(_ text: String, allowingUTF8: Bool, max: Int = 4096) {
        var safe: [UInt8] = []
        HeaderText.append(text, to: &safe, allowingUTF8: allowingUTF8, max: max)
        for word in safe.split(separator: UInt8.space) {
            // A word no line can hold is broken at a place that is no character's middle.
            var rest = word
            while !rest.isEmpty {
                var cut = min(rest.startIndex + 900, rest.endIndex)
                while cut < rest.endIndex, cut > rest.startIndex + 890, rest[cut] & 0xc0 == 0x80 { cut -= 1 }
                let piece = rest[rest.startIndex..<cut]
                self.token { $0.append(contentsOf: piece) }
                rest = rest[cut...]
            }
        }
    }

    /// `name: value CRLF` with untrusted text as value.
    package mutating func field(_ name: StaticString, _ text: String, allowingUTF8: Bool = false) {
        self.begin(name)
        self.words(text, allowingUTF8: allowingUTF8)
        self.end()
    }

    package mutating func field(_ name: StaticString, literal: StaticString) {
        self.begin(name)
        self.token(literal)
        self.end()
    }

    package mutating func field(_ name: StaticString, date: Int64) {
        self.begin(name)
        self.token { DateTime(millisecondsSince1970: date).appendRFC5322(to: &$0) }
        self.end()
    }
}

package enum HeaderText {
    /// Appends text without control characters: each run of them and of blanks becomes one space, none at either end.
    /// - Parameters:
    ///   - allowingUTF8: otherwise every character above 127 becomes `?`.
    ///   - max: octets; the text is cut, not within a character.
    package static func append(_ text: String, to octets: inout [UInt8], allowingUTF8: Bool, max: Int = 1000) {
        let start = octets.count
        var isBlankDue = false
        for scalar in text.unicodeScalars {
            // C1 controls and the Unicode line separators end lines in some readers.
            if scalar.value <= 0x20 || (scalar.value >= 0x7f && scalar.value <= 0x9f)
                || scalar.value == 0x2028 || scalar.value == 0x2029
            {
                isBlankDue = octets.count > start
                continue
            }
            let size = scalar.value < 0x80 || !allowingUTF8 ? 1 : UTF8.width(scalar)
            guard octets.count - start + size + (isBlankDue ? 1 : 0) <= max else { return }
            if isBlankDue { octets.append(UInt8.space) }
            isBlankDue = false
            if scalar.value < 0x80 {
                octets.append(UInt8(truncatingIfNeeded: scalar.value))
            } else if allowingUTF8 {
                octets.append(contentsOf: UTF8.encode(scalar).map(Array.init) ?? [])
            } else {
                octets.append(UInt8(ascii: "?"))
            }
        }
    }

    /// Appends a host name or address literal a peer gave: letters, digits and `.-_:[]`, the rest becomes `?`.
    package static func append(host text: String, to octets: inout [UInt8], max: Int = 255) {
        let start = octets.count
        for octet in text.utf8 {
            guard octets.count - start < max else { break }
            octets.append(Self.isHostOctet(octet) ? octet : UInt8(ascii: "?"))
        }
        if octets.count == start { octets.append(literal: "unknown") }
    }

    /// Appends a word a peer or a library gave (a protocol's name): `atext` and dots, the rest becomes `?`.
    package static func append(word text: String, to octets: inout [UInt8], max: Int = 100) {
        let start = octets.count
        for octet in text.utf8 {
            guard octets.count - start < max else { break }
            octets.append(octet.isAtomText || octet == UInt8(ascii: ".") ? octet : UInt8(ascii: "?"))
        }
        if octets.count == start { octets.append(literal: "unknown") }
    }

    package static func isHostOctet(_ octet: UInt8) -> Bool {
        if octet.isLetterOrDigit { return true }
        switch octet {
        case UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: ":"), UInt8(ascii: "["),
            UInt8(ascii: "]"):
            return true
        default:
            return false
        }
    }
}

extension Mailbox {
    /// Far more than SMTP allows (RFC 5321 §4.5.3.1.1), and little enough for a line.
    private static let localPartSizeShown = 256

    /// Whether the mailbox can stand in a header field as it is: its local part is a dot-string or a quoted string
    /// without control characters, its domain of host characters (RFC 5321 §4.1.2, RFC 6531 §3.3).
    package var isWellFormed: Bool {
        guard !self.domain.text.isEmpty, self.domain.text.utf8.allSatisfy(HeaderText.isHostOctet) else { return false }
        let local = self.localPart.utf8
        guard let first = local.first, local.count <= Self.localPartSizeShown, self.domain.text.utf8.count <= 255 else {
            return false
        }
        guard first == UInt8(ascii: "\"") else {
            return local.allSatisfy { $0.isAtomText || $0 == UInt8(ascii: ".") || $0 >= 0x80 }
        }
        var isEscaped = false
        var isClosed = false
        for octet in local.dropFirst() {
            if isClosed || octet.isControl { return false }
            if isEscaped {
                isEscaped = false
            } else if octet == UInt8(ascii: "\\") {
                isEscaped = true
            } else if octet == UInt8(ascii: "\"") {
                isClosed = true
            }
        }
        return isClosed
    }

    /// Appends the mailbox so that it can break out of nothing, whatever it holds.
    /// - Parameter allowingUTF8: otherwise every octet above 127 becomes `?`.
    package func append(to octets: inout [UInt8], allowingUTF8: Bool) {
        if self.isWellFormed {
            for octet in self.localPart.utf8 {
                octets.append(octet < 0x80 || allowingUTF8 ? octet : UInt8(ascii: "?"))
            }
        } else {
            octets.append(UInt8(ascii: "\""))
            for (index, octet) in self.localPart.utf8.enumerated() {
                if index >= Self.localPartSizeShown, octet & 0xc0 != 0x80 { break }
                if octet == UInt8(ascii: "\"") || octet == UInt8(ascii: "\\") { octets.append(UInt8(ascii: "\\")) }
                octets.append(octet.isControl || (octet >= 0x80 && !allowingUTF8) ? UInt8(ascii: "?") : octet)
            }
            octets.append(UInt8(ascii: "\""))
        }
        octets.append(UInt8(ascii: "@"))
        HeaderText.append(host: self.domain.text, to: &octets)
    }
}
