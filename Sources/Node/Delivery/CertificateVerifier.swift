import COpenSSL
import NIOSSL
import Synchronization

/// Decides whether a certificate speaks for a host, and says why not (RFC 5280 §6, RFC 9525).
///
/// OpenSSL judges rather than NIOSSL, which gives no reason for a refusal. Safe from any thread.
public final class CertificateVerifier: Sendable {
    public struct LoadFailure: Error, CustomStringConvertible {
        public var description: String
    }

    private let file: String?
    private let store: Mutex<Store>

    /// - Parameter file: the authorities to trust, in PEM; `nil` is the system's.
    /// - Throws: ``LoadFailure`` when they cannot be read.
    public init(trustedCertificatesFile file: String? = nil) throws(LoadFailure) {
        self.file = file
        self.store = Mutex(try Store(file))
    }

    /// Reads the authorities again; when they cannot be read, those of before stay.
    public func reload() throws(LoadFailure) {
        let store = try Store(self.file)
        self.store.withLock { $0 = store }
    }

    /// Why the certificate is not accepted for the host, as the end of a sentence; `nil` when it is.
    ///
    /// - Parameters:
    ///   - chain: the host's own certificate first, as the peer sent them.
    ///   - host: a name or an address, which the certificate must contain.
    ///   - time: seconds since 1970; `nil` is now.
    func refusal(of chain: [NIOSSLCertificate], host: String, at time: Int? = nil) -> String? {
        let certificates = chain.compactMap(Self.certificate)
        defer { for certificate in certificates { X509_free(certificate) } }
        guard let own = certificates.first, certificates.count == chain.count else {
            return "the server's certificate cannot be read"
        }
        let store = self.store.withLock { $0 }
        guard let others = OPENSSL_sk_new_null(), let context = X509_STORE_CTX_new() else { return "memory is short" }
        defer {
            X509_STORE_CTX_free(context)
            OPENSSL_sk_free(others)
        }
        for certificate in certificates.dropFirst() { OPENSSL_sk_push(others, UnsafeRawPointer(certificate)) }
        guard X509_STORE_CTX_init(context, store.pointer, own, others) == 1,
            X509_STORE_CTX_set_default(context, "ssl_server") == 1,
            let parameters = X509_STORE_CTX_get0_param(context), Self.expect(host, in: parameters)
        else { return "its name cannot be compared with the certificate" }
        if let time { X509_VERIFY_PARAM_set_time(parameters, time) }
        if X509_verify_cert(context) == 1 { return nil }
        return Self.text(X509_STORE_CTX_get_error(context))
    }

    private static func expect(_ host: String, in parameters: OpaquePointer) -> Bool {
        if X509_VERIFY_PARAM_set1_ip_asc(parameters, host) == 1 { return true }
        X509_VERIFY_PARAM_set_hostflags(parameters, UInt32(X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS))
        return X509_VERIFY_PARAM_set1_host(parameters, host, host.utf8.count) == 1
    }

    private static func certificate(_ certificate: NIOSSLCertificate) -> OpaquePointer? {
        guard let octets = try? certificate.toDERBytes() else { return nil }
        return octets.withUnsafeBufferPointer { buffer in
            var start = buffer.baseAddress
            return d2i_X509(nil, &start, buffer.count)
        }
    }

    private static func text(_ error: Int32) -> String {
        switch error {
        case X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH:
            "the server's certificate is for another name"
        case X509_V_ERR_CERT_HAS_EXPIRED:
            "the server's certificate has expired"
        case X509_V_ERR_CERT_NOT_YET_VALID:
            "the server's certificate is not valid yet"
        case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN,
            X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
            X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE, X509_V_ERR_CERT_UNTRUSTED:
            "the server's certificate is of an authority that is not trusted"
        default:
            "the server's certificate is not accepted: \(String(cString: X509_verify_cert_error_string(Int(error))))"
        }
    }
}

/// An `X509_STORE`.
///
/// `@unchecked Sendable`: it is not changed after it was filled, and OpenSSL locks it inside for reading.
private final class Store: @unchecked Sendable {
    let pointer: OpaquePointer

    init(_ file: String?) throws(CertificateVerifier.LoadFailure) {
        guard let pointer = X509_STORE_new() else {
            throw CertificateVerifier.LoadFailure(description: "there is no memory for certificates")
        }
        self.pointer = pointer
        let isLoaded = file.map { X509_STORE_load_file(pointer, $0) } ?? X509_STORE_set_default_paths(pointer)
        guard isLoaded == 1 else {
            let place = file ?? "the system's store"
            throw CertificateVerifier.LoadFailure(description: "no certificates can be read from \(place)")
        }
    }

    deinit { X509_STORE_free(self.pointer) }
}

/// Why a handshake failed, as the end of a sentence.
enum HandshakeFailure {
    static func text(_ error: (any Error)?) -> String {
        guard let error else { return "the connection was lost in the handshake" }
        if let error = error as? NIOSSLExtraError, error == .failedToValidateHostname {
            return "the server's certificate is for another name"
        }
        guard case .handshakeFailed(let cause)? = error as? NIOSSLError else { return "the handshake failed" }
        switch cause {
        case .sslError(let errors), .unknownError(let errors), .invalidSNIName(let errors),
            .failedToSetALPN(let errors):
            if errors.first == .eofDuringHandshake { return self.text(nil) }
            return errors.first.flatMap(self.words).map { "the handshake failed: \($0)" } ?? "the handshake failed"
        case .noError, .zeroReturn, .wantRead, .wantWrite, .wantConnect, .wantAccept, .wantX509Lookup,
            .wantCertificateVerify, .syscallError:
            return "the handshake failed"
        }
    }

    /// `WRONG_VERSION_NUMBER` of `error:100000f7:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER at file:1`.
    private static func words(_ error: BoringSSLInternalError) -> String? {
        guard let marker = error.description.firstRange(of: "OPENSSL_internal:") else { return nil }
        let name = error.description[marker.upperBound...].prefix { $0 != " " && $0 != ":" }
        return name.isEmpty ? nil : name.lowercased().replacing("_", with: " ")
    }
}
