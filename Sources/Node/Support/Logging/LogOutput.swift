import Dispatch
import Synchronization

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#elseif canImport(Darwin)
import Darwin
#endif

/// Where log lines go: a descriptor, through a buffer.
///
/// Writing a line copies it into the buffer; a thread of this object's own writes what has gathered there, so a slow
/// reader of the descriptor never holds up an event loop. When the buffer is full, lines are dropped and counted, and
/// a line saying how many follows once there is room. Safe from any thread.
public final class LogOutput: Sendable {
    private struct State {
        var buffer: [UInt8] = []
        var isScheduled = false
        var droppedCount = 0
    }

    public static let standardOutput = LogOutput(descriptor: 1)
    public static let standardError = LogOutput(descriptor: 2)

    private let state = Mutex(State())
    private let queue = DispatchQueue(label: "posthorn.logger")
    private let write: @Sendable (UnsafeRawBufferPointer) -> Void
    private let bufferSizeMax: Int

    /// - Parameter bufferSizeMax: octets that may wait.
    public convenience init(descriptor: Int32, bufferSizeMax: Int = 1 << 20) {
        self.init(bufferSizeMax: bufferSizeMax) { LogOutput.writeAll($0, to: descriptor) }
    }

    /// For tests: `write` gets whole lines, one call at a time, on a thread of the output's.
    public init(bufferSizeMax: Int = 1 << 20, write: @escaping @Sendable (UnsafeRawBufferPointer) -> Void) {
        self.bufferSizeMax = bufferSizeMax
        self.write = write
    }

    /// - Parameter line: with its line ending.
    func append(_ line: [UInt8]) {
        let isFirst = self.state.withLock { state in
            guard state.buffer.count + line.count <= self.bufferSizeMax else {
                state.droppedCount += 1
                return false
            }
            state.buffer.append(contentsOf: line)
            guard !state.isScheduled else { return false }
            state.isScheduled = true
            return true
        }
        if isFirst { self.queue.async { self.drain() } }
    }

    /// Returns once everything appended before is written. Blocks: for the end of the process, not for event loops.
    public func flush() {
        self.queue.sync { self.drain() }
    }

    private func drain() {
        while true {
            let (buffer, droppedCount) = self.state.withLock { state in
                let taken = (state.buffer, state.droppedCount)
                state.buffer = []
                state.droppedCount = 0
                if taken.0.isEmpty && taken.1 == 0 { state.isScheduled = false }
                return taken
            }
            if !buffer.isEmpty { buffer.withUnsafeBytes(self.write) }
            if droppedCount > 0 {
                Array("{\"message\":\"Dropped log lines\",\"count\":\(droppedCount)}\n".utf8)
                    .withUnsafeBytes(self.write)
            }
            if buffer.isEmpty && droppedCount == 0 { return }
        }
    }

    private static func writeAll(_ octets: UnsafeRawBufferPointer, to descriptor: Int32) {
        var rest = octets
        while !rest.isEmpty {
            #if canImport(Glibc)
            let count = Glibc.write(descriptor, rest.baseAddress, rest.count)
            #elseif canImport(Musl)
            let count = Musl.write(descriptor, rest.baseAddress, rest.count)
            #else
            let count = Darwin.write(descriptor, rest.baseAddress, rest.count)
            #endif
            if count < 0 {
                if errno == EINTR { continue }
                if errno == EAGAIN {
                    // Somebody made the descriptor non-blocking; this is the output's own thread, it may wait.
                    var descriptors = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                    poll(&descriptors, 1, 1_000)
                    continue
                }
                // Nobody reads our lines any more, and there is nowhere to say so.
                return
            }
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        }
    }
}
