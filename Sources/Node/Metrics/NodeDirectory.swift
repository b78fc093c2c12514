import ClusterLog
import NodeSupport
import Records
import Synchronization

/// Which other nodes there are, as they announce themselves on `posthorn.control`, and this node's own announcement.
final class NodeDirectory: Sendable {
    /// What the metrics role is called in announcements.
    static let role = "metrics"
    private static let scanCount = 500
    /// Announcements that are older than this when they are first read are those of nodes that are gone.
    private static let skewMax: Int64 = 60_000

    private struct Entry {
        var announcement: NodeAnnouncement
        /// By this node's monotonic clock, nanoseconds.
        var expiresAt: Int64
    }

    private struct State {
        var entries: [String: Entry] = [:]
        /// Where each partition of `control` is read on.
        var offsets: [Int32: Offset] = [:]
        var address: Endpoint?
        /// What was announced last, and when, nanoseconds.
        var announced: (partitions: [Int32], address: Endpoint, at: Int64)?
    }

    private let log: any RecordLog
    private let settings: MetricsSettings
    private let clock: any NodeClock
    private let state = Mutex(State())

    init(log: any RecordLog, settings: MetricsSettings, clock: any NodeClock) {
        self.log = log
        self.settings = settings
        self.clock = clock
    }

    /// Where others reach this node's admin listener. Until it is known the node announces nothing.
    func setAddress(_ address: Endpoint) {
        self.state.withLock { $0.address = address }
    }

    /// The other nodes with the metrics role.
    var peers: [NodeAnnouncement] {
        let now = self.clock.monotonicNanoseconds
        return self.state.withLock { state in
            state.entries.values
                .filter { $0.expiresAt > now && $0.announcement.roles.contains(Self.role) }
                .map(\.announcement)
                .sorted { $0.id < $1.id }
        }
    }

    /// Announces this node when its partitions have changed or its announcement is due to be repeated.
    func announce(partitions: [Int32]) async throws(RecordLogError) {
        let now = self.clock.monotonicNanoseconds
        let interval = self.settings.announceInterval
        let address = self.state.withLock { state -> Endpoint? in
            guard let address = state.address else { return nil }
            if let last = state.announced, last.partitions == partitions, last.address == address,
                Duration.nanoseconds(now - last.at) < interval
            {
                return nil
            }
            return address
        }
        guard let address else { return }
        let announcement = NodeAnnouncement(
            id: self.settings.nodeID,
            roles: [Self.role],
            admin: address.description,
            partitions: partitions,
            until: self.clock.milliseconds + self.settings.lease.milliseconds
        )
        _ = try await self.log.append([announcement.record])
        self.state.withLock { $0.announced = (partitions, address, now) }
    }

    /// Says that this node is gone.
    func withdraw() async throws(RecordLogError) {
        guard self.state.withLock({ exchange(&$0.announced, with: nil) }) != nil else { return }
        _ = try await self.log.append([NodeAnnouncement.withdrawal(id: self.settings.nodeID)])
    }

    /// Reads what was announced since the last time.
    func refresh() async throws(RecordLogError) {
        for number in 0..<self.log.partitionCount {
            let partition = TopicPartition(.control, Int32(truncatingIfNeeded: number))
            let bounds = try await self.log.bounds(partition)
            var offset = max(bounds.lowerBound, self.state.withLock { $0.offsets[partition.partition] } ?? Offset(0))
            while offset < bounds.upperBound {
                let records = try await self.log.scan(partition, from: offset, recordCountMax: Self.scanCount)
                guard let last = records.last else { break }
                offset = last.position.offset.advanced(by: 1)
                for record in records { self.received(record) }
            }
            // Nothing is left below the end that was asked for: on Kafka the last offsets may hold no records.
            let next = max(offset, bounds.upperBound)
            self.state.withLock { $0.offsets[partition.partition] = next }
        }
        let now = self.clock.monotonicNanoseconds
        self.state.withLock { state in state.entries = state.entries.filter { $0.value.expiresAt > now } }
    }

    private func received(_ record: StoredRecord) {
        guard record.key.hasPrefix(NodeAnnouncement.keyPrefix) else { return }
        let id = String(record.key.dropFirst(NodeAnnouncement.keyPrefix.count))
        guard id != self.settings.nodeID else { return }
        let lease = self.settings.lease.milliseconds
        let age = self.clock.milliseconds.subtractingClamped(record.timestamp)
        guard let announcement = NodeAnnouncement(record), age < lease + Self.skewMax else {
            self.state.withLock { $0.entries[id] = nil }
            return
        }
        let expiresAt = self.clock.monotonicNanoseconds + lease * 1_000_000
        self.state.withLock { $0.entries[id] = Entry(announcement: announcement, expiresAt: expiresAt) }
    }
}
