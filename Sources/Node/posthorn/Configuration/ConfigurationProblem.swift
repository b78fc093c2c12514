/// One thing wrong with the configuration: where, what, and what to do about it.
struct ConfigurationProblem: Hashable, Sendable, CustomStringConvertible {
    /// `posthorn.yaml:12`, or `environment variable POSTHORN_HOSTNAME`.
    var location: String
    /// `relay.networks[1]`; empty for the file as a whole.
    var keyPath: String
    /// A sentence.
    var reason: String
    /// A sentence; empty where the reason says it all.
    var fix: String

    init(location: String, keyPath: String = "", reason: String, fix: String = "") {
        self.location = location
        self.keyPath = keyPath
        self.reason = reason
        self.fix = fix
    }

    var description: String {
        var text = "\(self.location): "
        if !self.keyPath.isEmpty { text += "\(self.keyPath): " }
        text += self.reason
        if !self.fix.isEmpty { text += " \(self.fix)" }
        return text
    }
}

/// Everything wrong with a configuration, in the order of the file.
struct ConfigurationProblems: Error, Hashable, CustomStringConvertible {
    var problems: [ConfigurationProblem]

    var description: String {
        self.problems.map(\.description).joined(separator: "\n")
    }
}
