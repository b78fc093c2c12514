import ClusterLog
import NIOCore

/// What a new segment starts with, so that it alone tells where every partition and every group stands.
struct Snapshot {
    struct PartitionState {
        var next: Int64
        var timestamp: Int64
    }

    var topics: [Topic] = []
    var partitions: [PartitionKey: PartitionState] = [:]
    var progress: [(group: GroupID, key: PartitionKey, progress: Progress, isStepped: Bool)] = []
    var released: [PartitionKey: OffsetRanges] = [:]
    var sealed: [(name: SegmentName, ranges: [PartitionKey: PartitionRange])] = []
}

/// The segment that is appended to. Used by the writer's thread only.
final class ActiveSegment {
    static let recordTable = """
        CREATE TABLE record(
            seq INTEGER PRIMARY KEY, tp INTEGER NOT NULL, off INTEGER NOT NULL, time INTEGER NOT NULL,
            key TEXT NOT NULL, headers BLOB NOT NULL, value BLOB NOT NULL);
        CREATE UNIQUE INDEX record_position ON record(tp, off);
        CREATE TABLE range(
            first INTEGER NOT NULL, last INTEGER NOT NULL, generation INTEGER NOT NULL, tp INTEGER NOT NULL,
            start INTEGER NOT NULL, end INTEGER NOT NULL, count INTEGER NOT NULL, time INTEGER NOT NULL);
        """

    private static let schema =
        ActiveSegment.recordTable + """
            CREATE TABLE topic(id INTEGER PRIMARY KEY, name TEXT NOT NULL);
            CREATE TABLE progress(
                grp TEXT NOT NULL, tp INTEGER NOT NULL, watermark INTEGER NOT NULL, metadata TEXT NOT NULL,
                stepped INTEGER NOT NULL, PRIMARY KEY(grp, tp)) WITHOUT ROWID;
            CREATE TABLE next(tp INTEGER PRIMARY KEY, off INTEGER NOT NULL, time INTEGER NOT NULL);
            CREATE TABLE released(tp INTEGER NOT NULL, first INTEGER NOT NULL, end INTEGER NOT NULL);
            CREATE TABLE complete(version INTEGER NOT NULL);
            """

    let number: Int64
    let path: String
    private let connection: Connection
    private let openedSize: Int64
    private let beginStatement: Statement
    private let commitStatement: Statement
    private let recordStatement: Statement
    private let topicStatement: Statement
    private let progressStatement: Statement
    private let releasedStatement: Statement

    /// Opens a complete segment.
    init(number: Int64, path: String) throws {
        self.number = number
        self.path = path
        self.connection = try Connection(path: path, mode: .log)
        self.openedSize =
            LogDirectory.size(ofFile: path) + WriteAheadFile.filledSize(WriteAheadFile.path(of: path))
        self.beginStatement = try self.connection.prepare("BEGIN IMMEDIATE")
        self.commitStatement = try self.connection.prepare("COMMIT")
        self.recordStatement = try self.connection.prepare(
            "INSERT INTO record(tp, off, time, key, headers, value) VALUES(?1, ?2, ?3, ?4, ?5, ?6)"
        )
        self.topicStatement = try self.connection.prepare("INSERT OR IGNORE INTO topic(id, name) VALUES(?1, ?2)")
        self.progressStatement = try self.connection.prepare(
            """
            INSERT INTO progress(grp, tp, watermark, metadata, stepped) VALUES(?1, ?2, ?3, ?4, ?5)
            ON CONFLICT(grp, tp) DO UPDATE SET watermark = ?3, metadata = ?4, stepped = ?5 WHERE ?5 >= stepped
            """
        )
        self.releasedStatement = try self.connection.prepare(
            "INSERT INTO released(tp, first, end) VALUES(?1, ?2, ?3)"
        )
    }

    /// Where the blocks of a new segment's WAL come from.
    enum WALSource {
        /// A cleared WAL, which is moved.
        case spare(String)
        case reserved(size: Int64)
        /// It grows as it is written.
        case none
    }

    /// Makes a new segment and its snapshot, in one transaction.
    static func create(
        number: Int64,
        path: String,
        snapshot: Snapshot,
        wal: WALSource,
        faults: FaultPlan
    ) throws -> ActiveSegment {
        try Self.provide(wal, for: path)
        let connection = try Connection(path: path, mode: .log)
        do {
            try faults.reach(.rollBeforeSnapshot)
            try connection.execute("BEGIN IMMEDIATE")
            try connection.execute(Self.schema)
            try Self.write(snapshot, to: connection)
            try connection.execute("INSERT INTO complete(version) VALUES(1)")
            try connection.execute("COMMIT")
        } catch {
            // The error that counts is the first.
            try? connection.close()
            throw error
        }
        let segment = try ActiveSegment(number: number, path: path)
        try connection.close()
        return segment
    }

    /// Puts a WAL with blocks beside a database that is empty but says that it has one: SQLite would remove a WAL
    /// beside a file without octets.
    private static func provide(_ wal: WALSource, for path: String) throws {
        if case .none = wal { return }
        try Connection(path: path, mode: .log).close()
        switch wal {
        case .none: break
        case .reserved(let size):
            WriteAheadFile.reserve(WriteAheadFile.path(of: path), size: size)
        case .spare(let spare):
            try WriteAheadFile.move(spare, to: WriteAheadFile.path(of: path))
        }
    }

    private static func write(_ snapshot: Snapshot, to connection: Connection) throws {
        let topic = try connection.prepare("INSERT INTO topic(id, name) VALUES(?1, ?2)")
        for (id, name) in snapshot.topics.enumerated() {
            topic.bind(1, Int64(id))
            topic.bind(2, name.name)
            try topic.run()
        }
        let next = try connection.prepare("INSERT INTO next(tp, off, time) VALUES(?1, ?2, ?3)")
        for (key, state) in snapshot.partitions {
            next.bind(1, key)
            next.bind(2, state.next)
            next.bind(3, state.timestamp)
            try next.run()
        }
        let progress = try connection.prepare(
            "INSERT INTO progress(grp, tp, watermark, metadata, stepped) VALUES(?1, ?2, ?3, ?4, ?5)"
        )
        for entry in snapshot.progress {
            progress.bind(1, entry.group.name)
            progress.bind(2, entry.key)
            progress.bind(3, entry.progress.watermark.rawValue)
            progress.bind(4, entry.progress.metadata)
            progress.bind(5, entry.isStepped ? 1 : 0)
            try progress.run()
        }
        let released = try connection.prepare("INSERT INTO released(tp, first, end) VALUES(?1, ?2, ?3)")
        for (key, offsets) in snapshot.released {
            for range in offsets.ranges {
                released.bind(1, key)
                released.bind(2, range.lowerBound)
                released.bind(3, range.upperBound)
                try released.run()
            }
        }
        for (name, ranges) in snapshot.sealed {
            try Self.write(ranges, of: name, to: connection)
        }
    }

    /// Records what a file holds, in the file itself or in a snapshot.
    static func write(
        _ ranges: [PartitionKey: PartitionRange],
        of name: SegmentName,
        to connection: Connection
    ) throws {
        let statement = try connection.prepare("INSERT INTO range VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")
        var ranges = ranges
        // A file without records is known all the same.
        if ranges.isEmpty { ranges[-1] = PartitionRange(first: 0, end: 0, count: 0, timestamp: 0) }
        for (key, range) in ranges {
            let values = [
                name.first, name.last, name.generation, key, range.first, range.end, range.count, range.timestamp,
            ]
            for (index, value) in values.enumerated() {
                statement.bind(Int32(index + 1), value)
            }
            try statement.run()
        }
    }

    // MARK: Transactions

    /// Octets that are filled, the database and its WAL together.
    var filledSize: Int64 {
        let frameCount = self.connection.frameCount
        return frameCount == 0
            ? self.openedSize : Int64(Connection.pageSize) + WriteAheadFile.size(frameCount: frameCount)
    }

    func begin() throws { try self.beginStatement.run() }
    func commit() throws { try self.commitStatement.run() }
    func rollback() { self.connection.rollback() }
    func close() throws { try self.connection.close() }

    func insert(_ record: Record, key: PartitionKey, offset: Int64, timestamp: Int64) throws {
        let statement = self.recordStatement
        statement.bind(1, key)
        statement.bind(2, offset)
        statement.bind(3, timestamp)
        statement.bind(4, record.key)
        let headers = HeaderCoder.encode(record.headers)
        try headers.withUnsafeReadableBytes { headers in
            statement.bind(5, unowned: headers)
            try record.value.withUnsafeReadableBytes { value in
                statement.bind(6, unowned: value)
                try statement.run()
            }
        }
    }

    func insert(_ topic: Topic, id: Int64) throws {
        self.topicStatement.bind(1, id)
        self.topicStatement.bind(2, topic.name)
        try self.topicStatement.run()
    }

    func set(_ progress: Progress, of group: GroupID, key: PartitionKey, isStepped: Bool) throws {
        let statement = self.progressStatement
        statement.bind(1, group.name)
        statement.bind(2, key)
        statement.bind(3, progress.watermark.rawValue)
        statement.bind(4, progress.metadata)
        statement.bind(5, isStepped ? 1 : 0)
        try statement.run()
    }

    func release(_ offsets: Range<Int64>, key: PartitionKey) throws {
        self.releasedStatement.bind(1, key)
        self.releasedStatement.bind(2, offsets.lowerBound)
        self.releasedStatement.bind(3, offsets.upperBound)
        try self.releasedStatement.run()
    }
}

extension Snapshot {
    /// Where a segment stands.
    struct Found {
        var snapshot: Snapshot
        /// What the segment itself holds.
        var own: [PartitionKey: PartitionRange]
        /// Held until the segment is open again, so that its WAL is neither checkpointed nor replayed twice.
        var keeper: Keeper
    }

    /// Reads where a segment stands now: its snapshot and all that was written since.
    ///
    /// - Returns: `nil` when the snapshot was never completed.
    static func read(path: String, partitionCount: Int) throws -> Found? {
        let connection = try Connection(path: path, mode: .log)
        let keeper = try Keeper(path: path)
        // Nothing was written: there is nothing that a failure to close could lose.
        defer { try? connection.close() }
        var hasTable = false
        try connection.query("SELECT 1 FROM sqlite_schema WHERE name = 'complete'") { _ in hasTable = true }
        guard hasTable else { return nil }
        var snapshot = Snapshot()
        try connection.query("SELECT name FROM topic ORDER BY id") { snapshot.topics.append(Topic($0.text(0))) }
        try connection.query("SELECT tp, off, time FROM next") {
            snapshot.partitions[$0.integer(0)] = PartitionState(next: $0.integer(1), timestamp: $0.integer(2))
        }
        try connection.query("SELECT grp, tp, watermark, metadata, stepped FROM progress") { row in
            guard let progress = Progress(watermark: Offset(row.integer(2)), metadata: row.text(3)) else {
                throw SQLiteError(code: 11, message: "Unreadable progress of \(row.text(0)).")
            }
            snapshot.progress.append((GroupID(row.text(0)), row.integer(1), progress, row.integer(4) == 1))
        }
        try connection.query("SELECT tp, first, end FROM released") { row in
            guard row.integer(1) < row.integer(2) else { return }
            snapshot.released[row.integer(0), default: OffsetRanges()].insert(row.integer(1)..<row.integer(2))
        }
        snapshot.sealed = try Self.readRanges(connection)
        var own: [PartitionKey: PartitionRange] = [:]
        for topic in snapshot.topics.indices {
            for number in 0..<partitionCount {
                let key = PartitionKey(topic) << 16 | PartitionKey(number)
                guard let range = try Self.range(of: key, connection) else { continue }
                own[key] = range
                snapshot.partitions[key] = PartitionState(next: range.end, timestamp: range.timestamp)
            }
        }
        return Found(snapshot: snapshot, own: own, keeper: keeper)
    }

    /// The ranges that a file records.
    static func readRanges(
        _ connection: Connection
    ) throws -> [(name: SegmentName, ranges: [PartitionKey: PartitionRange])] {
        var result: [SegmentName: [PartitionKey: PartitionRange]] = [:]
        try connection.query("SELECT first, last, generation, tp, start, end, count, time FROM range") { row in
            let name = SegmentName(first: row.integer(0), last: row.integer(1), generation: row.integer(2))
            guard row.integer(3) >= 0 else {
                result[name] = result[name] ?? [:]
                return
            }
            result[name, default: [:]][row.integer(3)] = PartitionRange(
                first: row.integer(4),
                end: row.integer(5),
                count: row.integer(6),
                timestamp: row.integer(7)
            )
        }
        return result.map { ($0.key, $0.value) }
    }

    /// What of a partition an uncompacted segment holds: two searches in the index.
    private static func range(of key: PartitionKey, _ connection: Connection) throws -> PartitionRange? {
        var first: Int64?
        try connection.query("SELECT off FROM record WHERE tp = ? ORDER BY off LIMIT 1", key) { first = $0.integer(0) }
        guard let first else { return nil }
        var range: PartitionRange?
        try connection.query("SELECT off, time FROM record WHERE tp = ? ORDER BY off DESC LIMIT 1", key) { row in
            let end = row.integer(0) + 1
            range = PartitionRange(first: first, end: end, count: end - first, timestamp: row.integer(1))
        }
        return range
    }
}
