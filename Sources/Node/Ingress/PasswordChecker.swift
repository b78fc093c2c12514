import NIOPosix
import NodeSupport
import SMTP
import Synchronization

/// Checks passwords on threads of its own, remembers right ones for a while, and stops addresses that guess.
///
/// Safe from any thread.
final class PasswordChecker: Sendable {
    private struct Failures {
        var count = 0
        var since: Int64
    }

    private struct State {
        var waitingCount = 0
        /// Checks that succeeded, and until when that is remembered.
        var successes: [Fingerprint: Int64] = [:]
        var failures: [IPAddress: Failures] = [:]
    }

    /// Stands for a record and a password without holding either: two keyed hashes under a secret of this process.
    private struct Fingerprint: Hashable {
        let high: Int
        let low: Int

        init(_ check: PasswordCheck, secret: (UInt64, UInt64)) {
            var high = Hasher()
            high.combine(secret.0)
            high.combine(check)
            self.high = high.finalize()
            var low = Hasher()
            low.combine(secret.1)
            low.combine(check)
            low.combine(secret.0)
            self.low = low.finalize()
        }
    }

    /// Checks that may wait for a thread.
    static let waitingCountMax = 64
    /// Failures of one address in ``failureInterval`` before its attempts are put off.
    static let failureCountMax = 10
    static let failureInterval: Int64 = 300_000_000_000
    private static let successInterval: Int64 = 60_000_000_000
    private static let entryCountMax = 10_000

    private let threads: NIOThreadPool
    private let secret = (UInt64.random(in: .min ... .max), UInt64.random(in: .min ... .max))
    private let state = Mutex(State())

    init(threads: NIOThreadPool) {
        self.threads = threads
    }

    /// Whether so many checks wait that no exchange should begin. A session has one at most, so what comes of those
    /// that have begun is bounded too.
    var isBusy: Bool { self.state.withLock { $0.waitingCount >= Self.waitingCountMax } }

    /// - Parameters:
    ///   - now: monotonic nanoseconds.
    ///   - completion: whether the password is right; on any thread, or at once.
    func check(_ check: PasswordCheck, now: Int64, completion: @escaping @Sendable (Bool) -> Void) {
        let fingerprint = Fingerprint(check, secret: self.secret)
        let isKnown = self.state.withLock { state in
            if let until = state.successes[fingerprint], until > now { return true }
            state.waitingCount += 1
            return false
        }
        if isKnown { return completion(true) }
        self.threads.submit { workState in
            let isMatch = workState == .active && check.isMatch()
            self.state.withLock { state in
                state.waitingCount -= 1
                guard isMatch else { return }
                if state.successes.count >= Self.entryCountMax { state.successes = [:] }
                state.successes[fingerprint] = now + Self.successInterval
            }
            completion(isMatch)
        }
    }

    /// Runs something short that blocks, such as reading a file.
    func run(_ body: @escaping @Sendable () -> Void) {
        self.threads.submit { _ in body() }
    }

    /// Whether an address has failed too often of late to be heard.
    func isSuspended(_ address: IPAddress?, now: Int64) -> Bool {
        guard let address else { return false }
        return self.state.withLock { state in
            guard let failures = state.failures[IntakeGate.network(of: address)] else { return false }
            return now - failures.since < Self.failureInterval && failures.count >= Self.failureCountMax
        }
    }

    func noteFailure(_ address: IPAddress?, now: Int64) {
        guard let address else { return }
        let key = IntakeGate.network(of: address)
        self.state.withLock { state in
            if state.failures.count >= Self.entryCountMax {
                state.failures = state.failures.filter { now - $0.value.since < Self.failureInterval }
                // Still full: an attack from everywhere. Starting over is what a bound allows.
                if state.failures.count >= Self.entryCountMax { state.failures = [:] }
            }
            var failures = state.failures[key] ?? Failures(since: now)
            if now - failures.since >= Self.failureInterval { failures = Failures(since: now) }
            failures.count += 1
            state.failures[key] = failures
        }
    }

    func noteSuccess(_ address: IPAddress?) {
        guard let address else { return }
        self.state.withLock { _ = $0.failures.removeValue(forKey: IntakeGate.network(of: address)) }
    }
}
