/// What another server answered to a command of ours (RFC 5321 §4.2), kept for outcomes and notifications.
public struct RemoteReply: Hashable, Sendable, CustomStringConvertible {
    /// 200...599.
    public var code: Int
    /// The code the first line began with, if its class agrees with ``code`` (RFC 2034 §4).
    public var enhancedStatusCode: EnhancedStatusCode?
    /// The text of each line after the code, an enhanced status code included; without control characters.
    public var lines: [String]

    /// For replies read back from the log; what is bounded and sanitised is what ``ClientReplyParser`` makes.
    public init(code: Int, enhancedStatusCode: EnhancedStatusCode? = nil, lines: [String] = []) {
        self.code = code
        self.enhancedStatusCode = enhancedStatusCode
        self.lines = lines
    }

    /// The lines as one, for logs and `Diagnostic-Code` (RFC 3464 §2.3.6).
    public var text: String { self.lines.count == 1 ? self.lines[0] : self.lines.joined(separator: " ") }

    /// `550 5.1.1 No such user`
    public var description: String {
        let text = self.text
        return text.isEmpty ? "\(self.code)" : "\(self.code) \(text)"
    }

    /// 2yz.
    public var isPositiveCompletion: Bool { self.code / 100 == 2 }
    /// 3yz.
    public var isPositiveIntermediate: Bool { self.code / 100 == 3 }
    /// 4yz.
    public var isTransientNegative: Bool { self.code / 100 == 4 }
    /// 5yz.
    public var isPermanentNegative: Bool { self.code / 100 == 5 }
}
