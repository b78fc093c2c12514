/// Chooses the partition of a key: the same on every node, in every version, on every back end (DESIGN §2).
///
/// FNV-1a with a finisher, 64 bits, modulo the partition count. The buckets of a name (``SpreadKey``) follow from its
/// own partition at equal distances, so that any number of them, up to the partition count, are as many partitions,
/// evenly placed: hashing each would put three or four of 64 on one partition and none on a third of them (ADR 0011).
/// The golden vectors in the tests pin both: a change moves every key of a running cluster.
public struct Partitioner: Sendable {
    public let partitionCount: Int
    /// From one bucket of a name to the next; has no divisor in common with the partition count.
    private let stride: UInt64

    public init(partitionCount: Int) {
        precondition(partitionCount > 0)
        self.partitionCount = partitionCount
        self.stride = Self.stride(UInt64(partitionCount))
    }

    public func partition(for key: String) -> Int32 {
        let count = UInt64(self.partitionCount)
        let octets = key.utf8
        guard let (end, bucket) = SpreadKey.suffix(of: octets) else {
            return Int32(truncatingIfNeeded: Self.hash(octets) % count)
        }
        let first = Self.hash(octets[..<end]) % count
        return Int32(truncatingIfNeeded: (first + UInt64(bucket) * self.stride) % count)
    }

    /// 64 bits of the key's UTF-8 octets.
    public static func hash(_ key: String) -> UInt64 {
        Self.hash(key.utf8)
    }

    /// The same for 128 bits, such as an id's.
    public static func hash(_ high: UInt64, _ low: UInt64) -> UInt64 {
        Self.finished(low ^ Self.finished(high))
    }

    private static func hash(_ octets: some Sequence<UInt8>) -> UInt64 {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for octet in octets {
            hash = (hash ^ UInt64(octet)) &* 0x0000_0100_0000_01b3
        }
        // FNV's low bits mix poorly for short keys.
        return Self.finished(hash)
    }

    /// Every bit of the result depends on every bit of the value: the finisher of MurmurHash3.
    private static func finished(_ value: UInt64) -> UInt64 {
        var hash = value
        hash ^= hash >> 33
        hash = hash &* 0xff51_afd7_ed55_8ccd
        hash ^= hash >> 33
        hash = hash &* 0xc4ce_b9fe_1a85_ec53
        hash ^= hash >> 33
        return hash
    }

    /// The whole number nearest to the golden section of `count`, from below, that has no divisor in common with it:
    /// multiples of it fill the partitions evenly however many are taken.
    private static func stride(_ count: UInt64) -> UInt64 {
        var stride = count * 618 / 1_000
        while stride > 1, Self.greatestCommonDivisor(stride, count) != 1 { stride -= 1 }
        return max(stride, 1)
    }

    private static func greatestCommonDivisor(_ left: UInt64, _ right: UInt64) -> UInt64 {
        right == 0 ? left : Self.greatestCommonDivisor(right, left % right)
    }
}
