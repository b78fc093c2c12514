import Foundation

/// The write-ahead log that SQLite keeps beside a segment, as a file whose blocks are there before they are written.
///
/// Each commit that makes the file longer has its inode written as well, which is half of what the commit's fsync
/// costs. So a segment begins with a WAL of full length: one that a finished segment left, or space reserved.
/// SQLite's recovery ends at the first frame whose salts or checksum do not fit (SQLite file format, §4.1): a header of
/// zeros is an empty WAL, and what lies behind the last frame is not looked at.
enum WriteAheadFile {
    private static let headerSize = 32
    private static let frameHeaderSize = 24

    static func path(of database: String) -> String { database + "-wal" }

    /// Octets of a WAL with this many frames.
    static func size(frameCount: Int32) -> Int64 {
        Int64(self.headerSize) + Int64(frameCount) * Int64(self.frameHeaderSize + Connection.pageSize)
    }

    /// Makes an empty WAL whose blocks are reserved; none where the file system cannot, since it is not needed.
    static func reserve(_ path: String, size: Int64) {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        if posix_fallocate(descriptor, 0, off_t(size)) != 0 { unlink(path) }
    }

    /// Gives a cleared WAL to a database that is not open.
    static func move(_ spare: String, to path: String) throws {
        guard rename(spare, path) == 0 else { throw Self.error("Cannot rename \(spare)", errno) }
    }

    /// Makes a WAL that nobody has open an empty one, durably, and sees to it that its pages are in memory: frames do not
    /// end where pages do, and a page that is not there would be read before it is written.
    static func clear(_ path: String) throws {
        let descriptor = open(path, O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw Self.error("Cannot open \(path)", errno) }
        defer { close(descriptor) }
        let zeros = [UInt8](repeating: 0, count: Self.headerSize)
        guard pwrite(descriptor, zeros, zeros.count, 0) == zeros.count, fsync(descriptor) == 0 else {
            throw Self.error("Cannot clear \(path)", errno)
        }
        _ = posix_fadvise(descriptor, 0, 0, POSIX_FADV_WILLNEED)
    }

    /// Writes the frames of a WAL again, as they are read, and makes them durable.
    ///
    /// For after an fsync that failed: the system may then count pages as written that are in memory alone, and would not
    /// write them with the next one. SQLite reads them meanwhile, which finds what it found before.
    static func rewrite(_ path: String) throws {
        let descriptor = open(path, O_RDWR | O_CLOEXEC)
        guard descriptor >= 0 else {
            // Without a WAL there is nothing that was not in the database when it was last closed.
            if errno == ENOENT { return }
            throw Self.error("Cannot open \(path)", errno)
        }
        defer { close(descriptor) }
        let end = Self.filledSize(path)
        var octets = [UInt8](repeating: 0, count: 1 << 20)
        var offset: Int64 = 0
        while offset < end {
            let count = pread(descriptor, &octets, Int(min(Int64(octets.count), end - offset)), off_t(offset))
            guard count > 0 else { throw Self.error("Cannot read \(path)", errno) }
            guard pwrite(descriptor, octets, count, off_t(offset)) == count else {
                throw Self.error("Cannot write \(path)", errno)
            }
            offset += Int64(count)
        }
        guard fsync(descriptor) == 0 else { throw Self.error("Cannot sync \(path)", errno) }
    }

    /// Octets of the frames that a WAL holds, which are fewer than its length when it was used before.
    ///
    /// All frames of one use carry the salts of its header, and they lie before any that an earlier use left.
    static func filledSize(_ path: String) -> Int64 {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return 0 }
        defer { close(descriptor) }
        var info = stat()
        guard fstat(descriptor, &info) == 0, let header = Self.read(descriptor, at: 0, count: Self.headerSize),
            header[0..<3] == [0x37, 0x7f, 0x06]
        else { return 0 }
        let pageSize = header[8..<12].reduce(0) { $0 << 8 | Int64($1) }
        guard pageSize >= 512 else { return 0 }
        let frameSize = pageSize + Int64(Self.frameHeaderSize)
        var low: Int64 = 0
        var high = max(0, (Int64(info.st_size) - Int64(Self.headerSize)) / frameSize)
        while low < high {
            let middle = (low + high) / 2
            let start = Int64(Self.headerSize) + middle * frameSize
            let frame = Self.read(descriptor, at: start, count: Self.frameHeaderSize)
            if let frame, frame[8..<16] == header[16..<24] { low = middle + 1 } else { high = middle }
        }
        return Int64(Self.headerSize) + low * frameSize
    }

    private static func read(_ descriptor: Int32, at offset: Int64, count: Int) -> [UInt8]? {
        var octets = [UInt8](repeating: 0, count: count)
        return pread(descriptor, &octets, count, off_t(offset)) == count ? octets : nil
    }

    private static func error(_ what: String, _ code: Int32) -> SQLiteError {
        SQLiteError(code: 10, message: "\(what): \(String(cString: strerror(code)))")
    }
}
