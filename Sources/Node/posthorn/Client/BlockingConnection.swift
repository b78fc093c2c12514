import NodeSupport

#if canImport(Glibc)
import Glibc
#endif

/// A stream socket for the short-lived commands: they have one thing to do, and wait for it.
final class BlockingConnection {
    struct Failure: Error, CustomStringConvertible {
        var description: String
    }

    let descriptor: Int32
    private var buffer: [UInt8] = []
    private var position = 0

    /// Connects to the first address of the host that answers.
    init(_ endpoint: Endpoint, timeoutSeconds: Int) throws(Failure) {
        switch endpoint {
        case .unixSocket(let path):
            self.descriptor = try Self.connect(path: path)
        case .host(let host, let port):
            self.descriptor = try Self.connect(host: host, port: port, timeoutSeconds: timeoutSeconds)
        }
        Self.setTimeout(self.descriptor, timeoutSeconds)
        // A peer that goes away is an error of the write, not the end of the process.
        signal(SIGPIPE, SIG_IGN)
    }

    deinit {
        close(self.descriptor)
    }

    private static func setTimeout(_ descriptor: Int32, _ seconds: Int) {
        var timeout = timeval(tv_sec: seconds, tv_usec: 0)
        let size = socklen_t(MemoryLayout<timeval>.size)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, size)
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &timeout, size)
    }

    private static func connect(host: String, port: Int, timeoutSeconds: Int) throws(Failure) -> Int32 {
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        let result = getaddrinfo(host, "\(port)", &hints, &list)
        guard result == 0, let list else {
            throw Failure(description: "\(host) cannot be resolved: \(String(cString: gai_strerror(result)))")
        }
        defer { freeaddrinfo(list) }
        var reason = "no address"
        var next: UnsafeMutablePointer<addrinfo>? = list
        while let entry = next?.pointee {
            next = entry.ai_next
            let descriptor = socket(entry.ai_family, entry.ai_socktype, entry.ai_protocol)
            guard descriptor >= 0 else {
                reason = Self.errorText()
                continue
            }
            Self.setTimeout(descriptor, timeoutSeconds)
            if Glibc.connect(descriptor, entry.ai_addr, entry.ai_addrlen) == 0 { return descriptor }
            reason = Self.errorText()
            close(descriptor)
        }
        throw Failure(description: "\(Endpoint(host: host, port: port)) cannot be reached: \(reason)")
    }

    private static func connect(path: String) throws(Failure) -> Int32 {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        guard descriptor >= 0 else { throw Failure(description: Self.errorText()) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { target in
            target.copyBytes(from: Array(path.utf8).prefix(target.count - 1))
        }
        let result = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        guard result == 0 else {
            let reason = Self.errorText()
            close(descriptor)
            throw Failure(description: "\(path) cannot be reached: \(reason)")
        }
        return descriptor
    }

    private static func errorText() -> String {
        errno == EAGAIN || errno == EINPROGRESS ? "it did not answer in time" : String(cString: strerror(errno))
    }

    func write(_ octets: [UInt8]) throws(Failure) {
        var written = 0
        while written < octets.count {
            let count = octets.withUnsafeBytes { bytes in
                bytes.baseAddress.map { send(self.descriptor, $0 + written, octets.count - written, 0) } ?? 0
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw Failure(description: "the connection broke: \(Self.errorText())") }
            written += count
        }
    }

    /// The next octets, none at the end.
    func readSome() throws(Failure) -> [UInt8] {
        if self.position < self.buffer.count {
            defer { self.position = self.buffer.count }
            return Array(self.buffer[self.position...])
        }
        var chunk = [UInt8](repeating: 0, count: 16384)
        while true {
            let count = chunk.withUnsafeMutableBytes { recv(self.descriptor, $0.baseAddress, $0.count, 0) }
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw Failure(description: "no answer: \(Self.errorText())") }
            return Array(chunk.prefix(count))
        }
    }

    /// The next line without its end; `nil` at the end of the stream.
    func readLine(sizeMax: Int = 8192) throws(Failure) -> String? {
        while true {
            if let end = self.buffer[self.position...].firstIndex(of: 0x0a) {
                var line = self.buffer[self.position..<end]
                if line.last == 0x0d { line = line.dropLast() }
                self.position = end + 1
                return String(decoding: line, as: UTF8.self)
            }
            var rest = Array(self.buffer[self.position...])
            guard rest.count <= sizeMax else { throw Failure(description: "the peer sent a line without end") }
            self.position = self.buffer.count
            let more = try self.readSome()
            if more.isEmpty { return nil }
            rest += more
            self.buffer = rest
            self.position = 0
        }
    }
}
