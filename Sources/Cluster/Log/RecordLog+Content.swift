import NIOCore

extension RecordLog {
    /// Octets of content that ride in a record of `accepted`; more goes to `content` first (DESIGN §2).
    public var inlineSizeMax: Int { min(self.valueSizeMax, self.preferredInlineSizeMax) }

    /// Appends a record whose value may be larger than one record takes: in parts then, one after the other in its
    /// key's partition.
    ///
    /// - Parameter completion: gets what names the whole, once all of it is durable.
    public func appendContent(
        _ record: Record,
        completion: @escaping @Sendable (Result<Reference, RecordLogError>) -> Void
    ) {
        let parts = record.parts(ofSize: self.valueSizeMax)
        let clusterID = self.clusterID
        self.append(parts) { result in
            completion(result.map { Reference(to: record, at: $0, in: clusterID) })
        }
    }
}

extension Record {
    /// The record, with its value split so that none has more than `size` octets.
    func parts(ofSize size: Int) -> [Record] {
        guard self.value.readableBytes > size else { return [self] }
        var rest = self.value
        var parts: [Record] = []
        while rest.readableBytes > 0 {
            guard let slice = rest.readSlice(length: Swift.min(size, rest.readableBytes)) else { break }
            parts.append(Record(topic: self.topic, key: self.key, headers: self.headers, value: slice))
        }
        return parts
    }
}

extension Reference {
    /// The reference to the value of a record whose parts were appended at `positions`.
    fileprivate init(to record: Record, at positions: [Position], in clusterID: ClusterID) {
        self.init(to: record, at: positions[0], in: clusterID)
        self.further = positions.dropFirst().map { $0.offset }
    }
}
