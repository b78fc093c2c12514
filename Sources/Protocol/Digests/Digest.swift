import COpenSSL

/// The digests the relay needs, computed by OpenSSL.
///
/// Every function takes any octets, empty ones included, and cannot fail on its input.
public enum Digest {
    /// Octets in a SHA-256 digest.
    public static let sha256Size = 32

    /// SHA-256 (FIPS 180-4).
    public static func sha256(_ octets: UnsafeRawBufferPointer) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: self.sha256Size) { out, count in
            Self.sha256(octets, into: UnsafeMutableRawBufferPointer(out))
            count = self.sha256Size
        }
    }

    /// SHA-256 (FIPS 180-4).
    public static func sha256(_ octets: some Collection<UInt8>) -> [UInt8] {
        withOctets(of: octets) { self.sha256($0) }
    }

    /// HMAC-SHA-256 (RFC 2104).
    public static func hmacSHA256(key: some Collection<UInt8>, message: some Collection<UInt8>) -> [UInt8] {
        withOctets(of: key) { key in
            withOctets(of: message) { message in
                [UInt8](unsafeUninitializedCapacity: self.sha256Size) { out, count in
                    var written: UInt32 = 0
                    // A null key means "the key of last time" to OpenSSL, an empty one is wanted here.
                    var nothing: UInt8 = 0
                    let result = withUnsafePointer(to: &nothing) { nothing in
                        HMAC(
                            EVP_sha256(),
                            key.baseAddress ?? UnsafeRawPointer(nothing),
                            Int32(key.count),
                            message.baseAddress?.assumingMemoryBound(to: UInt8.self) ?? nothing,
                            message.count,
                            out.baseAddress,
                            &written
                        )
                    }
                    precondition(result != nil && written == UInt32(self.sha256Size), "HMAC failed.")
                    count = self.sha256Size
                }
            }
        }
    }

    /// PBKDF2 with HMAC-SHA-256 (RFC 8018 §5.2). Slow on purpose: not for an event loop.
    ///
    /// - Parameters:
    ///   - iterations: at least 1.
    ///   - size: octets of key wanted.
    public static func pbkdf2SHA256(
        password: some Collection<UInt8>,
        salt: some Collection<UInt8>,
        iterations: Int,
        size: Int = Digest.sha256Size
    ) -> [UInt8] {
        precondition(iterations >= 1 && iterations <= Int(Int32.max) && size >= 1)
        return withOctets(of: password) { password in
            withOctets(of: salt) { salt in
                [UInt8](unsafeUninitializedCapacity: size) { out, count in
                    var nothing: CChar = 0
                    let result = withUnsafePointer(to: &nothing) { nothing in
                        PKCS5_PBKDF2_HMAC(
                            password.baseAddress?.assumingMemoryBound(to: CChar.self) ?? nothing,
                            Int32(password.count),
                            salt.baseAddress?.assumingMemoryBound(to: UInt8.self),
                            Int32(salt.count),
                            Int32(iterations),
                            EVP_sha256(),
                            Int32(size),
                            out.baseAddress
                        )
                    }
                    precondition(result == 1, "PBKDF2 failed.")
                    count = size
                }
            }
        }
    }

    /// Whether both hold the same octets, in a time that depends on their length alone.
    public static func constantTimeEquals(_ left: some Collection<UInt8>, _ right: some Collection<UInt8>) -> Bool {
        guard left.count == right.count else { return false }
        var difference: UInt8 = 0
        for (one, other) in zip(left, right) {
            difference |= one ^ other
        }
        return difference == 0
    }

    static func sha256(_ octets: UnsafeRawBufferPointer, into out: UnsafeMutableRawBufferPointer) {
        precondition(out.count >= self.sha256Size)
        var nothing: UInt8 = 0
        let result = withUnsafePointer(to: &nothing) { nothing in
            EVP_Digest(
                octets.baseAddress ?? UnsafeRawPointer(nothing),
                octets.count,
                out.baseAddress?.assumingMemoryBound(to: UInt8.self),
                nil,
                Algorithm.sha256.pointer,
                nil
            )
        }
        precondition(result == 1, "SHA-256 failed.")
    }

    private static func withOctets<Result>(
        of octets: some Collection<UInt8>,
        _ body: (UnsafeRawBufferPointer) -> Result
    ) -> Result {
        octets.withContiguousStorageIfAvailable { body(UnsafeRawBufferPointer($0)) }
            ?? Array(octets).withUnsafeBytes(body)
    }
}

/// An algorithm fetched once: `EVP_sha256()` makes OpenSSL 3 look the provider up at every use.
///
/// `Sendable` because a fetched `EVP_MD` is immutable and counted atomically; it is never freed.
struct Algorithm: @unchecked Sendable {
    let pointer: OpaquePointer?

    static let sha256 = Algorithm(pointer: EVP_MD_fetch(nil, "SHA256", nil) ?? EVP_sha256())
}
