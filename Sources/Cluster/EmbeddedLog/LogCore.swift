import ClusterLog
import Dispatch
import Logging
import Synchronization

/// What an ``EmbeddedLog``, its members and its three threads share.
final class LogCore: Sendable {
    let configuration: EmbeddedLogConfiguration
    let directory: LogDirectory
    let logger: Logger
    let partitioner: Partitioner
    let state: Mutex<LogState>
    let activePath: Mutex<String>
    let writerSemaphore = DispatchSemaphore(value: 0)
    let reader = WorkThread<LogReader>()
    let maintenance = WorkThread<LogMaintenance>()

    init(configuration: EmbeddedLogConfiguration, directory: LogDirectory, state: consuming LogState, logger: Logger) {
        self.configuration = configuration
        self.directory = directory
        self.logger = logger
        self.partitioner = Partitioner(partitionCount: configuration.partitionCount)
        self.activePath = Mutex(state.activePath)
        self.state = Mutex(state)
    }

    /// Changes the state, then wakes whom the change concerns.
    func change<Value: Sendable>(_ body: (inout LogState) -> Value) -> Value {
        let (value, wakeups, isWriterWoken) = self.state.withLock { state in
            let value = body(&state)
            let wakeups = state.takeWakeups()
            let isWriterWoken = state.isWriterIdle && !state.queue.isEmpty
            if isWriterWoken { state.isWriterIdle = false }
            return (value, wakeups, isWriterWoken)
        }
        if isWriterWoken { self.writerSemaphore.signal() }
        for waiter in wakeups {
            waiter.resume()
        }
        return value
    }

    /// Queues records and what goes with them, or queues the refusal, so that callers are told in their order.
    ///
    /// - Parameter admit: the last word, under the lock; for steps.
    func submit(
        _ records: [Record],
        isStep: Bool,
        completion: @escaping RecordLog.AppendCompletion,
        admit: (inout LogState) throws(RecordLogError) -> WriteItem.Kind
    ) {
        var size = 256
        var invalid: RecordLogError?
        var numbers: [PartitionKey] = []
        numbers.reserveCapacity(records.count)
        for record in records {
            let recordSize = record.size
            size += recordSize
            if recordSize > self.configuration.recordSizeMax {
                invalid = RecordLogError(.recordTooLarge, isRetriable: false, reason: "\(recordSize) octets.")
            }
            if record.headers.contains(where: { $0.name.utf8.count > HeaderCoder.nameSizeMax }) {
                invalid = RecordLogError(.corruptRecord, isRetriable: false, reason: "A header's name is too long.")
            }
            numbers.append(PartitionKey(self.partitioner.partition(for: record.key)))
        }
        let isEnded = self.change { state -> Bool in
            var item = WriteItem(kind: .append, completion: completion)
            do throws(RecordLogError) {
                if let invalid { throw invalid }
                if let refusal = state.refusal(of: records, isStep: isStep) { throw refusal }
                // A step is refused the next time as well, and nothing goes on without it; there is one of each member.
                guard isStep || state.queueSize + size <= self.configuration.queueSizeMax else {
                    throw RecordLogError(.queueFull, isRetriable: true, reason: "\(state.queueSize) octets in flight.")
                }
                item.kind = try admit(&state)
                for index in numbers.indices {
                    numbers[index] |= state.id(of: records[index].topic) << 16
                }
                item.records = records
                item.keys = numbers
                item.size = size
                state.queueSize += size
            } catch {
                item.kind = .refused(error)
            }
            if state.isStopping { return true }
            state.queue.append(item)
            return false
        }
        if isEnded { completion(.failure(RecordLogError(.closed, isRetriable: false))) }
    }

    /// Reads on the reader's thread.
    func read(
        _ partition: TopicPartition,
        from offset: Offset,
        countMax: Int,
        sizeMax: Int
    ) async throws(RecordLogError) -> LogReader.Found {
        let result: Result<LogReader.Found, RecordLogError> = await withCheckedContinuation { continuation in
            let isAccepted = self.reader.submit { reader in
                continuation.resume(
                    returning: reader.read(partition, from: offset, countMax: countMax, sizeMax: sizeMax)
                )
            }
            if !isAccepted {
                continuation.resume(returning: .failure(RecordLogError(.closed, isRetriable: false)))
            }
        }
        return try result.get()
    }

    /// Ends the instance where it is: nothing more is written, and members end.
    func abandon(_ error: any Error) {
        self.logger.critical("The log stopped", metadata: ["error": "\(error)"])
        let waiters = self.state.withLock { state in
            state.isAbandoned = true
            state.updateCondition(self.configuration)
            let waiters = Array(state.waiters.values)
            state.waiters = [:]
            return waiters
        }
        for waiter in waiters {
            waiter.resume()
        }
    }

    // MARK: For members

    func next(_ id: LocalGroups.MemberID) -> LocalGroups.Decision {
        self.change { $0.isClosed || $0.isAbandoned ? .end : $0.groups.next(id) }
    }

    /// Serves a read from memory: `nil` when it has to come from disk.
    func readCached(_ read: LocalGroups.Read) -> GroupEvent?? {
        self.state.withLock { state in
            guard let key = state.existingKey(of: read.partition),
                let records = state.cache.read(
                    key,
                    from: read.offset,
                    countMax: self.configuration.batchCountMax,
                    sizeMax: self.configuration.batchSizeMax
                ),
                let last = records.last
            else { return nil }
            return .some(
                state.groups.finishRead(read, records: records, next: last.position.offset.advanced(by: 1))
            )
        }
    }

    func finish(_ read: LocalGroups.Read, _ found: LogReader.Found) -> GroupEvent? {
        self.state.withLock { $0.groups.finishRead(read, records: found.records, next: found.next) }
    }

    func wait(_ id: LocalGroups.MemberID) async {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let isReady = self.state.withLock { state in
                    guard !state.isClosed, !state.isAbandoned, !Task.isCancelled, !state.groups.isReady(id) else {
                        return true
                    }
                    state.waiters[id] = continuation
                    return false
                }
                if isReady { continuation.resume() }
            }
        } onCancel: {
            let waiter = self.state.withLock { $0.waiters.removeValue(forKey: id) }
            waiter?.resume()
        }
    }

    func leave(_ id: LocalGroups.MemberID) async {
        await withCheckedContinuation { continuation in
            let isIdle = self.change { state in
                let isIdle = state.groups.beginLeaving(id)
                if !isIdle { state.leaving[id] = continuation }
                return isIdle
            }
            if isIdle { continuation.resume() }
        }
        self.change { $0.groups.leave(id) }
    }
}
