import NIOCore
import NIOSSL
import Synchronization

#if canImport(Glibc)
import Glibc
#endif

/// The server side of one connection to a sink. It lives on its channel's event loop, answers pipelined commands with
/// one write, and keeps nothing of a message that nobody asked it to keep.
final class SinkSession: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    /// What all connections of a sink share.
    struct Shared: Sendable {
        var behaviour: SinkBehaviour
        var counters: SinkCounters
        var files: SinkFiles
        var tls: NIOSSLContext?
        /// Stop after so many messages.
        var messageCountMax: Int?
        /// Called when they have arrived and been answered.
        var finished: @Sendable () -> Void
    }

    private enum Mode {
        case command
        case content(isAtStart: Bool)
        case chunk(remaining: Int, isLast: Bool)
    }

    private static let lineSizeMax = 8192
    private static let headerSizeMax = 64 << 10

    private let shared: Shared
    private var random = SeededRandom(seed: 0)
    private var mode = Mode.command
    private var input = ByteBuffer()
    private var output = ByteBuffer()
    /// Waiting for a delay to pass: input is kept.
    private var isPaused = false
    /// Before its last reply is written, so that a client which comes again at once is not counted twice.
    private var isClosing = false {
        didSet { if self.isClosing, !oldValue { self.shared.counters.closed() } }
    }
    private var isTLS = false
    private var isLastMessage = false

    private var hasGreeted = false
    private var hasSender = false
    private var reversePath = ""
    private var recipientCount = 0
    private var recipients: [String] = []
    private var captured: [UInt8] = []
    private var contentSize = 0
    private var isDotStuffed = false
    private let keepsEnvelope: Bool

    init(shared: Shared) {
        self.shared = shared
        self.keepsEnvelope = shared.files.needsHeader || shared.behaviour.needsRecipients
    }

    private var behaviour: SinkBehaviour { self.shared.behaviour }

    // MARK: - Channel events

    func channelActive(context: ChannelHandlerContext) {
        let number = self.shared.counters.opened()
        self.random = SeededRandom(seed: self.behaviour.seed &* 0x2545_f491_4f6c_dd1d &+ UInt64(number))
        self.output = context.channel.allocator.buffer(capacity: 512)
        if self.drops(.connect) {
            self.isClosing = true
        } else if let refusal = self.refusal(.connect) {
            self.reply(refusal)
            self.isClosing = true
        } else {
            let service = self.behaviour.isLMTP ? "LMTP" : "ESMTP"
            self.answer(.connect, "220 \(self.behaviour.hostname) \(service) ready when you are", context)
            if self.drops(.banner) { self.isClosing = true }
        }
        self.flush(context)
        context.fireChannelActive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var buffer = self.unwrapInboundIn(data)
        if self.input.readableBytes == 0 {
            self.input = buffer
        } else {
            self.input.discardReadBytes()
            self.input.writeBuffer(&buffer)
        }
        self.process(context)
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        self.flush(context)
    }

    func channelInactive(context: ChannelHandlerContext) {
        self.isClosing = true
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        // Resets and failed handshakes are everyday events for a sink.
        context.close(promise: nil)
    }

    // MARK: - Input

    private func process(_ context: ChannelHandlerContext) {
        while !self.isPaused, !self.isClosing {
            switch self.mode {
            case .command:
                guard let length = self.lineLength() else {
                    if self.input.readableBytes > Self.lineSizeMax {
                        self.reply("500 5.5.2 Line too long")
                        self.isClosing = true
                    }
                    return
                }
                guard let line = self.input.readSlice(length: length) else { return }
                self.received(line, context)
            case .content(let isAtStart):
                guard self.readContent(isAtStart: isAtStart) else { return }
                self.endOfContent(context)
            case .chunk(let remaining, let isLast):
                let length = min(remaining, self.input.readableBytes)
                self.take(length, discarding: 0)
                if self.drops(.content) { return self.isClosing = true }
                guard length == remaining else {
                    self.mode = .chunk(remaining: remaining - length, isLast: isLast)
                    return
                }
                self.mode = .command
                if isLast {
                    self.endOfContent(context)
                } else {
                    self.reply("250 2.0.0 Chunk taken")
                }
            }
        }
    }

    /// Octets up to and with the next LF.
    private func lineLength() -> Int? {
        self.input.withUnsafeReadableBytes { octets in
            guard let base = octets.baseAddress, let found = memchr(base, 0x0a, octets.count) else { return nil }
            return UnsafeRawPointer(found) - base + 1
        }
    }

    /// Consumes content; true once end of data has been consumed too.
    private func readContent(isAtStart: Bool) -> Bool {
        var length = 0
        var terminator = 0
        var isUndecided = false
        self.input.withUnsafeReadableBytes { octets in
            guard let base = octets.baseAddress, octets.count > 0 else { return }
            if isAtStart, octets[0] == 0x2e {
                if octets.count < 3 { return isUndecided = true }
                if octets[1] == 0x0d, octets[2] == 0x0a { return terminator = 3 }
            }
            var position = 0
            while let found = memchr(base + position, 0x0a, octets.count - position) {
                let index = UnsafeRawPointer(found) - base
                let isLineEnd = index > 0 && octets[index - 1] == 0x0d
                if isLineEnd, index + 3 < octets.count, octets[index + 1] == 0x2e, octets[index + 2] == 0x0d,
                    octets[index + 3] == 0x0a
                {
                    length = index + 1
                    terminator = 3
                    return
                }
                position = index + 1
            }
            // What may be the beginning of the terminator stays for the next read.
            length = max(0, octets.count - 4)
        }
        if isUndecided { return false }
        if terminator == 0, length == 0 { return false }
        self.take(length, discarding: terminator)
        if self.drops(.content) {
            self.isClosing = true
            return false
        }
        if terminator > 0 {
            self.mode = .command
            return true
        }
        self.mode = .content(isAtStart: false)
        return false
    }

    /// Consumes content, keeping what somebody wants of it.
    private func take(_ length: Int, discarding: Int) {
        self.contentSize += length
        if self.shared.files.needsHeader, length > 0 {
            let wanted =
                self.shared.files.needsContent ? length : min(length, max(0, Self.headerSizeMax - self.captured.count))
            self.captured.append(contentsOf: self.input.readableBytesView.prefix(wanted))
        }
        self.input.moveReaderIndex(forwardBy: length + discarding)
    }

    // MARK: - Commands

    private func received(_ line: ByteBuffer, _ context: ChannelHandlerContext) {
        let verb = Self.verb(line)
        switch verb {
        case Self.verb("EHLO"), Self.verb("LHLO"), Self.verb("HELO"):
            self.receivedHello(isExtended: verb != Self.verb("HELO"), context)
        case Self.verb("MAIL"):
            self.receivedMail(line, context)
        case Self.verb("RCPT"):
            self.receivedRecipient(line, context)
        case Self.verb("DATA"):
            self.receivedData(context)
        case Self.verb("BDAT"):
            self.receivedChunk(line, context)
        case Self.verb("RSET"):
            self.reset()
            self.reply("250 2.0.0 Forgotten")
        case Self.verb("NOOP"):
            self.reply("250 2.0.0 Still here")
        case Self.verb("VRFY"):
            self.reply("252 2.1.5 Send it and see")
        case Self.verb("QUIT"):
            self.reply("221 2.0.0 Bye")
            self.isClosing = true
        case Self.verb("STAR"):
            self.receivedStartTLS(context)
        default:
            self.reply("500 5.5.1 Command not recognised")
        }
    }

    /// The first four letters in upper case, as one number.
    private static func verb(_ line: ByteBuffer) -> UInt32 {
        guard let word = line.getInteger(at: line.readerIndex, as: UInt32.self) else { return 0 }
        return word & 0xdfdf_dfdf
    }

    private static func verb(_ word: StaticString) -> UInt32 {
        UnsafeBufferPointer(start: word.utf8Start, count: 4).reduce(0) { $0 << 8 | UInt32($1) }
    }

    private func receivedHello(isExtended: Bool, _ context: ChannelHandlerContext) {
        if self.drops(.ehlo) { return self.isClosing = true }
        self.reset()
        self.hasGreeted = true
        guard isExtended else { return self.answer(.ehlo, "250 \(self.behaviour.hostname)", context) }
        let behaviour = self.behaviour
        var words = ["\(behaviour.hostname) at your service"]
        if behaviour.hasPipelining { words.append("PIPELINING") }
        if behaviour.hasSize { words.append("SIZE 157286400") }
        if behaviour.has8BitMIME { words.append("8BITMIME") }
        if behaviour.hasSMTPUTF8 { words.append("SMTPUTF8") }
        if behaviour.hasChunking { words.append("CHUNKING") }
        if behaviour.hasDSN { words.append("DSN") }
        if self.shared.tls != nil, !self.isTLS { words.append("STARTTLS") }
        words.append("ENHANCEDSTATUSCODES")
        let last = words.count - 1
        let lines = words.enumerated().map { "250\($0.offset == last ? " " : "-")\($0.element)" }
        self.answer(.ehlo, lines.joined(separator: "\r\n"), context)
    }

    private func receivedMail(_ line: ByteBuffer, _ context: ChannelHandlerContext) {
        guard self.hasGreeted else { return self.reply("503 5.5.1 Say hello first") }
        guard !self.hasSender else { return self.reply("503 5.5.1 There is a sender already") }
        if self.drops(.mail) { return self.isClosing = true }
        if let refusal = self.refusal(.mail) { return self.refuse(.mail, refusal, context) }
        self.hasSender = true
        if self.keepsEnvelope { self.reversePath = Self.path(line) }
        self.answer(.mail, "250 2.1.0 Sender fine", context)
    }

    private func receivedRecipient(_ line: ByteBuffer, _ context: ChannelHandlerContext) {
        guard self.hasSender else { return self.reply("503 5.5.1 Name the sender first") }
        if self.drops(.rcpt) { return self.isClosing = true }
        if let refusal = self.refusal(.rcpt) { return self.refuse(.rcpt, refusal, context) }
        if self.keepsEnvelope {
            let recipient = Self.path(line)
            if let rule = self.behaviour.recipientRules.first(where: { $0.matches(recipient) }) {
                self.count(rule.reply)
                return self.refuse(.rcpt, rule.reply, context)
            }
            self.recipients.append(recipient)
        }
        self.recipientCount += 1
        self.answer(.rcpt, "250 2.1.5 Recipient fine", context)
    }

    private func receivedData(_ context: ChannelHandlerContext) {
        guard self.recipientCount > 0 else { return self.reply("503 5.5.1 Name a recipient first") }
        if self.drops(.data) { return self.isClosing = true }
        if let refusal = self.refusal(.data) {
            self.reset()
            return self.refuse(.data, refusal, context)
        }
        self.mode = .content(isAtStart: true)
        self.isDotStuffed = true
        self.answer(.data, "354 Go ahead", context)
    }

    private func receivedChunk(_ line: ByteBuffer, _ context: ChannelHandlerContext) {
        let words = String(buffer: line).split { $0 == " " || $0 == "\r\n" || $0 == "\n" }
        guard words.count == 2 || words.count == 3, let size = Int(words[1]), size >= 0,
            words.count == 2 || words[2].uppercased() == "LAST"
        else {
            // Without its size the chunk cannot be told from commands.
            self.reply("501 5.5.4 BDAT needs a size")
            return self.isClosing = true
        }
        guard self.recipientCount > 0 else {
            self.reply("503 5.5.1 Name a recipient first")
            return self.isClosing = true
        }
        if self.contentSize == 0, self.drops(.data) { return self.isClosing = true }
        self.mode = .chunk(remaining: size, isLast: words.count == 3)
    }

    private func receivedStartTLS(_ context: ChannelHandlerContext) {
        guard let tls = self.shared.tls, !self.isTLS else { return self.reply("502 5.5.1 No TLS here") }
        self.reply("220 2.0.0 Go ahead with TLS")
        self.write(context)
        // What was sent before the handshake is not to be trusted (RFC 3207 §5).
        self.input.clear()
        self.reset()
        self.hasGreeted = false
        self.isTLS = true
        do {
            try context.pipeline.syncOperations.addHandler(NIOSSLServerHandler(context: tls), position: .first)
            self.shared.counters.tlsSessions.wrappingAdd(1, ordering: .relaxed)
        } catch {
            self.isClosing = true
        }
    }

    private func endOfContent(_ context: ChannelHandlerContext) {
        defer { self.reset() }
        if self.drops(.dot) { return self.isClosing = true }
        let count = self.behaviour.isLMTP ? self.recipientCount : 1
        if let refusal = self.refusal(.dot) {
            return self.answer(.dot, Array(repeating: refusal, count: count).joined(separator: "\r\n"), context)
        }
        if self.shared.files.needsHeader {
            do {
                try self.shared.files.accepted(
                    reversePath: self.reversePath,
                    recipients: self.recipients,
                    content: self.isDotStuffed ? Self.unstuffed(self.captured) : self.captured
                )
            } catch {
                let text = "452 4.3.1 The sink cannot write its files"
                return self.answer(.dot, Array(repeating: text, count: count).joined(separator: "\r\n"), context)
            }
        }
        let counters = self.shared.counters
        counters.recipients.wrappingAdd(self.recipientCount, ordering: .relaxed)
        counters.octets.wrappingAdd(self.contentSize, ordering: .relaxed)
        let messages = counters.messages.wrappingAdd(1, ordering: .relaxed).newValue
        if messages == self.shared.messageCountMax { self.isLastMessage = true }
        if count == 1 {
            self.answer(.dot, "250 2.0.0 Message taken", context)
        } else {
            let lines = Array(repeating: "250 2.0.0 Message taken", count: count)
            self.answer(.dot, lines.joined(separator: "\r\n"), context)
        }
    }

    /// Without the dots that DATA adds (RFC 5321 §4.5.2).
    private static func unstuffed(_ content: [UInt8]) -> [UInt8] {
        var result: [UInt8] = []
        result.reserveCapacity(content.count)
        var isLineStart = true
        for octet in content {
            if !isLineStart || octet != 0x2e { result.append(octet) }
            isLineStart = octet == 0x0a
        }
        return result
    }

    private func reset() {
        self.hasSender = false
        self.recipientCount = 0
        self.contentSize = 0
        self.isDotStuffed = false
        if self.keepsEnvelope {
            self.reversePath = ""
            self.recipients.removeAll(keepingCapacity: true)
            self.captured.removeAll(keepingCapacity: self.captured.count < Self.headerSizeMax)
        }
    }

    /// What stands between the angle brackets, or after the colon.
    private static func path(_ line: ByteBuffer) -> String {
        let octets = line.readableBytesView
        if let open = octets.firstIndex(of: UInt8(ascii: "<")),
            let close = octets[open...].firstIndex(of: UInt8(ascii: ">"))
        {
            return String(decoding: octets[(open + 1)..<close], as: UTF8.self)
        }
        guard let colon = octets.firstIndex(of: UInt8(ascii: ":")) else { return "" }
        let rest = octets[(colon + 1)...].drop { $0 == UInt8(ascii: " ") }
        return String(decoding: rest.prefix { $0 > 0x20 }, as: UTF8.self)
    }

    // MARK: - Chances

    private func drops(_ phase: SinkPhase) -> Bool {
        guard !self.behaviour.drops.isEmpty, let share = self.behaviour.drops[phase] else { return false }
        guard self.random.chance(share) else { return false }
        self.shared.counters.drops.wrappingAdd(1, ordering: .relaxed)
        return true
    }

    private func refusal(_ phase: SinkPhase) -> String? {
        let behaviour = self.behaviour
        if !behaviour.permanentFailures.isEmpty, self.random.chance(behaviour.permanentFailures[phase] ?? 0) {
            self.shared.counters.permanentFailures.wrappingAdd(1, ordering: .relaxed)
            return SinkReplies.permanent[phase]?.randomElement(using: &self.random)
        }
        if !behaviour.temporaryFailures.isEmpty, self.random.chance(behaviour.temporaryFailures[phase] ?? 0) {
            self.shared.counters.temporaryFailures.wrappingAdd(1, ordering: .relaxed)
            return SinkReplies.temporary[phase]?.randomElement(using: &self.random)
        }
        return nil
    }

    private func count(_ reply: String) {
        if reply.utf8.first == UInt8(ascii: "5") {
            self.shared.counters.permanentFailures.wrappingAdd(1, ordering: .relaxed)
        } else {
            self.shared.counters.temporaryFailures.wrappingAdd(1, ordering: .relaxed)
        }
    }

    /// 421 announces the end of the connection (RFC 5321 §3.8).
    private func refuse(_ phase: SinkPhase, _ reply: String, _ context: ChannelHandlerContext) {
        self.answer(phase, reply, context)
        if reply.hasPrefix("421") { self.isClosing = true }
    }

    // MARK: - Output

    private func reply(_ text: String) {
        self.output.writeString(text)
        self.output.writeStaticString("\r\n")
    }

    /// Replies at once, or when the phase's delay has passed.
    private func answer(_ phase: SinkPhase, _ text: String, _ context: ChannelHandlerContext) {
        guard !self.behaviour.delays.isEmpty, let delay = self.behaviour.delays[phase] else {
            return self.reply(text)
        }
        self.write(context)
        self.isPaused = true
        let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
        context.eventLoop.scheduleTask(in: TimeAmount(delay)) {
            let (session, context) = bound.value
            session.isPaused = false
            guard context.channel.isActive else { return }
            session.reply(text)
            session.process(context)
            session.flush(context)
        }
    }

    private func write(_ context: ChannelHandlerContext) {
        guard self.output.readableBytes > 0 else { return }
        let data = self.wrapOutboundOut(self.output)
        self.output = context.channel.allocator.buffer(capacity: 512)
        if self.isLastMessage {
            self.isLastMessage = false
            let finished = self.shared.finished
            context.writeAndFlush(data).whenComplete { _ in finished() }
        } else {
            context.writeAndFlush(data, promise: nil)
        }
    }

    private func flush(_ context: ChannelHandlerContext) {
        guard !self.isPaused else { return }
        self.write(context)
        if self.isClosing { context.close(promise: nil) }
    }
}
