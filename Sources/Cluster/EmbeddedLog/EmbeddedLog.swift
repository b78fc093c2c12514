public import ClusterLog
import Dispatch
public import Logging
import Synchronization

/// The record log of one machine: SQLite files in a directory, one process at a time (DESIGN §7).
///
/// An append completes after the fsync that covers it; everything queued meanwhile shares the next one. A step is one
/// transaction. A segment is freed as a whole once everything in it is finished: done by every group, released, or
/// past its retention. Must be closed with ``close()``.
public final class EmbeddedLog: RecordLog {
    /// Octets left for a record's key and headers.
    private static let recordOverheadMax = 70_000

    private let core: LogCore

    public var clusterID: ClusterID { self.core.directory.clusterID }
    public var partitionCount: Int { self.core.configuration.partitionCount }
    public var valueSizeMax: Int { max(1, self.core.configuration.recordSizeMax - Self.recordOverheadMax) }
    public var condition: LogCondition { self.core.state.withLock { $0.condition } }

    /// Opens the log, making it when the directory has none. Blocks while it reads: not for an event loop.
    ///
    /// - Throws: `configuration` when another process has it or it was made for other settings, `unavailable` when
    ///   its files cannot be used.
    public init(configuration: EmbeddedLogConfiguration, logger: Logger) throws(RecordLogError) {
        precondition(configuration.partitionCount > 0 && configuration.partitionCount < 1 << 15)
        let directory = try LogDirectory(
            path: configuration.directory,
            partitionCount: configuration.partitionCount
        )
        do {
            let recovery = try Recovery.run(directory, configuration, logger)
            let core = LogCore(
                configuration: configuration,
                directory: directory,
                state: recovery.state,
                logger: logger
            )
            self.core = core
            let start = WriterStart(segment: recovery.segment, snapshot: recovery.snapshot)
            OwnThread.start(name: "log-writer") {
                guard let (segment, snapshot) = start.take() else { return }
                LogWriter(core: core, segment: segment, snapshot: snapshot).run()
                start.ended()
            }
            self.writer = start
            core.reader.start(
                name: "log-reader",
                interval: nil,
                make: { LogReader(core: core) },
                idle: { _ in },
                end: { $0.closeAll() }
            )
            core.maintenance.start(
                name: "log-maintenance",
                interval: configuration.maintenanceInterval,
                make: { LogMaintenance(core: core) },
                idle: { $0.pass() },
                end: { _ in }
            )
        } catch let error as RecordLogError {
            directory.unlock()
            throw error
        } catch {
            directory.unlock()
            throw RecordLogError(.unavailable, isRetriable: false, reason: "\(error)")
        }
    }

    private let writer: WriterStart

    public func append(_ records: [Record], completion: @escaping AppendCompletion) {
        self.core.submit(records, isStep: false, completion: completion) { _ in .append }
    }

    public func join(
        _ group: GroupID,
        topics: TopicSelection
    ) async throws(RecordLogError) -> any GroupMember {
        let id = self.core.change { state -> LocalGroups.MemberID? in
            guard !state.isClosed, !state.isAbandoned else { return nil }
            for topic in topics.topics {
                _ = state.id(of: topic)
            }
            return state.groups.join(group, topics: topics)
        }
        guard let id else { throw RecordLogError(.closed, isRetriable: false) }
        return EmbeddedGroupMember(core: self.core, id: id, group: group)
    }

    public func read(_ reference: Reference) async throws(RecordLogError) -> StoredRecord {
        try reference.check(cluster: self.clusterID)
        var parts: [StoredRecord] = []
        for position in reference.positions { parts.append(try await self.record(at: position)) }
        return try reference.assemble(parts)
    }

    private func record(at position: Position) async throws(RecordLogError) -> StoredRecord {
        let cached = self.core.state.withLock { state in
            state.existingKey(of: position.partition)
                .flatMap {
                    state.cache.read($0, from: position.offset, countMax: 1, sizeMax: Int.max)?.first
                }
        }
        var record = cached
        if record == nil {
            record = try await self.core
                .read(
                    position.partition,
                    from: position.offset,
                    countMax: 1,
                    sizeMax: Int.max
                )
                .records.first
        }
        guard let record, record.position == position else {
            throw RecordLogError(.notFound, isRetriable: false, reason: "No record at \(position).")
        }
        return record
    }

    public func scan(
        _ partition: TopicPartition,
        from offset: Offset,
        recordCountMax: Int
    ) async throws(RecordLogError) -> [StoredRecord] {
        guard recordCountMax > 0 else { return [] }
        return try await self.core
            .read(
                partition,
                from: offset,
                countMax: recordCountMax,
                sizeMax: self.core.configuration.batchSizeMax
            )
            .records
    }

    public func bounds(_ partition: TopicPartition) async throws(RecordLogError) -> Range<Offset> {
        self.core.state.withLock { $0.groups.bounds(partition) }
    }

    public func progress(
        _ group: GroupID,
        _ partition: TopicPartition
    ) async throws(RecordLogError) -> Progress? {
        self.core.state.withLock { $0.groups.progress(group, partition) }
    }

    public func topics() async throws(RecordLogError) -> [Topic] {
        self.core.state.withLock { $0.topics }
    }

    public func release(_ references: [Reference]) {
        self.core.change { state in
            var released: [(key: PartitionKey, offset: Int64)] = []
            let positions = references.filter { $0.clusterID == self.clusterID }.flatMap { $0.positions }
            for position in positions {
                guard let key = state.existingKey(of: position.partition),
                    state.groups.bounds(position.partition).contains(position.offset)
                else { continue }
                let offset = position.offset.rawValue
                state.released[key, default: OffsetRanges()].insert(offset..<(offset + 1))
                released.append((key, offset))
            }
            if !released.isEmpty, !state.isStopping {
                state.queue.append(WriteItem(kind: .release(released)))
            }
        }
    }

    /// Nothing: segments go when every group is done with them.
    public func trim(_ offsets: [TopicPartition: Offset]) async throws(RecordLogError) {}

    public func close() async {
        let waiters = self.core.state.withLock { state -> [CheckedContinuation<Void, Never>]? in
            guard !state.isClosed else { return nil }
            state.isClosed = true
            state.updateCondition(self.core.configuration)
            let waiters = Array(state.waiters.values)
            state.waiters = [:]
            return waiters
        }
        guard let waiters else { return }
        for waiter in waiters {
            waiter.resume()
        }
        await self.core.maintenance.stop()
        await withCheckedContinuation { continuation in
            self.writer.whenEnded { continuation.resume() }
            self.core.state.withLock { $0.isStopping = true }
            self.core.writerSemaphore.signal()
        }
        await self.core.reader.stop()
        let sealed = self.core.state.withLock { state in
            exchange(&state.sealed, with: [])
        }
        withExtendedLifetime(sealed) {}
        self.core.directory.unlock()
    }

    /// Looks after segments and space now rather than in a while. For tests and tools.
    package func maintain() async {
        await withCheckedContinuation { continuation in
            let isAccepted = self.core.maintenance.submit {
                $0.pass()
                continuation.resume()
            }
            if !isAccepted { continuation.resume() }
        }
    }

    /// Starts a new segment once what is queued is written. For tests and tools.
    package func roll() async {
        await withCheckedContinuation { continuation in
            let isEnded = self.core.change { state in
                if state.isStopping { return true }
                state.queue.append(WriteItem(kind: .roll) { _ in continuation.resume() })
                return false
            }
            if isEnded { continuation.resume() }
        }
    }
}
