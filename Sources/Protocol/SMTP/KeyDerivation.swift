import Digests

/// The slow part of SCRAM: what a password becomes with a server's salt (RFC 5802 §3, `Hi`).
public struct KeyDerivation: Hashable, Sendable {
    let password: String
    let salt: [UInt8]
    let iterations: Int

    /// Takes as long as the server's iteration count wants, tens of milliseconds at most: not for an event loop.
    public func key() -> [UInt8] {
        Digest.pbkdf2SHA256(password: Array(self.password.utf8), salt: self.salt, iterations: self.iterations)
    }
}
