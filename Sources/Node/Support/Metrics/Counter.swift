import Synchronization

/// A count that only grows; see ``MetricsRegistry/counter(_:help:labels:)``. Safe from any thread.
public final class Counter: Sendable {
    private let count = Atomic<UInt64>(0)

    init() {}

    public func increment() {
        self.count.wrappingAdd(1, ordering: .relaxed)
    }

    /// - Parameter amount: not negative; a negative one is taken as 0.
    public func increment(by amount: Int) {
        self.count.wrappingAdd(UInt64(clamping: amount), ordering: .relaxed)
    }

    public var value: UInt64 { self.count.load(ordering: .relaxed) }
}

/// A value that goes up and down; see ``MetricsRegistry/gauge(_:help:labels:)``. Safe from any thread.
public final class Gauge: Sendable {
    private let current = Atomic<Int>(0)

    init() {}

    public func set(_ value: Int) {
        self.current.store(value, ordering: .relaxed)
    }

    public func increment(by amount: Int = 1) {
        self.current.wrappingAdd(amount, ordering: .relaxed)
    }

    public func decrement(by amount: Int = 1) {
        self.current.wrappingSubtract(amount, ordering: .relaxed)
    }

    public var value: Int { self.current.load(ordering: .relaxed) }
}
