import DNS
import Synchronization

/// One question, and the task that waits for its answer.
///
/// It finishes once: by the answer, the deadline, cancellation or shutdown, whichever comes first.
final class UnboundQuery: Sendable {
    private enum State {
        /// Next: `waiting`, or `finished` when the task was cancelled before it could wait.
        case new
        /// Next: `finished`.
        case waiting(CheckedContinuation<RawAnswer, Never>)
        case finished
    }

    let thread: UnboundThread
    let name: String
    let type: UInt16
    let deadline: ContinuousClock.Instant
    private let state = Mutex(State.new)

    init(thread: UnboundThread, name: String, type: UInt16, deadline: ContinuousClock.Instant) {
        self.thread = thread
        self.name = name
        self.type = type
        self.deadline = deadline
    }

    /// Returns `false`, having resumed it, when the question is already finished.
    func wait(_ continuation: CheckedContinuation<RawAnswer, Never>) -> Bool {
        let isWaiting = self.state.withLock { state in
            guard case .new = state else { return false }
            state = .waiting(continuation)
            return true
        }
        if !isWaiting { continuation.resume(returning: .failure(.cancelled)) }
        return isWaiting
    }

    var isFinished: Bool {
        self.state.withLock { state in
            if case .finished = state { true } else { false }
        }
    }

    func finish(_ answer: RawAnswer) {
        let last = self.state.withLock { state in exchange(&state, with: .finished) }
        if case .waiting(let continuation) = last { continuation.resume(returning: answer) }
    }
}

/// A queue whose removals from the front cost nothing on average.
struct Fifo<Element> {
    private var elements: [Element?] = []
    private var head = 0

    var first: Element? { self.head < self.elements.count ? self.elements[self.head] : nil }

    mutating func append(_ element: Element) {
        self.elements.append(element)
    }

    mutating func popFirst() -> Element? {
        guard self.head < self.elements.count else { return nil }
        let element = exchange(&self.elements[self.head], with: nil)
        self.head += 1
        if self.head >= 64, self.head * 2 >= self.elements.count {
            self.elements.removeFirst(self.head)
            self.head = 0
        }
        return element
    }
}
