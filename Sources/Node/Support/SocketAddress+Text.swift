import NIOCore

extension SocketAddress {
    /// `192.0.2.1:25`, `[2001:db8::1]:25`, or the path.
    public var text: String {
        switch self {
        case .v4: "\(self.ipAddress ?? ""):\(self.port ?? 0)"
        case .v6: "[\(self.ipAddress ?? "")]:\(self.port ?? 0)"
        case .unixDomainSocket: self.pathname ?? ""
        }
    }
}
