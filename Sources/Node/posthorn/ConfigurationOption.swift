import ArgumentParser
import NodeSupport

/// `--config`, for every command that needs the configuration.
struct ConfigurationOption: ParsableArguments {
    @Option(
        name: [.customShort("c"), .long],
        help: ArgumentHelp(
            "The configuration file.",
            discussion: "Default: $POSTHORN_CONFIG, else \(ConfigurationLoader.defaultPath) if it exists.",
            valueName: "file"
        ),
        completion: .file(extensions: ["yaml", "yml"])
    )
    var config: String?

    /// Loads it; what is wrong goes to standard error, and the command ends with 78 (EX_CONFIG).
    ///
    /// - Parameter overrides: environment variables in place of those there are.
    func load(overriding overrides: [String: String] = [:]) throws -> NodeConfiguration {
        var loader = ConfigurationLoader()
        loader.environment.merge(overrides) { $1 }
        do {
            return try loader.load(path: self.config)
        } catch {
            StandardError.write(error.description)
            throw ExitCode(SystemExit.configuration)
        }
    }
}
