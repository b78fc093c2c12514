import ClusterLog
import NodeSupport
import Synchronization

/// Decides how much the node takes on: sessions, octets that are not durable yet, and whether the log would take mail
/// at all (DESIGN §1, G5 and G6). One per node, safe from any thread.
final class IntakeGate: Sendable {
    /// What the log lets the node say to MAIL.
    enum LogState: UInt8, Sendable {
        case open
        /// Only the reserve of space is left.
        case short
        /// It cannot be reached, or it has not answered for too long.
        case unavailable
    }

    private struct Sessions {
        var total = 0
        var byAddress: [IPAddress: Int] = [:]
    }

    /// How long the oldest append may be unacknowledged before mail is refused.
    static let appendAgeMax: Int64 = 5_000_000_000

    private let limits: NodeConfiguration.Limits
    private let octetCount = Atomic<Int>(0)
    private let logStateCode = Atomic<UInt8>(LogState.unavailable.rawValue)
    private let sessions = Mutex(Sessions())
    /// By event loop: since when its oldest append waits, monotonic nanoseconds.
    private let oldestAppends = Mutex<[Int: Int64]>([:])

    init(limits: NodeConfiguration.Limits) {
        self.limits = limits
    }

    // MARK: Octets received and not yet durable

    /// Counts octets in; `false`, and nothing is counted, when the budget would be exceeded.
    func charge(_ count: Int) -> Bool {
        let (_, now) = self.octetCount.wrappingAdd(count, ordering: .relaxed)
        guard now > self.limits.octetsInFlightMax else { return true }
        self.octetCount.wrappingSubtract(count, ordering: .relaxed)
        return false
    }

    func release(_ count: Int) {
        self.octetCount.wrappingSubtract(count, ordering: .relaxed)
    }

    var octetsInFlight: Int { self.octetCount.load(ordering: .relaxed) }
    /// Above three quarters: sockets of sessions that hold no content are not read for a while.
    var isCrowded: Bool { self.octetsInFlight > self.limits.octetsInFlightMax / 4 * 3 }
    /// Above fifteen sixteenths: no transaction may begin.
    var isFull: Bool { self.octetsInFlight >= self.limits.octetsInFlightMax / 16 * 15 }

    // MARK: Sessions

    /// - Parameter isExempt: whether the bound per address does not hold for this one.
    func admit(_ address: IPAddress?, isExempt: Bool) -> Bool {
        self.sessions.withLock { sessions in
            guard sessions.total < self.limits.sessionCountMax else { return false }
            if let address {
                let key = Self.network(of: address)
                let count = sessions.byAddress[key, default: 0]
                guard isExempt || count < self.limits.sessionCountPerAddressMax else { return false }
                sessions.byAddress[key] = count + 1
            }
            sessions.total += 1
            return true
        }
    }

    func leave(_ address: IPAddress?) {
        self.sessions.withLock { sessions in
            sessions.total -= 1
            guard let address else { return }
            let key = Self.network(of: address)
            let count = sessions.byAddress[key, default: 0]
            sessions.byAddress[key] = count > 1 ? count - 1 : nil
        }
    }

    var sessionCount: Int { self.sessions.withLock { $0.total } }

    /// Who counts as one client: an IPv4 address, or an IPv6 /64.
    static func network(of address: IPAddress) -> IPAddress {
        address.isIPv4 ? address : IPAddress(high: address.high, low: 0)
    }

    // MARK: The log

    var logState: LogState { LogState(rawValue: self.logStateCode.load(ordering: .relaxed)) ?? .unavailable }

    /// Looks at the log and at what one event loop waits for. Returns the state when it changed.
    ///
    /// - Parameter oldestAppend: since when that loop's oldest append waits; `nil` when it waits for none.
    func update(loop: Int, oldestAppend: Int64?, condition: LogCondition, now: Int64) -> LogState? {
        let oldest = self.oldestAppends.withLock { oldest in
            oldest[loop] = oldestAppend
            return oldest.values.min()
        }
        let isLate = oldest.map { now - $0 > Self.appendAgeMax } ?? false
        let state: LogState =
            switch condition {
            case .writable: isLate ? .unavailable : .open
            case .reserveOnly: isLate ? .unavailable : .short
            case .unavailable: .unavailable
            }
        let old = self.logStateCode.exchange(state.rawValue, ordering: .relaxed)
        return old == state.rawValue ? nil : state
    }
}
