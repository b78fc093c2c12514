import ArgumentParser

struct RunCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Take and deliver mail until told to stop.",
        discussion: """
            Runs in the foreground. SIGTERM and SIGINT end it in order: sessions finish, what is queued stays \
            queued. Every setting can be overridden by an environment variable, as in \
            POSTHORN_RELAY_NETWORKS=10.0.0.0/8,::1.
            """
    )

    @OptionGroup var options: ConfigurationOption

    func run() async throws {
        try await Node(configuration: self.options.load()).run()
    }
}
