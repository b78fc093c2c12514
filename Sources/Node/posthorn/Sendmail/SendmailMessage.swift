import Foundation

/// A message as a program wrote it, made fit for SMTP: lines end in CRLF, Bcc is gone, From, Date and Message-ID are
/// there.
struct SendmailMessage: Equatable {
    struct Context {
        /// For From, when there is none: the envelope sender, or who runs the program.
        var author: String
        var fullName: String?
        var date: String
        var messageID: String
    }

    /// Header fields and content, ready for DATA but for dot-stuffing.
    private(set) var octets: [UInt8]
    /// From To, Cc and Bcc, or from their Resent- forms when there are any (RFC 5322 §3.6.6).
    private(set) var headerRecipients: [String] = []
    private(set) var hasEightBitContent = false
    private(set) var hasEightBitHeader = false

    /// - Parameter ignoresDots: whether a line with a dot alone is content rather than the end.
    init(_ input: [UInt8], ignoresDots: Bool, context: Context) {
        var lines = Self.lines(input, ignoresDots: ignoresDots)
        if lines.first?.starts(with: Array("From ".utf8)) == true { lines.removeFirst() }
        let (fields, rest) = Self.split(lines)

        var names: Set<String> = []
        var recipients: [String: [String]] = [:]
        var kept: [ArraySlice<UInt8>] = []
        for field in fields {
            let name = Self.name(field[0]) ?? ""
            names.insert(name)
            if ["to", "cc", "bcc", "resent-to", "resent-cc", "resent-bcc"].contains(name) {
                let text = field.map { String(decoding: $0, as: UTF8.self) }.joined(separator: " ")
                let value = text.drop { $0 != ":" }.dropFirst()
                recipients[name, default: []] += AddressList.parse(value)
            }
            if name != "bcc", name != "resent-bcc" { kept += field }
        }
        let isResent = names.contains { $0.hasPrefix("resent-") }
        let prefix = isResent ? "resent-" : ""
        for name in ["to", "cc", "bcc"] { self.headerRecipients += recipients[prefix + name] ?? [] }

        var added: [String] = []
        if !names.contains("from") { added.append("From: \(Self.mailbox(context))") }
        if !names.contains("date") { added.append("Date: \(context.date)") }
        if !names.contains("message-id") { added.append("Message-ID: <\(context.messageID)>") }
        self.octets = []
        self.octets.reserveCapacity(input.count + input.count / 32 + 512)
        for line in added.map({ Array($0.utf8)[...] }) + kept {
            self.octets += line
            self.octets += [0x0d, 0x0a]
        }
        self.hasEightBitHeader = self.octets.contains { $0 >= 0x80 }
        self.octets += [0x0d, 0x0a]
        for line in rest {
            self.octets += line
            self.octets += [0x0d, 0x0a]
        }
        self.hasEightBitContent = self.octets.contains { $0 >= 0x80 }
    }

    /// Without their ends, which may be LF or CRLF; a CR elsewhere ends a line too, so that none is left bare.
    private static func lines(_ input: [UInt8], ignoresDots: Bool) -> [ArraySlice<UInt8>] {
        var lines: [ArraySlice<UInt8>] = []
        var start = 0
        var index = 0
        while index < input.count {
            let octet = input[index]
            guard octet == 0x0a || octet == 0x0d else {
                index += 1
                continue
            }
            let line = input[start..<index]
            if !ignoresDots, line.elementsEqual([0x2e]) { return lines }
            lines.append(line)
            index += octet == 0x0d && index + 1 < input.count && input[index + 1] == 0x0a ? 2 : 1
            start = index
        }
        let line = input[start...]
        if !line.isEmpty, ignoresDots || !line.elementsEqual([0x2e]) { lines.append(line) }
        return lines
    }

    /// The header fields, each with its continuation lines, and what follows. Content may begin without an empty line:
    /// programs write such messages.
    private static func split(
        _ lines: [ArraySlice<UInt8>]
    ) -> (fields: [[ArraySlice<UInt8>]], rest: ArraySlice<ArraySlice<UInt8>>) {
        var fields: [[ArraySlice<UInt8>]] = []
        for (index, line) in lines.enumerated() {
            if line.isEmpty { return (fields, lines[(index + 1)...]) }
            if line.first == 0x20 || line.first == 0x09, !fields.isEmpty {
                fields[fields.count - 1].append(line)
            } else if Self.name(line) != nil {
                fields.append([line])
            } else {
                return (fields, lines[index...])
            }
        }
        return (fields, [])
    }

    /// A field's name in lower case (RFC 5322 §2.2).
    private static func name(_ line: ArraySlice<UInt8>) -> String? {
        guard let colon = line.firstIndex(of: UInt8(ascii: ":")) else { return nil }
        var name = line[..<colon]
        while let last = name.last, last == 0x20 || last == 0x09 { name = name.dropLast() }
        guard !name.isEmpty, name.allSatisfy({ (0x21...0x7e).contains($0) }) else { return nil }
        return String(decoding: name, as: UTF8.self).lowercased()
    }

    private static func mailbox(_ context: Context) -> String {
        guard let fullName = context.fullName, !fullName.isEmpty else { return context.author }
        let name = String(
            String.UnicodeScalarView(fullName.unicodeScalars.filter { $0.value >= 0x20 && $0 != "\u{7f}" })
        )
        let isPlain = name.unicodeScalars.allSatisfy {
            $0.properties.isAlphabetic || ("0"..."9").contains($0) || $0 == " " || $0 == "-"
        }
        let escaped = name.replacingOccurrences(of: "\\", with: "\\\\").replacingOccurrences(of: "\"", with: "\\\"")
        return "\(isPlain ? name : "\"\(escaped)\"") <\(context.author)>"
    }

    /// As DATA wants it: dots doubled, the end marked (RFC 5321 §4.5.2).
    var dataOctets: [UInt8] {
        var result: [UInt8] = []
        result.reserveCapacity(self.octets.count + 512)
        var isLineStart = true
        for octet in self.octets {
            if isLineStart, octet == 0x2e { result.append(0x2e) }
            result.append(octet)
            isLineStart = octet == 0x0a
        }
        return result + [0x2e, 0x0d, 0x0a]
    }
}
