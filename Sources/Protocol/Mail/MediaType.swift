/// The value of a Content-Type field as far as a relay cares (RFC 2045 §5.1).
struct MediaType: Hashable, Sendable {
    /// Lower case.
    var type: String
    /// Lower case.
    var subtype: String
    /// Unquoted.
    var boundary: [UInt8]?

    init(type: String, subtype: String) {
        self.type = type
        self.subtype = subtype
    }

    /// Whether the body is made of entities in turn.
    var isComposite: Bool {
        self.type == "multipart" || (self.type == "message" && self.subtype == "rfc822")
    }

    /// `type "/" subtype *(";" attribute "=" value)` from an unfolded value; `nil` when there is no type to be read.
    init?(_ value: [UInt8]) {
        var scanner = Scanner(octets: value)
        guard let type = scanner.token(), scanner.skip(UInt8(ascii: "/")), let subtype = scanner.token() else {
            return nil
        }
        self.init(type: Self.lowercased(type), subtype: Self.lowercased(subtype))
        while scanner.skip(to: UInt8(ascii: ";")) {
            guard let attribute = scanner.token(), scanner.skip(UInt8(ascii: "=")) else { continue }
            let parameter = scanner.value()
            if self.boundary == nil, Self.lowercased(attribute) == "boundary", !parameter.isEmpty {
                self.boundary = parameter
            }
        }
        // The syntax allows 70 octets; more are taken, blanks at the end cannot be told from padding.
        while self.boundary?.last?.isBlank == true { self.boundary?.removeLast() }
        if self.boundary?.isEmpty == true { self.boundary = nil }
    }

    private static func lowercased(_ octets: ArraySlice<UInt8>) -> String {
        String(decoding: octets.map(\.lowercased), as: UTF8.self)
    }

    private struct Scanner {
        let octets: [UInt8]
        var position = 0

        init(octets: [UInt8]) { self.octets = octets }

        /// Skips blanks and comments (RFC 5322 §3.2.2).
        mutating func skipBlanks() {
            var depth = 0
            while self.position < self.octets.count {
                let octet = self.octets[self.position]
                if octet == UInt8(ascii: "(") {
                    depth += 1
                } else if depth > 0, octet == UInt8(ascii: ")") {
                    depth -= 1
                } else if depth > 0, octet == UInt8(ascii: "\\") {
                    self.position += 1
                } else if depth == 0, !octet.isBlank {
                    return
                }
                self.position += 1
            }
        }

        mutating func skip(_ octet: UInt8) -> Bool {
            self.skipBlanks()
            guard self.position < self.octets.count, self.octets[self.position] == octet else { return false }
            self.position += 1
            return true
        }

        /// Past the next `octet` that is in no comment or quoted string.
        mutating func skip(to octet: UInt8) -> Bool {
            while true {
                self.skipBlanks()
                guard self.position < self.octets.count else { return false }
                let found = self.octets[self.position]
                if found == UInt8(ascii: "\"") {
                    _ = self.value()
                    continue
                }
                self.position += 1
                if found == octet { return true }
            }
        }

        mutating func token() -> ArraySlice<UInt8>? {
            self.skipBlanks()
            let start = self.position
            while self.position < self.octets.count, Self.isTokenOctet(self.octets[self.position]) {
                self.position += 1
            }
            return self.position > start ? self.octets[start..<self.position] : nil
        }

        /// A token or a quoted string, without its quotes.
        mutating func value() -> [UInt8] {
            self.skipBlanks()
            guard self.position < self.octets.count else { return [] }
            guard self.octets[self.position] == UInt8(ascii: "\"") else {
                // Broken producers leave out the quotes that `=`, `/` or `:` in a boundary ask for.
                let start = self.position
                while self.position < self.octets.count, self.octets[self.position] != UInt8(ascii: ";"),
                    !self.octets[self.position].isBlank
                {
                    self.position += 1
                }
                return Array(self.octets[start..<self.position])
            }
            self.position += 1
            var result: [UInt8] = []
            while self.position < self.octets.count {
                var octet = self.octets[self.position]
                self.position += 1
                if octet == UInt8(ascii: "\"") { return result }
                if octet == UInt8(ascii: "\\"), self.position < self.octets.count {
                    octet = self.octets[self.position]
                    self.position += 1
                }
                result.append(octet)
            }
            return result
        }

        /// Anything but blanks, controls and `tspecials`.
        private static func isTokenOctet(_ octet: UInt8) -> Bool {
            guard octet > 0x20, octet < 0x7f else { return false }
            switch octet {
            case UInt8(ascii: "("), UInt8(ascii: ")"), UInt8(ascii: "<"), UInt8(ascii: ">"), UInt8(ascii: "@"),
                UInt8(ascii: ","), UInt8(ascii: ";"), UInt8(ascii: ":"), UInt8(ascii: "\\"), UInt8(ascii: "\""),
                UInt8(ascii: "/"), UInt8(ascii: "["), UInt8(ascii: "]"), UInt8(ascii: "?"), UInt8(ascii: "="):
                return false
            default:
                return true
            }
        }
    }
}
