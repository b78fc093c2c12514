import NIOCore
import NIOPosix
import NodeSupport
import Synchronization
import Testing

@Suite("LoopMailbox: many threads, one loop, batches")
struct LoopMailboxTests {
    /// Goal: a busy loop is woken once. Method: post from inside a task of the loop, so that nothing can be drained
    /// before all is posted.
    @Test("What is posted while the loop is busy arrives in one batch, in order")
    func batches() async throws {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let batches = Mutex<[[Int]]>([])
        let mailbox = LoopMailbox<Int>(eventLoop: loop) { batch in batches.withLock { $0.append(batch) } }
        try await loop.submit {
            for value in 0..<100 { mailbox.post(value) }
            mailbox.post(contentsOf: 100..<110)
            mailbox.post(contentsOf: [])
            #expect(batches.withLock { $0.isEmpty })
        }
        .get()
        try await loop.submit {}.get()
        #expect(batches.withLock { $0 } == [Array(0..<110)])
        mailbox.post(7)
        try await loop.submit {}.get()
        #expect(batches.withLock { $0.last } == [7])
    }

    @Test("An empty post wakes nobody, and the next one does")
    func ignoresNothing() async throws {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let batches = Mutex<[[Int]]>([])
        let mailbox = LoopMailbox<Int>(eventLoop: loop) { batch in batches.withLock { $0.append(batch) } }
        mailbox.post(contentsOf: [])
        try await loop.submit {}.get()
        #expect(batches.withLock { $0.isEmpty })
        mailbox.post(contentsOf: [1])
        try await loop.submit {}.get()
        #expect(batches.withLock { $0 } == [[1]])
    }

    @Test("Nothing is lost or reordered within a thread, and the handler is on the loop")
    func losesNothing() async throws {
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let received = Mutex<[(Int, Int)]>([])
        let mailbox = LoopMailbox<(Int, Int)>(eventLoop: loop) { batch in
            loop.preconditionInEventLoop()
            #expect(!batch.isEmpty)
            received.withLock { $0.append(contentsOf: batch) }
        }
        await withTaskGroup(of: Void.self) { group in
            for producer in 0..<8 {
                group.addTask { for value in 0..<2_000 { mailbox.post((producer, value)) } }
            }
        }
        try await loop.submit {}.get()
        let all = received.withLock { $0 }
        #expect(all.count == 16_000)
        for producer in 0..<8 {
            #expect(all.filter { $0.0 == producer }.map(\.1) == Array(0..<2_000))
        }
    }
}

@Suite("Clocks and readiness")
struct ClockAndReadinessTests {
    @Test("A manual clock moves only when told, and small advances add up")
    func manualClock() {
        let clock = ManualClock(milliseconds: 1_000, monotonicNanoseconds: 500_000)
        clock.advance(by: .seconds(2))
        #expect(clock.milliseconds == 3_000)
        #expect(clock.monotonicNanoseconds == 2_000_500_000)
        for _ in 0..<10 { clock.advance(by: .microseconds(100)) }
        #expect(clock.milliseconds == 3_001)
        clock.set(milliseconds: 5)
        #expect(clock.milliseconds == 5)
        #expect(clock.monotonicNanoseconds == 2_001_500_000)
    }

    @Test("The system's clocks are of this century and do not go back")
    func systemClock() {
        let clock = SystemClock()
        #expect(clock.milliseconds > 1_700_000_000_000)
        let first = clock.monotonicNanoseconds
        #expect(clock.monotonicNanoseconds >= first)
    }

    @Test("Ready when every condition is met, with reasons until then")
    func readiness() {
        let readiness = Readiness()
        #expect(readiness.isReady)
        let log = readiness.condition("log")
        let dns = readiness.condition("dns", initially: "no resolver answered yet")
        #expect(readiness.reasons == ["log": "not started", "dns": "no resolver answered yet"])
        log.met()
        dns.met()
        #expect(readiness.isReady)
        log.unmet("the disk is full")
        #expect(!readiness.isReady)
        #expect(readiness.reasons == ["log": "the disk is full"])
    }
}
