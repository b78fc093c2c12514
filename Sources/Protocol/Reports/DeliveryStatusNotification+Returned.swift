import Mail

/// The third part: the original, or its header section (RFC 6522 §3, RFC 6533 §4).
struct ReturnedPart {
    /// The media type.
    var type: StaticString
    var octets: [UInt8]
    var isEightBit: Bool
    /// The whole message, not only its header section.
    var isComplete: Bool
}

extension DeliveryStatusNotification {
    private static let headerSizeMax = 64 * 1024

    func returnedPart() -> ReturnedPart? {
        let octets: [UInt8]
        var isComplete = false
        switch self.returned {
        case .nothing: return nil
        case .headers(let headers): octets = headers
        case .content(let content):
            octets = content
            // Only a failure returns content (RFC 3461 §4.3).
            if self.kind == .failure {
                switch self.original.returnContent {
                case .headers: break
                case .full: isComplete = content.count <= self.requestedReturnedSizeMax
                case nil: isComplete = content.count <= self.returnedSizeMax
                }
            }
        }
        return octets.withUnsafeBytes { content in
            let header = HeaderSection(
                content,
                limits: HeaderSection.Limits(octetCountMax: Self.headerSizeMax, fieldCountMax: 2000)
            )
            let headerEnd = header.isTruncated ? (header.fields.last?.whole.upperBound ?? 0) : header.endOffset
            let isHeaderEightBit = content.hasEightBit(0..<headerEnd)
            let isHeaderUTF8 =
                isHeaderEightBit && String(validating: content[0..<headerEnd], as: UTF8.self) != nil
            if isComplete, !header.isTruncated, !isHeaderEightBit || isHeaderUTF8 {
                return ReturnedPart(
                    type: isHeaderEightBit ? "message/global" : "message/rfc822",
                    octets: octets,
                    isEightBit: content.hasEightBit(0..<content.count),
                    isComplete: true
                )
            }
            var headers = Array(content[0..<headerEnd])
            guard !headers.isEmpty else { return nil }
            if isHeaderEightBit, !isHeaderUTF8 {
                // In no charset that can be named.
                for index in headers.indices where headers[index] >= 0x80 { headers[index] = UInt8(ascii: "?") }
            }
            return ReturnedPart(
                type: isHeaderUTF8 ? "message/global-headers" : "text/rfc822-headers",
                octets: headers,
                isEightBit: isHeaderUTF8,
                isComplete: false
            )
        }
    }

    /// The original's Message-ID with its angle brackets, if it is one that can be repeated safely.
    func originalMessageID() -> [UInt8]? {
        guard let value = self.originalField(.messageID, max: 300),
            let open = value.firstIndex(of: UInt8(ascii: "<")),
            let close = value[open...].firstIndex(of: UInt8(ascii: ">"))
        else { return nil }
        let text = value[open...close]
        let sides = text.dropFirst().dropLast().split(separator: UInt8(ascii: "@"), omittingEmptySubsequences: false)
        guard text.count <= 250, sides.count == 2,
            sides.allSatisfy({ side in
                side.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
                    .allSatisfy { atom in
                        !atom.isEmpty && atom.allSatisfy(\.isAtomText)
                    }
            })
        else { return nil }
        return Array(text)
    }

    /// The original's Subject for people, if it can be shown without decoding.
    func originalSubject() -> String? {
        guard let value = self.originalField(.subject, max: 400),
            let text = String(validating: value, as: UTF8.self)
        else { return nil }
        var safe: [UInt8] = []
        HeaderText.append(text, to: &safe, allowingUTF8: true, max: 200)
        let shown = String(decoding: safe, as: UTF8.self)
        // Encoded words (RFC 2047) are nothing to show.
        return shown.isEmpty || zip(safe, safe.dropFirst()).contains { $0 == 0x3d && $1 == 0x3f } ? nil : shown
    }

    private func originalField(_ name: HeaderSection.Name, max: Int) -> [UInt8]? {
        let octets: [UInt8]
        switch self.returned {
        case .nothing: return nil
        case .headers(let headers): octets = headers
        case .content(let content): octets = content
        }
        return octets.withUnsafeBytes { content in
            let header = HeaderSection(
                content,
                limits: HeaderSection.Limits(octetCountMax: Self.headerSizeMax, fieldCountMax: 2000)
            )
            return header.first(name).map { HeaderSection.unfolded($0, in: content, max: max) }
        }
    }
}
