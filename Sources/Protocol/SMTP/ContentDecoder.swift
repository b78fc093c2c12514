/// Finds the end of message content sent with DATA and undoes its dot stuffing (RFC 5321 §4.1.1.4, §4.5.2).
///
/// Content ends at `<CR><LF>.<CR><LF>` and at nothing else; the `<CR><LF>` of the DATA line counts as the first one.
/// The result does not depend on how the octets were split.
public struct ContentDecoder: Sendable {
    public struct Progress: Hashable, Sendable {
        public enum Status: Hashable, Sendable {
            case needsMore
            /// The end was found; what follows `consumedCount` are commands.
            case ended
            /// More was swallowed than ``ContentRules/discardCountMax`` allows: close.
            case abandoned
        }

        public var consumedCount: Int
        public var status: Status
    }

    private enum Place: Sendable {
        /// After `<CR><LF>`, or at the very start.
        case lineStart
        /// After a `.` at the start of a line; the dot is held back.
        case dot
        /// After a `.` at the start of a line and `<CR>`; both are held back.
        case dotCarriageReturn
        case text
        /// After `<CR>` within a line; it is held back.
        case carriageReturn
    }

    private var place: Place = .lineStart
    private var run: ContentRun

    public init(rules: ContentRules) {
        self.run = ContentRun(rules: rules)
    }

    /// Octets of content so far, without stuffing and end.
    public var size: Int { self.run.size }
    public var faults: ContentFaults { self.run.faults }

    /// Feeds the next octets. Content goes to `sink` in runs, while it is free of faults.
    public mutating func next(
        _ octets: UnsafeRawBufferPointer,
        sink: (UnsafeRawBufferPointer) -> Void
    ) -> Progress {
        var index = 0
        // [runStart, index) waits to be passed on.
        var runStart = 0
        while index < octets.count {
            switch self.place {
            case .lineStart:
                self.run.endLine()
                guard octets[index] == UInt8(ascii: ".") else {
                    self.place = .text
                    continue
                }
                self.run.pass(octets, runStart..<index, to: sink)
                index += 1
                runStart = index
                self.place = .dot
            case .dot:
                if octets[index] == 0x0d {
                    index += 1
                    runStart = index
                    self.place = .dotCarriageReturn
                } else {
                    self.place = .text
                }
            case .dotCarriageReturn:
                if octets[index] == 0x0a {
                    return Progress(consumedCount: index + 1, status: .ended)
                }
                self.run.passBareCarriageReturn(to: sink)
                self.place = .text
            case .carriageReturn:
                if octets[index] == 0x0a {
                    // The held <CR> is in this buffer, or was in the last one.
                    if index == 0 { self.run.passCarriageReturn(to: sink) }
                    index += 1
                    self.place = .lineStart
                } else {
                    self.run.pass(octets, runStart..<max(index - 1, runStart), to: sink)
                    runStart = index
                    self.run.passBareCarriageReturn(to: sink)
                    self.place = .text
                }
            case .text:
                self.run.text(octets, &index, &runStart, to: sink)
                if index < octets.count {
                    index += 1
                    self.place = .carriageReturn
                }
            }
        }
        let heldCount = self.place == .carriageReturn && index > runStart ? 1 : 0
        self.run.pass(octets, runStart..<(index - heldCount), to: sink)
        return Progress(consumedCount: index, status: self.run.isBeyondDiscard ? .abandoned : .needsMore)
    }
}
