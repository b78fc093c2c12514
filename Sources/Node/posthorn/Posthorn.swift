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
            RunCommand.self, CheckConfigCommand.self, QueueCommand.self, CredentialsCommand.self, SinkCommand.self,
        ]
    )

    static func main() async {
        await self.main(nil)
    }
}
