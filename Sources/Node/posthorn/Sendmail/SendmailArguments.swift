/// The command line that programs have given to sendmail since 1983.
struct SendmailArguments: Equatable {
    enum Mode: Equatable {
        /// A message on standard input.
        case deliver
        /// SMTP on standard input and output (`-bs`).
        case smtp
        /// The queue (`-bp`, mailq).
        case printQueue
        /// Trying again what waits (`-q`), which a node does by itself.
        case runQueue
        /// Aliases, which a relay has none of (`-bi`, newaliases).
        case aliases
        case help
    }

    struct UsageError: Error, Equatable, CustomStringConvertible {
        var description: String
    }

    var mode = Mode.deliver
    /// `-t`
    var readsRecipients = false
    /// `-i`, `-oi`: a line with a dot alone is content.
    var ignoresDots = false
    /// `-f`, `-r`; empty is the null reverse-path.
    var sender: String?
    /// `-F`
    var fullName: String?
    /// `-N`, as NOTIFY takes it.
    var notify: String?
    /// `-R`: `FULL` or `HDRS`.
    var returnContent: String?
    /// `-V`
    var envelopeID: String?
    /// `--server`
    var server: String?
    /// `--config`
    var configuration: String?
    var recipients: [String] = []

    init() {}

    /// - Throws: for what would change the meaning if it were ignored.
    init(parsing arguments: [String]) throws(UsageError) {
        var rest = arguments[...]
        var isOperandsOnly = false
        while let argument = rest.popFirst() {
            if isOperandsOnly || !argument.hasPrefix("-") || argument == "-" {
                self.recipients.append(argument)
            } else if argument == "--" {
                isOperandsOnly = true
            } else if argument.hasPrefix("--") {
                try self.parseLong(argument, &rest)
            } else {
                try self.parseShort(argument.dropFirst(), &rest)
            }
        }
    }

    private mutating func parseLong(_ argument: String, _ rest: inout ArraySlice<String>) throws(UsageError) {
        let parts = argument.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        func value() throws(UsageError) -> String {
            if parts.count == 2 { return parts[1] }
            guard let next = rest.popFirst() else { throw UsageError(description: "\(parts[0]) needs a value.") }
            return next
        }
        switch parts[0] {
        case "--server": self.server = try value()
        case "--config": self.configuration = try value()
        case "--help": self.mode = .help
        default: throw UsageError(description: "There is no option \(parts[0]).")
        }
    }

    private mutating func parseShort(_ argument: Substring, _ rest: inout ArraySlice<String>) throws(UsageError) {
        guard let letter = argument.first else { return }
        let attached = argument.dropFirst()
        func value() throws(UsageError) -> String {
            if !attached.isEmpty { return String(attached) }
            guard let next = rest.popFirst() else { throw UsageError(description: "-\(letter) needs a value.") }
            return next
        }
        switch letter {
        case "t":
            self.readsRecipients = true
            // Flags without values are written together, as in -ti.
            if !attached.isEmpty { try self.parseShort(attached, &rest) }
        case "i":
            self.ignoresDots = true
            if !attached.isEmpty { try self.parseShort(attached, &rest) }
        case "f", "r":
            let text = try value()
            self.sender = text == "<>" ? "" : text
        case "F":
            self.fullName = try value()
        case "N":
            self.notify = try Self.notify(try value())
        case "R":
            self.returnContent = try Self.returnContent(try value())
        case "V":
            self.envelopeID = try value()
        case "o":
            try self.parseOption(attached.isEmpty ? value() : String(attached))
        case "O":
            let text = try value()
            let name = text.split(separator: "=")[safe: 0]?.lowercased()
            if name == "ignoredots" { self.ignoresDots = !text.lowercased().hasSuffix("=false") }
        case "b":
            try self.parseMode(attached)
        // Harmless: verbosity, trust, background, submission mode, debugging, old names.
        case "v", "m", "n", "s", "U", "G", "c", "x":
            if !attached.isEmpty { try self.parseShort(attached, &rest) }
        // Harmless too; what is attached is a value.
        case "d", "A", "T", "e", "E":
            return
        case "q": self.mode = .runQueue
        case "I": self.mode = .aliases
        // Harmless too, with a value: body type, configuration, hops, log tag, protocol, log file, macros.
        case "B", "C", "h", "L", "p", "X", "M", "D":
            _ = try value()
        default:
            throw UsageError(description: "There is no option -\(letter).")
        }
    }

    /// `-oi` and its relatives; the others tune a queue that is not ours.
    private mutating func parseOption(_ text: String) throws(UsageError) {
        if text.first == "i" { self.ignoresDots = text.dropFirst().first.map { $0 != "0" && $0 != "f" } ?? true }
    }

    private mutating func parseMode(_ text: Substring) throws(UsageError) {
        switch text {
        case "m", "": self.mode = .deliver
        case "s": self.mode = .smtp
        case "p": self.mode = .printQueue
        case "i": self.mode = .aliases
        case "d", "D": throw UsageError(description: "The server is started with “posthorn run”.")
        case "v", "t": throw UsageError(description: "Addresses are not looked up here: -b\(text) is not supported.")
        default: throw UsageError(description: "-b\(text) is not supported.")
        }
    }

    /// NOTIFY's value (RFC 3461 §4.1).
    private static func notify(_ text: String) throws(UsageError) -> String {
        let words = text.uppercased().split(separator: ",").map { $0.trimmingSpaces() }
        let isNever = words == ["NEVER"]
        guard isNever || (!words.isEmpty && words.allSatisfy({ ["SUCCESS", "FAILURE", "DELAY"].contains($0) })) else {
            throw UsageError(description: "-N takes never, or some of success, failure, delay, apart by commas.")
        }
        return words.joined(separator: ",")
    }

    private static func returnContent(_ text: String) throws(UsageError) -> String {
        switch text.lowercased() {
        case "full": return "FULL"
        case "hdrs", "headers": return "HDRS"
        default: throw UsageError(description: "-R takes full or hdrs.")
        }
    }
}

extension Array {
    fileprivate subscript(safe index: Int) -> Element? {
        self.indices.contains(index) ? self[index] : nil
    }
}
