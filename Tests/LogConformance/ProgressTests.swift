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
            ["", "a", "example.net", "gmail.com", "gmail.com#7", "xn--kche-0ra.example"],
            PartitionerTests.golden
        )
    )
    func isPinned(key: String, hash: UInt64) {
        #expect(Partitioner.hash(key) == hash)
        #expect(Partitioner(partitionCount: 64).partition(for: key) == Int32(hash % 64))
    }

    static let golden: [UInt64] = [
        0xefd01f60ba992926, 0x82a2a958a9bece5b, 0x6523ebb4d0cc7ca1, 0x1922af28b2cb0b1d, 0x9fcee525462958bc,
        0x0e0894e95782588c,
    ]

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
