import Foundation
import Glibc
import Testing

/// A name server of the test's own on loopback, with the zones that the tests ask about.
final class UnboundServer {
    struct StartFailure: Error {
        var explanation: String
    }

    /// Whether the daemon's tests run. Its absence is a failure unless someone said otherwise.
    static var isEnabled: Bool { ProcessInfo.processInfo.environment["POSTHORN_TEST_SKIP_DNS"] == nil }

    let port: UInt16
    private let process = Process()
    private let directory: URL

    /// Returns once the daemon serves.
    init() throws {
        let free = try LoopbackSocket()
        let closed = try LoopbackSocket()
        self.port = free.port
        self.directory = FileManager.default.temporaryDirectory.appending(path: "posthorn-unbound-\(UUID())")
        try FileManager.default.createDirectory(at: self.directory, withIntermediateDirectories: true)
        let file = self.directory.appending(path: "unbound.conf")
        try Self.configuration(port: free.port, closedPort: closed.port, directory: self.directory.path)
            .write(to: file, atomically: true, encoding: .utf8)
        free.close()
        closed.close()

        let output = Pipe()
        self.process.executableURL = URL(filePath: "/usr/sbin/unbound")
        self.process.arguments = ["-d", "-c", file.path]
        self.process.standardError = output
        try self.process.run()
        var text = ""
        while !text.contains("start of service") {
            let data = output.fileHandleForReading.availableData
            guard !data.isEmpty else { throw StartFailure(explanation: text) }
            text += String(decoding: data, as: UTF8.self)
        }
    }

    deinit {
        self.process.terminate()
        self.process.waitUntilExit()
        try? FileManager.default.removeItem(at: self.directory)
    }

    private static func configuration(port: UInt16, closedPort: UInt16, directory: String) -> String {
        let many = (0..<120)
            .map { index in
                #"    local-data: "many.posthorn.example. 300 IN MX \#(index) a-rather-long-host-name-\#(index).mail.example.""#
            }
        return """
            server:
                interface: 127.0.0.1
                port: \(port)
                directory: "\(directory)"
                chroot: ""
                username: ""
                pidfile: ""
                use-syslog: no
                logfile: ""
                verbosity: 1
                num-threads: 1
                module-config: "iterator"
                do-not-query-localhost: no
                access-control: 127.0.0.0/8 allow
                local-zone: "posthorn.example." static
                local-data: "posthorn.example. 300 IN SOA ns.posthorn.example. root.posthorn.example. 1 2 3 4 60"
                local-data: "mail.posthorn.example. 300 IN MX 20 mx3.posthorn.example."
                local-data: "mail.posthorn.example. 300 IN MX 10 mx1.posthorn.example."
                local-data: "mail.posthorn.example. 300 IN MX 10 mx2.posthorn.example."
                local-data: "mx1.posthorn.example. 300 IN A 192.0.2.1"
                local-data: "mx1.posthorn.example. 300 IN A 192.0.2.2"
                local-data: "mx1.posthorn.example. 300 IN AAAA 2001:db8::1"
                local-data: "mx2.posthorn.example. 300 IN CNAME alias.posthorn.example."
                local-data: "alias.posthorn.example. 300 IN CNAME mx1.posthorn.example."
                local-data: "null.posthorn.example. 300 IN MX 0 ."
                local-data: "implicit.posthorn.example. 300 IN A 192.0.2.9"
                local-data: "bare.posthorn.example. 300 IN TXT bare"
                local-data: 'spf.posthorn.example. 300 IN TXT "v=spf1 " "-all"'
                local-data: "_25._tcp.mx1.posthorn.example. 300 IN TLSA 3 1 1 \(String(repeating: "ab", count: 32))"
                local-data: "loop.posthorn.example. 300 IN CNAME loop2.posthorn.example."
                local-data: "loop2.posthorn.example. 300 IN CNAME loop.posthorn.example."
            \(many.joined(separator: "\n"))
                local-zone: "refused.example." refuse
                local-zone: "silent.example." deny
                local-zone: "bogus.example." static
                local-data: "bogus.example. 300 IN MX 10 mx1.posthorn.example."
            forward-zone:
                name: "servfail.example."
                forward-addr: 127.0.0.1@\(closedPort)
            """
    }
}

/// A UDP port of loopback's that nobody else has; while open, it swallows what is sent to it.
final class LoopbackSocket {
    let port: UInt16
    private var descriptor: Int32

    init() throws {
        self.descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let descriptor = self.descriptor
        let status = withUnsafeMutablePointer(to: &address) { address in
            address.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                bind(descriptor, address, size) == 0 ? getsockname(descriptor, address, &size) : -1
            }
        }
        self.port = UInt16(bigEndian: address.sin_port)
        guard status == 0 else { throw UnboundServer.StartFailure(explanation: "no loopback socket: errno \(errno)") }
    }

    func close() {
        guard self.descriptor >= 0 else { return }
        Glibc.close(self.descriptor)
        self.descriptor = -1
    }

    deinit {
        self.close()
    }
}
