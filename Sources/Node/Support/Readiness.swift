import Synchronization

/// Whether the node should be sent work, and if not, why: conditions by name, all of which must be met.
///
/// Safe from any thread. No condition at all is ready.
public final class Readiness: Sendable {
    /// One thing that must hold, such as `log` or `dns`.
    public struct Condition: Sendable {
        private let name: String
        private let readiness: Readiness

        fileprivate init(name: String, readiness: Readiness) {
            self.name = name
            self.readiness = readiness
        }

        public func met() {
            self.readiness.unmet.withLock { $0[self.name] = nil }
        }

        /// - Parameter reason: for people; what to do about it where that is known.
        public func unmet(_ reason: String) {
            self.readiness.unmet.withLock { $0[self.name] = reason }
        }
    }

    private let unmet = Mutex<[String: String]>([:])

    public init() {}

    /// Adds a condition. It is not met until said to be.
    public func condition(_ name: String, initially reason: String = "not started") -> Condition {
        let condition = Condition(name: name, readiness: self)
        condition.unmet(reason)
        return condition
    }

    public var isReady: Bool { self.unmet.withLock { $0.isEmpty } }

    /// Why not, by condition; empty when ready.
    public var reasons: [String: String] { self.unmet.withLock { $0 } }
}
