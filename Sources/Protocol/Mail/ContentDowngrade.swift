/// Makes 8-bit MIME content fit for a host that does not offer 8BITMIME (RFC 6152 §3, RFC 2045 §6).
///
/// Every part that holds octets above 127 is encoded anew - text as quoted-printable, everything else as base64 -
/// and its Content-Transfer-Encoding rewritten; boundaries and all other octets stay. Signatures over the content
/// (DKIM) do not survive, which is why a multipart/signed part with 8-bit octets is refused rather than broken.
public enum ContentDowngrade {
    /// Why content cannot be converted without loss.
    public enum Obstacle: Hashable, Sendable {
        /// A header field holds octets above 127: that takes SMTPUTF8, not 8BITMIME.
        case nonASCIIHeader
        /// The MIME structure does not hold together, or claims an encoding that the content contradicts.
        case malformedStructure
        /// Nested or split further than ``Limits`` allow.
        case tooComplex
        /// A signed part would lose its signature (RFC 1847 §2.1).
        case signedContent
        /// A message/* type that may be carried only as it is (RFC 2046 §5.2).
        case unconvertibleType
    }

    public enum Result: Hashable, Sendable {
        /// There is no octet above 127: send the content as it is.
        case unchanged
        case converted([UInt8])
        case impossible(Obstacle)
    }

    public struct Limits: Sendable {
        /// Multiparts and messages within each other.
        public var depthMax: Int
        /// Parts in all.
        public var partCountMax: Int

        public init(depthMax: Int = 20, partCountMax: Int = 10_000) {
            self.depthMax = depthMax
            self.partCountMax = partCountMax
        }
    }

    public static func convert(_ content: UnsafeRawBufferPointer, limits: Limits = Limits()) -> Result {
        guard content.hasEightBit(0..<content.count) else { return .unchanged }
        var converter = Converter(content: content, limits: limits)
        do throws(Failure) {
            try converter.entity(0..<content.count, depth: 0, isDigestPart: false)
        } catch {
            return .impossible(error.obstacle)
        }
        return .converted(converter.output)
    }

    private struct Failure: Error {
        var obstacle: Obstacle
        init(_ obstacle: Obstacle) { self.obstacle = obstacle }
    }

    private struct Converter {
        let content: UnsafeRawBufferPointer
        let limits: Limits
        var output: [UInt8] = []
        var partCount = 0

        init(content: UnsafeRawBufferPointer, limits: Limits) {
            self.content = content
            self.limits = limits
            self.output.reserveCapacity(content.count + content.count / 3 + 512)
        }

        /// Converts a header section and its body; `range` lies within the content.
        mutating func entity(_ range: Range<Int>, depth: Int, isDigestPart: Bool) throws(Failure) {
            self.partCount += 1
            guard depth <= self.limits.depthMax, self.partCount <= self.limits.partCountMax else {
                throw Failure(.tooComplex)
            }
            let slice = UnsafeRawBufferPointer(rebasing: self.content[range])
            let header = HeaderSection(slice)
            guard !header.isTruncated else { throw Failure(.tooComplex) }
            guard !slice.hasEightBit(0..<header.bodyOffset) else { throw Failure(.nonASCIIHeader) }
            let body = range.lowerBound + header.bodyOffset..<range.upperBound
            let type = try self.mediaType(header, slice, isDigestPart: isDigestPart)
            let encoding = try self.encoding(header, slice)
            let hasEightBit = self.content.hasEightBit(body)

            if type.isComposite {
                guard encoding.isIdentity || !hasEightBit else { throw Failure(.malformedStructure) }
                if type.type == "multipart", type.subtype == "signed" {
                    guard !hasEightBit else { throw Failure(.signedContent) }
                    return self.copy(range)
                }
                guard encoding.isIdentity else { return self.copy(range) }
                // Its parts become 7bit, so it does too.
                self.writeHeader(header, slice, encoding: encoding == .sevenBit ? nil : "7bit")
                if type.type == "message" {
                    try self.entity(body, depth: depth + 1, isDigestPart: false)
                } else {
                    guard let boundary = type.boundary else {
                        if hasEightBit { throw Failure(.malformedStructure) }
                        return self.copy(body)
                    }
                    try self.multipart(body, boundary: boundary, depth: depth, isDigest: type.subtype == "digest")
                }
                return
            }
            try self.leaf(range, body: body, header: header, type: type, encoding: encoding, isTop: depth == 0)
        }

        private mutating func leaf(
            _ range: Range<Int>,
            body: Range<Int>,
            header: HeaderSection,
            type: MediaType,
            encoding: TransferEncoding,
            isTop: Bool
        ) throws(Failure) {
            let slice = UnsafeRawBufferPointer(rebasing: self.content[range])
            guard self.content.hasEightBit(body) else {
                guard encoding == .eightBit else { return self.copy(range) }
                self.writeHeader(header, slice, encoding: "7bit")
                return self.copy(body)
            }
            if type.type == "message", !type.subtype.hasPrefix("global") { throw Failure(.unconvertibleType) }
            switch encoding {
            case .base64:
                throw Failure(.malformedStructure)
            case .quotedPrintable:
                // Encoded, but with raw octets left in it: escape those and keep the rest.
                self.writeHeader(header, slice, encoding: nil)
                for octet in self.content[body] {
                    if octet < 0x80 { self.output.append(octet) } else { self.output.append(quoted: octet) }
                }
            case .sevenBit, .eightBit:
                let isText = type.type == "text"
                self.writeHeader(
                    header,
                    slice,
                    encoding: isText ? "quoted-printable" : "base64",
                    addingMIME: isTop,
                    addingType: isTop && !header.contains(.contentType)
                )
                let octets = UnsafeRawBufferPointer(rebasing: self.content[body])
                if isText {
                    TransferEncoder.appendQuotedPrintable(octets, to: &self.output)
                } else {
                    TransferEncoder.appendBase64(octets, to: &self.output)
                }
            }
        }

        /// Copies preamble, delimiters and epilogue and converts what lies between (RFC 2046 §5.1.1).
        private mutating func multipart(
            _ body: Range<Int>,
            boundary: [UInt8],
            depth: Int,
            isDigest: Bool
        ) throws(Failure) {
            var partStart: Int?
            var isClosed = false
            var textStart = body.lowerBound
            var line = body.lowerBound
            while line < body.upperBound, !isClosed {
                let next = self.content.firstLineFeed(from: line, to: body.upperBound).map { $0 + 1 } ?? body.upperBound
                if let delimiter = self.delimiter(line..<next, boundary: boundary) {
                    // The line ending before a delimiter belongs to it.
                    var end = line
                    let floor = partStart ?? textStart
                    if end > floor, self.content[end - 1] == UInt8.lineFeed { end -= 1 }
                    if end > floor, end < line, self.content[end - 1] == UInt8.carriageReturn { end -= 1 }
                    if let start = partStart {
                        try self.entity(start..<end, depth: depth + 1, isDigestPart: isDigest)
                    } else {
                        self.copyIgnorable(textStart..<end)
                    }
                    self.copyIgnorable(end..<next)
                    isClosed = delimiter == .close
                    partStart = next
                    textStart = next
                }
                line = next
            }
            if isClosed {
                self.copyIgnorable(textStart..<body.upperBound)
            } else if let start = partStart {
                try self.entity(start..<body.upperBound, depth: depth + 1, isDigestPart: isDigest)
            } else if self.content.hasEightBit(body) {
                throw Failure(.malformedStructure)
            } else {
                self.copy(body)
            }
        }

        private enum Delimiter {
            case open
            case close
        }

        /// `"--" boundary ["--"] *LWSP CRLF`
        private func delimiter(_ line: Range<Int>, boundary: [UInt8]) -> Delimiter? {
            guard line.count >= boundary.count + 2, self.content[line.lowerBound] == UInt8(ascii: "-"),
                self.content[line.lowerBound + 1] == UInt8(ascii: "-")
            else { return nil }
            var position = line.lowerBound + 2
            for octet in boundary {
                guard self.content[position] == octet else { return nil }
                position += 1
            }
            var isClose = false
            if position + 2 <= line.upperBound, self.content[position] == UInt8(ascii: "-"),
                self.content[position + 1] == UInt8(ascii: "-")
            {
                isClose = true
                position += 2
            }
            while position < line.upperBound {
                let octet = self.content[position]
                guard octet.isBlank || octet == UInt8.carriageReturn || octet == UInt8.lineFeed else { return nil }
                position += 1
            }
            return isClose ? .close : .open
        }

        private mutating func copy(_ range: Range<Int>) {
            self.output.append(contentsOf: UnsafeRawBufferPointer(rebasing: self.content[range]))
        }

        /// Preambles and epilogues are read by nobody: an octet above 127 in them becomes a question mark.
        private mutating func copyIgnorable(_ range: Range<Int>) {
            guard self.content.hasEightBit(range) else { return self.copy(range) }
            for octet in self.content[range] {
                self.output.append(octet < 0x80 ? octet : UInt8(ascii: "?"))
            }
        }

        /// Copies the header fields, then the fields that describe the new encoding, then the blank line.
        /// - Parameter encoding: `nil` leaves the encoding fields as they are.
        private mutating func writeHeader(
            _ header: HeaderSection,
            _ slice: UnsafeRawBufferPointer,
            encoding: StaticString?,
            addingMIME: Bool = false,
            addingType: Bool = false
        ) {
            var position = 0
            if encoding != nil, header.contains(.contentTransferEncoding) {
                for field in header.fields where field.known == .contentTransferEncoding {
                    self.output.append(
                        contentsOf: UnsafeRawBufferPointer(rebasing: slice[position..<field.whole.lowerBound])
                    )
                    position = field.whole.upperBound
                }
            }
            self.output.append(contentsOf: UnsafeRawBufferPointer(rebasing: slice[position..<header.endOffset]))
            if let last = self.output.last, last != UInt8.lineFeed, header.endOffset > 0 {
                self.output.appendLineEnding()
            }
            if addingMIME, !header.contains(.mimeVersion) {
                self.output.append(literal: "MIME-Version: 1.0\r\n")
            }
            if addingType {
                // RFC 1428 §3
                self.output.append(literal: "Content-Type: text/plain; charset=unknown-8bit\r\n")
            }
            if let encoding {
                self.output.append(literal: "Content-Transfer-Encoding: ")
                self.output.append(literal: encoding)
                self.output.appendLineEnding()
            }
            self.output.appendLineEnding()
        }

        private func mediaType(
            _ header: HeaderSection,
            _ slice: UnsafeRawBufferPointer,
            isDigestPart: Bool
        ) throws(Failure) -> MediaType {
            guard let field = header.first(.contentType) else {
                return isDigestPart
                    ? MediaType(type: "message", subtype: "rfc822") : MediaType(type: "text", subtype: "plain")
            }
            // An unreadable type is treated as application/octet-stream (RFC 2045 §5.2 leaves it to us).
            return MediaType(HeaderSection.unfolded(field, in: slice))
                ?? MediaType(type: "application", subtype: "octet-stream")
        }

        private func encoding(
            _ header: HeaderSection,
            _ slice: UnsafeRawBufferPointer
        ) throws(Failure) -> TransferEncoding {
            guard let field = header.first(.contentTransferEncoding) else { return .sevenBit }
            let value = HeaderSection.unfolded(field, in: slice, max: 200)
            guard let encoding = TransferEncoding(value) else { throw Failure(.malformedStructure) }
            return encoding
        }
    }
}
