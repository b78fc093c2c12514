public import NIOCore
import Synchronization

/// Hands elements from any thread to one event loop, in batches.
///
/// However much is posted while the loop is busy, it is woken once and gets all of it in order. This is what turns
/// the log's completions into one wake-up per batch.
///
/// Bounded by its posters: whoever posts has a budget for what is in flight.
public final class LoopMailbox<Element: Sendable>: Sendable {
    private struct State {
        var elements: [Element] = []
        /// A wake-up is on its way; what is posted until it arrives rides along.
        var isScheduled = false
    }

    public let eventLoop: any EventLoop
    private let state = Mutex(State())
    private let handler: @Sendable ([Element]) -> Void

    /// - Parameter handler: runs on the event loop with everything that was posted, in order; never with nothing.
    public init(eventLoop: any EventLoop, handler: @escaping @Sendable ([Element]) -> Void) {
        self.eventLoop = eventLoop
        self.handler = handler
    }

    /// Any thread, the event loop's own included: the handler never runs inside this call.
    public func post(_ element: Element) {
        let isFirst = self.state.withLock { state in
            state.elements.append(element)
            return !exchangeTrue(&state.isScheduled)
        }
        if isFirst { self.schedule() }
    }

    public func post(contentsOf elements: some Sequence<Element>) {
        let isFirst = self.state.withLock { state in
            state.elements.append(contentsOf: elements)
            guard !state.elements.isEmpty else { return false }
            return !exchangeTrue(&state.isScheduled)
        }
        if isFirst { self.schedule() }
    }

    private func schedule() {
        self.eventLoop.execute {
            let elements = self.state.withLock { state in
                state.isScheduled = false
                let elements = state.elements
                state.elements = []
                return elements
            }
            self.handler(elements)
        }
    }
}

private func exchangeTrue(_ flag: inout Bool) -> Bool {
    let old = flag
    flag = true
    return old
}
