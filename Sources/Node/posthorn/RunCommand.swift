import ArgumentParser
import ClusterLog
import NodeSupport

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

    @Option(
        name: .customLong("role"),
        help: ArgumentHelp(
            "What this node does: ingress, delivery, bounce or metrics. Repeat it for several.",
            discussion:
                "In place of `roles` in the configuration; all of them when neither says. Needs kafka.bootstrap."
        )
    )
    var roles: [NodeConfiguration.Role] = []

    func run() async throws {
        let overrides = self.roles.isEmpty ? [:] : ["POSTHORN_ROLES": self.roles.map(\.rawValue).joined(separator: ",")]
        let node = Node(configuration: try self.options.load(overriding: overrides))
        do {
            try await node.run()
            SystemExit.leave(SystemExit.ok)
        } catch let error as RecordLogError {
            SystemExit.leave(error.told().rawValue)
        }
    }
}

extension NodeConfiguration.Role: ExpressibleByArgument {}
