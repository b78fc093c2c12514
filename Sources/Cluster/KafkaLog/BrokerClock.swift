import Dispatch
import Synchronization

/// What time it is on the brokers, learned from when they stamped our own records.
///
/// A record that was handed over at one moment and reported at another was stamped in between, so each report bounds
/// the brokers' time. The estimate moves only when a report rules it out, which load alone never does, and between
/// reports it goes on by the machine's monotonic clock: setting the time of day changes nothing.
final class BrokerClock: Sendable {
    private struct State {
        /// The brokers' time less the monotonic time.
        var base: Int64?
        var observedAt: Int64 = .min
    }

    /// No clock of a broker in service stands before 2020: such a stamp is a mock's, or of a machine that lost its time.
    private static let earliest: Int64 = 1_577_836_800_000

    private let state = Mutex(State())

    /// Milliseconds of the monotonic clock.
    static var monotonic: Int64 { Int64(clamping: DispatchTime.now().uptimeNanoseconds / 1_000_000) }

    /// A record with this timestamp was stamped not before `sentAt` and not after `reportedAt` (monotonic milliseconds).
    func observe(_ timestamp: Int64, sentAt: Int64, reportedAt: Int64) {
        guard timestamp >= Self.earliest, sentAt <= reportedAt else { return }
        let low = timestamp - reportedAt
        // A stamp is cut to the whole millisecond.
        let high = timestamp + 1 - sentAt
        self.state.withLock { state in
            state.observedAt = max(state.observedAt, reportedAt)
            state.base = state.base.map { min(max($0, low), high) } ?? (low + high) / 2
        }
    }

    /// The brokers' time, milliseconds since 1970; `nil` until one has stamped something.
    func time(at monotonic: Int64 = BrokerClock.monotonic) -> Int64? {
        self.state.withLock { $0.base }.map { $0 + monotonic }
    }

    /// Milliseconds since the last report; `nil` when there was none.
    func age(at monotonic: Int64 = BrokerClock.monotonic) -> Int64? {
        self.state.withLock { $0.base == nil ? nil : monotonic - $0.observedAt }
    }
}
