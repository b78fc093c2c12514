/// What one reading of a configuration has found: problems, places, and every key there could have been.
final class ConfigurationReading {
    enum KeyKind {
        case scalar
        case list
        case structure
    }

    let file: String
    private(set) var problems: [(line: Int, problem: ConfigurationProblem)] = []
    /// Every key that was asked for outside of lists, by path.
    private(set) var keys: [String: KeyKind] = [:]
    private var origins: [String: ConfigurationItem.Origin] = [:]
    /// Which section each route comes from: one section may match several domains.
    private(set) var routePaths: [Int: String] = [:]

    init(file: String) {
        self.file = file
    }

    func noteKey(_ path: String, _ kind: KeyKind) {
        self.keys[path] = kind
    }

    func noteOrigin(_ path: String, _ origin: ConfigurationItem.Origin) {
        self.origins[path] = origin
    }

    func noteRoute(_ index: Int, _ path: String) {
        self.routePaths[index] = path
    }

    /// Whether somebody wrote the key.
    func isGiven(_ path: String) -> Bool {
        self.origins[path] != nil
    }

    func report(_ path: String, at origin: ConfigurationItem.Origin, _ reason: String, fix: String = "") {
        let location: String
        var order = Int.max
        switch origin {
        case .line(let line):
            location = "\(self.file):\(line)"
            order = line
        case .variable(let name):
            location = "environment variable \(name)"
        case .absent:
            location = self.file
        }
        self.problems.append(
            (order, ConfigurationProblem(location: location, keyPath: path, reason: reason, fix: fix))
        )
    }

    /// Reports at the place of the key, or of what it stands in.
    func report(_ path: String, _ reason: String, fix: String = "") {
        var place = path[...]
        while !place.isEmpty {
            if let origin = self.origins[String(place)] {
                return self.report(path, at: origin, reason, fix: fix)
            }
            guard let end = place.lastIndex(where: { $0 == "." || $0 == "[" }) else { break }
            place = place[..<end]
        }
        self.report(path, at: .absent, reason, fix: fix)
    }
}

/// One section of a configuration, being read: asked for each key it may have, it reports those nobody asked for.
final class ConfigurationSection {
    let reading: ConfigurationReading
    let path: String
    private let entries: [ConfigurationItem.Entry]
    private var asked: [String] = []
    private let isInList: Bool

    init(reading: ConfigurationReading, path: String, item: ConfigurationItem?, isInList: Bool = false) {
        self.reading = reading
        self.path = path
        self.isInList = isInList
        switch item?.value {
        case nil, .null:
            self.entries = []
        case .mapping(let entries):
            self.entries = entries
        case .scalar, .sequence:
            self.entries = []
            if let item {
                reading.report(
                    path,
                    at: item.origin,
                    "This is \(item.kind), not a section.",
                    fix: "Write its keys on lines of their own, indented, as “key: value”."
                )
            }
        }
    }

    func path(of key: String) -> String {
        self.path.isEmpty ? key : "\(self.path).\(key)"
    }

    /// The item under a key, `nil` when absent or empty.
    private func item(_ key: String, _ kind: ConfigurationReading.KeyKind) -> ConfigurationItem? {
        self.asked.append(key)
        let path = self.path(of: key)
        if !self.isInList { self.reading.noteKey(path, kind) }
        guard let entry = self.entries.last(where: { $0.key == key }) else { return nil }
        if case .null = entry.item.value { return nil }
        self.reading.noteOrigin(path, entry.item.origin)
        return entry.item
    }

    private func parse<Value>(
        _ item: ConfigurationItem,
        _ path: String,
        _ kind: ConfigurationValue<Value>
    ) -> Value? {
        guard case .scalar(let text) = item.value else {
            let reason = "This is \(item.kind), not \(kind.noun)."
            self.reading.report(path, at: item.origin, reason, fix: kind.hint)
            return nil
        }
        guard let value = kind.parse(String(text.trimmingSpaces())) else {
            self.reading.report(path, at: item.origin, "\(item.kind) is not \(kind.noun).", fix: kind.hint)
            return nil
        }
        return value
    }

    /// Reads a value; absent leaves the target alone.
    func read<Value>(_ key: String, as kind: ConfigurationValue<Value>, into target: inout Value) {
        guard let item = self.item(key, .scalar) else { return }
        if let value = self.parse(item, self.path(of: key), kind) { target = value }
    }

    /// Reads a value that `none` switches off.
    func read<Value>(_ key: String, as kind: ConfigurationValue<Value>, into target: inout Value?) {
        guard let item = self.item(key, .scalar) else { return }
        if case .scalar("none") = item.value {
            target = nil
        } else if let value = self.parse(item, self.path(of: key), kind) {
            target = value
        }
    }

    /// Reads a value that must be there.
    func require<Value>(_ key: String, as kind: ConfigurationValue<Value>) -> Value? {
        guard let item = self.item(key, .scalar) else {
            self.reading.report(self.path(of: key), "This key is missing.", fix: kind.hint)
            return nil
        }
        return self.parse(item, self.path(of: key), kind)
    }

    /// Reads a list; a single value is a list of one.
    func read<Value>(_ key: String, asListOf kind: ConfigurationValue<Value>, into target: inout [Value]) {
        guard let item = self.item(key, .list) else { return }
        let path = self.path(of: key)
        switch item.value {
        case .sequence(let items):
            var values: [Value] = []
            for (index, item) in items.enumerated() {
                let path = "\(path)[\(index)]"
                self.reading.noteOrigin(path, item.origin)
                if let value = self.parse(item, path, kind) { values.append(value) }
            }
            target = values
        case .null, .scalar, .mapping:
            if let value = self.parse(item, path, kind) { target = [value] }
        }
    }

    /// Reads a list that must be there and hold something.
    func requireList<Value>(_ key: String, of kind: ConfigurationValue<Value>) -> [Value] {
        var values: [Value] = []
        self.read(key, asListOf: kind, into: &values)
        if values.isEmpty, !self.reading.isGiven(self.path(of: key)) {
            self.reading.report(self.path(of: key), "This key is missing.", fix: kind.hint)
        }
        return values
    }

    /// Reads a section, whether it is there or not.
    func section(_ key: String, _ body: (ConfigurationSection) -> Void) {
        let section = ConfigurationSection(
            reading: self.reading,
            path: self.path(of: key),
            item: self.item(key, .structure),
            isInList: self.isInList
        )
        body(section)
        section.finish()
    }

    /// Reads a section only if it is there.
    func sectionIfPresent(_ key: String, _ body: (ConfigurationSection) -> Void) {
        guard let item = self.item(key, .structure) else { return }
        let section = ConfigurationSection(
            reading: self.reading,
            path: self.path(of: key),
            item: item,
            isInList: self.isInList
        )
        body(section)
        section.finish()
    }

    /// Reads a list of sections.
    ///
    /// - Returns: whether the key is there.
    @discardableResult
    func sections(_ key: String, _ body: (ConfigurationSection) -> Void) -> Bool {
        guard let item = self.item(key, .structure) else { return false }
        let path = self.path(of: key)
        guard case .sequence(let items) = item.value else {
            self.reading.report(
                path,
                at: item.origin,
                "This is \(item.kind), not a list.",
                fix: "Begin each of its sections with “- ”."
            )
            return true
        }
        for (index, item) in items.enumerated() {
            let path = "\(path)[\(index)]"
            self.reading.noteOrigin(path, item.origin)
            let section = ConfigurationSection(reading: self.reading, path: path, item: item, isInList: true)
            body(section)
            section.finish()
        }
        return true
    }

    /// Reports the keys nobody asked for.
    func finish() {
        for entry in self.entries where !self.asked.contains(entry.key) {
            let key = ConfigurationItem.shortened(entry.key)
            let fix: String
            if let near = Suggestion.nearest(to: entry.key, in: self.asked) {
                fix = "Did you mean “\(near)”?"
            } else {
                fix = "Known here: \(self.asked.sorted().joined(separator: ", "))."
            }
            self.reading.report(self.path(of: key), at: entry.keyOrigin, "There is no such key.", fix: fix)
        }
    }
}
