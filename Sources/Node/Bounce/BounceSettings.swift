public import NodeSupport

/// What the bounce service is told by the operator.
public struct BounceSettings: Hashable, Sendable {
    /// The name notifications come from.
    public var hostname: String
    /// How long a message is tried, in milliseconds: tells senders of delays until when.
    public var lifetime: Int64
    /// Octets of content a notification returns; of larger content only the header section is returned. Keeps a
    /// notification within one record of the log.
    public var returnedSizeMax = 256 << 10
    /// Octets of a value that the log takes: what goes to `posthorn.dead` is cut to it.
    public var valueSizeMax = 900_000

    public init(hostname: String, lifetime: Int64 = 5 * 86_400_000) {
        self.hostname = hostname
        self.lifetime = lifetime
    }

    public init(_ configuration: NodeConfiguration) {
        let lifetime = configuration.retry.lifetime.components.seconds.multipliedReportingOverflow(by: 1_000)
        self.init(hostname: configuration.hostname, lifetime: lifetime.overflow ? .max : lifetime.partialValue)
    }
}
