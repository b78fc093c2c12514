import ClusterLog
import Foundation

/// A topic and partition in one integer: the topic's number shifted by 16, and the partition.
typealias PartitionKey = Int64

/// The name of a segment's file.
///
/// A segment as written has one number. A compacted one covers a range of numbers and has a generation: it replaces
/// every file that lies within its range and has a lower generation.
struct SegmentName: Hashable, Comparable {
    var first: Int64
    var last: Int64
    var generation: Int64

    init(number: Int64) {
        self.init(first: number, last: number, generation: 0)
    }

    init(first: Int64, last: Int64, generation: Int64) {
        self.first = first
        self.last = last
        self.generation = generation
    }

    init?(file: String) {
        guard file.hasPrefix("segment-"), file.hasSuffix(".db") else { return nil }
        let numbers = file.dropFirst(8).dropLast(3).split(separator: "-", omittingEmptySubsequences: false)
            .map { Int64($0) }
        switch (numbers.count, numbers.first ?? nil, numbers.last ?? nil) {
        case (1, let number?, _) where number >= 0: self.init(number: number)
        case (3, let first?, let generation?):
            guard let last = numbers[1], first >= 0, first <= last, generation > 0 else { return nil }
            self.init(first: first, last: last, generation: generation)
        default: return nil
        }
    }

    var file: String {
        func padded(_ number: Int64) -> String {
            let digits = String(number)
            return String(repeating: "0", count: max(0, 8 - digits.count)) + digits
        }
        if self.generation == 0 { return "segment-\(padded(self.first)).db" }
        return "segment-\(padded(self.first))-\(padded(self.last))-\(self.generation).db"
    }

    func replaces(_ other: SegmentName) -> Bool {
        self.first <= other.first && other.last <= self.last && self.generation > other.generation
    }

    static func < (left: SegmentName, right: SegmentName) -> Bool { left.first < right.first }
}

/// What a file holds of one partition.
struct PartitionRange: Hashable, Sendable {
    var first: Int64
    var end: Int64
    /// Records between them; all there are unless the file was compacted.
    var count: Int64
    /// The last record's timestamp.
    var timestamp: Int64
}

/// A file of records that is no longer appended to.
struct RecordFile: Sendable {
    var path: String
    var ranges: [PartitionKey: PartitionRange]
    var size: Int64
}

/// A segment that is no longer appended to.
struct SealedSegment: Sendable {
    var name: SegmentName
    var file: RecordFile
    /// Monotonic; at start all segments count as just sealed.
    var sealedAt: ContinuousClock.Instant
    var isCheckpointed: Bool
    var keeper: Keeper?
}

/// Sorted, disjoint, non-adjacent ranges of offsets.
struct OffsetRanges: Hashable, Sendable {
    private(set) var ranges: [Range<Int64>] = []

    mutating func insert(_ range: Range<Int64>) {
        guard !range.isEmpty else { return }
        // The first range that ends at or after the start, and the first that begins after the end.
        let low = self.index { $0.upperBound >= range.lowerBound }
        let high = self.index { $0.lowerBound > range.upperBound }
        guard low < high else {
            self.ranges.insert(range, at: low)
            return
        }
        let merged =
            min(range.lowerBound, self.ranges[low].lowerBound)..<max(range.upperBound, self.ranges[high - 1].upperBound)
        self.ranges.replaceSubrange(low..<high, with: CollectionOfOne(merged))
    }

    /// Forgets what lies below.
    mutating func removeAll(below offset: Int64) {
        let keep = self.index { $0.upperBound > offset }
        self.ranges.removeFirst(keep)
    }

    /// What of `range` is not in here.
    func complement(in range: Range<Int64>) -> [Range<Int64>] {
        var result: [Range<Int64>] = []
        var start = range.lowerBound
        for covered in self.ranges[self.index { $0.upperBound > range.lowerBound }...] {
            guard covered.lowerBound < range.upperBound else { break }
            if covered.lowerBound > start { result.append(start..<covered.lowerBound) }
            start = max(start, covered.upperBound)
        }
        if start < range.upperBound { result.append(start..<range.upperBound) }
        return result
    }

    private func index(where isTrue: (Range<Int64>) -> Bool) -> Int {
        var low = 0
        var high = self.ranges.count
        while low < high {
            let middle = (low + high) / 2
            if isTrue(self.ranges[middle]) { high = middle } else { low = middle + 1 }
        }
        return low
    }
}
