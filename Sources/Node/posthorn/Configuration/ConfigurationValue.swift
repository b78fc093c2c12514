import Mail
import NodeSupport

/// How one kind of value is read from text, and what to say when it cannot be.
struct ConfigurationValue<Value> {
    /// `a duration`
    var noun: String
    /// A sentence that shows how such a value is written.
    var hint: String
    var parse: (String) -> Value?
}

extension ConfigurationValue where Value == String {
    static var text: Self {
        Self(noun: "text", hint: "Write a word or a line.") { $0.isEmpty ? nil : $0 }
    }

    static var assignment: Self {
        Self(noun: "a setting and its value", hint: "Write it as “name=value”.") { text in
            guard let equals = text.firstIndex(of: "="), equals != text.startIndex else { return nil }
            return text
        }
    }

    static var hostname: Self {
        Self(noun: "a host name", hint: "Write the node's full name, like mail.example.com.") { text in
            Self.isDomain(text) ? text.lowercased() : nil
        }
    }

    static var domain: Self {
        Self(noun: "a domain", hint: "Write one like example.com; international ones in their xn-- form.") { text in
            Self.isDomain(text) ? text.lowercased() : nil
        }
    }

    static var address: Self {
        Self(noun: "an address", hint: "Write one like 192.0.2.1, ::1, or :: for every address.") { text in
            IPAddress(text) == nil ? nil : text
        }
    }

    static var mailbox: Self {
        Self(noun: "a mail address", hint: "Write one like admin@example.com.") { text in
            Mailbox(parsing: text).flatMap { $0.isASCII ? $0.description : nil }
        }
    }

    static var listenerName: Self {
        Self(noun: "a name", hint: "Use up to 40 letters, digits, - and _.") { text in
            let isAllowed = text.utf8.allSatisfy {
                (0x30...0x39).contains($0) || (0x41...0x5a).contains($0) || (0x61...0x7a).contains($0)
                    || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "_")
            }
            return isAllowed && 1...40 ~= text.utf8.count ? text : nil
        }
    }

    /// A path; relative ones start where the configuration file is.
    static func path(relativeTo directory: String) -> Self {
        Self(noun: "a path", hint: "Write a path like /etc/posthorn/key.pem.") { text in
            guard !text.isEmpty, !text.utf8.contains(0) else { return nil }
            return text.utf8.first == UInt8(ascii: "/") ? text : "\(directory)/\(text)"
        }
    }

    /// RFC 1035 §2.3.1 as relaxed by RFC 1123 §2.1; underscores occur in practice.
    static func isDomain(_ text: String) -> Bool {
        guard 1...253 ~= text.utf8.count else { return false }
        return text.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
            .allSatisfy { label in
                1...63 ~= label.count && label.first != UInt8(ascii: "-") && label.last != UInt8(ascii: "-")
                    && label.allSatisfy {
                        (0x30...0x39).contains($0) || (0x61...0x7a).contains($0 | 0x20) || $0 == UInt8(ascii: "-")
                            || $0 == UInt8(ascii: "_")
                    }
            }
    }
}

extension ConfigurationValue where Value == Bool {
    static var boolean: Self {
        Self(noun: "true or false", hint: "Write true or false.") { text in
            switch text.lowercased() {
            case "true", "yes", "on": true
            case "false", "no", "off": false
            default: nil
            }
        }
    }
}

extension ConfigurationValue where Value == Int {
    static func count(_ range: ClosedRange<Int>) -> Self {
        let hint =
            range.upperBound == Int.max
            ? "of \(range.lowerBound) or more" : "from \(range.lowerBound) to \(range.upperBound)"
        return Self(noun: "a whole number \(hint)", hint: "Write digits only.") { text in
            guard let value = Self.digits(text), range.contains(value) else { return nil }
            return value
        }
    }

    /// Octets: `4096`, `64KiB`, `50 MiB`, `1G`. Powers of 1024, except for kB, MB, GB.
    static func size(_ range: ClosedRange<Int> = 1...Int.max) -> Self {
        let isBounded = range.upperBound < Int.max
        let upper = isBounded ? " to \(Self.describe(range.upperBound))" : " or more"
        let bounds = range.lowerBound > 1 || isBounded ? " of \(Self.describe(range.lowerBound))\(upper)" : ""
        return Self(noun: "a size\(bounds)", hint: "Write a number with a unit, like 64KiB, 50MiB or 2GiB.") { text in
            let digits = text.prefix { ("0"..."9").contains($0) }
            guard let number = Self.digits(String(digits)) else { return nil }
            let unit = text.dropFirst(digits.count).trimmingSpaces().lowercased()
            let units = [
                "": 1, "b": 1, "k": 1 << 10, "kib": 1 << 10, "m": 1 << 20, "mib": 1 << 20, "g": 1 << 30,
                "gib": 1 << 30, "t": 1 << 40, "tib": 1 << 40, "kb": 1000, "mb": 1_000_000, "gb": 1_000_000_000,
                "tb": 1_000_000_000_000,
            ]
            guard let factor = units[unit] else { return nil }
            let (size, isOverflow) = number.multipliedReportingOverflow(by: factor)
            return isOverflow || !range.contains(size) ? nil : size
        }
    }

    static func describe(_ size: Int) -> String {
        for (factor, unit) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        where size % factor == 0 && size > 0 {
            return "\(size / factor)\(unit)"
        }
        return "\(size)"
    }

    private static func digits(_ text: String) -> Int? {
        guard !text.isEmpty, text.utf8.allSatisfy({ (0x30...0x39).contains($0) }) else { return nil }
        return Int(text)
    }
}

extension ConfigurationValue where Value == Duration {
    /// `500ms`, `30s`, `5m`, `4h`, `5d`, `1w`, or several: `1h30m`.
    static func duration(_ range: ClosedRange<Duration> = .milliseconds(1) ... .seconds(3650 * 86400)) -> Self {
        let isBounded = range.lowerBound > .milliseconds(1)
        let bounds =
            isBounded ? " of \(Self.describe(range.lowerBound)) to \(Self.describe(range.upperBound))" : ""
        return Self(noun: "a duration\(bounds)", hint: "Write a number with a unit, like 30s, 5m, 4h or 5d.") { text in
            guard let value = Self.parseDuration(text), range.contains(value) else { return nil }
            return value
        }
    }

    private static func parseDuration(_ text: String) -> Duration? {
        let units = ["ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000]
        var rest = text[...]
        var total = 0
        guard !rest.isEmpty else { return nil }
        while !rest.isEmpty {
            let digits = rest.prefix { ("0"..."9").contains($0) }
            rest = rest.dropFirst(digits.count).trimmingSpaces()
            let unit = rest.prefix { ("a"..."z").contains($0) }
            rest = rest.dropFirst(unit.count).trimmingSpaces()
            guard let number = Int(digits), let factor = units[String(unit)] else { return nil }
            let (product, isProductOverflow) = number.multipliedReportingOverflow(by: factor)
            let (sum, isSumOverflow) = total.addingReportingOverflow(product)
            guard !isProductOverflow, !isSumOverflow else { return nil }
            total = sum
        }
        return .milliseconds(total)
    }

    static func describe(_ duration: Duration) -> String {
        let seconds = duration.components.seconds
        for (factor, unit) in [(86400, "d"), (3600, "h"), (60, "m")] as [(Int64, String)]
        where seconds % factor == 0 && seconds > 0 {
            return "\(seconds / factor)\(unit)"
        }
        return "\(seconds)s"
    }
}

extension ConfigurationValue where Value: RawRepresentable<String> & CaseIterable {
    static var choice: Self {
        let names = Value.allCases.map(\.rawValue)
        let list = names.dropLast().joined(separator: ", ") + " or " + (names.last ?? "")
        return Self(noun: "one of \(names.joined(separator: ", "))", hint: "Write \(list).") { text in
            Value(rawValue: text.lowercased())
        }
    }
}

extension ConfigurationValue where Value == Network {
    static var network: Self {
        Self(
            noun: "a network",
            hint: "Write one like 192.0.2.0/24 or 2001:db8::/32, with no bits set behind the prefix."
        ) { Network($0) }
    }
}

extension ConfigurationValue where Value == IPAddress {
    static var ipAddress: Self {
        Self(noun: "an address", hint: "Write one like 192.0.2.1 or 2001:db8::1.") { IPAddress($0) }
    }
}

extension ConfigurationValue where Value == Endpoint {
    static func endpoint(defaultPort: Int?, allowsSocket: Bool) -> Self {
        let socket = allowsSocket ? ", or the path of a socket" : ""
        return Self(
            noun: "a host and port",
            hint: "Write one like 192.0.2.1:\(defaultPort ?? 25) or [2001:db8::1]:\(defaultPort ?? 25)\(socket)."
        ) { text in
            guard let endpoint = Endpoint(text, defaultPort: defaultPort) else { return nil }
            if case .unixSocket = endpoint, !allowsSocket { return nil }
            return endpoint
        }
    }
}

extension ConfigurationValue where Value == DomainPattern {
    static var domainPattern: Self {
        Self(
            noun: "a domain or pattern",
            hint: "Write example.com, .example.com (with everything under it), *.example.com (only what is under it) "
                + "or *; international domains in their xn-- form."
        ) { text in
            let text = text.lowercased()
            if text == "*" { return .any }
            if text.hasPrefix("*.") { return Self.pattern(text.dropFirst(2)).map(DomainPattern.subdomains) }
            if text.hasPrefix(".") { return Self.pattern(text.dropFirst(1)).map(DomainPattern.suffix) }
            return Self.pattern(text[...]).map(DomainPattern.exact)
        }
    }

    private static func pattern(_ text: Substring) -> String? {
        ConfigurationValue<String>.isDomain(String(text)) ? String(text) : nil
    }
}

extension ConfigurationValue where Value == NodeConfiguration.Route.NextHop {
    static var nextHop: Self {
        Self(
            noun: "a way to deliver",
            hint: "Write mx, smtp HOST:PORT, smtps HOST:PORT, lmtp HOST:PORT or /SOCKET (several hosts apart by "
                + "spaces), discard, or error 550 5.1.2 TEXT."
        ) { Self.parseNextHop($0) }
    }

    private static func parseNextHop(_ text: String) -> Value? {
        let words = text.split(whereSeparator: { $0 == " " || $0 == "," || $0 == "\t" })
        guard let kind = words.first?.lowercased() else { return nil }
        func hosts(_ port: Int?, allowsSocket: Bool = false) -> [Endpoint]? {
            let value = ConfigurationValue<Endpoint>.endpoint(defaultPort: port, allowsSocket: allowsSocket)
            let hosts = words.dropFirst().compactMap { value.parse(String($0)) }
            return hosts.isEmpty || hosts.count != words.count - 1 ? nil : hosts
        }
        switch kind {
        case "mx": return words.count == 1 ? .mailExchangers : nil
        case "discard": return words.count == 1 ? .discard : nil
        case "smtp": return hosts(25).map { .smtp(hosts: $0, isImplicitTLS: false) }
        case "smtps": return hosts(465).map { .smtp(hosts: $0, isImplicitTLS: true) }
        case "lmtp": return hosts(24, allowsSocket: true).map { .lmtp(hosts: $0) }
        case "error": return Self.parseReply(text.split(separator: " ").dropFirst()).map { .refuse($0) }
        default: return nil
        }
    }

    private static func parseReply(_ words: ArraySlice<Substring>) -> NodeConfiguration.RouteReply? {
        var words = words
        guard let first = words.popFirst(), first.utf8.count == 3, let code = Int(first), 400...599 ~= code else {
            return nil
        }
        var enhanced = code < 500 ? "4.0.0" : "5.0.0"
        if let word = words.first, word.contains(".") {
            let parts = word.split(separator: ".", omittingEmptySubsequences: false)
            let isStatus =
                parts.count == 3 && parts.allSatisfy { 1...3 ~= $0.utf8.count && Int($0) != nil && $0.first != "-" }
            if isStatus {
                guard String(parts[0]) == String(first.prefix(1)) else { return nil }
                enhanced = String(word)
                words.removeFirst()
            }
        }
        let text = words.joined(separator: " ")
        guard text.utf8.allSatisfy({ (0x20...0x7e).contains($0) }), text.utf8.count <= 400 else { return nil }
        let isEmpty = text.isEmpty
        return .init(code: code, enhancedStatusCode: enhanced, text: isEmpty ? "Mail is not delivered there" : text)
    }
}

extension StringProtocol {
    /// Without spaces and tabs at either end.
    func trimmingSpaces() -> SubSequence {
        var result = self[...]
        while result.first == " " || result.first == "\t" { result = result.dropFirst() }
        while result.last == " " || result.last == "\t" { result = result.dropLast() }
        return result
    }
}
