import Digests
import NIOCore

extension Reference {
    /// Where its parts are, in the order of the content: one position, unless the content is in several records.
    public var positions: [Position] {
        [self.position] + self.further.map { Position(partition: self.position.partition, offset: $0) }
    }

    /// Puts the parts together and checks the whole against every field (G7).
    ///
    /// - Parameter parts: one record for each of ``positions``, in that order.
    /// - Returns: the first record, with the whole as its value.
    /// - Throws: `mismatch`.
    public func assemble(_ parts: [StoredRecord]) throws(RecordLogError) -> StoredRecord {
        guard let first = parts.first else {
            throw RecordLogError(.mismatch, isRetriable: false, reason: "No part was read.")
        }
        if parts.count == 1, self.further.isEmpty {
            try self.check(first)
            return first
        }
        var whole = first
        var value = ByteBuffer()
        // What was read, not what the reference claims: it may be anybody's.
        value.reserveCapacity(parts.reduce(0) { $0 + $1.value.readableBytes })
        for (part, position) in zip(parts, self.positions) {
            let id = part.header(Self.messageIDHeader).map { String(buffer: $0) } ?? ""
            guard part.position == position, id == self.messageID,
                value.readableBytes + part.value.readableBytes <= self.size
            else {
                throw RecordLogError(.mismatch, isRetriable: false, reason: "A part is not what the reference names.")
            }
            value.writeImmutableBuffer(part.value)
        }
        whole.value = value
        try self.check(whole)
        return whole
    }
}
