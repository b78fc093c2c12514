public import NIOCore
import TransportPolicy

/// Sees which cipher suite a connection's TLS server chose, since the TLS library has no way to ask for it.
///
/// It stands between the socket and the TLS handler, looks at what the server sends until that tells the suite, and then
/// leaves the pipeline. Nothing that passes is changed or kept back.
public final class CipherObserver: ChannelDuplexHandler, RemovableChannelHandler {
    public typealias InboundIn = ByteBuffer
    public typealias OutboundIn = ByteBuffer

    /// Who this node is in the handshake.
    public enum Role: Sendable {
        case client
        case server
    }

    /// IANA's name: `TLS_AES_256_GCM_SHA384`. `nil` until the server has chosen.
    public private(set) var cipherSuite: String?

    private let role: Role
    private var octets = ByteBuffer()
    private var isDecided = false

    public init(_ role: Role) {
        self.role = role
    }

    public func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        if self.role == .client { self.observe(Self.unwrapInboundIn(data)) }
        context.fireChannelRead(data)
    }

    public func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        if self.role == .server { self.observe(Self.unwrapOutboundIn(data)) }
        context.write(data, promise: promise)
    }

    public func channelReadComplete(context: ChannelHandlerContext) {
        context.fireChannelReadComplete()
        if self.role == .client { self.leaveIfDecided(context) }
    }

    /// Not in the write: a flush that comes with it would be lost.
    public func flush(context: ChannelHandlerContext) {
        context.flush()
        if self.role == .server { self.leaveIfDecided(context) }
    }

    /// Before the TLS handler gets the octets, so that the suite is known when its handshake is complete.
    private func observe(_ buffer: ByteBuffer) {
        guard !self.isDecided else { return }
        var seen = buffer
        if let slice = seen.readSlice(length: min(seen.readableBytes, ServerHello.countMax)) {
            self.octets.writeImmutableBuffer(slice)
        }
        switch self.octets.withUnsafeReadableBytes({ ServerHello.parse($0) }) {
        case .needsMore: return
        case .malformed: break
        case .chosen(let suite): self.cipherSuite = suite.description
        }
        self.isDecided = true
        self.octets = ByteBuffer()
    }

    private func leaveIfDecided(_ context: ChannelHandlerContext) {
        guard self.isDecided else { return }
        context.pipeline.syncOperations.removeHandler(context: context, promise: nil)
    }
}
