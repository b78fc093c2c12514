import ArgumentParser
import Foundation

/// The command line: one program for the relay and for whoever runs it.
@main
struct Posthorn: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "posthorn",
        abstract: "A mail relay that does not lose mail.",
        discussion: """
            Start with “posthorn run”: without any configuration it takes mail on port 25 from this machine and \
            delivers it to the world. “posthorn check-config” says what a configuration file means and what is \
            wrong with it.

            Invoked under the name sendmail, it takes mail from programs as Sendmail does.
            """,
        version: Version.text,
        subcommands: [
            RunCommand.self, CheckConfigCommand.self, QueueCommand.self, TraceCommand.self, DeadCommand.self,
            TopicsCommand.self, HealthCommand.self, CredentialsCommand.self, SendmailCommand.self, SinkCommand.self,
        ]
    )

    static func main() async {
        let name = CommandLine.arguments.first.map { URL(fileURLWithPath: $0).lastPathComponent }
        switch name {
        case "sendmail": Foundation.exit(SendmailCommand.run(Array(CommandLine.arguments.dropFirst())))
        case "mailq": await self.main(["queue", "list"])
        case "newaliases": Foundation.exit(SystemExit.ok)
        default: await self.main(nil)
        }
    }
}
