/// What a submission server adds to and removes from a message before it relays it (RFC 6409 §8).
///
/// Only for mail a user submits: a relay changes nothing but the trace (RFC 5321 §6.4). Date and Message-ID are added
/// when missing; Bcc, Resent-Bcc and Return-Path fields are removed. It is a list of edits, so that content that needs
/// none is not copied.
public struct SubmissionFixup: Hashable, Sendable {
    /// A piece of the result, in order.
    public enum Segment: Hashable, Sendable {
        case octets([UInt8])
        /// A range of the original content.
        case content(Range<Int>)
    }

    /// Fields to put before the content, each with its line ending. The trace field goes before them.
    public private(set) var prefix: [UInt8] = []
    /// What is left out: ascending, not overlapping.
    public private(set) var removed: [Range<Int>] = []
    /// Where a missing line ending or blank line between header section and body goes.
    public private(set) var separatorOffset: Int?

    /// - Parameters:
    ///   - date: milliseconds since 1970, for a Date field.
    ///   - messageID: the value for a Message-ID field without angle brackets; characters that no msg-id has are
    ///     replaced.
    /// - Returns: `nil` when the header section was not read to its end: a Bcc field may lie beyond, so the message
    ///   must be refused.
    public init?(header: HeaderSection, content: UnsafeRawBufferPointer, date: Int64, messageID: String) {
        guard !header.isTruncated else { return nil }
        if !header.contains(.date) {
            self.prefix.append(literal: "Date: ")
            DateTime(millisecondsSince1970: date).appendRFC5322(to: &self.prefix)
            self.prefix.appendLineEnding()
        }
        if !header.contains(.messageID) {
            self.prefix.append(literal: "Message-ID: <")
            self.prefix.append(messageIDText: messageID)
            self.prefix.append(UInt8(ascii: ">"))
            self.prefix.appendLineEnding()
        }
        let unwanted: HeaderSection.Names = [.init(.bcc), .init(.resentBcc), .init(.returnPath)]
        if !header.present.isDisjoint(with: unwanted) {
            for field in header.fields where unwanted.contains(.init(field.known)) {
                self.remove(field.whole)
            }
        }
        // An mbox line stands before the first field; the prefix must not end up before it.
        if let first = header.fields.first, first.whole.lowerBound > 0 {
            self.removed.insert(0..<first.whole.lowerBound, at: 0)
        } else if header.fields.isEmpty, header.endOffset > 0 {
            self.removed.insert(0..<header.endOffset, at: 0)
        }
        if header.isSeparatorMissing, header.endOffset < content.count {
            self.separatorOffset = header.endOffset
        }
    }

    public var isEmpty: Bool { self.prefix.isEmpty && self.removed.isEmpty && self.separatorOffset == nil }

    /// The result's octets without making it.
    public func resultSize(contentSize: Int) -> Int {
        let removedSize = self.removed.reduce(0) { $0 + $1.count }
        return self.prefix.count + contentSize - removedSize + (self.separatorOffset == nil ? 0 : 2)
    }

    /// The result as pieces, none of them empty.
    public func segments(contentSize: Int) -> [Segment] {
        var segments: [Segment] = []
        if !self.prefix.isEmpty { segments.append(.octets(self.prefix)) }
        var position = 0
        func keep(to end: Int) {
            let end = min(end, contentSize)
            if position < end { segments.append(.content(position..<end)) }
            position = max(position, end)
        }
        var separator = self.separatorOffset
        for range in self.removed {
            keep(to: range.lowerBound)
            position = max(position, min(range.upperBound, contentSize))
        }
        if let offset = separator {
            keep(to: offset)
            segments.append(.octets([0x0d, 0x0a]))
            separator = nil
        }
        keep(to: contentSize)
        return segments
    }

    /// Makes the result.
    public func applied(to content: UnsafeRawBufferPointer) -> [UInt8] {
        var octets: [UInt8] = []
        octets.reserveCapacity(max(0, self.resultSize(contentSize: content.count)))
        for segment in self.segments(contentSize: content.count) {
            switch segment {
            case .octets(let piece): octets.append(contentsOf: piece)
            case .content(let range): octets.append(contentsOf: UnsafeRawBufferPointer(rebasing: content[range]))
            }
        }
        return octets
    }

    private mutating func remove(_ range: Range<Int>) {
        if let last = self.removed.last, last.upperBound == range.lowerBound {
            self.removed[self.removed.count - 1] = last.lowerBound..<range.upperBound
        } else {
            self.removed.append(range)
        }
    }
}

extension [UInt8] {
    /// Appends `dot-atom-text "@" dot-atom-text` (RFC 5322 §3.6.4) made from any text: what fits no atom becomes `_`.
    package mutating func append(messageIDText text: String) {
        let octets = Array(text.utf8)
        let separator = octets.lastIndex(of: UInt8(ascii: "@")) ?? octets.endIndex
        self.append(dotAtom: octets[..<separator].prefix(150))
        self.append(UInt8(ascii: "@"))
        self.append(dotAtom: octets[separator...].dropFirst().prefix(255))
    }

    private mutating func append(dotAtom octets: ArraySlice<UInt8>) {
        let start = self.count
        for octet in octets {
            if octet == UInt8(ascii: ".") {
                // No dot at either end and no two in a row.
                if self.count > start, self.last != octet { self.append(octet) }
            } else {
                self.append(octet.isAtomText ? octet : UInt8(ascii: "_"))
            }
        }
        if self.count > start, self.last == UInt8(ascii: ".") { self.removeLast() }
        if self.count == start { self.append(literal: "unknown") }
    }
}
