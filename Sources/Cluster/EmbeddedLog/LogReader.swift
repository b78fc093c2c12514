import ClusterLog
import Logging
import NIOCore
import Synchronization

/// Reads what is not in memory any more: short queries on read-only connections, file after file.
///
/// A class used by its own thread only.
final class LogReader {
    private struct OpenFile {
        var path: String
        var connection: Connection
        var forward: Statement
    }

    /// More than this many files are read in turns only by a group that is far behind in every partition.
    private static let openCountMax = 6
    private let core: LogCore
    private var files: [OpenFile] = []

    init(core: LogCore) {
        self.core = core
    }

    /// What a read found, and where to read on.
    struct Found: Sendable {
        var records: [StoredRecord]
        var next: Offset
    }

    /// Reads forward over all files that hold the partition.
    func read(
        _ partition: TopicPartition,
        from offset: Offset,
        countMax: Int,
        sizeMax: Int
    ) -> Result<Found, RecordLogError> {
        var lastError: (any Error)?
        // A file may go while it is about to be read: its replacement is read then.
        for _ in 0..<4 {
            let (key, extents, end) = self.core.state.withLock { state in
                let key = state.existingKey(of: partition)
                return (key, key.map { state.extents(of: $0) } ?? [], state.groups.bounds(partition).upperBound)
            }
            guard let key else { return .success(Found(records: [], next: offset)) }
            do {
                return .success(
                    try self.read(
                        key,
                        partition,
                        from: offset,
                        in: extents,
                        end: end,
                        countMax: countMax,
                        sizeMax: sizeMax
                    )
                )
            } catch {
                lastError = error
                self.closeAll()
            }
        }
        self.core.logger.error(
            "The log could not read",
            metadata: ["error": "\(lastError.map { "\($0)" } ?? "")"]
        )
        return .failure(RecordLogError(.unavailable, isRetriable: true, reason: "The log could not be read."))
    }

    private func read(
        _ key: PartitionKey,
        _ partition: TopicPartition,
        from offset: Offset,
        in extents: [LogState.Extent],
        end: Offset,
        countMax: Int,
        sizeMax: Int
    ) throws -> Found {
        var records: [StoredRecord] = []
        var size = 0
        for extent in extents where extent.offsets.upperBound > offset.rawValue {
            let statement = try self.open(extent.path).forward
            defer { statement.reset() }
            statement.bind(1, key)
            statement.bind(2, max(offset.rawValue, extent.offsets.lowerBound))
            statement.bind(3, min(extent.offsets.upperBound, end.rawValue))
            statement.bind(4, Int64(countMax - records.count))
            while try statement.step() {
                let position = Position(partition: partition, offset: Offset(statement.integer(0)))
                let recordSize = statement.size(2) + statement.size(3) + statement.size(4)
                if !records.isEmpty, size + recordSize > sizeMax {
                    return Found(records: records, next: position.offset)
                }
                size += recordSize
                let headers = statement.blob(3)
                records.append(
                    StoredRecord(
                        position: position,
                        timestamp: statement.integer(1),
                        key: statement.text(2),
                        headers: HeaderCoder.decode(headers) ?? self.damaged(headers, at: position),
                        value: statement.blob(4)
                    )
                )
            }
            if records.count >= countMax { break }
        }
        guard records.count >= countMax, let last = records.last else {
            return Found(records: records, next: max(offset, end))
        }
        return Found(records: records, next: last.position.offset.advanced(by: 1))
    }

    /// To fail would stop every reader here, now and after each restart: the record's consumer buries it instead.
    private func damaged(_ headers: ByteBuffer, at position: Position) -> [RecordHeader] {
        self.core.logger.error("A record's headers are damaged", metadata: ["position": "\(position)"])
        return [RecordHeader(StoredRecord.damagedHeadersName, headers)]
    }

    private func open(_ path: String) throws -> OpenFile {
        if let index = self.files.firstIndex(where: { $0.path == path }) {
            if index == self.files.count - 1 { return self.files[index] }
            let file = self.files.remove(at: index)
            self.files.append(file)
            return file
        }
        if self.files.count >= Self.openCountMax {
            try self.files.removeFirst().connection.close()
        }
        let connection = try Connection(path: path, mode: .reader)
        let forward = try connection.prepare(
            """
            SELECT off, time, key, headers, value FROM record
            WHERE tp = ?1 AND off >= ?2 AND off < ?3 ORDER BY off LIMIT ?4
            """
        )
        let file = OpenFile(path: path, connection: connection, forward: forward)
        self.files.append(file)
        return file
    }

    /// Lets go of a file that is removed.
    func forget(_ path: String) {
        guard let index = self.files.firstIndex(where: { $0.path == path }) else { return }
        self.close(self.files.remove(at: index))
    }

    func closeAll() {
        for file in self.files {
            self.close(file)
        }
        self.files = []
    }

    private func close(_ file: OpenFile) {
        do {
            try file.connection.close()
        } catch {
            self.core.logger.warning("The log could not close a file", metadata: ["error": "\(error)"])
        }
    }
}
