import Mail
import SMTP

/// Drives a ``ClientSession`` by hand: what the server says goes in, what the client writes comes out.
struct ClientHarness {
    var session: ClientSession

    init(_ configuration: ClientConfiguration = ClientConfiguration(name: "relay.example", tls: .never)) {
        self.session = ClientSession(configuration: configuration)
        _ = self.session.connected()
    }

    /// A session that is ready, on a server that offers `extensions`.
    static func ready(
        _ extensions: [String] = [],
        wire: ClientConfiguration.Wire = .smtp
    ) -> ClientHarness {
        var harness = ClientHarness(ClientConfiguration(wire: wire, name: "relay.example", tls: .never))
        _ = harness.says("220 mx.example\r\n")
        let lines = ["mx.example"] + extensions
        let reply = lines.dropLast().map { "250-\($0)\r\n" }.joined() + "250 \(lines[lines.count - 1])\r\n"
        _ = harness.says(reply)
        _ = harness.sent()
        return harness
    }

    mutating func says(_ text: String) -> [ClientSession.Action] {
        self.says(octets: Array(text.utf8))
    }

    /// Keys that the session asks for are derived at once.
    mutating func says(octets: [UInt8]) -> [ClientSession.Action] {
        var actions: [ClientSession.Action] = []
        octets.withUnsafeBytes { octets in
            var position = 0
            while let action = self.session.received(octets, at: &position) {
                guard case .deriveKey(let derivation) = action else {
                    actions.append(action)
                    continue
                }
                actions.append(self.session.derived(derivation.key()))
            }
        }
        return actions
    }

    /// What was written since the last call.
    mutating func sent() -> String {
        defer { self.session.clearOutbound() }
        return String(decoding: self.session.outbound, as: UTF8.self)
    }

    mutating func begin(_ recipients: [String], eightBit: Bool = false) -> ClientSession.Action {
        self.session.begin(.test(to: recipients, hasEightBitContent: eightBit))
    }
}

extension ClientTransaction {
    static func test(to recipients: [String], hasEightBitContent: Bool = false) -> ClientTransaction {
        ClientTransaction(
            reversePath: Mailbox("s@sender.example"),
            recipients: recipients.enumerated().map { Recipient(mailbox: Mailbox($1), index: UInt32($0)) },
            contentSize: 1234,
            hasEightBitContent: hasEightBitContent
        )
    }
}

extension Mailbox {
    init(_ text: String) {
        let parts = text.split(separator: "@", maxSplits: 1)
        self.init(localPart: String(parts[0]), domain: Domain(normalized: String(parts[1])))
    }
}

extension RemoteReply {
    init(_ code: Int, _ lines: String...) {
        self.init(
            code: code,
            enhancedStatusCode: lines.first.flatMap { EnhancedStatusCode(String($0.prefix { $0 != " " })) },
            lines: lines
        )
    }
}

extension [ClientSession.Action] {
    /// The one outcome among the actions.
    var outcome: ClientTransactionOutcome? {
        for case .finished(let outcome) in self { return outcome }
        return nil
    }
}

/// Replays exactly from its seed (Steele, Lea, Flood: SplitMix).
struct ClientRandom: RandomNumberGenerator {
    var state: UInt64
    init(seed: UInt64) { self.state = seed }
    mutating func next() -> UInt64 {
        self.state &+= 0x9e37_79b9_7f4a_7c15
        var value = self.state
        value = (value ^ value >> 30) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ value >> 27) &* 0x94d0_49bb_1331_11eb
        return value ^ value >> 31
    }
}
