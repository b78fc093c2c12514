import ClusterLog
import Foundation
import Logging
import Synchronization

/// Looks after space and closed segments, once in a while, on a thread of its own.
///
/// A class used by its own thread only.
final class LogMaintenance {
    private let core: LogCore
    private var failureCount = 0
    private var spareNumber = 0

    init(core: LogCore) {
        self.core = core
    }

    func pass() {
        guard !self.core.state.withLock({ $0.isAbandoned }) else { return }
        do {
            self.lookAtSpace()
            self.dropSpares()
            try self.moveHistory()
            try self.freeSegments()
            try self.compactSegments()
            self.dropHistory()
            self.failureCount = 0
        } catch let crash as FaultPlan.Crash {
            self.core.abandon(crash)
        } catch {
            // The next pass tries again. Said once in a while, since it may last.
            if self.failureCount % 60 == 0 {
                self.core.logger.error("The log could not look after its files", metadata: ["error": "\(error)"])
            }
            self.failureCount += 1
        }
    }

    // MARK: Space

    private func lookAtSpace() {
        let free = self.core.directory.freeSize()
        let configuration = self.core.configuration
        self.core.change { state in
            let before = state.condition
            state.freeSize = free
            state.lastFailure = nil
            state.updateCondition(configuration)
            if state.condition != before {
                self.core.logger.notice("The log's condition changed", metadata: ["condition": "\(state.condition)"])
            }
            guard !state.activeRanges.isEmpty, !state.isRollRequested, !state.isStopping else { return }
            let isOld = ContinuousClock.now - state.activeSince >= configuration.segmentAge
            let isInTheWay = state.condition != .writable && state.activeSize > 64 << 10 && self.isMostlyDone(state)
            guard isOld || isInTheWay else { return }
            state.isRollRequested = true
            state.queue.append(WriteItem(kind: .roll))
        }
    }

    private func isMostlyDone(_ state: LogState) -> Bool {
        var live: Int64 = 0
        var count: Int64 = 0
        for (key, range) in state.activeRanges where self.kind(of: key, state) != .history {
            count += range.count
            live += self.liveOffsets(key, range, state).reduce(0) { $0 + Int64($1.count) }
        }
        return live * 2 <= count
    }

    // MARK: What is still needed

    private enum Kind {
        case queue
        case content
        case history
        case compacted
    }

    private func kind(of key: PartitionKey, _ state: LogState) -> Kind {
        guard let topic = state.partition(of: key)?.topic else { return .queue }
        if topic == .content { return .content }
        if self.core.configuration.historyTopics.contains(topic) { return .history }
        if self.core.configuration.compactedTopics.contains(topic) { return .compacted }
        return .queue
    }

    /// The offsets of a partition's part that somebody may still need.
    private func liveOffsets(_ key: PartitionKey, _ range: PartitionRange, _ state: LogState) -> [Range<Int64>] {
        let all = range.first..<range.end
        switch self.kind(of: key, state) {
        case .history, .compacted:
            let moved = max(range.first, state.historyEnds[key] ?? 0)
            return moved < range.end ? [moved..<range.end] : []
        case .content:
            let retention = self.core.configuration.contentRetention / .milliseconds(1)
            if Double(WallClock.milliseconds - range.timestamp) >= retention { return [] }
            return (state.released[key] ?? OffsetRanges()).complement(in: all)
        case .queue:
            guard let partition = state.partition(of: key) else { return [all] }
            let consumers = state.groups.consumers(of: partition)
            guard !consumers.isEmpty else { return [all] }
            var live = OffsetRanges()
            for progress in consumers {
                for offset in progress.incomplete where all.contains(offset.rawValue) {
                    live.insert(offset.rawValue..<(offset.rawValue + 1))
                }
                live.insert(max(all.lowerBound, min(progress.end.rawValue, all.upperBound))..<all.upperBound)
            }
            return live.ranges
        }
    }

    private func liveOffsets(_ segment: SealedSegment, _ state: LogState) -> [PartitionKey: [Range<Int64>]] {
        var live: [PartitionKey: [Range<Int64>]] = [:]
        for (key, range) in segment.file.ranges {
            let offsets = self.liveOffsets(key, range, state)
            if !offsets.isEmpty { live[key] = offsets }
        }
        return live
    }

    // MARK: History

    /// Moves history out of closed segments, oldest first, so that what a day's file holds is without gaps.
    private func moveHistory() throws {
        for segment in self.core.state.withLock({ $0.sealed }) {
            let move = self.core.state.withLock { state in
                var move = HistoryFiles.Move()
                for (key, range) in segment.file.ranges {
                    let start = max(range.first, state.historyEnds[key] ?? 0)
                    guard start < range.end else { continue }
                    switch self.kind(of: key, state) {
                    case .history: move.history[key] = start..<range.end
                    case .compacted:
                        move.compacted[key] = start..<range.end
                        let consumers = state.partition(of: key).map { state.groups.consumers(of: $0) } ?? []
                        move.consumed[key] = consumers.map { $0.watermark.rawValue }.min() ?? Int64.max
                    case .queue, .content: break
                    }
                }
                return move
            }
            guard !move.isEmpty else { continue }
            let changed = try HistoryFiles.move(move, from: segment.file.path, self.core.directory)
            try self.core.configuration.faults.reach(.historyAfterCopy)
            self.core.change { state in
                for file in changed {
                    HistoryFiles.put(file, into: &state)
                }
                for key in Array(move.history.keys) + Array(move.compacted.keys) {
                    state.historyEnds[key] = max(state.historyEnds[key] ?? 0, segment.file.ranges[key]?.end ?? 0)
                }
                state.refreshBounds(Array(move.history.keys) + Array(move.compacted.keys))
            }
        }
    }

    /// Removes days past their retention, or the oldest ones when history is too large, once every group is past them.
    private func dropHistory() {
        let configuration = self.core.configuration
        let retention = Int64(configuration.historyRetention / .milliseconds(1))
        let today = WallClock.milliseconds
        let gone = self.core.change { state -> [HistoryFile] in
            var size = state.history.reduce(0) { $0 + $1.file.size }
            var gone: [HistoryFile] = []
            for file in state.history {
                guard let day = file.day else { continue }
                let isOld = (day + 1) * HistoryFiles.millisecondsPerDay < today - retention
                guard isOld || size > configuration.historySizeMax, self.isConsumed(file, state) else { break }
                gone.append(file)
                size -= file.file.size
            }
            let days = Set(gone.compactMap { $0.day })
            state.history.removeAll { $0.day.map { days.contains($0) } ?? false }
            state.refreshBounds(gone.flatMap { $0.file.ranges.keys })
            return gone
        }
        self.remove(gone.map { $0.file.path })
    }

    private func isConsumed(_ file: HistoryFile, _ state: LogState) -> Bool {
        file.file.ranges.allSatisfy { key, range in
            guard let partition = state.partition(of: key) else { return true }
            return state.groups.consumers(of: partition)
                .allSatisfy { progress in
                    (progress.incomplete.first ?? progress.end).rawValue >= range.end
                }
        }
    }

    // MARK: Segments

    private func isSettled(_ segment: SealedSegment) -> Bool {
        ContinuousClock.now - segment.sealedAt >= self.core.configuration.finishedGrace
    }

    /// Unlinks segments in which everything is finished. Nothing of them was ever checkpointed.
    private func freeSegments() throws {
        let (finished, isShort) = self.core.state.withLock { state in
            (state.sealed.filter { self.liveOffsets($0, state).isEmpty }, state.condition != .writable)
        }
        let gone = finished.filter { isShort || self.isSettled($0) }
        guard !gone.isEmpty else { return }
        try self.core.configuration.faults.reach(.beforeUnlink)
        self.replace(gone, with: nil)
    }

    /// Swaps files in the state, then removes the old ones from the directory.
    private func replace(_ old: [SealedSegment], with new: SealedSegment?) {
        let names = Set(old.map { $0.name })
        self.core.change { state in
            state.sealed.removeAll { names.contains($0.name) }
            if let new {
                state.sealed.append(new)
                state.sealed.sort { $0.name < $1.name }
            }
            state.fileEpoch += 1
            let keys = Set(old.flatMap { $0.file.ranges.keys })
            state.refreshBounds(keys)
            for key in keys {
                guard let partition = state.partition(of: key) else { continue }
                state.released[key]?.removeAll(below: state.groups.bounds(partition).lowerBound.rawValue)
            }
            state.updateCondition(self.core.configuration)
        }
        self.remove(old.map { $0.file.path })
    }

    private func remove(_ paths: [String]) {
        for path in paths {
            let spare = self.keepWAL(of: path)
            self.core.directory.remove(path)
            self.core.reader.submit { [core = self.core] reader in
                reader.forget(path)
                guard let spare else { return }
                // Nobody has the WAL open any more.
                core.maintenance.submit { $0.clear(spare) }
            }
        }
    }

    // MARK: Spare WALs

    /// At most as many as are used up between two passes under load.
    private static let spareCountMax = 3

    /// Moves the WAL of a file that is about to be removed out of the way. `nil` when it is not wanted.
    private func keepWAL(of path: String) -> String? {
        let configuration = self.core.configuration
        let wal = WriteAheadFile.path(of: path)
        guard LogDirectory.size(ofFile: wal) >= configuration.segmentSize else { return nil }
        let isWanted = self.core.state.withLock { state in
            guard state.spareCount < Self.spareCountMax, state.condition == .writable,
                LogState.canReserve(configuration, freeSize: state.freeSize, totalSize: state.totalSize)
            else { return false }
            state.spareCount += 1
            return true
        }
        guard isWanted else { return nil }
        self.spareNumber += 1
        // By its name it goes at the next start.
        let spare = self.core.directory.file("spare-\(self.spareNumber).wal.tmp")
        if rename(wal, spare) == 0 { return spare }
        self.core.state.withLock { $0.spareCount -= 1 }
        return nil
    }

    private func clear(_ spare: String) {
        do {
            try WriteAheadFile.clear(spare)
            self.core.state.withLock { $0.spares.append(spare) }
        } catch {
            self.core.logger.warning("A WAL could not be used again", metadata: ["error": "\(error)"])
            unlink(spare)
            self.core.state.withLock { $0.spareCount -= 1 }
        }
    }

    /// Their space is needed.
    private func dropSpares() {
        let spares = self.core.state.withLock { state in
            guard !LogState.canReserve(self.core.configuration, freeSize: state.freeSize, totalSize: state.totalSize)
            else { return [String]() }
            state.spareCount -= state.spares.count
            return exchange(&state.spares, with: [])
        }
        for spare in spares { unlink(spare) }
    }

    /// Rewrites segments of which little is left, neighbours together, and checkpoints those that stay.
    private func compactSegments() throws {
        let plan = self.core.state.withLock { state in
            state.sealed.map { ($0, self.liveOffsets($0, state)) }
        }
        var run: [(SealedSegment, [PartitionKey: [Range<Int64>]])] = []
        var runSize: Int64 = 0
        for (segment, live) in plan {
            guard self.isSettled(segment), !live.isEmpty else {
                // A finished segment in the middle of a run goes by itself; the run may go on.
                if !live.isEmpty { try self.compact(&run, &runSize) }
                continue
            }
            let count = max(1, segment.file.ranges.values.reduce(0) { $0 + $1.count })
            let liveCount = live.values.joined().reduce(0) { $0 + Int64($1.count) }
            let isThin = liveCount * 4 <= count
            let isSmall =
                segment.name.generation > 0 && segment.file.size < self.core.configuration.segmentSize / 16
            guard isThin || isSmall else {
                try self.compact(&run, &runSize)
                if !segment.isCheckpointed { try self.checkpoint(segment) }
                continue
            }
            run.append((segment, live))
            runSize += segment.file.size / count * min(count, liveCount)
            if runSize >= self.core.configuration.segmentSize / 2 { try self.compact(&run, &runSize) }
        }
        try self.compact(&run, &runSize)
    }

    private func checkpoint(_ segment: SealedSegment) throws {
        let connection = try Connection(path: segment.file.path, mode: .log)
        defer { try? connection.close() }
        try connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.core.change { state in
            guard let index = state.sealed.firstIndex(where: { $0.name == segment.name }) else { return }
            state.sealed[index].isCheckpointed = true
            state.sealed[index].file.size = LogDirectory.size(of: segment.file.path)
        }
    }

    private func compact(
        _ run: inout [(SealedSegment, [PartitionKey: [Range<Int64>]])],
        _ runSize: inout Int64
    ) throws {
        let segments = exchange(&run, with: [])
        runSize = 0
        // Small files that are not thin are worth it only when there are many.
        let isAnyThin = segments.contains { segment, live in
            let count = segment.file.ranges.values.reduce(0) { $0 + $1.count }
            return live.values.joined().reduce(0) { $0 + Int64($1.count) } * 4 <= count
        }
        guard let first = segments.first?.0.name, let last = segments.last?.0.name, isAnyThin || segments.count >= 8
        else { return }
        let generation = (segments.map { $0.0.name.generation }.max() ?? 0) + 1
        let name = SegmentName(first: first.first, last: last.last, generation: generation)
        let path = self.core.directory.file(name.file)
        let temporary = path + ".tmp"
        self.core.directory.remove(temporary)
        let ranges = try Self.write(segments, as: name, to: temporary)
        try LogDirectory.sync(temporary)
        try self.core.configuration.faults.reach(.compactionBeforeRename)
        guard rename(temporary, path) == 0 else {
            throw SQLiteError(code: 10, message: "Cannot rename \(temporary).")
        }
        try self.core.directory.sync()
        try self.core.configuration.faults.reach(.compactionBeforeUnlink)
        let file = RecordFile(path: path, ranges: ranges, size: LogDirectory.size(of: path))
        self.replace(
            segments.map { $0.0 },
            with: SealedSegment(name: name, file: file, sealedAt: .now, isCheckpointed: true, keeper: nil)
        )
    }

    private static func write(
        _ segments: [(SealedSegment, [PartitionKey: [Range<Int64>]])],
        as name: SegmentName,
        to path: String
    ) throws -> [PartitionKey: PartitionRange] {
        let connection = try Connection(path: path, mode: .bulk)
        defer { try? connection.close() }
        try connection.execute(ActiveSegment.recordTable)
        var ranges: [PartitionKey: PartitionRange] = [:]
        for (segment, live) in segments {
            let attach = try connection.prepare("ATTACH ?1 AS source")
            attach.bind(1, segment.file.path)
            try attach.run()
            try connection.execute("BEGIN IMMEDIATE")
            for (key, offsets) in live {
                for offsets in offsets {
                    try connection.query(
                        """
                        INSERT INTO main.record(tp, off, time, key, headers, value)
                        SELECT tp, off, time, key, headers, value FROM source.record
                        WHERE tp = ?1 AND off >= ?2 AND off < ?3 ORDER BY off
                        """,
                        key,
                        offsets.lowerBound,
                        offsets.upperBound
                    ) { _ in }
                }
            }
            try connection.execute("COMMIT; DETACH source")
        }
        for key in Set(segments.flatMap { $0.1.keys }) {
            try connection.query(
                "SELECT min(off), max(off), count(*), max(time) FROM main.record WHERE tp = ?",
                key
            ) { row in
                guard row.integer(2) > 0 else { return }
                ranges[key] = PartitionRange(
                    first: row.integer(0),
                    end: row.integer(1) + 1,
                    count: row.integer(2),
                    timestamp: row.integer(3)
                )
            }
        }
        try ActiveSegment.write(ranges, of: name, to: connection)
        return ranges
    }
}
