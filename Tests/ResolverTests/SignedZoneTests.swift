import DNS
import Foundation
import Logging
import Mail
import Testing

@testable import Resolver

/// Goal: what DANE and its like will rest on: `isSecure` says that DNSSEC proved an answer, and nothing else does.
/// Method: a real name server with a zone that ldns-signzone signed, and its key as the trust anchor.
@Suite("UnboundResolver and DNSSEC", .enabled(if: UnboundServer.isEnabled))
struct SignedZoneTests {
    private static let zone = """
        $ORIGIN signed.example.
        $TTL 300
        @ IN SOA ns.signed.example. root.signed.example. 1 3600 600 86400 60
        @ IN NS ns
        ns IN A 127.0.0.1
        @ IN MX 10 mx1
        mx1 IN A 192.0.2.1
        _25._tcp.mx1 IN TLSA 3 1 1 \(String(repeating: "ab", count: 32))

        """

    @Test("Signed answers and signed absence are secure; the same zone without our trust is not")
    func provesSignedAnswers() async throws {
        let server = try SignedZoneServer(zone: Self.zone)
        let resolver = try server.resolver(trusting: true)
        let set = try await resolver.mailExchangers(for: Domain(normalized: "signed.example")).get()
        #expect(set.isSecure)
        #expect(set.exchangers.map(\.host) == [.name("mx1.signed.example")])
        let host = DNSName("mx1.signed.example")
        #expect(try await resolver.addresses(of: host).get().addresses.map(\.description) == ["192.0.2.1"])
        let tlsa = await resolver.tlsa(of: host)
        #expect(tlsa.isSecure && tlsa.records.count == 1)
        let absent = await resolver.tlsa(of: DNSName("mx2.signed.example"))
        #expect(absent.isSecure && absent.outcome == .nxDomain)
        await resolver.shutdown()

        let indifferent = try server.resolver(trusting: false)
        let unproven = try await indifferent.mailExchangers(for: Domain(normalized: "signed.example")).get()
        #expect(!unproven.isSecure && unproven.exchangers.count == 1)
        await indifferent.shutdown()
    }

    @Test("A signed answer that was changed on its way is bogus, which is temporary")
    func detectsForgery() async throws {
        let server = try SignedZoneServer(zone: Self.zone) { $0.replacing("192.0.2.1", with: "192.0.2.66") }
        let resolver = try server.resolver(trusting: true)
        let host = DNSName("mx1.signed.example")
        let answer = await resolver.lookup(IPv4Address.self, of: host)
        guard case .bogus = answer.failure else {
            Issue.record("The answer is \(answer.outcome)")
            return
        }
        #expect(!answer.isSecure)
        #expect(try await resolver.mailExchangers(for: Domain(normalized: "signed.example")).get().isSecure)
        await resolver.shutdown()
    }
}

/// A name server of the test's own with one signed zone.
private final class SignedZoneServer {
    private let process = Process()
    private let directory: URL
    private let port: UInt16
    private let anchor: String

    /// - Parameter forge: changes the zone after it was signed.
    init(zone: String, forge: (String) -> String = { $0 }) throws {
        self.directory = FileManager.default.temporaryDirectory.appending(path: "posthorn-signed-\(UUID())")
        try FileManager.default.createDirectory(at: self.directory, withIntermediateDirectories: true)
        let file = self.directory.appending(path: "zone")
        try zone.write(to: file, atomically: true, encoding: .utf8)
        let arguments = ["-a", "ECDSAP256SHA256", "-k", "-r", "/dev/urandom", "signed.example"]
        let key = try Self.run("ldns-keygen", arguments, in: self.directory)
            .trimmingCharacters(in: .whitespacesAndNewlines)
        _ = try Self.run("ldns-signzone", ["-f", "signed", "-n", "zone", key], in: self.directory)
        let signed = self.directory.appending(path: "signed")
        try forge(String(contentsOf: signed, encoding: .utf8)).write(to: signed, atomically: true, encoding: .utf8)
        self.anchor = self.directory.appending(path: key + ".key").path

        let free = try LoopbackSocket()
        self.port = free.port
        let configuration = self.directory.appending(path: "unbound.conf")
        try """
        server:
            interface: 127.0.0.1
            port: \(free.port)
            directory: "\(self.directory.path)"
            chroot: ""
            username: ""
            pidfile: ""
            use-syslog: no
            logfile: ""
            verbosity: 1
            num-threads: 1
            module-config: "iterator"
            access-control: 127.0.0.0/8 allow
        auth-zone:
            name: "signed.example."
            zonefile: "signed"
            for-downstream: yes
            for-upstream: no
            fallback-enabled: no
        """
        .write(to: configuration, atomically: true, encoding: .utf8)
        free.close()
        let output = Pipe()
        self.process.executableURL = URL(filePath: "/usr/sbin/unbound")
        self.process.arguments = ["-d", "-c", configuration.path]
        self.process.standardError = output
        try self.process.run()
        var text = ""
        while !text.contains("start of service") {
            let data = output.fileHandleForReading.availableData
            guard !data.isEmpty else { throw UnboundServer.StartFailure(explanation: text) }
            text += String(decoding: data, as: UTF8.self)
        }
    }

    deinit {
        self.process.terminate()
        self.process.waitUntilExit()
        try? FileManager.default.removeItem(at: self.directory)
    }

    func resolver(trusting: Bool) throws -> UnboundResolver {
        try makeResolver(port: self.port) { if trusting { $0.trustAnchorFile = self.anchor } }
    }

    private static func run(_ program: String, _ arguments: [String], in directory: URL) throws -> String {
        let process = Process()
        let output = Pipe()
        process.executableURL = URL(filePath: "/usr/bin/\(program)")
        process.arguments = arguments
        process.currentDirectoryURL = directory
        process.standardOutput = output
        try process.run()
        let data = output.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else {
            throw UnboundServer.StartFailure(explanation: "\(program) ended with \(process.terminationStatus)")
        }
        return String(decoding: data, as: UTF8.self)
    }
}
