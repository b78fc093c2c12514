/// Chooses the partition of a key: the same on every node, in every version, on every back end (DESIGN §2).
///
/// FNV-1a with a finisher, 64 bits, modulo the partition count. The golden vectors in the tests pin it: a change moves
/// every key of a running cluster.
public struct Partitioner: Sendable {
    public let partitionCount: Int

    public init(partitionCount: Int) {
        precondition(partitionCount > 0)
        self.partitionCount = partitionCount
    }

    public func partition(for key: String) -> Int32 {
        Int32(truncatingIfNeeded: Self.hash(key) % UInt64(self.partitionCount))
    }

    /// 64 bits of the key's UTF-8 octets.
    public static func hash(_ key: String) -> UInt64 {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for octet in key.utf8 {
            hash = (hash ^ UInt64(octet)) &* 0x0000_0100_0000_01b3
        }
        // FNV's low bits mix poorly for short keys; this is the finisher of MurmurHash3.
        hash ^= hash >> 33
        hash = hash &* 0xff51_afd7_ed55_8ccd
        hash ^= hash >> 33
        hash = hash &* 0xc4ce_b9fe_1a85_ec53
        hash ^= hash >> 33
        return hash
    }
}
