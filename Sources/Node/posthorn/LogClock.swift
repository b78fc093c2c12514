import ClusterLog
import NodeSupport

/// The time of day as the log's brokers have it, so that all nodes agree on when mail is due, when it expires and in
/// which order it came, whatever their own clocks say. On one machine, and until the brokers' time is known, the
/// machine's own.
struct LogClock: NodeClock {
    let log: any RecordLog
    var machine: any NodeClock = SystemClock()

    var milliseconds: Int64 { self.log.time ?? self.machine.milliseconds }
    var monotonicNanoseconds: Int64 { self.machine.monotonicNanoseconds }
}
