import Mail
import NIOCore
import NodeSupport
import SMTP

/// The content of one message while it comes in: one buffer that begins with the trace field, so that what goes to
/// the log is exactly what will be sent.
struct ContentIntake {
    /// Octets reserved at most on the word of a SIZE parameter.
    static let reservationMax = 1 << 20
    private static let reservationMin = 4_096

    let messageID: MessageID
    /// Milliseconds since 1970.
    let receivedAt: Int64
    /// Octets of the trace field.
    let traceSize: Int
    private(set) var buffer: ByteBuffer
    /// What it takes of the gate's budget.
    private(set) var chargedCount = 0
    /// The budget is used up: what still comes is swallowed.
    private(set) var isDropped = false

    init(
        _ transaction: AcceptedTransaction,
        messageID: MessageID,
        receivedAt: Int64,
        receiverName: String,
        allocator: ByteBufferAllocator
    ) {
        let session = transaction.session
        let trace = ReceivedField(
            clientName: session.clientName,
            clientAddress: session.clientAddress,
            receiverName: receiverName,
            transmissionType: transaction.transmissionType,
            messageID: messageID,
            tlsVersion: session.tls?.version,
            tlsCipherSuite: session.tls?.cipherSuite,
            recipient: transaction.recipients.count == 1 ? transaction.recipients[0].mailbox : nil,
            receivedAt: receivedAt
        )
        .octets
        self.messageID = messageID
        self.receivedAt = receivedAt
        self.traceSize = trace.count
        let declaredSize = min(transaction.declaredSize ?? 0, Self.reservationMax)
        self.buffer = allocator.buffer(capacity: trace.count + max(declaredSize, Self.reservationMin))
        self.buffer.writeBytes(trace)
    }

    /// Adds content as the session passes it on.
    mutating func append(_ octets: UnsafeRawBufferPointer, gate: IntakeGate) {
        guard !self.isDropped else { return }
        guard gate.charge(octets.count) else {
            self.release(gate)
            self.isDropped = true
            return
        }
        self.chargedCount += octets.count
        self.buffer.writeBytes(octets)
    }

    /// Gives the budget back, and the octets.
    mutating func release(_ gate: IntakeGate) {
        gate.release(self.chargedCount)
        self.chargedCount = 0
        self.buffer = ByteBuffer()
    }

    /// Looks at the complete content and makes it what is to be sent. Returns why it is refused, if it is.
    ///
    /// - Parameter fixesHeader: whether a submission server's additions are made (RFC 6409 §8).
    mutating func finish(
        limits: NodeConfiguration.Limits,
        fixesHeader: Bool,
        addsMissingFields: Bool,
        receiverName: String
    ) -> Reply? {
        if self.isDropped { return .insufficientStorage }
        let (reply, fixup) = self.buffer.withUnsafeReadableBytes { octets -> (Reply?, SubmissionFixup?) in
            let content = UnsafeRawBufferPointer(rebasing: octets[self.traceSize...])
            let header = HeaderSection(
                content,
                limits: .init(octetCountMax: limits.headerSizeMax, fieldCountMax: 10_000)
            )
            if header.receivedCount(limit: limits.hopCountMax + 1) > limits.hopCountMax { return (.tooManyHops, nil) }
            if header.isTruncated { return (.headerTooLarge, nil) }
            guard fixesHeader else { return (nil, nil) }
            let fixup = SubmissionFixup(
                header: header,
                content: content,
                date: self.receivedAt,
                messageID: "\(self.messageID)@\(receiverName)"
            )
            return fixup.map { (nil, $0) } ?? (.headerTooLarge, nil)
        }
        if reply == nil, let fixup, !fixup.isEmpty { self.apply(fixup, addsMissingFields: addsMissingFields) }
        return reply
    }

    private mutating func apply(_ fixup: SubmissionFixup, addsMissingFields: Bool) {
        let old = self.buffer
        let contentStart = old.readerIndex + self.traceSize
        let contentSize = old.readableBytes - self.traceSize
        var new = ByteBufferAllocator()
            .buffer(
                capacity: self.traceSize + max(0, fixup.resultSize(contentSize: contentSize))
            )
        if let trace = old.getSlice(at: old.readerIndex, length: self.traceSize) { new.writeImmutableBuffer(trace) }
        for segment in fixup.segments(contentSize: contentSize) {
            switch segment {
            case .octets(let octets):
                if octets == fixup.prefix, !addsMissingFields { continue }
                new.writeBytes(octets)
            case .content(let range):
                if let slice = old.getSlice(at: contentStart + range.lowerBound, length: range.count) {
                    new.writeImmutableBuffer(slice)
                }
            }
        }
        self.buffer = new
    }
}
