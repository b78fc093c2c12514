import NIOSSL
public import NodeSupport
import Synchronization

/// The certificate a listener shows, read from its files again on request. Safe from any thread.
final class ListenerCertificate: Sendable {
    private let listener: NodeConfiguration.Listener
    private let files: NodeConfiguration.Listener.TLSFiles
    private let current: Mutex<NIOSSLContext>

    /// - Throws: ``IngressError`` when the files cannot be used.
    init(_ listener: NodeConfiguration.Listener, files: NodeConfiguration.Listener.TLSFiles) throws(IngressError) {
        self.listener = listener
        self.files = files
        self.current = Mutex(try Self.load(listener, files))
    }

    /// For the next connection.
    var context: NIOSSLContext { self.current.withLock { $0 } }

    /// Reads the files again; what cannot be used leaves everything as it was.
    func reload() throws(IngressError) {
        let context = try Self.load(self.listener, self.files)
        self.current.withLock { $0 = context }
    }

    private static func load(
        _ listener: NodeConfiguration.Listener,
        _ files: NodeConfiguration.Listener.TLSFiles
    ) throws(IngressError) -> NIOSSLContext {
        do {
            let chain = try NIOSSLCertificate.fromPEMFile(files.certificateFile)
            let key = try NIOSSLPrivateKey(file: files.keyFile, format: .pem)
            var configuration = TLSConfiguration.makeServerConfiguration(
                certificateChain: chain.map { .certificate($0) },
                privateKey: .privateKey(key)
            )
            configuration.minimumTLSVersion = .tlsv12
            if let clients = listener.clientCertificates {
                configuration.trustRoots = .file(clients.authorityFile)
                configuration.certificateVerification = .optionalVerification
            }
            return try NIOSSLContext(configuration: configuration)
        } catch {
            throw IngressError(reason: "listener \(listener.name): \(files.certificateFile): \(error)")
        }
    }
}

extension IngressServer {
    /// Reads what listeners use for TLS, as a start does. Returns what is wrong, a line each.
    public static func certificateProblems(of configuration: NodeConfiguration) -> [String] {
        configuration.listeners.compactMap { listener in
            guard let files = listener.tls else { return nil }
            do throws(IngressError) {
                _ = try ListenerCertificate(listener, files: files)
                return nil
            } catch {
                return error.reason
            }
        }
    }
}
