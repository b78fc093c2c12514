import GRDB
import GRDBSQLite
import NIOCore

/// What SQLite said.
struct SQLiteError: Error, CustomStringConvertible {
    var code: Int32
    var message: String

    /// The code without its extension.
    var primaryCode: Int32 { self.code & 0xff }
    var description: String { "SQLite error \(self.code): \(self.message)" }
}

/// One SQLite connection, used by one thread at a time.
///
/// GRDB opens and configures it; statements go to SQLite directly, since a record is bound without a copy.
final class Connection {
    enum Mode {
        /// Appends durably: WAL, an fsync per commit, no checkpoints.
        case log
        /// Reads while another connection writes.
        case reader
        /// Fills a new file that counts only once it is synced and renamed.
        case bulk
    }

    /// The best of 4096 to 32768 for records of 0.7 to 100 KB: octets written per record decide, see the commit.
    static let pageSize = 4_096

    private let queue: DatabaseQueue
    private let handle: OpaquePointer
    private var statements: [Statement] = []
    private var isClosed = false
    /// Set by SQLite after each commit.
    private let walFrameCount = UnsafeMutablePointer<Int32>.allocate(capacity: 1)

    init(path: String, mode: Mode) throws {
        var configuration = Configuration()
        configuration.busyMode = .timeout(5)
        configuration.foreignKeysEnabled = false
        configuration.label = "posthorn.embedded-log"
        configuration.readonly = mode == .reader
        self.walFrameCount.initialize(to: 0)
        configuration.prepareDatabase { database in
            switch mode {
            case .log:
                try database.execute(sql: "PRAGMA page_size = \(Self.pageSize)")
                try database.execute(sql: "PRAGMA journal_mode = WAL")
                try database.execute(sql: "PRAGMA synchronous = FULL")
                try database.execute(sql: "PRAGMA wal_autocheckpoint = 0")
                try database.execute(sql: "PRAGMA cache_size = -2048")
            case .reader:
                try database.execute(sql: "PRAGMA cache_size = -512")
            case .bulk:
                try database.execute(sql: "PRAGMA page_size = \(Self.pageSize)")
                try database.execute(sql: "PRAGMA journal_mode = OFF")
                try database.execute(sql: "PRAGMA synchronous = OFF")
                try database.execute(sql: "PRAGMA cache_size = -2048")
            }
            try database.execute(sql: "PRAGMA mmap_size = 0")
        }
        do {
            self.queue = try DatabaseQueue(path: path, configuration: configuration)
            guard let handle = self.queue.inDatabase({ $0.sqliteConnection }) else {
                throw SQLiteError(code: SQLITE_MISUSE, message: "No connection.")
            }
            self.handle = handle
            // GRDB's own bookkeeping of transactions, which it expects to have begun itself.
            sqlite3_commit_hook(handle, nil, nil)
            sqlite3_rollback_hook(handle, nil, nil)
            if mode == .log {
                sqlite3_wal_hook(
                    handle,
                    { context, _, _, frameCount in
                        context?.storeBytes(of: frameCount, as: Int32.self)
                        return SQLITE_OK
                    },
                    self.walFrameCount
                )
            }
        } catch let error as DatabaseError {
            throw SQLiteError(code: error.extendedResultCode.rawValue, message: error.message ?? path)
        }
    }

    deinit {
        self.walFrameCount.deallocate()
    }

    /// Frames in the WAL after this connection's last commit; 0 before the first.
    var frameCount: Int32 { self.walFrameCount.pointee }

    func prepare(_ sql: String) throws -> Statement {
        var pointer: OpaquePointer?
        let code = sqlite3_prepare_v2(self.handle, sql, -1, &pointer, nil)
        guard code == SQLITE_OK, let pointer else { throw self.error(code) }
        let statement = Statement(pointer, self)
        self.statements.append(statement)
        return statement
    }

    func execute(_ sql: String) throws {
        let code = sqlite3_exec(self.handle, sql, nil, nil, nil)
        guard code == SQLITE_OK else { throw self.error(code) }
    }

    /// Runs a statement once for each row it gives; for paths that are not hot.
    func query(_ sql: String, _ values: Int64..., row: (borrowing Statement) throws -> Void) throws {
        var pointer: OpaquePointer?
        let code = sqlite3_prepare_v2(self.handle, sql, -1, &pointer, nil)
        guard code == SQLITE_OK, let pointer else { throw self.error(code) }
        let statement = Statement(pointer, self)
        defer { statement.finalize() }
        for (index, value) in values.enumerated() {
            statement.bind(Int32(index + 1), value)
        }
        while try statement.step() {
            try row(statement)
        }
    }

    var isInTransaction: Bool { sqlite3_get_autocommit(self.handle) == 0 }

    func rollback() {
        guard self.isInTransaction else { return }
        sqlite3_exec(self.handle, "ROLLBACK", nil, nil, nil)
    }

    fileprivate func error(_ code: Int32) -> SQLiteError {
        SQLiteError(
            code: sqlite3_extended_errcode(self.handle) & 0xff == code & 0xff
                ? sqlite3_extended_errcode(self.handle) : code,
            message: String(cString: sqlite3_errmsg(self.handle))
        )
    }

    /// Gives up an open transaction. Afterwards neither the connection nor its statements are used.
    func close() throws {
        guard !self.isClosed else { return }
        self.isClosed = true
        self.rollback()
        for statement in self.statements {
            statement.finalize()
        }
        self.statements = []
        try self.queue.close()
    }
}

/// A prepared statement of a ``Connection``.
final class Statement {
    private var pointer: OpaquePointer?
    private unowned let connection: Connection

    fileprivate init(_ pointer: OpaquePointer, _ connection: Connection) {
        self.pointer = pointer
        self.connection = connection
    }

    fileprivate func finalize() {
        sqlite3_finalize(self.pointer)
        self.pointer = nil
    }

    func bind(_ index: Int32, _ value: Int64) {
        sqlite3_bind_int64(self.pointer, index, value)
    }

    func bind(_ index: Int32, _ text: String) {
        var text = text
        text.withUTF8 { octets in
            // Copied: the octets of a small string move when this returns.
            let address = octets.baseAddress.map { UnsafeRawPointer($0).assumingMemoryBound(to: CChar.self) }
            if let address {
                sqlite3_bind_text(self.pointer, index, address, Int32(octets.count), Self.transient)
            } else {
                sqlite3_bind_text(self.pointer, index, "", 0, nil)
            }
        }
    }

    /// Binds without a copy: the octets must stay where they are until the statement was reset.
    func bind(_ index: Int32, unowned octets: UnsafeRawBufferPointer) {
        if octets.count == 0 {
            sqlite3_bind_zeroblob(self.pointer, index, 0)
        } else {
            sqlite3_bind_blob(self.pointer, index, octets.baseAddress, Int32(octets.count), nil)
        }
    }

    /// - Returns: whether there is a row.
    func step() throws -> Bool {
        switch sqlite3_step(self.pointer) {
        case SQLITE_ROW: return true
        case SQLITE_DONE: return false
        case let code: throw self.connection.error(code)
        }
    }

    /// Runs a statement that gives no rows.
    func run() throws {
        defer { self.reset() }
        _ = try self.step()
    }

    func reset() {
        sqlite3_reset(self.pointer)
    }

    func integer(_ column: Int32) -> Int64 {
        sqlite3_column_int64(self.pointer, column)
    }

    func isNull(_ column: Int32) -> Bool {
        sqlite3_column_type(self.pointer, column) == SQLITE_NULL
    }

    func text(_ column: Int32) -> String {
        guard let address = sqlite3_column_text(self.pointer, column) else { return "" }
        let count = Int(sqlite3_column_bytes(self.pointer, column))
        return String(decoding: UnsafeBufferPointer(start: address, count: count), as: UTF8.self)
    }

    func size(_ column: Int32) -> Int {
        Int(sqlite3_column_bytes(self.pointer, column))
    }

    func blob(_ column: Int32) -> ByteBuffer {
        guard let address = sqlite3_column_blob(self.pointer, column) else { return ByteBuffer() }
        let count = Int(sqlite3_column_bytes(self.pointer, column))
        return ByteBuffer(bytes: UnsafeRawBufferPointer(start: address, count: count))
    }

    /// `SQLITE_TRANSIENT`, which is a macro that Swift does not import.
    private static let transient = unsafeBitCast(-1 as Int, to: sqlite3_destructor_type.self)
}

/// Keeps a segment's WAL from being checkpointed when its last writer closes.
///
/// SQLite checkpoints when the last connection closes; a segment that is about to be unlinked must not pay for that.
/// A read-only connection that closes last cannot, so one is held for as long as the segment is.
///
/// `@unchecked Sendable`: after `init` the connection is only closed, once, by `deinit`.
final class Keeper: @unchecked Sendable {
    private let connection: Connection

    init(path: String) throws {
        self.connection = try Connection(path: path, mode: .reader)
        // The lock that counts is taken by the first read.
        try self.connection.query("SELECT count(*) FROM sqlite_schema") { _ in }
    }

    deinit {
        // Nothing was written, so there is nothing that a failure could lose.
        try? self.connection.close()
    }
}
