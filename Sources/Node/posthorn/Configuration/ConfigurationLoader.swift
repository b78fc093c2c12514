import Foundation
import NodeSupport

#if canImport(Glibc)
import Glibc
#endif

/// Reads, overrides and checks a node's configuration, and reports everything wrong with it at once.
struct ConfigurationLoader {
    /// Where the file is when nobody says.
    static let defaultPath = "/etc/posthorn/posthorn.yaml"
    private static let prefix = "POSTHORN_"
    /// Variables of ours that are no keys: where the file is, and where sendmail finds the node.
    private static let otherVariables = ["POSTHORN_CONFIG", "POSTHORN_SERVER"]

    var environment: [String: String] = ProcessInfo.processInfo.environment
    var files = FileProbe()
    /// The machine's own name, for when the configuration has none.
    var systemHostname: () -> String = Self.readSystemHostname

    /// Reads the file at `path`, or at `POSTHORN_CONFIG`, or at ``defaultPath`` if there is one there, or none.
    func load(path: String?) throws(ConfigurationProblems) -> NodeConfiguration {
        let asked = path ?? self.environment["POSTHORN_CONFIG"].flatMap { $0.isEmpty ? nil : $0 }
        let file = asked ?? Self.defaultPath
        if asked == nil, !FileManager.default.fileExists(atPath: file) {
            return try self.load(yaml: "", file: file)
        }
        let data: Data
        do {
            data = try Data(contentsOf: URL(fileURLWithPath: file))
        } catch {
            let fix =
                FileManager.default.fileExists(atPath: file)
                ? "Make it readable for the user posthorn runs as." : "Create it, or name another with --config."
            throw ConfigurationProblems(problems: [
                .init(location: file, reason: "The configuration file cannot be read.", fix: fix)
            ])
        }
        guard let yaml = String(bytes: data, encoding: .utf8) else {
            throw ConfigurationProblems(problems: [
                .init(location: file, reason: "It is not UTF-8 text.", fix: "Save it as UTF-8.")
            ])
        }
        return try self.load(yaml: yaml, file: file)
    }

    /// - Parameter file: the name that problems give; relative paths start in its directory.
    func load(yaml: String, file: String) throws(ConfigurationProblems) -> NodeConfiguration {
        var root: ConfigurationItem
        do {
            root = try ConfigurationItem.parse(yaml: yaml)
        } catch {
            let location = error.line.map { "\(file):\($0)" } ?? file
            throw ConfigurationProblems(problems: [
                .init(location: location, reason: error.reason, fix: error.fix)
            ])
        }
        let reading = ConfigurationReading(file: file)
        self.override(&root, reading)
        let directory = URL(fileURLWithPath: file).deletingLastPathComponent().path
        var configuration = ConfigurationDecoder(reading: reading, directory: directory).decode(root)
        if !reading.isGiven("hostname") {
            let name = self.systemHostname()
            configuration.hostname = ConfigurationValue<String>.isDomain(name) ? name.lowercased() : "localhost"
        }
        ConfigurationChecks(configuration: configuration, reading: reading, files: self.files).run()
        guard reading.problems.isEmpty else {
            let sorted = reading.problems.enumerated()
                .sorted {
                    ($0.element.line, $0.offset) < ($1.element.line, $1.offset)
                }
            // Several routes of one section say the same.
            var seen: Set<ConfigurationProblem> = []
            throw ConfigurationProblems(problems: sorted.map(\.element.problem).filter { seen.insert($0).inserted })
        }
        return configuration
    }

    /// Puts `POSTHORN_RELAY_NETWORKS=...` in the place of `relay.networks`, and so on for every key.
    private func override(_ root: inout ConfigurationItem, _ reading: ConfigurationReading) {
        let names = self.environment.keys.filter {
            $0.hasPrefix(Self.prefix) && !$0.hasPrefix("POSTHORN_TEST_") && !Self.otherVariables.contains($0)
        }
        guard !names.isEmpty else { return }
        // Reading nothing tells which keys there are.
        let discovery = ConfigurationReading(file: "")
        _ = ConfigurationDecoder(reading: discovery, directory: "").decode(nil)
        var paths: [String: String] = [:]
        for path in discovery.keys.keys { paths[Self.variable(for: path)] = path }

        for name in names.sorted() {
            guard let path = paths[name], let kind = discovery.keys[path] else {
                let near = Suggestion.nearest(to: name, in: paths.keys.sorted())
                reading.report(
                    "",
                    at: .variable(name),
                    "There is no such key.",
                    fix: near.map { "Did you mean \($0)?" }
                        ?? "Its name is POSTHORN_ and the key's path, in capitals, with _ for dots and hyphens."
                )
                continue
            }
            let text = self.environment[name] ?? ""
            // Empty is how container tools write “not set”.
            guard !text.trimmingSpaces().isEmpty else { continue }
            guard let item = Self.item(text, kind, name, path, reading) else { continue }
            Self.set(&root, path.split(separator: ".").map(String.init)[...], item)
        }
    }

    static func variable(for path: String) -> String {
        Self.prefix + String(path.uppercased().map { $0 == "." || $0 == "-" ? "_" : $0 })
    }

    private static func item(
        _ text: String,
        _ kind: ConfigurationReading.KeyKind,
        _ name: String,
        _ path: String,
        _ reading: ConfigurationReading
    ) -> ConfigurationItem? {
        let origin = ConfigurationItem.Origin.variable(name)
        let isYAML = kind == .structure || (kind == .list && text.trimmingSpaces().hasPrefix("["))
        guard isYAML else {
            guard kind == .list else { return ConfigurationItem(value: .scalar(text), origin: origin) }
            let parts = text.split(separator: ",").map { $0.trimmingSpaces() }.filter { !$0.isEmpty }
            let items = parts.map { ConfigurationItem(value: .scalar(String($0)), origin: origin) }
            return ConfigurationItem(value: .sequence(items), origin: origin)
        }
        do {
            return try ConfigurationItem.parse(yaml: text, variable: name)
        } catch {
            reading.report(path, at: origin, error.reason, fix: "Write the list or section as YAML on one line.")
            return nil
        }
    }

    private static func set(_ root: inout ConfigurationItem, _ path: ArraySlice<String>, _ item: ConfigurationItem) {
        guard let key = path.first else {
            root = item
            return
        }
        var entries: [ConfigurationItem.Entry]
        switch root.value {
        case .mapping(let existing): entries = existing
        case .null: entries = []
        // Wrong in any case; the decoder says so.
        case .scalar, .sequence: return
        }
        let index = entries.lastIndex { $0.key == key }
        var child = index.map { entries[$0].item } ?? ConfigurationItem(value: .null, origin: item.origin)
        Self.set(&child, path.dropFirst(), item)
        if let index {
            entries[index].item = child
        } else {
            entries.append(.init(key: key, keyOrigin: item.origin, item: child))
        }
        root.value = .mapping(entries)
    }

    private static func readSystemHostname() -> String {
        var buffer = [CChar](repeating: 0, count: 256)
        guard gethostname(&buffer, buffer.count - 1) == 0 else { return "localhost" }
        return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

/// Looks at the files a configuration names.
struct FileProbe {
    /// Why a file cannot be used, as a sentence; `nil` when it can.
    var problem: (_ path: String) -> String? = { path in
        var isDirectory: ObjCBool = false
        guard FileManager.default.fileExists(atPath: path, isDirectory: &isDirectory) else {
            return "There is no file \(path)."
        }
        if isDirectory.boolValue { return "\(path) is a directory." }
        return FileManager.default.isReadableFile(atPath: path) ? nil : "\(path) cannot be read."
    }
}
