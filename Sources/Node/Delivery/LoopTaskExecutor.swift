import NIOCore

/// Runs the parts of a task that belong to no actor on an event loop: what the log's thread wakes is on the loop of the
/// actor it feeds at once, without a turn over the concurrency pool.
///
/// Only for tasks that never block, and that end before the loop does.
final class LoopTaskExecutor: TaskExecutor {
    private let loop: any EventLoop

    init(_ loop: any EventLoop) {
        self.loop = loop
    }

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        self.loop.execute { job.runSynchronously(on: self.asUnownedTaskExecutor()) }
    }
}
