import ClusterLog
import Foundation

/// The directory of an ``EmbeddedLog``: its lock, its identity and its files.
struct LogDirectory: Sendable {
    let path: String
    let clusterID: ClusterID
    private let lock: Int32

    /// Locks the directory, making it and the log's identity when there are none.
    ///
    /// - Throws: `configuration` when another process holds it or when it was made for another partition count,
    ///   `unavailable` when it cannot be used.
    init(path: String, partitionCount: Int) throws(RecordLogError) {
        self.path = path
        do {
            // What is in it is mail: for nobody but the user that runs the node.
            try FileManager.default.createDirectory(
                atPath: path,
                withIntermediateDirectories: true,
                attributes: [.posixPermissions: 0o700]
            )
        } catch {
            throw RecordLogError(.unavailable, isRetriable: false, reason: "Cannot make \(path): \(error)")
        }
        self.lock = try Self.takeLock(path + "/lock")
        do throws(RecordLogError) {
            self.clusterID = try Self.identity(in: path, partitionCount: partitionCount)
        } catch {
            Foundation.close(self.lock)
            throw error
        }
    }

    func unlock() {
        flock(self.lock, LOCK_UN)
        Foundation.close(self.lock)
    }

    func file(_ name: String) -> String { "\(self.path)/\(name)" }

    func list() -> [String] {
        (try? FileManager.default.contentsOfDirectory(atPath: self.path)) ?? []
    }

    /// Removes a database with what SQLite keeps beside it.
    func remove(_ path: String) {
        unlink(path)
        unlink(path + "-wal")
        unlink(path + "-shm")
        unlink(path + "-journal")
    }

    /// Makes creations, renames and removals in the directory durable.
    func sync() throws(RecordLogError) {
        try Self.sync(self.path)
    }

    /// Makes a file's octets, or a directory's entries, durable.
    static func sync(_ path: String) throws(RecordLogError) {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw Self.error("Cannot open \(path)") }
        defer { Foundation.close(descriptor) }
        guard fsync(descriptor) == 0 else { throw Self.error("Cannot sync \(path)") }
    }

    /// Octets of a database with what SQLite keeps beside it.
    static func size(of path: String) -> Int64 {
        self.size(ofFile: path) + self.size(ofFile: WriteAheadFile.path(of: path))
    }

    /// Octets of one file; 0 when there is none.
    static func size(ofFile path: String) -> Int64 {
        var info = stat()
        return stat(path, &info) == 0 ? Int64(info.st_size) : 0
    }

    /// Octets that this process may still use on the file system; `nil` when it cannot be told.
    func freeSize() -> Int64? {
        var info = statvfs()
        guard statvfs(self.path, &info) == 0 else { return nil }
        let (size, overflow) = Int64(clamping: info.f_bavail).multipliedReportingOverflow(by: Int64(info.f_frsize))
        return overflow ? Int64.max : size
    }

    private static func takeLock(_ path: String) throws(RecordLogError) -> Int32 {
        let lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o640)
        guard lock >= 0 else { throw Self.error("Cannot open \(path)") }
        guard flock(lock, LOCK_EX | LOCK_NB) == 0 else {
            var octets = [UInt8](repeating: 0, count: 32)
            let count = pread(lock, &octets, octets.count, 0)
            let holder = String(decoding: octets.prefix(max(0, count)), as: UTF8.self)
                .trimmingCharacters(in: .whitespacesAndNewlines)
            Foundation.close(lock)
            throw RecordLogError(
                .configuration,
                isRetriable: false,
                reason: "The log at \(path) is in use by process \(holder.isEmpty ? "unknown" : holder)."
            )
        }
        let holder = Array("\(getpid())\n".utf8)
        guard ftruncate(lock, 0) == 0, pwrite(lock, holder, holder.count, 0) == holder.count else {
            Foundation.close(lock)
            throw Self.error("Cannot write \(path)")
        }
        return lock
    }

    /// Three lines: format, cluster id, partition count.
    private static func identity(in directory: String, partitionCount: Int) throws(RecordLogError) -> ClusterID {
        let path = directory + "/meta"
        if let text = try? String(contentsOfFile: path, encoding: .utf8) {
            let lines = text.split(separator: "\n")
            guard lines.count >= 3, lines[0] == "posthorn-log 1", lines[1].hasPrefix("cluster "),
                let recorded = lines[2].split(separator: " ").last.flatMap({ Int($0) })
            else {
                throw RecordLogError(.configuration, isRetriable: false, reason: "\(path) is not a log's, version 1.")
            }
            guard recorded == partitionCount else {
                throw RecordLogError(
                    .configuration,
                    isRetriable: false,
                    reason: "The log was made with \(recorded) partitions; \(partitionCount) are configured."
                )
            }
            return ClusterID(String(lines[1].dropFirst(8)))
        }
        let id = UUID().uuidString.lowercased()
        let text = "posthorn-log 1\ncluster \(id)\npartitions \(partitionCount)\n"
        do {
            try text.write(toFile: path + ".tmp", atomically: false, encoding: .utf8)
        } catch {
            throw RecordLogError(.unavailable, isRetriable: false, reason: "Cannot write \(path): \(error)")
        }
        try Self.sync(path + ".tmp")
        guard rename(path + ".tmp", path) == 0 else { throw Self.error("Cannot rename \(path)") }
        try Self.sync(directory)
        return ClusterID(id)
    }

    private static func error(_ what: String) -> RecordLogError {
        RecordLogError(.unavailable, isRetriable: true, reason: "\(what): \(String(cString: strerror(errno)))")
    }
}
