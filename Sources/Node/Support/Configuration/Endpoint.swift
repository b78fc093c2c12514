/// Where to connect or listen: a host and port, or a socket in the file system.
public enum Endpoint: Hashable, Sendable, CustomStringConvertible {
    /// An address without brackets, or a name.
    case host(String, port: Int)
    case unixSocket(path: String)

    public init(host: String, port: Int) {
        self = .host(host, port: port)
    }

    /// Reads `host:port`, `[2001:db8::1]:port`, an address or name alone (with `defaultPort`), or `/a/path`.
    public init?(_ text: String, defaultPort: Int? = nil) {
        if text.utf8.first == UInt8(ascii: "/") {
            // What sockaddr_un holds.
            guard text.utf8.count <= 107 else { return nil }
            self = .unixSocket(path: text)
            return
        }
        let host: Substring
        let portText: Substring?
        if text.utf8.first == UInt8(ascii: "[") {
            guard let close = text.firstIndex(of: "]") else { return nil }
            host = text[text.index(after: text.startIndex)..<close]
            guard host.contains(":"), IPAddress(host) != nil else { return nil }
            let rest = text[text.index(after: close)...]
            guard rest.isEmpty || rest.first == ":" else { return nil }
            portText = rest.isEmpty ? nil : rest.dropFirst()
        } else if IPAddress(text) != nil {
            host = text[...]
            portText = nil
        } else {
            let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            host = parts[0]
            portText = parts.count == 2 ? parts[1] : nil
        }
        guard !host.isEmpty, !host.contains(where: \.isWhitespace), !host.contains("/") else { return nil }
        if let portText {
            guard portText.utf8.allSatisfy({ 0x30...0x39 ~= $0 }), let port = UInt16(portText) else { return nil }
            self = .host(String(host), port: Int(port))
        } else if let defaultPort {
            self = .host(String(host), port: defaultPort)
        } else {
            return nil
        }
    }

    public var description: String {
        switch self {
        case .host(let host, let port):
            host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        case .unixSocket(let path):
            path
        }
    }
}
