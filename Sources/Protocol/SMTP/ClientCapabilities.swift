import Mail

/// What a server offered in its answer to EHLO or LHLO (RFC 5321 §4.1.1.1).
public struct ClientCapabilities: Hashable, Sendable {
    public struct Mechanisms: OptionSet, Hashable, Sendable {
        public let rawValue: UInt8
        public init(rawValue: UInt8) { self.rawValue = rawValue }
        public static let plain = Mechanisms(rawValue: 1)
        public static let login = Mechanisms(rawValue: 2)
        public static let scramSHA256 = Mechanisms(rawValue: 4)
    }

    /// RFC 2920.
    public var hasPipelining = false
    /// RFC 6152.
    public var hasEightBitMIME = false
    /// RFC 6531.
    public var hasInternationalizedMail = false
    /// RFC 3461.
    public var hasNotifications = false
    /// RFC 3207.
    public var hasTLS = false
    /// RFC 1870: whether MAIL may carry SIZE.
    public var hasSize = false
    /// Octets of content the server takes at most; `nil` when it did not say.
    public var contentSizeMax: Int?
    /// RFC 4954, those we know.
    public var mechanisms: Mechanisms = []
    /// LIMITS RCPTMAX (RFC 9422).
    public var recipientCountMax: Int?
    /// LIMITS MAILMAX (RFC 9422).
    public var transactionCountMax: Int?

    public init() {}

    init(_ parser: ClientReplyParser) {
        var isFirst = true
        parser.forEachLine { line in
            if !isFirst { self.add(line) }
            isFirst = false
        }
    }

    /// One line: `ehlo-keyword *( SP ehlo-param )`.
    mutating func add(_ line: UnsafeRawBufferPointer) {
        let words = line.split(separator: UInt8(ascii: " "), maxSplits: 32)
            .map {
                UnsafeRawBufferPointer(rebasing: $0)
            }
        guard let keyword = words.first else { return }
        let parameters = words.dropFirst()
        if keyword.equals("PIPELINING") {
            self.hasPipelining = true
        } else if keyword.equals("8BITMIME") {
            self.hasEightBitMIME = true
        } else if keyword.equals("SMTPUTF8") {
            self.hasInternationalizedMail = true
        } else if keyword.equals("DSN") {
            self.hasNotifications = true
        } else if keyword.equals("STARTTLS") {
            self.hasTLS = true
        } else if keyword.equals("SIZE") {
            self.hasSize = true
            // 0 says that there is no fixed maximum (RFC 1870 §4).
            if let size = parameters.first?.decimal, size > 0 { self.contentSizeMax = size }
        } else if keyword.equals("AUTH") {
            for mechanism in parameters { self.addMechanism(mechanism) }
        } else if keyword.count > 5, UnsafeRawBufferPointer(rebasing: keyword[0..<5]).equals("AUTH=") {
            // Old servers and their clients wrote `AUTH=LOGIN PLAIN`.
            self.addMechanism(UnsafeRawBufferPointer(rebasing: keyword[5...]))
            for mechanism in parameters { self.addMechanism(mechanism) }
        } else if keyword.equals("LIMITS") {
            for limit in parameters { self.addLimit(limit) }
        }
    }

    private mutating func addMechanism(_ name: UnsafeRawBufferPointer) {
        if name.equals("PLAIN") { self.mechanisms.insert(.plain) }
        if name.equals("LOGIN") { self.mechanisms.insert(.login) }
        if name.equals("SCRAM-SHA-256") { self.mechanisms.insert(.scramSHA256) }
    }

    private mutating func addLimit(_ limit: UnsafeRawBufferPointer) {
        guard let equals = limit.firstIndex(of: UInt8(ascii: "=")) else { return }
        let name = UnsafeRawBufferPointer(rebasing: limit[0..<equals])
        guard let value = UnsafeRawBufferPointer(rebasing: limit[(equals + 1)...]).decimal, value > 0 else { return }
        if name.equals("RCPTMAX") { self.recipientCountMax = value }
        if name.equals("MAILMAX") { self.transactionCountMax = value }
    }
}

extension UnsafeRawBufferPointer {
    /// Whether the octets are `text`, which is ASCII, in any case.
    fileprivate func equals(_ text: StaticString) -> Bool {
        text.withUTF8Buffer { $0.count == self.count && self.matches($0, at: 0) }
    }

    /// `1*20DIGIT`, saturating at what an `Int` holds; `nil` for anything else.
    fileprivate var decimal: Int? {
        guard !self.isEmpty, self.count <= 20 else { return nil }
        var value = 0
        for octet in self {
            guard octet.isDigit else { return nil }
            let (product, isOverProduct) = value.multipliedReportingOverflow(by: 10)
            let (sum, isOverSum) = product.addingReportingOverflow(Int(octet - 0x30))
            if isOverProduct || isOverSum { return .max }
            value = sum
        }
        return value
    }
}
