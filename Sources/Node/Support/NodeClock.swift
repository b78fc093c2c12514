import Synchronization

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#elseif canImport(Darwin)
import Darwin
#endif

/// What time it is: passed to whoever needs to know, so that tests can decide it.
public protocol NodeClock: Sendable {
    /// Milliseconds since 1970 (UTC). May jump when the machine's clock is set.
    var milliseconds: Int64 { get }
    /// Nanoseconds since some moment in the past. Never goes back; for durations and deadlines.
    var monotonicNanoseconds: Int64 { get }
}

/// The machine's clocks.
public struct SystemClock: NodeClock {
    public init() {}

    public var milliseconds: Int64 {
        let (seconds, nanoseconds) = Self.read(CLOCK_REALTIME)
        return seconds &* 1_000 &+ nanoseconds / 1_000_000
    }

    public var monotonicNanoseconds: Int64 {
        let (seconds, nanoseconds) = Self.read(CLOCK_MONOTONIC)
        return seconds &* 1_000_000_000 &+ nanoseconds
    }

    static func read(_ clock: clockid_t) -> (seconds: Int64, nanoseconds: Int64) {
        var time = timespec()
        clock_gettime(clock, &time)
        return (Int64(time.tv_sec), Int64(time.tv_nsec))
    }
}

/// A clock that stands still until it is told to go on, for tests and simulation.
public final class ManualClock: NodeClock {
    private let times: Mutex<(milliseconds: Int64, monotonicNanoseconds: Int64)>

    public init(milliseconds: Int64 = 1_800_000_000_000, monotonicNanoseconds: Int64 = 0) {
        self.times = Mutex((milliseconds, monotonicNanoseconds))
    }

    public var milliseconds: Int64 { self.times.withLock { $0.milliseconds } }
    public var monotonicNanoseconds: Int64 { self.times.withLock { $0.monotonicNanoseconds } }

    /// Moves both on.
    public func advance(by duration: Duration) {
        let (seconds, attoseconds) = duration.components
        self.times.withLock { times in
            let nanoseconds = times.monotonicNanoseconds &+ seconds &* 1_000_000_000 &+ attoseconds / 1_000_000_000
            // Whole milliseconds passed, so that many small advances add up.
            times.milliseconds &+= nanoseconds / 1_000_000 &- times.monotonicNanoseconds / 1_000_000
            times.monotonicNanoseconds = nanoseconds
        }
    }

    /// Sets the time of day alone, as an administrator would.
    public func set(milliseconds: Int64) {
        self.times.withLock { $0.milliseconds = milliseconds }
    }
}
