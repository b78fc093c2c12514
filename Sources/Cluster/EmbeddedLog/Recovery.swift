import ClusterLog
import Logging

/// Opens the files of a log: removes what was interrupted, finds where everything stands.
enum Recovery {
    struct Result {
        var state: LogState
        var segment: ActiveSegment
        var snapshot: Snapshot
    }

    static func run(
        _ directory: LogDirectory,
        _ configuration: EmbeddedLogConfiguration,
        _ logger: Logger
    ) throws -> Result {
        let files = directory.list()
        for file in files where file.contains(".tmp") {
            directory.remove(directory.file(file))
        }
        var names = files.compactMap { SegmentName(file: $0) }.sorted()
        for name in names where names.contains(where: { $0.replaces(name) }) {
            directory.remove(directory.file(name.file))
        }
        names = names.filter { name in !names.contains { $0.replaces(name) } }

        var state = LogState(
            partitionCount: configuration.partitionCount,
            tailCacheSize: configuration.tailCacheSize
        )
        let (found, number) = try Self.newest(&names, directory, configuration, logger)
        let snapshot = found.snapshot
        state.activeNumber = number
        state.activePath = directory.file(SegmentName(number: number).file)
        state.activeRanges = found.own
        state.released = snapshot.released
        state.freeSize = directory.freeSize()
        for topic in snapshot.topics {
            _ = state.id(of: topic)
        }
        for name in names where name.first != number {
            state.sealed.append(try Self.sealed(name, snapshot, directory))
        }
        try HistoryFiles.load(into: &state, directory, files)
        for (key, partition) in snapshot.partitions {
            guard let name = state.partition(of: key) else { continue }
            state.groups.setBounds(name, Offset(partition.next)..<Offset(partition.next))
        }
        state.refreshBounds(Array(snapshot.partitions.keys))
        for entry in snapshot.progress {
            guard let partition = state.partition(of: entry.key) else { continue }
            if entry.isStepped {
                state.groups.setProgress(entry.group, partition, entry.progress)
            } else {
                state.groups.setStart(entry.group, partition, entry.progress.watermark)
            }
        }
        let segment = try ActiveSegment(number: number, path: state.activePath)
        state.activeSize = segment.filledSize
        state.updateCondition(configuration)
        withExtendedLifetime(found.keeper) {}
        return Result(state: state, segment: segment, snapshot: snapshot)
    }

    /// The newest segment whose snapshot is complete; the first one when there is none.
    private static func newest(
        _ names: inout [SegmentName],
        _ directory: LogDirectory,
        _ configuration: EmbeddedLogConfiguration,
        _ logger: Logger
    ) throws -> (Snapshot.Found, Int64) {
        while let name = names.last {
            let path = directory.file(name.file)
            if name.generation == 0,
                let found = try Snapshot.read(path: path, partitionCount: configuration.partitionCount)
            {
                return (found, name.first)
            }
            // The schema came with the snapshot, in one transaction: without it nothing was ever committed here.
            guard name.generation == 0 else {
                throw RecordLogError(
                    .unavailable,
                    isRetriable: false,
                    reason: "The newest segment, \(path), cannot be used."
                )
            }
            logger.notice("Removed a segment that was never begun", metadata: ["path": "\(path)"])
            directory.remove(path)
            names.removeLast()
        }
        let path = directory.file(SegmentName(number: 1).file)
        let snapshot = Snapshot()
        let free = directory.freeSize()
        let segment = try ActiveSegment.create(
            number: 1,
            path: path,
            snapshot: snapshot,
            wal: LogState.canReserve(configuration, freeSize: free, totalSize: 0)
                ? .reserved(size: configuration.segmentSize) : .none,
            faults: configuration.faults
        )
        let keeper = try Keeper(path: path)
        try segment.close()
        try directory.sync()
        return (Snapshot.Found(snapshot: snapshot, own: [:], keeper: keeper), 1)
    }

    private static func sealed(
        _ name: SegmentName,
        _ snapshot: Snapshot,
        _ directory: LogDirectory
    ) throws -> SealedSegment {
        let path = directory.file(name.file)
        var ranges = snapshot.sealed.first { $0.name == name }?.ranges
        if ranges == nil || name.generation > 0 {
            let connection = try Connection(path: path, mode: .reader)
            ranges = try Snapshot.readRanges(connection).first { $0.name == name }?.ranges
            try connection.close()
        }
        guard let ranges else {
            throw RecordLogError(.unavailable, isRetriable: false, reason: "Nothing tells what \(path) holds.")
        }
        return SealedSegment(
            name: name,
            file: RecordFile(path: path, ranges: ranges, size: LogDirectory.size(of: path)),
            sealedAt: .now,
            isCheckpointed: name.generation > 0 || !LogDirectory.hasWAL(path),
            keeper: nil
        )
    }
}

extension LogDirectory {
    static func hasWAL(_ path: String) -> Bool {
        Self.size(of: path + "-wal") > 0
    }
}
