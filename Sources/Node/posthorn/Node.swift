import Logging
import NodeSupport

/// A node: all roles in one process.
struct Node {
    let configuration: NodeConfiguration

    func run() async throws {
        Logger(label: "posthorn").notice("No roles are wired up", metadata: ["host": "\(self.configuration.hostname)"])
    }
}
