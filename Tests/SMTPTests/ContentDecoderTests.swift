import SMTP
import Testing

@Suite("Content framing")
struct ContentDecoderTests {
    struct Outcome: Equatable {
        var content = ""
        var consumedCount = 0
        var isEnded = false
        var faults: ContentFaults = []
        var size = 0
    }

    /// Feeds the text split at the given places.
    static func decode(_ octets: [UInt8], splits: [Int] = [], rules: ContentRules) -> Outcome {
        var decoder = ContentDecoder(rules: rules)
        var outcome = Outcome()
        var content: [UInt8] = []
        var start = 0
        for end in splits + [octets.count] where !outcome.isEnded {
            let progress = octets.withUnsafeBytes { all in
                decoder.next(UnsafeRawBufferPointer(rebasing: all[start..<end])) { content += $0 }
            }
            outcome.consumedCount += progress.consumedCount
            outcome.isEnded = progress.status == .ended
            start = end
        }
        outcome.faults = decoder.faults
        outcome.size = decoder.size
        // How much of refused content was passed on before the fault was known is nobody's business.
        outcome.content = decoder.faults.isEmpty ? String(decoding: content, as: UTF8.self) : ""
        return outcome
    }

    static let refusing = ContentRules(sizeMax: 10_000)
    static let normalising = ContentRules(bareNewline: .normalise, refusesNUL: false, sizeMax: 10_000)

    /// Text, content expected (`nil`: the end is not found), and how many octets follow the end.
    static let wellFormed: [(String, String?, Int)] = [
        (".\r\n", "", 0),
        ("\r\n.\r\n", "\r\n", 0),
        ("a\r\n.\r\n", "a\r\n", 0),
        ("a\r\n.\r\nQUIT\r\n", "a\r\n", 6),
        ("..\r\n.\r\n", ".\r\n", 0),
        ("a\r\n..b\r\n...\r\n.\r\n", "a\r\n.b\r\n..\r\n", 0),
        (".a\r\n.\r\n", "a\r\n", 0),
        ("a.\r\n.\r\n", "a.\r\n", 0),
        ("a\r\n.", nil, 0),
        ("a\r\n.\r", nil, 0),
        ("a\r\n", nil, 0),
        ("", nil, 0),
    ]

    @Test("Content ends at CRLF.CRLF and loses its stuffing, however it is split", arguments: wellFormed)
    func framing(text: String, content: String?, restCount: Int) {
        let octets = Array(text.utf8)
        for rules in [Self.refusing, Self.normalising] {
            let whole = Self.decode(octets, rules: rules)
            #expect(whole.isEnded == (content != nil))
            #expect(whole.faults == [])
            if let content {
                #expect(whole.content == content)
                #expect(whole.consumedCount == octets.count - restCount)
                #expect(whole.size == content.utf8.count)
            }
            Self.expectSameForAllSplits(octets, whole, rules)
        }
    }

    /// Sequences that some receiver has taken for the end of data. None may end it here; each is followed by the true
    /// end.
    static let smuggling: [String] = [
        "\n.\n", "\r\n.\n", "\n.\r\n", "\r.\r", "\r\n.\r", "\r.\r\n", "\n.\r", "\r.\n", "\r\n\0.\r\n", "\r\n.\0\r\n",
        "\r\n.\r\0\n", "\r\r\n.\n", "\r\n.\r\r\n", "\n\n.\n\n", "\r\0\n.\r\n",
    ]

    @Test("No other sequence ends content, and content with a bare CR or LF or a NUL is refused", arguments: smuggling)
    func checkSmuggling(vector: String) {
        let text = "body" + vector + "MAIL FROM:<evil@example.com>\r\n.\r\nQUIT\r\n"
        let octets = Array(text.utf8)
        let refused = Self.decode(octets, rules: Self.refusing)
        #expect(refused.isEnded)
        #expect(refused.consumedCount == octets.count - 6)
        #expect(!refused.faults.isEmpty)
        Self.expectSameForAllSplits(octets, refused, Self.refusing)

        let normalised = Self.decode(octets, rules: Self.normalising)
        #expect(normalised.isEnded)
        #expect(normalised.consumedCount == octets.count - 6)
        #expect(normalised.faults == [])
        #expect(normalised.content.hasSuffix("MAIL FROM:<evil@example.com>\r\n"))
        let lone = Self.loneNewlineCount(Array(normalised.content.utf8))
        #expect(lone == 0)
        Self.expectSameForAllSplits(octets, normalised, Self.normalising)
    }

    @Test("A bare LF before a dot becomes a line break whose dot stays content")
    func normalisedDot() {
        let outcome = Self.decode(Array("a\n.\r\nb\r\n.\r\n".utf8), rules: Self.normalising)
        #expect(outcome.content == "a\r\n.\r\nb\r\n")
        #expect(Self.decode(Array("a\n.\n".utf8), rules: Self.normalising).isEnded == false)
    }

    @Test("NUL is content when the rules take it")
    func acceptedNUL() {
        let rules = ContentRules(refusesNUL: false, sizeMax: 100)
        #expect(Self.decode(Array("a\0b\r\n.\r\n".utf8), rules: rules).content == "a\0b\r\n")
        #expect(Self.decode(Array("a\0b\r\n.\r\n".utf8), rules: Self.refusing).faults == .nul)
    }

    @Test("Content of exactly the size limit passes, one octet more is swallowed to its end and refused")
    func sizeLimit() {
        let rules = ContentRules(sizeMax: 12)
        let fits = Self.decode(Array("0123456789\r\n.\r\n".utf8), rules: rules)
        #expect(fits.content == "0123456789\r\n")
        let octets = Array("0123456789A\r\n.\r\nNOOP".utf8)
        let large = Self.decode(octets, rules: rules)
        #expect(large.faults == .tooLarge)
        #expect(large.isEnded && large.consumedCount == octets.count - 4)
        Self.expectSameForAllSplits(octets, large, rules)
    }

    @Test("What goes on beyond the size limit without end is abandoned")
    func abandoned() {
        var decoder = ContentDecoder(rules: ContentRules(sizeMax: 10, discardCountMax: 10))
        let octets = Array(repeating: UInt8(ascii: "a"), count: 21)
        let progress = octets.withUnsafeBytes { decoder.next($0) { _ in } }
        #expect(progress.status == .abandoned)
    }

    @Test("Lines of any length pass by default, and a limit counts them without their line break")
    func lineLimit() {
        let text = String(repeating: "a", count: 1_200) + "\r\n.\r\n"
        #expect(Self.decode(Array(text.utf8), rules: Self.refusing).faults == [])
        let rules = ContentRules(lineOctetCountMax: 1_000, sizeMax: 10_000)
        #expect(Self.decode(Array(text.utf8), rules: rules).faults == .lineTooLong)
        let exact = String(repeating: "a", count: 1_000) + "\r\n"
        #expect(Self.decode(Array((exact + exact + ".\r\n").utf8), rules: rules).faults == [])
        Self.expectSameForAllSplits(
            Array((exact + text).utf8),
            Self.decode(Array((exact + text).utf8), rules: rules),
            rules
        )
    }

    @Test("Random octets split at random give what they give whole", arguments: 0..<300 as Range<UInt64>)
    func fuzz(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        let alphabet: [UInt8] = [0x0d, 0x0a, 0x0d, 0x0a, UInt8(ascii: "."), UInt8(ascii: "."), UInt8(ascii: "a"), 0]
        let octets = (0..<Int.random(in: 0...80, using: &random))
            .map { _ in alphabet.randomElement(using: &random) ?? 0 }
        for rules in [
            Self.refusing, Self.normalising, ContentRules(sizeMax: 9),
            ContentRules(bareNewline: .normalise, refusesNUL: false, sizeMax: 20),
        ] {
            let whole = Self.decode(octets, rules: rules)
            // The true end, found the slow way.
            let padded = [0x0d, 0x0a] + octets
            let end = padded.indices.first { padded[$0...].starts(with: [0x0d, 0x0a, 0x2e, 0x0d, 0x0a]) }
            #expect(whole.isEnded == (end != nil))
            if let end { #expect(whole.consumedCount == end + 3) }
            for _ in 0..<20 {
                let splits = (0..<4).map { _ in Int.random(in: 0...octets.count, using: &random) }.sorted()
                #expect(Self.decode(octets, splits: splits, rules: rules) == whole)
            }
        }
    }

    @Test("Stuffed content comes back as it was", arguments: 0..<300 as Range<UInt64>)
    func roundTrip(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        var content = ""
        for _ in 0..<Int.random(in: 0...8, using: &random) {
            content += [".", "..", "", "a", ".a", "\r\n", "\r\n.", "b."].randomElement(using: &random) ?? ""
        }
        let octets = Array(content.utf8)
        var sent: [UInt8] = []
        octets.withUnsafeBytes { content in DotStuffer.stuff(content) { sent += $0 } }
        let decoded = Self.decode(sent, rules: Self.refusing)
        #expect(decoded.isEnded && decoded.consumedCount == sent.count)
        #expect(decoded.content == (content.isEmpty || content.hasSuffix("\r\n") ? content : content + "\r\n"))
        let needs = octets.withUnsafeBytes { DotStuffer.needsStuffing($0) }
        #expect(needs == content.split(separator: "\r\n").contains { $0.hasPrefix(".") })
    }

    private static func loneNewlineCount(_ octets: [UInt8]) -> Int {
        octets.indices
            .filter { index in
                switch octets[index] {
                case 0x0d: index + 1 == octets.count || octets[index + 1] != 0x0a
                case 0x0a: index == 0 || octets[index - 1] != 0x0d
                default: false
                }
            }
            .count
    }

    /// Every split in two, and one octet at a time.
    private static func expectSameForAllSplits(_ octets: [UInt8], _ whole: Outcome, _ rules: ContentRules) {
        for split in 0...octets.count {
            #expect(Self.decode(octets, splits: [split], rules: rules) == whole, "split at \(split)")
        }
        #expect(Self.decode(octets, splits: Array(0..<octets.count), rules: rules) == whole)
    }
}

@Suite("Chunk framing")
struct ChunkDecoderTests {
    /// Feeds each chunk split at `split`; returns content and faults.
    private func decode(_ chunks: [String], split: Int, rules: ContentRules) -> (String, ContentFaults, Int) {
        var decoder = ChunkDecoder(rules: rules)
        var content: [UInt8] = []
        for chunk in chunks {
            let octets = Array(chunk.utf8)
            decoder.beginChunk(size: octets.count)
            let place = min(split, octets.count)
            // Octets of the next command follow: they must not be taken.
            let all = octets + Array("QUIT".utf8)
            all.withUnsafeBytes { all in
                let first = decoder.next(UnsafeRawBufferPointer(rebasing: all[..<place])) { content += $0 }
                let second = decoder.next(UnsafeRawBufferPointer(rebasing: all[place...])) { content += $0 }
                #expect(first + second == octets.count)
            }
            #expect(decoder.isChunkComplete)
        }
        decoder.finish { content += $0 }
        return (String(decoding: content, as: UTF8.self), decoder.faults, decoder.size)
    }

    @Test("Chunks are taken by count, dots and all", arguments: 0...12)
    func chunks(split: Int) {
        let (content, faults, size) = self.decode(
            ["a\r\n.\r\n", "", "..b\r", "\nc"],
            split: split,
            rules: ContentRules(sizeMax: 100)
        )
        #expect(content == "a\r\n.\r\n..b\r\nc")
        #expect(faults == [])
        #expect(size == 12)
    }

    @Test(
        "A bare CR or LF is found within a chunk, across chunks and at the very end",
        arguments: [["a\nb"], ["a\rb"], ["a\r", "b"], ["a", "\nb"], ["a\r"], ["\n"], ["\r\r\n"], ["a\r", "", "b"]],
        0...4
    )
    func bareNewlines(chunks: [String], split: Int) {
        let (_, faults, _) = self.decode(chunks, split: split, rules: ContentRules(sizeMax: 100))
        #expect(faults == .bareNewline)
        let (content, none, size) = self.decode(
            chunks,
            split: split,
            rules: ContentRules(bareNewline: .normalise, sizeMax: 100)
        )
        #expect(none == [])
        // By octets: "\r\n" is one Character.
        var expected: [UInt8] = []
        var isAfterCarriageReturn = false
        for octet in chunks.joined().utf8 {
            if octet == 0x0d || (octet == 0x0a && !isAfterCarriageReturn) {
                expected += [0x0d, 0x0a]
            } else if octet != 0x0a {
                expected.append(octet)
            }
            isAfterCarriageReturn = octet == 0x0d
        }
        #expect(Array(content.utf8) == expected)
        #expect(size == content.utf8.count)
    }

    @Test("Octets beyond the size limit are a fault, a NUL is one")
    func faults() {
        #expect(self.decode(["123456"], split: 3, rules: ContentRules(sizeMax: 5)).1 == .tooLarge)
        #expect(self.decode(["a\0"], split: 1, rules: ContentRules(sizeMax: 5)).1 == .nul)
    }
}

@Suite("Command lines")
struct CommandLineDecoderTests {
    private func frames(_ text: String, max: Int = 20, isBareLineFeedAllowed: Bool = false, isTrickled: Bool = false)
        -> [String]
    {
        var decoder = CommandLineDecoder(isBareLineFeedAllowed: isBareLineFeedAllowed)
        var frames: [String] = []
        var waiting: [UInt8] = []
        for piece in isTrickled ? text.utf8.map({ [$0] }) : [Array(text.utf8)] {
            waiting += piece
            var isMore = true
            while isMore {
                let consumed: Int
                switch waiting.withUnsafeBytes({ decoder.next($0, lineCountMax: max) }) {
                case .needsMore(let count):
                    consumed = count
                    isMore = false
                case .line(let count, let count2):
                    frames.append(String(decoding: waiting[..<count], as: UTF8.self))
                    consumed = count2
                case .tooLong(let count):
                    frames.append("TOO LONG")
                    consumed = count
                case .bareLineFeed(let count):
                    frames.append("BARE")
                    consumed = count
                }
                waiting.removeFirst(consumed)
            }
        }
        return frames
    }

    static let table: [(String, [String])] = [
        ("NOOP\r\nQUIT\r\n", ["NOOP", "QUIT"]),
        ("\r\n", [""]),
        ("NOOP\nQUIT\r\n", ["BARE", "QUIT"]),
        ("NO\rOP\r\n", ["NO\rOP"]),
        ("123456789012345678\r\n", ["123456789012345678"]),
        ("1234567890123456789\r\nNOOP\r\n", ["TOO LONG", "NOOP"]),
        (String(repeating: "a", count: 100) + "\r\nNOOP\r\n", ["TOO LONG", "NOOP"]),
        ("NOOP", []),
    ]

    @Test("Only CRLF ends a line, and lines that are too long are swallowed", arguments: table)
    func lines(text: String, expected: [String]) {
        #expect(self.frames(text) == expected)
        #expect(self.frames(text, isTrickled: true) == expected)
    }

    @Test("A bare LF ends a line where that is allowed")
    func tolerated() {
        #expect(self.frames("NOOP\nQUIT\r\n", isBareLineFeedAllowed: true) == ["NOOP", "QUIT"])
    }
}
