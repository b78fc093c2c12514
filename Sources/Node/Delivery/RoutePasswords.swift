import Synchronization

/// The passwords of routes that authenticate, by the file each is in. Safe from any thread.
public final class RoutePasswords: Sendable {
    public typealias Read = @Sendable (_ file: String) throws -> String

    private let files: Set<String>
    private let read: Read
    private let passwords: Mutex<[String: String]>

    /// - Parameter read: the password in a file.
    /// - Throws: what `read` throws.
    public init(files: Set<String>, read: @escaping Read) throws {
        self.files = files
        self.read = read
        self.passwords = Mutex(try Self.readAll(files, read))
    }

    public subscript(file: String) -> String? { self.passwords.withLock { $0[file] } }

    /// Reads all files again; when one cannot be read, all passwords stay as they were.
    public func reload() throws {
        let passwords = try Self.readAll(self.files, self.read)
        self.passwords.withLock { $0 = passwords }
    }

    private static func readAll(_ files: Set<String>, _ read: Read) throws -> [String: String] {
        try Dictionary(uniqueKeysWithValues: files.map { ($0, try read($0)) })
    }
}
