import ClusterLog
import NodeSupport
import Testing

@testable import posthorn

@Suite("LogClock: what time it is for a node")
struct LogClockTests {
    @Test("The log's time wins over a machine's that is years off, and durations stay the machine's")
    func followsTheLog() {
        let machine = ManualClock(milliseconds: 4_000_000_000_000, monotonicNanoseconds: 17)
        let log = InMemoryLog(partitionCount: 1, now: { 1_800_000_000_000 })
        let clock = LogClock(log: log, machine: machine)
        #expect(clock.milliseconds == 1_800_000_000_000)
        #expect(clock.monotonicNanoseconds == 17)
    }

    @Test("Where the log's time is the machine's, or not known yet, it is the machine's")
    func followsTheMachine() {
        let machine = ManualClock(milliseconds: 1_700_000_000_000)
        let clock = LogClock(log: InMemoryLog(partitionCount: 1), machine: machine)
        #expect(clock.milliseconds == 1_700_000_000_000)
        machine.set(milliseconds: 1_700_000_000_005)
        #expect(clock.milliseconds == 1_700_000_000_005)
    }
}
