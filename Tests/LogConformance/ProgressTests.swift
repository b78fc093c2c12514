import ClusterLog
import Testing

@Suite("Progress and its commit metadata")
struct ProgressTests {
    @Test("Metadata reads back as what was written", arguments: UInt64(0)..<64)
    func roundTrips(seed: UInt64) throws {
        var random = SplitMix64(seed: seed)
        let watermark = Int64.random(in: 0...(1 << 40), using: &random)
        var incomplete: [Offset] = []
        var offset = watermark
        for _ in 0..<Int.random(in: 0...Progress.incompleteCountMax, using: &random) {
            incomplete.append(Offset(offset))
            offset += Int64.random(in: 1...3, using: &random)
        }
        let progress = Progress(watermark: Offset(watermark), end: Offset(offset + 5), incomplete: incomplete)
        #expect(progress.metadata.utf8.count <= Progress.metadataSizeMax)
        #expect(Progress(watermark: Offset(watermark), metadata: progress.metadata) == progress)
        for candidate in watermark..<(offset + 10) {
            let isDone = candidate < offset + 5 && !incomplete.contains(Offset(candidate))
            #expect(progress.isDone(Offset(candidate)) == isDone)
        }
    }

    @Test("In a log that was cut, what was done from its end on is not done")
    func isCut() {
        let progress = Progress(watermark: Offset(5), end: Offset(100), incomplete: [Offset(5), Offset(9), Offset(50)])
        #expect(progress.cut(at: Offset(100)) == progress)
        let left = Progress(watermark: Offset(5), end: Offset(20), incomplete: [Offset(5), Offset(9)])
        #expect(progress.cut(at: Offset(20)) == left)
        #expect(progress.cut(at: Offset(3)) == .upTo(3))
    }

    @Test("Metadata is pinned")
    func isPinned() {
        let progress = Progress(watermark: Offset(100), end: Offset(200), incomplete: [Offset(100), Offset(136)])
        #expect(progress.metadata == "v1;2s:0,10")
        #expect(Progress(watermark: Offset(5)).metadata == "")
    }

    @Test(
        "Malformed metadata is refused, and never traps",
        arguments: [
            "x", "v2;1", "v1;", "v1;-1", "v1;:", "v1;5:", "v1;5:,", "v1;5:5", "v1;5:0,0", "v1;5:1,-1", "v1;5:1,9",
            "v1;1y2p0ij32e8e7", "v1;zzzzzzzzzzzzzz", "v1;5:zzzzzzzzzzzzzz", "v1;5;1", "v1; 5", "v1;+5", "v1;5:+1",
            "v1;5:1:1", "v1;ä",
        ]
    )
    func refuses(_ metadata: String) {
        #expect(Progress(watermark: Offset(Int64.max - 3), metadata: metadata) == nil)
        #expect(Progress(watermark: Offset(10), metadata: metadata) == nil)
    }

    @Test("Random octets never trap", arguments: UInt64(0)..<32)
    func survivesNoise(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        let alphabet = Array("v1;:,+-0159az \u{301}")
        for _ in 0..<500 {
            let text = String(
                (0..<Int.random(in: 0...12, using: &random)).map { _ in alphabet.randomElement(using: &random) ?? "v" }
            )
            for watermark in [Int64.min, -1, 0, Int64.max] {
                _ = Progress(watermark: Offset(watermark), metadata: "v1;" + text)
            }
        }
    }
}

@Suite("Partitioner")
struct PartitionerTests {
    /// A change here moves every key of a running cluster.
    @Test(
        "The hash of a key is pinned",
        arguments: zip(
            ["", "a", "example.net", "gmail.com", "xn--kche-0ra.example"],
            PartitionerTests.golden
        )
    )
    func isPinned(key: String, hash: UInt64) {
        #expect(Partitioner.hash(key) == hash)
        #expect(Partitioner(partitionCount: 64).partition(for: key) == Int32(hash % 64))
    }

    static let golden: [UInt64] = [
        0xefd01f60ba992926, 0x82a2a958a9bece5b, 0x6523ebb4d0cc7ca1, 0x1922af28b2cb0b1d, 0x0e0894e95782588c,
    ]

    /// A change here moves every bucket of a running cluster. Computed by another program from the definition.
    @Test(
        "The partitions of buckets are pinned",
        arguments: [
            (8, [5, 0, 3, 2]), (12, [5, 0, 7, 6]), (64, [29, 4, 43, 46]), (100, [45, 6, 67, 72]),
            (1_024, [797, 404, 11, 94]), (1, [0, 0, 0, 0]),
        ]
    )
    func bucketsArePinned(partitionCount: Int, expected: [Int32]) {
        let partitioner = Partitioner(partitionCount: partitionCount)
        #expect([0, 1, 2, 7].map { partitioner.partition(for: "gmail.com#\($0)") } == expected)
        #expect(partitioner.partition(for: "gmail.com") == expected[0])
    }

    @Test(
        "So many buckets are as many partitions, and any run of partitions has its part",
        arguments: [8, 64, 100, 1_000]
    )
    func bucketsArePlacedEvenly(partitionCount: Int) {
        let partitioner = Partitioner(partitionCount: partitionCount)
        for name in ["gmail.com", "example.net", "a.b.example"] {
            for bucketCount in [1, 2, 4, 8, 16, 32, 64, 128, 512, 1_000] where bucketCount <= partitionCount {
                let partitions = Set((0..<bucketCount).map { partitioner.partition(for: "\(name)#\($0)") })
                #expect(partitions.count == bucketCount)
                let half = partitions.filter { $0 < partitionCount / 2 }.count
                #expect(abs(half - bucketCount / 2) <= max(2, bucketCount / 10), "\(name) \(bucketCount)")
            }
        }
    }

    @Test("Keys spread evenly over partitions", arguments: [8, 12, 64])
    func spreads(partitionCount: Int) {
        let partitioner = Partitioner(partitionCount: partitionCount)
        var counts = Array(repeating: 0, count: partitionCount)
        for number in 0..<(partitionCount * 1_000) {
            counts[Int(partitioner.partition(for: "domain\(number).example"))] += 1
        }
        #expect(counts.allSatisfy { (850...1_150).contains($0) })
    }
}

@Suite("SpreadKey: a name and its bucket")
struct SpreadKeyTests {
    @Test(
        "A key is read back as it was written",
        arguments: [
            "example.net", "[192.0.2.1]", "/run/lmtp#7", "/run/a#12345", "#", "", "a#", "#3", "x#0", "192.0.2.1:25",
        ]
    )
    func roundTrips(name: String) {
        for bucket in [nil, 0, 7, 1_023] {
            let key = SpreadKey(SpreadKey(name: name, bucket: bucket).text)
            #expect(key.name == name)
            #expect(key.bucket ?? 0 == bucket ?? 0)
            #expect(SpreadKey.name(of: SpreadKey(name: name, bucket: bucket).text) == name)
        }
        #expect(SpreadKey(SpreadKey.plain(name)).name == name)
    }

    @Test("Names and buckets that differ have keys that differ", arguments: UInt64(0)..<32)
    func areDistinct(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        let alphabet = Array("a#01")
        var keys: [String: SpreadKey] = [:]
        for _ in 0..<500 {
            let name = String(
                (0..<Int.random(in: 0...5, using: &random)).map { _ in alphabet.randomElement(using: &random) ?? "a" }
            )
            // Bucket 0 and none are the same place.
            let key = SpreadKey(name: name, bucket: Int.random(in: 0...11, using: &random))
            let other = keys.updateValue(key, forKey: key.text)
            #expect(other == nil || other == key)
        }
    }

    @Test("No domain and no message id is taken for a name with a bucket")
    func leavesNamesAlone() {
        for name in ["example.net", "xn--kche-0ra.example", "[192.0.2.1]", "[x:a#3]", "01ARZ3NDEKTSV4RRFFQ69G5FA1"] {
            #expect(SpreadKey(name).bucket == nil)
            #expect(SpreadKey.plain(name) == name)
        }
    }
}

/// Repeats itself from a seed, so that a failing case can be run again.
struct SplitMix64: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) {
        self.state = seed
    }

    mutating func next() -> UInt64 {
        self.state &+= 0x9e37_79b9_7f4a_7c15
        var value = self.state
        value = (value ^ value >> 30) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ value >> 27) &* 0x94d0_49bb_1331_11eb
        return value ^ value >> 31
    }
}
