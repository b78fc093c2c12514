/// The addresses in a header field such as To (RFC 5322 §3.4), groups and comments included.
enum AddressList {
    /// The addr-specs in order; names, comments, routes and group names are left out.
    static func parse(_ text: some StringProtocol) -> [String] {
        var addresses: [String] = []
        var scanner = Scanner()
        for character in text.unicodeScalars {
            switch scanner.feed(character) {
            case .nothing: continue
            case .end: if let address = scanner.take() { addresses.append(address) }
            }
        }
        if let address = scanner.take() { addresses.append(address) }
        return addresses
    }

    private enum Event {
        case nothing
        case end
    }

    private struct Scanner {
        /// What stands outside of angle brackets: the address itself, unless there are brackets.
        private var bare = String.UnicodeScalarView()
        private var angle: String.UnicodeScalarView?
        private var isInAngle = false
        private var isInQuotes = false
        private var isInLiteral = false
        private var isEscaped = false
        private var commentDepth = 0

        mutating func feed(_ scalar: Unicode.Scalar) -> Event {
            if self.commentDepth > 0 {
                if self.isEscaped {
                    self.isEscaped = false
                } else if scalar == "\\" {
                    self.isEscaped = true
                } else if scalar == "(" {
                    self.commentDepth += 1
                } else if scalar == ")" {
                    self.commentDepth -= 1
                }
                return .nothing
            }
            if self.isInQuotes {
                self.append(scalar)
                if self.isEscaped {
                    self.isEscaped = false
                } else if scalar == "\\" {
                    self.isEscaped = true
                } else if scalar == "\"" {
                    self.isInQuotes = false
                }
                return .nothing
            }
            return self.feedPlain(scalar)
        }

        private mutating func feedPlain(_ scalar: Unicode.Scalar) -> Event {
            switch scalar {
            case "\"":
                self.isInQuotes = true
                self.append(scalar)
            case "(":
                self.commentDepth = 1
            case "[":
                self.isInLiteral = true
                self.append(scalar)
            case "]":
                self.isInLiteral = false
                self.append(scalar)
            case "<":
                self.isInAngle = true
                self.angle = String.UnicodeScalarView()
            case ">":
                self.isInAngle = false
            case ":" where self.isInAngle && !self.isInLiteral:
                // A source route (RFC 5322 §4.4): the address is behind it.
                self.angle = String.UnicodeScalarView()
            case ":" where !self.isInLiteral:
                // A group's name.
                self.bare = String.UnicodeScalarView()
            case "," where self.isInAngle:
                self.append(scalar)
            case ",", ";":
                return .end
            case " ", "\t", "\r", "\n":
                break
            default:
                self.append(scalar)
            }
            return .nothing
        }

        private mutating func append(_ scalar: Unicode.Scalar) {
            if self.isInAngle {
                self.angle?.append(scalar)
            } else {
                self.bare.append(scalar)
            }
        }

        /// What has been read, and a fresh start.
        mutating func take() -> String? {
            let address = String(self.angle ?? self.bare)
            self = Scanner()
            return address.isEmpty ? nil : address
        }
    }
}
