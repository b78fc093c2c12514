import Synchronization

/// Hands the segment that was opened at start to the writer's thread, and tells when that thread has ended.
///
/// `@unchecked Sendable`: what is handed over is taken once, under the lock, and touched by its taker only.
final class WriterStart: @unchecked Sendable {
    private let lock = Mutex(())
    private var start: (ActiveSegment, Snapshot)?
    private var isEnded = false
    private var whenEndedAction: (@Sendable () -> Void)?

    init(segment: ActiveSegment, snapshot: Snapshot) {
        self.start = (segment, snapshot)
    }

    func take() -> (ActiveSegment, Snapshot)? {
        self.lock.withLock { _ in exchange(&self.start, with: nil) }
    }

    func ended() {
        let action = self.lock.withLock { _ in
            self.isEnded = true
            return exchange(&self.whenEndedAction, with: nil)
        }
        action?()
    }

    func whenEnded(_ action: @escaping @Sendable () -> Void) {
        let isEnded = self.lock.withLock { _ in
            if !self.isEnded { self.whenEndedAction = action }
            return self.isEnded
        }
        if isEnded { action() }
    }
}
