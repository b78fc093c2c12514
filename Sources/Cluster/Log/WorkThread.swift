import Dispatch
import Foundation
import Synchronization

/// Starts threads that are a log's own.
package enum OwnThread {
    package static func start(name: String, _ body: @escaping @Sendable () -> Void) {
        let thread = Thread { body() }
        thread.name = name
        thread.stackSize = 1 << 20
        thread.start()
    }

    /// Blocks the calling thread, which must be one of these.
    package static func pause(milliseconds: Int) {
        Thread.sleep(forTimeInterval: Double(milliseconds) / 1_000)
    }
}

/// A thread of a log's own that runs jobs in order, each with the state that only this thread touches.
///
/// Blocking calls belong here and never on the pool.
package final class WorkThread<Owned>: Sendable {
    package typealias Job = @Sendable (Owned) -> Void

    private struct State {
        var jobs: [Job] = []
        var isStopping = false
        var stopped: (@Sendable () -> Void)?
    }

    private let state = Mutex(State())
    private let semaphore = DispatchSemaphore(value: 0)

    package init() {}

    /// - Parameters:
    ///   - interval: how long the thread waits at most before it runs `idle`.
    ///   - make: runs on the thread, before the first job.
    package func start(
        name: String,
        interval: Duration?,
        make: @escaping @Sendable () -> Owned,
        idle: @escaping Job,
        end: @escaping Job
    ) {
        OwnThread.start(name: name) { self.run(interval: interval, make: make, idle: idle, end: end) }
    }

    /// - Returns: whether the job will run.
    @discardableResult
    package func submit(_ job: @escaping Job) -> Bool {
        let isAccepted = self.state.withLock { state in
            guard !state.isStopping else { return false }
            state.jobs.append(job)
            return true
        }
        if isAccepted { self.semaphore.signal() }
        return isAccepted
    }

    /// Runs what was submitted, then ends the thread.
    package func stop() async {
        await withCheckedContinuation { continuation in
            let isFirst = self.state.withLock { state in
                guard !state.isStopping else { return false }
                state.isStopping = true
                state.stopped = { continuation.resume() }
                return true
            }
            if isFirst { self.semaphore.signal() } else { continuation.resume() }
        }
    }

    private func run(interval: Duration?, make: @Sendable () -> Owned, idle: Job, end: Job) {
        let owned = make()
        while true {
            if let interval {
                _ = self.semaphore.wait(timeout: .now() + .nanoseconds(Int(interval / .nanoseconds(1))))
            } else {
                self.semaphore.wait()
            }
            let (jobs, isStopping) = self.state.withLock { state in
                (exchange(&state.jobs, with: []), state.isStopping)
            }
            for job in jobs {
                job(owned)
            }
            if isStopping { break }
            if jobs.isEmpty { idle(owned) }
        }
        end(owned)
        let stopped = self.state.withLock { exchange(&$0.stopped, with: nil) }
        stopped?()
    }
}
