import SMTP
import Synchronization

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// Why the credentials file could not be used.
public struct CredentialError: Error, Hashable, Sendable, CustomStringConvertible {
    /// For people: the file, the line, and what is wrong with it. Never a secret.
    public var reason: String
    public var description: String { self.reason }
}

/// Who may authenticate: the records of the credentials file, `user:SCRAM-SHA-256$...` a line, `#` for comments.
///
/// The file is read again when its time of change moves; one that cannot be read or has an error leaves the records
/// as they were. Safe from any thread.
public final class CredentialStore: Sendable {
    private struct State {
        var records: [String: CredentialRecord]
        var stamp: FileStamp
        var checkedAt: Int64 = 0
    }

    /// What changes when a file is changed or replaced.
    private struct FileStamp: Equatable {
        var seconds: Int
        var nanoseconds: Int
        var size: Int
        var inode: UInt64
    }

    /// Octets of file that are read; more is an error.
    static let fileSizeMax = 64 << 20
    /// How often the file is looked at, at most.
    private static let checkInterval: Int64 = 1_000_000_000

    public let path: String
    private let state: Mutex<State>

    /// Reads the file; not for an event loop.
    public init(path: String) throws(CredentialError) {
        self.path = path
        let stamp = try Self.stamp(of: path)
        self.state = Mutex(State(records: try Self.read(path), stamp: stamp))
    }

    public var userCount: Int { self.state.withLock { $0.records.count } }

    /// The user's record as last read.
    public func record(for userName: String) -> CredentialRecord? {
        self.state.withLock { $0.records[userName] }
    }

    /// Whether ``reload()`` is due; says so to one caller a second.
    ///
    /// - Parameter now: monotonic nanoseconds.
    func claimsCheck(now: Int64) -> Bool {
        self.state.withLock { state in
            guard now - state.checkedAt >= Self.checkInterval || state.checkedAt == 0 else { return false }
            state.checkedAt = now
            return true
        }
    }

    /// Reads the file again if it changed; not for an event loop. Returns whether it was read.
    @discardableResult
    public func reload() throws(CredentialError) -> Bool {
        let stamp = try Self.stamp(of: self.path)
        guard self.state.withLock({ $0.stamp != stamp }) else { return false }
        let records = try Self.read(self.path)
        self.state.withLock { state in
            state.records = records
            state.stamp = stamp
        }
        return true
    }

    /// From which salts of users who do not exist are made: the same on all nodes that have the same file.
    func dummySecret() -> [UInt8] {
        self.state.withLock { state in
            let first = state.records.values.min { $0.userName < $1.userName }
            return first.map { $0.serverKey + $0.storedKey } ?? Array("posthorn".utf8)
        }
    }

    /// The iterations most records have.
    func commonIterations() -> Int {
        self.state.withLock { state in
            var counts: [Int: Int] = [:]
            for record in state.records.values { counts[record.iterations, default: 0] += 1 }
            return counts.max { ($0.value, $0.key) < ($1.value, $1.key) }?.key ?? CredentialRecord.defaultIterations
        }
    }

    // MARK: The file

    private static func stamp(of path: String) throws(CredentialError) -> FileStamp {
        var status = stat()
        guard stat(path, &status) == 0 else {
            throw CredentialError(reason: "\(path): \(String(cString: strerror(errno)))")
        }
        return FileStamp(
            seconds: Int(status.st_mtim.tv_sec),
            nanoseconds: Int(status.st_mtim.tv_nsec),
            size: Int(status.st_size),
            inode: UInt64(status.st_ino)
        )
    }

    private static func read(_ path: String) throws(CredentialError) -> [String: CredentialRecord] {
        let text = String(decoding: try Self.octets(of: path), as: UTF8.self)
        var records: [String: CredentialRecord] = [:]
        for (index, line) in text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline).enumerated() {
            guard line.contains(where: { !$0.isWhitespace }), !line.hasPrefix("#") else { continue }
            guard let record = CredentialRecord(line: line) else {
                throw CredentialError(
                    reason: "\(path), line \(index + 1): not of the form user:SCRAM-SHA-256$...; `posthorn credentials`"
                        + " makes such lines"
                )
            }
            guard records.updateValue(record, forKey: record.userName) == nil else {
                throw CredentialError(reason: "\(path), line \(index + 1): the user was given before")
            }
        }
        return records
    }

    private static func octets(of path: String) throws(CredentialError) -> [UInt8] {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw CredentialError(reason: "\(path): \(String(cString: strerror(errno)))") }
        defer { close(descriptor) }
        var octets: [UInt8] = []
        while true {
            let start = octets.count
            guard start <= Self.fileSizeMax else { throw CredentialError(reason: "\(path): too large") }
            let chunk = [UInt8](unsafeUninitializedCapacity: 65_536) { buffer, count in
                count = max(0, systemRead(descriptor, buffer.baseAddress, buffer.count))
            }
            guard !chunk.isEmpty else { return octets }
            octets.append(contentsOf: chunk)
        }
    }
}

/// `read(2)`, under a name that the type's own does not hide.
private func systemRead(_ descriptor: Int32, _ buffer: UnsafeMutablePointer<UInt8>?, _ count: Int) -> Int {
    read(descriptor, buffer, count)
}
