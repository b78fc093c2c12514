import NIOCore

extension Reference {
    /// The reference to the value of a record that was appended at `position`.
    public init(to record: Record, at position: Position, in clusterID: ClusterID) {
        self.init(
            clusterID: clusterID,
            position: position,
            messageID: record.headers.first { $0.name == Self.messageIDHeader }.map { String(buffer: $0.value) } ?? "",
            size: record.value.readableBytes,
            hash: Self.hash(of: record.value)
        )
    }
}
