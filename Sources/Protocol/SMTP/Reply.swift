/// What a server answers to a command (RFC 5321 §4.2), with the octets it is sent as.
public struct Reply: Hashable, Sendable, CustomStringConvertible {
    /// 200...559.
    public let code: Int
    /// Stands before the text of every line when present (RFC 2034 §4).
    public let enhancedStatusCode: EnhancedStatusCode?
    /// The text of each line, without codes; at least one, which may be empty.
    public let lines: [String]
    /// The serialised reply, made once: what is written to the peer.
    public let octets: [UInt8]

    /// Octets of text in one line, so that the line stays within 512 (RFC 5321 §4.5.3.1.5).
    static let lineTextCountMax = 490

    /// Line breaks in `text` begin a new line; other control characters become spaces and what is not ASCII becomes
    /// `?` (RFC 6531 §3.7.4.2), so that no text can forge a reply. Lines that are too long are broken.
    public init(_ code: Int, _ enhancedStatusCode: EnhancedStatusCode?, _ text: String) {
        self.init(code, enhancedStatusCode, lines: [text])
    }

    /// Without enhanced status code, as greetings and replies to EHLO are (RFC 2034 §4).
    public init(_ code: Int, _ text: String) {
        self.init(code, nil, lines: [text])
    }

    public init(_ code: Int, _ enhancedStatusCode: EnhancedStatusCode? = nil, lines: [String]) {
        precondition(code >= 200 && code <= 599)
        let safe = Self.safeLines(lines)
        self.code = code
        self.enhancedStatusCode = enhancedStatusCode
        self.lines = safe
        var octets: [UInt8] = []
        let prefix = enhancedStatusCode.map { "\($0) " } ?? ""
        for (index, line) in safe.enumerated() {
            octets.append(contentsOf: String(code).utf8)
            octets.append(index == safe.count - 1 ? UInt8(ascii: " ") : UInt8(ascii: "-"))
            octets.append(contentsOf: prefix.utf8)
            octets.append(contentsOf: line.utf8)
            octets.append(contentsOf: [0x0d, 0x0a])
        }
        self.octets = octets
    }

    /// For a challenge of an AUTH exchange, whose one line must stay whole (RFC 4954 §4).
    init(challenge: [UInt8]) {
        self.code = 334
        self.enhancedStatusCode = nil
        let line = Base64.encode(challenge)
        self.lines = [line]
        self.octets = Array("334 \(line)\r\n".utf8)
    }

    public static func == (left: Reply, right: Reply) -> Bool { left.octets == right.octets }
    public func hash(into hasher: inout Hasher) { hasher.combine(self.octets) }

    /// The serialised reply without its last line break.
    public var description: String { String(decoding: self.octets.dropLast(2), as: UTF8.self) }

    /// 2yz.
    public var isPositiveCompletion: Bool { self.code / 100 == 2 }
    /// 4yz.
    public var isTransientNegative: Bool { self.code / 100 == 4 }
    /// 5yz.
    public var isPermanentNegative: Bool { self.code / 100 == 5 }
    /// 4yz or 5yz.
    public var isNegative: Bool { self.code >= 400 }

    private static func safeLines(_ lines: [String]) -> [String] {
        var safe: [String] = []
        for line in lines {
            var current: [UInt8] = []
            for scalar in line.unicodeScalars {
                if scalar == "\n" || current.count == self.lineTextCountMax {
                    safe.append(String(decoding: current, as: UTF8.self))
                    current.removeAll(keepingCapacity: true)
                    if scalar == "\n" { continue }
                }
                switch scalar.value {
                case 0x0d: continue
                case 0x20...0x7e: current.append(UInt8(scalar.value))
                case 0x80...: current.append(UInt8(ascii: "?"))
                default: current.append(UInt8(ascii: " "))
                }
            }
            safe.append(String(decoding: current, as: UTF8.self))
        }
        return safe.isEmpty ? [""] : safe
    }
}
