/// Where the header fields of some content lie (RFC 5322 §2.2), found in one pass and without making a `String`.
///
/// All positions are offsets into the content it was made from; the content itself is not kept. Reading is tolerant:
/// lines may end in CRLF or LF, a name may be followed by blanks before its colon (obsolete syntax, RFC 5322 §4.5),
/// an mbox `From ` line may stand first. The first line that can be neither a field nor a continuation ends the
/// header section, as it does in the other relays and in most readers of mail; ``isSeparatorMissing`` then says so.
public struct HeaderSection: Sendable {
    /// The bounds of one reading.
    public struct Limits: Sendable {
        /// Octets of header section looked at.
        public var octetCountMax: Int
        public var fieldCountMax: Int

        public init(octetCountMax: Int = 256 * 1024, fieldCountMax: Int = 2000) {
            self.octetCountMax = max(0, octetCountMax)
            self.fieldCountMax = max(0, fieldCountMax)
        }
    }

    /// The field names the relay acts on; every other one is `other`.
    public enum Name: UInt8, Hashable, Sendable {
        case other
        case to
        case cc
        case bcc
        case date
        case from
        case sender
        case subject
        case received
        case messageID
        case resentBcc
        case returnPath
        case contentType
        case mimeVersion
        case deliveredTo
        case autoSubmitted
        case dkimSignature
        case contentTransferEncoding
    }

    /// A set of ``Name``s; ``Name/other`` counts too.
    public struct Names: OptionSet, Hashable, Sendable {
        public let rawValue: UInt32
        public init(rawValue: UInt32) { self.rawValue = rawValue }
        public init(_ name: Name) { self.rawValue = 1 << UInt32(name.rawValue) }
    }

    /// One field: `name ":" value CRLF`, the value possibly folded.
    public struct Field: Hashable, Sendable {
        public var known: Name
        /// The name, without blanks or colon.
        public var name: Range<Int>
        /// Everything between the colon and the last line ending, folds included.
        public var value: Range<Int>
        /// The whole field with its last line ending.
        public var whole: Range<Int>
    }

    public private(set) var fields: [Field] = []
    /// Which known fields are there at all.
    public private(set) var present: Names = []
    /// Where the fields end: the blank line, if there is one, starts here.
    public private(set) var endOffset = 0
    /// Where the body starts.
    public private(set) var bodyOffset = 0
    /// The header section ended without a blank line, at a line that is no field or at the end of the content.
    public private(set) var isSeparatorMissing = false
    /// A limit was met before the end: what comes after ``endOffset`` is unknown.
    public private(set) var isTruncated = false

    public init(_ content: UnsafeRawBufferPointer, limits: Limits = Limits()) {
        self.fields.reserveCapacity(min(24, limits.fieldCountMax))
        self.read(content, limits: limits)
    }

    /// Counts Received fields, for the loop check (RFC 5321 §6.3); stops counting at the limit.
    public func receivedCount(limit: Int = .max) -> Int {
        guard self.contains(.received) else { return 0 }
        var count = 0
        for field in self.fields where field.known == .received {
            count += 1
            if count >= limit { break }
        }
        return count
    }

    public func contains(_ name: Name) -> Bool {
        self.present.contains(Names(name))
    }

    public func first(_ name: Name) -> Field? {
        guard self.contains(name) else { return nil }
        return self.fields.first { $0.known == name }
    }

    /// The first field of a name the relay has no ``Name`` for; case does not matter.
    public func first(named name: StaticString, in content: UnsafeRawBufferPointer) -> Field? {
        self.fields.first { field in
            field.name.count == name.utf8CodeUnitCount
                && name.withUTF8Buffer { content.matches($0, at: field.name.lowerBound) }
        }
    }

    /// The value unfolded (RFC 5322 §2.2.3) and without blanks around it, at most `max` octets.
    public static func unfolded(
        _ field: Field,
        in content: UnsafeRawBufferPointer,
        max: Int = 64 * 1024
    ) -> [UInt8] {
        var octets: [UInt8] = []
        let range = field.value.clamped(to: 0..<content.count)
        octets.reserveCapacity(min(range.count, max))
        for octet in content[range] {
            if octet == UInt8.carriageReturn || octet == UInt8.lineFeed { continue }
            if octet.isBlank && octets.isEmpty { continue }
            if octets.count >= max { break }
            octets.append(octet)
        }
        while octets.last?.isBlank == true { octets.removeLast() }
        return octets
    }

    /// The unfolded value as text; what is not UTF-8 is replaced.
    public static func text(_ field: Field, in content: UnsafeRawBufferPointer) -> String {
        String(decoding: Self.unfolded(field, in: content), as: UTF8.self)
    }

    private mutating func read(_ content: UnsafeRawBufferPointer, limits: Limits) {
        let end = min(content.count, limits.octetCountMax)
        var position = 0
        if content.count >= 5, content[0] == UInt8(ascii: "F"), content[1] == UInt8(ascii: "r"),
            content[2] == UInt8(ascii: "o"), content[3] == UInt8(ascii: "m"), content[4] == UInt8(ascii: " ")
        {
            guard let lineEnd = content.firstLineFeed(from: 0, to: end) else {
                return self.finish(at: 0, isTruncated: end < content.count)
            }
            position = lineEnd + 1
        }
        while position < end {
            if let blank = content.lineEndingLength(at: position) {
                self.endOffset = position
                self.bodyOffset = position + blank
                return
            }
            guard self.fields.count < limits.fieldCountMax else {
                return self.finish(at: position, isTruncated: true)
            }
            guard let colon = Self.endOfName(content, from: position, to: end) else {
                let isCut = end < content.count && content.firstLineFeed(from: position, to: end) == nil
                return self.finish(at: position, isTruncated: isCut)
            }
            var next = position
            repeat {
                guard let lineFeed = content.firstLineFeed(from: next, to: end) else {
                    guard end == content.count else {
                        return self.finish(at: position, isTruncated: true)
                    }
                    next = end
                    break
                }
                next = lineFeed + 1
            } while next < end && content[next].isBlank
            self.add(content, from: position, name: colon.nameEnd, colon: colon.offset, to: next)
            position = next
        }
        self.finish(at: position, isTruncated: end < content.count)
    }

    private mutating func finish(at position: Int, isTruncated: Bool) {
        self.endOffset = position
        self.bodyOffset = position
        self.isTruncated = isTruncated
        self.isSeparatorMissing = !isTruncated
    }

    private mutating func add(
        _ content: UnsafeRawBufferPointer,
        from start: Int,
        name nameEnd: Int,
        colon: Int,
        to end: Int
    ) {
        var valueEnd = end
        if valueEnd > colon + 1, content[valueEnd - 1] == UInt8.lineFeed { valueEnd -= 1 }
        if valueEnd > colon + 1, content[valueEnd - 1] == UInt8.carriageReturn { valueEnd -= 1 }
        let known = Self.known(content, start..<nameEnd)
        self.present.insert(Names(known))
        self.fields.append(
            Field(known: known, name: start..<nameEnd, value: colon + 1..<valueEnd, whole: start..<end)
        )
    }

    /// `field-name = 1*ftext`, then blanks (obsolete), then a colon.
    private static func endOfName(
        _ content: UnsafeRawBufferPointer,
        from start: Int,
        to end: Int
    ) -> (nameEnd: Int, offset: Int)? {
        var position = start
        while position < end, content[position] > 0x20, content[position] < 0x7f,
            content[position] != UInt8(ascii: ":")
        {
            position += 1
        }
        let nameEnd = position
        guard nameEnd > start else { return nil }
        while position < end, content[position].isBlank { position += 1 }
        guard position < end, content[position] == UInt8(ascii: ":") else { return nil }
        return (nameEnd, position)
    }

    private static func known(_ content: UnsafeRawBufferPointer, _ range: Range<Int>) -> Name {
        func named(_ text: StaticString, _ name: Name) -> Name? {
            text.withUTF8Buffer { content.matches($0, at: range.lowerBound) } ? name : nil
        }
        switch range.count {
        case 2: return named("to", .to) ?? named("cc", .cc) ?? .other
        case 3: return named("bcc", .bcc) ?? .other
        case 4: return named("date", .date) ?? named("from", .from) ?? .other
        case 6: return named("sender", .sender) ?? .other
        case 7: return named("subject", .subject) ?? .other
        case 8: return named("received", .received) ?? .other
        case 10: return named("message-id", .messageID) ?? named("resent-bcc", .resentBcc) ?? .other
        case 11: return named("return-path", .returnPath) ?? .other
        case 12:
            return named("content-type", .contentType) ?? named("mime-version", .mimeVersion)
                ?? named("delivered-to", .deliveredTo) ?? .other
        case 14: return named("auto-submitted", .autoSubmitted) ?? named("dkim-signature", .dkimSignature) ?? .other
        case 25: return named("content-transfer-encoding", .contentTransferEncoding) ?? .other
        default: return .other
        }
    }
}
