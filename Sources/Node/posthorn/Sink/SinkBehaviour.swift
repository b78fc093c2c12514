/// The points of an SMTP session at which a sink can be slow, refuse, or hang up.
enum SinkPhase: String, CaseIterable, Sendable {
    /// The connection is there, the greeting is not.
    case connect
    /// The greeting has been sent.
    case banner
    case ehlo
    case mail
    case rcpt
    case data
    /// Some of the content has arrived.
    case content
    /// All of the content has arrived, the reply has not been sent.
    case dot
}

/// What a sink does; fixed while it runs.
struct SinkBehaviour: Sendable {
    /// Refuses recipients that match a pattern, with a reply of the user's.
    struct RecipientRule: Sendable {
        /// Lower case; `*` matches anything.
        var pattern: String
        var reply: String

        func matches(_ recipient: String) -> Bool {
            Self.matches(Array(self.pattern.utf8)[...], Array(recipient.lowercased().utf8)[...])
        }

        private static func matches(_ pattern: ArraySlice<UInt8>, _ text: ArraySlice<UInt8>) -> Bool {
            // Greedy with one point to come back to: linear for one star, quadratic at worst.
            var pattern = pattern
            var text = text
            var retry: (pattern: ArraySlice<UInt8>, text: ArraySlice<UInt8>)?
            while true {
                if pattern.first == UInt8(ascii: "*") {
                    pattern = pattern.dropFirst()
                    retry = (pattern, text)
                } else if let octet = text.first, pattern.first == octet {
                    pattern = pattern.dropFirst()
                    text = text.dropFirst()
                } else if text.isEmpty, pattern.isEmpty {
                    return true
                } else if let point = retry, !point.text.isEmpty {
                    retry = (point.pattern, point.text.dropFirst())
                    pattern = point.pattern
                    text = point.text.dropFirst()
                } else {
                    return false
                }
            }
        }
    }

    var hostname = "sink.example"
    var isLMTP = false
    var hasPipelining = true
    var has8BitMIME = true
    var hasSMTPUTF8 = true
    var hasChunking = true
    var hasSize = true
    var hasDSN = true
    /// The share of chances, 0 to 1, by phase.
    var temporaryFailures: [SinkPhase: Double] = [:]
    var permanentFailures: [SinkPhase: Double] = [:]
    var drops: [SinkPhase: Double] = [:]
    var delays: [SinkPhase: Duration] = [:]
    var recipientRules: [RecipientRule] = []
    var seed: UInt64 = 1

    /// Recipients are worth remembering.
    var needsRecipients: Bool { !self.recipientRules.isEmpty }
}

/// Random numbers that a seed repeats (SplitMix64).
struct SeededRandom: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) {
        self.state = seed
    }

    mutating func next() -> UInt64 {
        self.state &+= 0x9e37_79b9_7f4a_7c15
        var value = self.state
        value = (value ^ (value >> 30)) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ (value >> 27)) &* 0x94d0_49bb_1331_11eb
        return value ^ (value >> 31)
    }

    /// True in a given share of cases.
    mutating func chance(_ share: Double) -> Bool {
        if share <= 0 { return false }
        return Double(self.next() >> 11) * 0x1p-53 < share
    }
}
