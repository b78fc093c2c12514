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
    func load() throws -> NodeConfiguration {
        do {
            return try ConfigurationLoader().load(path: self.config)
        } catch {
            StandardError.write(error.description)
            throw ExitCode(SystemExit.configuration)
        }
    }
}
