import Digests
import NIOCore

extension Reference {
    /// Names a record as it is stored; its message id is its header ``messageIDHeader``, empty when it has none.
    public init(to record: StoredRecord, in clusterID: ClusterID) {
        self.init(
            clusterID: clusterID,
            position: record.position,
            messageID: record.header(Self.messageIDHeader).map { String(buffer: $0) } ?? "",
            size: record.value.readableBytes,
            hash: Self.hash(of: record.value)
        )
    }

    /// The first 128 bits of the SHA-256 of a value.
    public static func hash(of value: ByteBuffer) -> [UInt8] {
        value.withUnsafeReadableBytes { Array(Digest.sha256($0).prefix(16)) }
    }

    /// Checks that this reference belongs to the log, before anything is read.
    ///
    /// - Throws: `mismatch`.
    public func check(cluster: ClusterID) throws(RecordLogError) {
        guard self.clusterID == cluster else { throw Self.mismatch("cluster") }
    }

    /// Checks every field of the reference against what was read (G7).
    ///
    /// - Throws: `mismatch`.
    public func check(_ record: StoredRecord) throws(RecordLogError) {
        guard record.position == self.position else { throw Self.mismatch("position") }
        guard record.value.readableBytes == self.size else { throw Self.mismatch("size") }
        guard record.header(Self.messageIDHeader).map({ String(buffer: $0) }) ?? "" == self.messageID else {
            throw Self.mismatch("message id")
        }
        guard self.hash == Self.hash(of: record.value) else { throw Self.mismatch("hash") }
    }

    private static func mismatch(_ field: String) -> RecordLogError {
        RecordLogError(.mismatch, isRetriable: false, reason: "The \(field) is not what the reference names.")
    }
}
