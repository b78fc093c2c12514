import Delivery
import Foundation
import Ingress
import NIOCore
import NodeSupport
import SMTP

/// The files that a configuration names, read as a node reads them when it starts.
enum ConfiguredFiles {
    /// What would keep a node from starting, a line each. Nothing is changed.
    static func problems(of configuration: NodeConfiguration) -> [String] {
        var problems = IngressServer.certificateProblems(of: configuration)
        if let path = configuration.credentialsFile {
            problems += problem { _ = try CredentialStore(path: path) }
        }
        for path in Set(configuration.routes.compactMap { $0.authentication?.passwordFile }).sorted() {
            problems += problem { _ = try self.password(inFile: path) }
        }
        problems += problem { _ = try OutboundConfiguration(configuration) }
        // One that is the node's own to make need not be there.
        if let path = configuration.adminTokenFile, FileManager.default.fileExists(atPath: path) {
            problems += problem { _ = try AdminToken.prepare(configuration) }
        }
        return problems
    }

    /// The password of a route: its file's first line.
    static func password(inFile path: String) throws -> String {
        let password: String
        do {
            password = try firstLine(ofFile: path)
        } catch {
            throw Failure("routes.auth.password-file: \(path) cannot be read: \(error)")
        }
        guard !password.isEmpty else {
            throw Failure("routes.auth.password-file: \(path) has no password in its first line")
        }
        return password
    }

    private struct Failure: Error, CustomStringConvertible {
        let description: String

        init(_ description: String) { self.description = description }
    }
}

extension OutboundConfiguration {
    /// - Throws: when the trusted certificates cannot be used.
    init(_ configuration: NodeConfiguration) throws {
        let delivery = configuration.delivery
        try self.init(
            name: configuration.hostname,
            timeouts: ClientTimeouts(configuration.timeouts.client),
            sourceAddresses: try delivery.sourceAddresses.map { try SocketAddress(ipAddress: $0.description, port: 0) },
            trustedCertificatesFile: delivery.trustedCertificatesFile
        )
    }
}

extension ClientTimeouts {
    fileprivate init(_ configured: NodeConfiguration.Timeouts.Client) {
        self.init()
        self.connect = configured.connect
        self.tlsHandshake = configured.tlsHandshake
        self.banner = configured.greeting
        self.hello = configured.hello
        self.mail = configured.mail
        self.recipient = configured.recipient
        self.data = configured.dataInitiation
        self.contentBlock = configured.dataBlock
        self.finalDot = configured.dataTermination
        self.reset = configured.reset
        self.quit = configured.quit
    }
}
