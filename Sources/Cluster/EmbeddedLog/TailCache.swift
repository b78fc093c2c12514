import ClusterLog
import NIOCore

/// The newest records, in memory, so that a group that keeps up reads nothing from disk.
///
/// Bounded in octets over all partitions; the oldest record goes first.
struct TailCache {
    private var partitions: [PartitionKey: CircularBuffer<StoredRecord>] = [:]
    private var order: CircularBuffer<(key: PartitionKey, offset: Offset, size: Int)> = []
    private var size = 0
    private let sizeMax: Int

    init(sizeMax: Int) {
        self.sizeMax = sizeMax
    }

    mutating func append(_ record: StoredRecord, to key: PartitionKey) {
        let size = record.size + 128
        guard size <= self.sizeMax else { return }
        if let last = self.partitions[key]?.last, last.position.offset.advanced(by: 1) != record.position.offset {
            // Not a continuation: what is older cannot be told apart from a gap. Its entries in `order` find nothing.
            self.partitions[key]?.removeAll()
        }
        // In place: a copy of the buffer would cost as much as all that is held.
        self.partitions[key, default: []].append(record)
        self.order.append((key, record.position.offset, size))
        self.size += size
        while self.size > self.sizeMax, let oldest = self.order.popFirst() {
            self.size -= oldest.size
            guard self.partitions[oldest.key]?.first?.position.offset == oldest.offset else { continue }
            self.partitions[oldest.key]?.removeFirst()
        }
    }

    /// Records from `offset` on; `nil` when that is older than what is held.
    func read(_ key: PartitionKey, from offset: Offset, countMax: Int, sizeMax: Int) -> [StoredRecord]? {
        guard let records = self.partitions[key], let first = records.first?.position.offset, offset >= first else {
            return nil
        }
        let skipped = offset.rawValue - first.rawValue
        guard skipped < Int64(records.count) else { return nil }
        var result: [StoredRecord] = []
        var size = 0
        for record in records.dropFirst(Int(skipped)).prefix(countMax) {
            size += record.size
            if size > sizeMax, !result.isEmpty { break }
            result.append(record)
        }
        return result
    }
}
