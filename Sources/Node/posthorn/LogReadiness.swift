import ClusterLog
import NodeSupport
import ServiceLifecycle

/// Says whether the log can be written, for a node without ingress, which looks at it anyway.
struct LogReadiness: Service {
    private static let interval: Duration = .seconds(1)

    let log: any RecordLog
    let condition: Readiness.Condition

    func run() async throws {
        try? await cancelWhenGracefulShutdown {
            while true {
                switch self.log.condition {
                case .writable: self.condition.met()
                case .reserveOnly(let reason), .unavailable(let reason): self.condition.unmet(reason)
                }
                try await Task.sleep(for: Self.interval)
            }
        }
    }
}
