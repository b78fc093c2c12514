import Yams

/// A value in a configuration file or an environment variable, and where it stands.
struct ConfigurationItem {
    enum Value {
        case null
        case scalar(String)
        case sequence([ConfigurationItem])
        case mapping([Entry])
    }

    struct Entry {
        var key: String
        var keyOrigin: Origin
        var item: ConfigurationItem
    }

    enum Origin: Hashable {
        case line(Int)
        case variable(String)
        /// Nobody wrote it: the default.
        case absent
    }

    var value: Value
    var origin: Origin

    /// What the value is, for people.
    var kind: String {
        switch self.value {
        case .null: "nothing"
        case .scalar(let text): "“\(Self.shortened(text))”"
        case .sequence: "a list"
        case .mapping: "a section"
        }
    }

    /// Text as it may stand in a message: one line, not too long.
    static func shortened(_ text: String) -> String {
        var result = ""
        for scalar in text.unicodeScalars.prefix(60) {
            let isControl = scalar.properties.generalCategory == .control
            result.unicodeScalars.append(isControl ? " " : scalar)
        }
        return text.unicodeScalars.count > 60 ? result + "…" : result
    }
}

extension ConfigurationItem {
    /// Why text is no configuration at all.
    struct SyntaxError: Error {
        var line: Int?
        var reason: String
        var fix: String
    }

    /// Nothing anybody writes by hand comes near; aliases of aliases do.
    private static let nodeCountMax = 100_000
    private static let depthMax = 32
    private static let octetCountMax = 1 << 20

    /// Reads YAML. No document at all is `null`.
    ///
    /// - Parameter variable: the environment variable that holds the text, if any.
    static func parse(yaml: String, variable: String? = nil) throws(SyntaxError) -> ConfigurationItem {
        guard yaml.utf8.count <= Self.octetCountMax else {
            throw SyntaxError(reason: "The file is larger than 1 MiB.", fix: "Is it a posthorn configuration?")
        }
        let root: Yams.Node?
        do {
            root = try Parser(yaml: yaml, encoding: .utf8).singleRoot()
        } catch {
            throw Self.syntaxError(error)
        }
        guard let root else { return ConfigurationItem(value: .null, origin: .absent) }
        var budget = Self.nodeCountMax
        return try Self.convert(root, variable: variable, depth: 0, budget: &budget)
    }

    private static func convert(
        _ node: Yams.Node,
        variable: String?,
        depth: Int,
        budget: inout Int
    ) throws(SyntaxError) -> ConfigurationItem {
        budget -= 1
        guard budget > 0, depth <= Self.depthMax else {
            throw SyntaxError(
                line: node.mark?.line,
                reason: "There are more values, or they are nested deeper, than any configuration has.",
                fix: "Look for aliases (*name) that repeat each other."
            )
        }
        func origin(_ node: Yams.Node) -> Origin {
            variable.map(Origin.variable) ?? node.mark.map { .line($0.line) } ?? .absent
        }
        switch node {
        case .scalar(let scalar):
            let isNull = scalar.style == .plain && ["", "~", "null", "Null", "NULL"].contains(scalar.string)
            return ConfigurationItem(value: isNull ? .null : .scalar(scalar.string), origin: origin(node))
        case .sequence(let sequence):
            var items: [ConfigurationItem] = []
            for element in sequence {
                items.append(try Self.convert(element, variable: variable, depth: depth + 1, budget: &budget))
            }
            return ConfigurationItem(value: .sequence(items), origin: origin(node))
        case .mapping(let mapping):
            var entries: [Entry] = []
            for (key, value) in mapping {
                guard case .scalar(let name) = key else {
                    throw SyntaxError(
                        line: key.mark?.line,
                        reason: "A key is a list or a section.",
                        fix: "Keys are words; put text with special characters in quotes."
                    )
                }
                let item = try Self.convert(value, variable: variable, depth: depth + 1, budget: &budget)
                entries.append(Entry(key: name.string, keyOrigin: origin(key), item: item))
            }
            return ConfigurationItem(value: .mapping(entries), origin: origin(node))
        case .alias:
            // Only trees built by hand have them: the parser resolves aliases.
            return ConfigurationItem(value: .null, origin: origin(node))
        }
    }

    private static func syntaxError(_ error: any Error) -> SyntaxError {
        guard let error = error as? YamlError else {
            return SyntaxError(reason: "It cannot be read: \(error).", fix: "")
        }
        switch error {
        case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
            .composer(_, let problem, let mark, _):
            return SyntaxError(
                line: mark.line,
                reason: "This is not YAML: \(problem).",
                fix: "Check indentation (spaces, no tabs), colons and quotes here and just above."
            )
        case .duplicatedKeysInMapping(let duplicates, let context):
            let names = duplicates.map { "“\(Self.shortened($0))”" }.joined(separator: ", ")
            return SyntaxError(
                line: context.mark.line,
                reason: "\(names) \(duplicates.count == 1 ? "is" : "are") given more than once in the same section.",
                fix: "Keep one of each."
            )
        case .reader(let problem, _, _, _):
            return SyntaxError(reason: "It cannot be read: \(problem).", fix: "Save it as UTF-8 text.")
        case .dataCouldNotBeDecoded:
            return SyntaxError(reason: "It is not UTF-8 text.", fix: "Save it as UTF-8.")
        default:
            return SyntaxError(reason: "It cannot be read as YAML.", fix: "")
        }
    }
}
