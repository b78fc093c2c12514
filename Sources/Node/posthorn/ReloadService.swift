import Logging
import NodeSupport
import ServiceLifecycle
import UnixSignals

/// Reads certificates and credentials again on SIGHUP. Each part that cannot be used stays as it was, and the log says
/// why; the configuration itself is read at start only.
struct ReloadService: Service {
    /// Reloads something; returns what is wrong with it.
    typealias Part = @Sendable () async -> [String]

    let parts: [Part]
    let logger: Logger

    func run() async throws {
        for await _ in await UnixSignalsSequence(trapping: .sighup).cancelOnGracefulShutdown() {
            var problems: [String] = []
            for part in self.parts { problems += await part() }
            for problem in problems {
                self.logger.error("Not reloaded: what was in use stays", metadata: [LogKeys.reason: "\(problem)"])
            }
            if problems.isEmpty { self.logger.notice("Certificates and credentials were read again") }
        }
    }
}

/// What an error says, as a list that is empty without one.
func problem(_ body: () throws -> Void) -> [String] {
    do {
        try body()
        return []
    } catch {
        return ["\(error)"]
    }
}
