/// Which cipher suite a TLS server chose, read from the first octets it sends: its hello is in the clear in every version
/// (RFC 8446 §4.1.3, RFC 5246 §7.4.1.3), in records of their own (RFC 8446 §5.1).
///
/// A HelloRetryRequest has the shape of a hello, and the hello after it must name the same suite (RFC 8446 §4.1.4).
/// It only tells: whether the handshake is sound is the TLS library's to say.
public enum ServerHello: Hashable, Sendable {
    case needsMore
    case chosen(CipherSuite)
    /// Not what a TLS server begins with, or more octets before the suite than any needs.
    case malformed

    /// Octets looked at. The suite ends within the first 73 of the handshake's octets.
    public static let countMax = 1_024

    private static let recordHeaderCount = 5
    private static let recordCountMax = 16_384
    private static let alertType: UInt8 = 21
    private static let handshakeType: UInt8 = 22
    private static let serverHelloType: UInt8 = 2
    /// Type, length, version and random come before the length of the session id.
    private static let sessionIDPosition = 1 + 3 + 2 + 32
    private static let sessionIDCountMax: UInt8 = 32

    /// Reads the start of what a server sends, all of it again each time, until the answer is not `needsMore`.
    public static func parse(_ octets: UnsafeRawBufferPointer) -> ServerHello {
        var hello: [UInt8] = []
        var position = 0
        while true {
            if let answer = self.suite(in: hello) { return answer }
            let header = octets[min(position, octets.count)...].prefix(self.recordHeaderCount)
            let type = header.first
            guard type == nil || type == self.handshakeType || type == self.alertType else { return .malformed }
            guard header.dropFirst().first ?? 3 == 3 else { return .malformed }
            guard header.count == self.recordHeaderCount else { return self.more(octets.count) }
            let count = Int(header[header.startIndex + 3]) << 8 | Int(header[header.startIndex + 4])
            guard (1...self.recordCountMax).contains(count) else { return .malformed }
            position += self.recordHeaderCount
            // Warnings may come first (RFC 6066 §3).
            if type == self.handshakeType { hello += octets[position...].prefix(count) }
            position += count
        }
    }

    private static func suite(in hello: [UInt8]) -> ServerHello? {
        guard let type = hello.first else { return nil }
        guard type == self.serverHelloType else { return .malformed }
        guard hello.count > self.sessionIDPosition else { return nil }
        let sessionIDCount = hello[self.sessionIDPosition]
        guard sessionIDCount <= self.sessionIDCountMax else { return .malformed }
        let position = self.sessionIDPosition + 1 + Int(sessionIDCount)
        guard hello.count >= position + 2 else { return nil }
        return .chosen(CipherSuite(rawValue: UInt16(hello[position]) << 8 | UInt16(hello[position + 1])))
    }

    private static func more(_ count: Int) -> ServerHello { count < self.countMax ? .needsMore : .malformed }
}
