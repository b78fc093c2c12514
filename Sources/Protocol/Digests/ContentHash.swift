import COpenSSL

/// 128 bits that identify content: the first 16 octets of its SHA-256.
public struct ContentHash: Hashable, Sendable, CustomStringConvertible {
    public let high: UInt64
    public let low: UInt64

    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// The hash of octets that are all at hand.
    public init(of octets: UnsafeRawBufferPointer) {
        self = withUnsafeTemporaryAllocation(byteCount: Digest.sha256Size, alignment: 8) { out in
            Digest.sha256(octets, into: out)
            return ContentHash(digest: UnsafeRawBufferPointer(out))
        }
    }

    init(digest: UnsafeRawBufferPointer) {
        self.high = UInt64(bigEndian: digest.loadUnaligned(fromByteOffset: 0, as: UInt64.self))
        self.low = UInt64(bigEndian: digest.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
    }

    /// 32 hexadecimal digits.
    public var description: String {
        let digits = Array("0123456789abcdef".utf8)
        return String(unsafeUninitializedCapacity: 32) { out in
            for index in 0..<16 {
                out[index] = digits[Int(self.high >> UInt64(60 - 4 * index) & 15)]
                out[index + 16] = digits[Int(self.low >> UInt64(60 - 4 * index) & 15)]
            }
            return 32
        }
    }
}

/// Computes a ``ContentHash`` over octets that arrive in pieces.
///
/// `Sendable` because it is not copyable: the one owner is the only one who reaches the context.
public struct ContentHasher: ~Copyable, @unchecked Sendable {
    private let context: OpaquePointer

    public init() {
        guard let context = EVP_MD_CTX_new() else { preconditionFailure("Out of memory.") }
        self.context = context
        self.restart()
    }

    deinit {
        EVP_MD_CTX_free(self.context)
    }

    public mutating func update(_ octets: UnsafeRawBufferPointer) {
        guard octets.count > 0 else { return }
        precondition(EVP_DigestUpdate(self.context, octets.baseAddress, octets.count) == 1, "SHA-256 failed.")
    }

    /// Returns the hash of what came since the last call, and starts anew.
    public mutating func finish() -> ContentHash {
        let hash = withUnsafeTemporaryAllocation(byteCount: Digest.sha256Size, alignment: 8) { out in
            let result = EVP_DigestFinal_ex(self.context, out.baseAddress?.assumingMemoryBound(to: UInt8.self), nil)
            precondition(result == 1, "SHA-256 failed.")
            return ContentHash(digest: UnsafeRawBufferPointer(out))
        }
        self.restart()
        return hash
    }

    private func restart() {
        precondition(EVP_DigestInit_ex(self.context, Algorithm.sha256.pointer, nil) == 1, "SHA-256 failed.")
    }
}
