import ArgumentParser
import Foundation
import NodeSupport

/// `posthorn health`: what container engines ask, in an image without a shell or an HTTP client.
struct HealthCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "health",
        abstract: "Say whether a running node is ready for mail.",
        discussion: """
            Asks the node's admin listener for /health/ready, or with --live for /health/live. Exits with 0 when it \
            says yes, and with 1 when it says no or does not answer.
            """
    )

    /// What the node answers.
    private struct Answer: Decodable {
        var reasons: [String: String]?
    }

    @OptionGroup var options: ConfigurationOption

    @Option(help: ArgumentHelp("The admin listener.", discussion: "Default: admin.address.", valueName: "host:port"))
    var admin: String?

    @Flag(help: "Only ask whether the process answers: a node whose log is away is alive, and not ready.")
    var live = false

    @Option(help: ArgumentHelp("How long to wait for the answer.", valueName: "seconds"))
    var timeout = 3

    func validate() throws {
        guard (1...300).contains(self.timeout) else { throw ValidationError("--timeout is 1 to 300 seconds.") }
    }

    func run() throws {
        var endpoint: Endpoint?
        if let admin {
            endpoint = Endpoint(admin, defaultPort: 9925)
            if endpoint == nil { throw ValidationError("“\(admin)” is not a host and port.") }
        } else {
            endpoint = try self.options.load().admin.address
        }
        guard let endpoint else { throw ValidationError("The node has no admin listener (admin.address: none).") }
        let client = AdminClient(endpoint: endpoint, token: nil, timeoutSeconds: self.timeout)
        do {
            let (status, content) = try client.status(self.live ? "/health/live" : "/health/ready")
            guard status != 200 else {
                print(self.live ? "alive" : "ready")
                return
            }
            let reasons = (try? JSONDecoder().decode(Answer.self, from: content))?.reasons ?? [:]
            let text = reasons.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value)" }.joined(separator: "; ")
            StandardError.write(
                "not \(self.live ? "alive" : "ready"): \(text.isEmpty ? "HTTP status \(status)" : text)"
            )
        } catch {
            StandardError.write("posthorn: \(error.description)")
        }
        throw ExitCode(1)
    }
}
