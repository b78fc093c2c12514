import ClusterLog

/// The files that history and compacted topics move to when their segment is closed.
///
/// A file a day, so that retention is an unlink, and one file for the newest record of each key of the compacted
/// topics. Moving is idempotent: what was moved before a crash is moved again to the same place.
enum HistoryFiles {
    static let compactedName = "compacted.db"
    static let millisecondsPerDay: Int64 = 86_400_000
    /// How long an empty value of a compacted topic is kept for those who have not read it.
    private static let tombstoneRetention: Int64 = 86_400_000

    static func name(day: Int64) -> String { "history-\(day).db" }

    static func day(file: String) -> Int64? {
        guard file.hasPrefix("history-"), file.hasSuffix(".db") else { return nil }
        return Int64(file.dropFirst(8).dropLast(3))
    }

    /// Finds the files at start.
    static func load(into state: inout LogState, _ directory: LogDirectory, _ files: [String]) throws {
        for name in files where name == Self.compactedName || Self.day(file: name) != nil {
            let path = directory.file(name)
            let connection = try Connection(path: path, mode: .log)
            var hasTable = false
            try connection.query("SELECT 1 FROM sqlite_schema WHERE name = 'range'") { _ in hasTable = true }
            let ranges = hasTable ? try Snapshot.readRanges(connection).first?.ranges ?? [:] : [:]
            try connection.close()
            Self.put(
                HistoryFile(
                    day: Self.day(file: name),
                    file: RecordFile(path: path, ranges: ranges, size: LogDirectory.size(of: path))
                ),
                into: &state
            )
        }
    }

    /// Puts a file into the state, in place of its former self.
    static func put(_ file: HistoryFile, into state: inout LogState) {
        state.history.removeAll { $0.day == file.day }
        state.history.append(file)
        state.history.sort { ($0.day ?? -1) < ($1.day ?? -1) }
        for (key, range) in file.file.ranges {
            state.historyEnds[key] = max(state.historyEnds[key] ?? 0, range.end)
        }
    }

    /// What is still to be moved out of a segment: per partition, the offsets.
    struct Move: Sendable {
        var history: [PartitionKey: Range<Int64>] = [:]
        var compacted: [PartitionKey: Range<Int64>] = [:]
        /// How far every consumer of a compacted partition is.
        var consumed: [PartitionKey: Int64] = [:]

        var isEmpty: Bool { self.history.isEmpty && self.compacted.isEmpty }
    }

    /// Moves by time. Each day's file is durable before the next is begun.
    ///
    /// - Returns: the files that changed.
    static func move(_ move: Move, from source: String, _ directory: LogDirectory) throws -> [HistoryFile] {
        var changed: [HistoryFile] = []
        if !move.history.isEmpty {
            let days = try Self.days(of: move.history, in: source)
            for day in days {
                let path = directory.file(Self.name(day: day))
                let ranges = try Self.copy(move.history, from: source, day: day, to: path)
                changed.append(
                    HistoryFile(
                        day: day,
                        file: RecordFile(path: path, ranges: ranges, size: LogDirectory.size(of: path))
                    )
                )
            }
        }
        if !move.compacted.isEmpty {
            let path = directory.file(Self.compactedName)
            let ranges = try Self.compact(move, from: source, to: path)
            changed.append(
                HistoryFile(
                    day: nil,
                    file: RecordFile(path: path, ranges: ranges, size: LogDirectory.size(of: path))
                )
            )
        }
        try directory.sync()
        return changed
    }

    private static func days(of offsets: [PartitionKey: Range<Int64>], in source: String) throws -> [Int64] {
        let connection = try Connection(path: source, mode: .reader)
        var days: Set<Int64> = []
        for (key, range) in offsets {
            // Timestamps never decrease within a partition: the ends tell.
            var first: Int64?
            var last: Int64?
            try connection.query(
                "SELECT time FROM record WHERE tp = ? AND off >= ? AND off < ? ORDER BY off LIMIT 1",
                key,
                range.lowerBound,
                range.upperBound
            ) { first = $0.integer(0) / Self.millisecondsPerDay }
            try connection.query(
                "SELECT time FROM record WHERE tp = ? AND off >= ? AND off < ? ORDER BY off DESC LIMIT 1",
                key,
                range.lowerBound,
                range.upperBound
            ) { last = $0.integer(0) / Self.millisecondsPerDay }
            guard let first, let last, first <= last, last - first < 4_000 else { continue }
            days.formUnion(first...last)
        }
        try connection.close()
        return days.sorted()
    }

    private static func open(_ path: String, attaching source: String) throws -> Connection {
        let connection = try Connection(path: path, mode: .log)
        var hasTable = false
        try connection.query("SELECT 1 FROM sqlite_schema WHERE name = 'record'") { _ in hasTable = true }
        if !hasTable {
            try connection.execute("BEGIN IMMEDIATE; \(ActiveSegment.recordTable) COMMIT")
        }
        let attach = try connection.prepare("ATTACH ?1 AS source")
        attach.bind(1, source)
        try attach.run()
        return connection
    }

    private static func copy(
        _ offsets: [PartitionKey: Range<Int64>],
        from source: String,
        day: Int64,
        to path: String
    ) throws -> [PartitionKey: PartitionRange] {
        let connection = try Self.open(path, attaching: source)
        defer { try? connection.close() }
        try connection.execute("BEGIN IMMEDIATE")
        let insert = try connection.prepare(
            """
            INSERT OR REPLACE INTO main.record(tp, off, time, key, headers, value)
            SELECT tp, off, time, key, headers, value FROM source.record
            WHERE tp = ?1 AND off >= ?2 AND off < ?3 AND time >= ?4 AND time < ?5 ORDER BY off
            """
        )
        for (key, range) in offsets {
            let start = day * Self.millisecondsPerDay
            let values = [key, range.lowerBound, range.upperBound, start, start + Self.millisecondsPerDay]
            for (index, value) in values.enumerated() {
                insert.bind(Int32(index + 1), value)
            }
            try insert.run()
        }
        let ranges = try Self.writeRanges(of: Array(offsets.keys), ends: [:], connection)
        try connection.execute("COMMIT")
        try connection.execute("PRAGMA main.wal_checkpoint(TRUNCATE)")
        return ranges
    }

    private static func compact(
        _ move: Move,
        from source: String,
        to path: String
    ) throws -> [PartitionKey: PartitionRange] {
        let connection = try Self.open(path, attaching: source)
        defer { try? connection.close() }
        try connection.execute("CREATE INDEX IF NOT EXISTS main.record_key ON record(tp, key)")
        try connection.execute("BEGIN IMMEDIATE")
        let delete = try connection.prepare(
            """
            DELETE FROM main.record WHERE tp = ?1 AND key IN
            (SELECT key FROM source.record WHERE tp = ?1 AND off >= ?2 AND off < ?3)
            """
        )
        // Of a group, SQLite takes the other columns from the row with the greatest offset.
        let insert = try connection.prepare(
            """
            INSERT OR REPLACE INTO main.record(tp, off, time, key, headers, value)
            SELECT tp, max(off), time, key, headers, value FROM source.record
            WHERE tp = ?1 AND off >= ?2 AND off < ?3 GROUP BY key ORDER BY 2
            """
        )
        let expire = try connection.prepare(
            "DELETE FROM main.record WHERE tp = ?1 AND length(value) = 0 AND time < ?2 AND off < ?3"
        )
        var ends: [PartitionKey: Int64] = [:]
        for (key, range) in move.compacted {
            for statement in [delete, insert] {
                statement.bind(1, key)
                statement.bind(2, range.lowerBound)
                statement.bind(3, range.upperBound)
                try statement.run()
            }
            expire.bind(1, key)
            expire.bind(2, WallClock.milliseconds - Self.tombstoneRetention)
            expire.bind(3, move.consumed[key] ?? 0)
            try expire.run()
            ends[key] = range.upperBound
        }
        let ranges = try Self.writeRanges(of: Array(move.compacted.keys), ends: ends, connection)
        try connection.execute("COMMIT")
        try connection.execute("PRAGMA main.wal_checkpoint(TRUNCATE)")
        return ranges
    }

    /// Records what the file holds of the partitions, in the same transaction.
    ///
    /// - Parameter ends: up to where partitions were moved, where the last record does not tell.
    private static func writeRanges(
        of keys: [PartitionKey],
        ends: [PartitionKey: Int64],
        _ connection: Connection
    ) throws -> [PartitionKey: PartitionRange] {
        var ranges = try Snapshot.readRanges(connection).first?.ranges ?? [:]
        for key in keys {
            try connection.query(
                "SELECT min(off), max(off), count(*), max(time) FROM main.record WHERE tp = ?",
                key
            ) { row in
                let count = row.integer(2)
                let end = max(count > 0 ? row.integer(1) + 1 : 0, ends[key] ?? 0)
                guard end > 0 else { return }
                ranges[key] = PartitionRange(
                    first: count > 0 ? row.integer(0) : end,
                    end: end,
                    count: count,
                    timestamp: row.integer(3)
                )
            }
        }
        try connection.execute("DELETE FROM main.range")
        try ActiveSegment.write(
            ranges,
            of: SegmentName(first: 0, last: 0, generation: 0),
            to: connection
        )
        return ranges
    }
}
