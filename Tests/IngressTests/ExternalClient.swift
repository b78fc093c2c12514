import Foundation

/// Programs of others that the tests speak with.
enum ExternalClient {
    struct Result: Sendable {
        let status: Int32
        let output: String
    }

    /// Runs a program to its end, both of its outputs taken together.
    static func run(_ program: String, _ arguments: [String]) async throws -> Result {
        let file = FileManager.default.temporaryDirectory.appendingPathComponent("ingress-\(UUID().uuidString)")
        _ = FileManager.default.createFile(atPath: file.path, contents: nil)
        defer { try? FileManager.default.removeItem(at: file) }
        let handle = try FileHandle(forWritingTo: file)
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = [program] + arguments
        process.standardOutput = handle
        process.standardError = handle
        process.standardInput = FileHandle.nullDevice
        let status: Int32 = try await withCheckedThrowingContinuation { continuation in
            process.terminationHandler = { continuation.resume(returning: $0.terminationStatus) }
            do {
                try process.run()
            } catch {
                continuation.resume(throwing: error)
            }
        }
        try handle.close()
        return Result(status: status, output: String(decoding: try Data(contentsOf: file), as: UTF8.self))
    }

    static func python(_ script: String) async throws -> Result {
        try await self.run("python3", ["-c", script])
    }
}

/// Certificates made for one test run.
struct TestCertificates: Sendable {
    let directory: URL
    var certificate: String { self.directory.appendingPathComponent("cert.pem").path }
    var key: String { self.directory.appendingPathComponent("key.pem").path }
    var clientCertificate: String { self.directory.appendingPathComponent("client.pem").path }
    var clientKey: String { self.directory.appendingPathComponent("client-key.pem").path }

    static let shared = Task { try await TestCertificates() }

    private init() async throws {
        self.directory = FileManager.default.temporaryDirectory.appendingPathComponent("ingress-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: self.directory, withIntermediateDirectories: true)
        let made = [
            try await Self.make("mx.example.net", self.directory, "cert.pem", "key.pem"),
            try await Self.make("client.example", self.directory, "client.pem", "client-key.pem"),
        ]
        guard made.allSatisfy({ $0.status == 0 }) else { throw CocoaError(.fileWriteUnknown) }
    }

    private static func make(
        _ name: String,
        _ directory: URL,
        _ certificate: String,
        _ key: String
    ) async throws -> ExternalClient.Result {
        try await ExternalClient.run(
            "openssl",
            [
                "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                "-subj", "/CN=\(name)", "-addext", "subjectAltName=DNS:\(name)",
                "-keyout", directory.appendingPathComponent(key).path,
                "-out", directory.appendingPathComponent(certificate).path,
            ]
        )
    }
}
