import Mail
import SMTP

/// SplitMix64, so that a failing seed can be run again.
struct SplitMix64: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { self.state = seed }

    mutating func next() -> UInt64 {
        self.state &+= 0x9e37_79b9_7f4a_7c15
        var z = self.state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}

/// Relays to anyone at `example.com` and `example.org`, and says what the tests want to the rest.
struct TestPolicy: SessionPolicy {
    var connection = PolicyVerdict.accept
    var hello = PolicyVerdict.accept
    var content = PolicyVerdict.accept
    var isOpen = false

    func evaluateConnection(_ session: SessionFacts) -> PolicyVerdict { self.connection }
    func evaluateHello(_ session: SessionFacts) -> PolicyVerdict { self.hello }
    func evaluateContent(_ transaction: AcceptedTransaction) -> PolicyVerdict { self.content }

    func evaluateMail(_ arguments: MailArguments, _ session: SessionFacts) -> PolicyVerdict {
        arguments.reversePath?.domain.text == "spam.example" ? .reject(.relayDenied) : .accept
    }

    func evaluateRecipient(_ recipient: Recipient, _ transaction: AcceptedTransaction) -> PolicyVerdict {
        let isLocal = ["example.com", "example.org", "mx.example.com"].contains(recipient.mailbox.domain.text)
        return self.isOpen || isLocal ? .accept : .reject(.relayDenied)
    }
}

/// A driver in memory: answers every action at once and keeps what was written.
struct SessionHarness {
    struct Message: Equatable {
        var transaction: AcceptedTransaction
        var content: String
    }

    var session: ServerSession
    var messages: [Message] = []
    var isClosed = false
    var credentials: [String: CredentialRecord] = [:]
    var publishFailure: Reply?
    /// Leaves publishes unanswered.
    var holdsPublish = false
    private(set) var lookUps: [String] = []
    private(set) var discardCount = 0
    private var content: [UInt8] = []
    private var waiting: [UInt8] = []
    private var output: [UInt8] = []

    init(
        _ configuration: ServerConfiguration = .test(),
        policy: TestPolicy = TestPolicy(),
        tls: TLSFacts? = nil,
        isConnected: Bool = true
    ) {
        self.session = ServerSession(configuration: configuration, policy: policy, clientAddress: "192.0.2.1")
        if isConnected {
            self.perform(self.session.connected(tls: tls))
            _ = self.takeOutput()
        }
    }

    /// A session that has said EHLO.
    static func greeted(
        _ configuration: ServerConfiguration = .test(),
        policy: TestPolicy = TestPolicy(),
        tls: TLSFacts? = nil
    ) -> SessionHarness {
        var harness = SessionHarness(configuration, policy: policy, tls: tls)
        _ = harness.send("EHLO client.example\r\n")
        return harness
    }

    /// Sends the text and returns everything the session answers.
    mutating func send(_ text: String) -> String { self.send(Array(text.utf8)) }

    mutating func send(_ octets: [UInt8]) -> String {
        self.waiting += octets
        self.run()
        return self.takeOutput()
    }

    /// The codes that begin the last lines of the replies.
    mutating func codes(_ text: String) -> [Int] {
        self.send(text).split(separator: "\r\n").filter { $0.dropFirst(3).first == " " }
            .compactMap {
                Int($0.prefix(3))
            }
    }

    mutating func connect(tls: TLSFacts? = nil) -> String {
        self.perform(self.session.connected(tls: tls))
        return self.takeOutput()
    }

    mutating func published(as id: String) -> String {
        self.perform(self.session.published(as: id))
        self.run()
        return self.takeOutput()
    }

    mutating func interrupted(by reply: Reply) -> String {
        self.perform(self.session.interrupted(by: reply))
        self.run()
        return self.takeOutput()
    }

    private mutating func run() {
        while true {
            var received: [UInt8] = []
            let waiting = self.waiting
            let step = waiting.withUnsafeBytes { octets in
                self.session.next(in: octets) { received += $0 }
            }
            self.content += received
            precondition(step.consumedCount <= self.waiting.count)
            self.waiting.removeFirst(step.consumedCount)
            if step.action == .needsMore { return }
            self.perform(step.action)
        }
    }

    private mutating func perform(_ action: ServerSession.Action) {
        switch action {
        case .needsMore:
            break
        case .reply(let reply):
            self.output += reply.octets
        case .replyThenClose(let reply):
            self.output += reply.octets
            self.isClosed = true
        case .replyThenHandshake(let reply):
            self.output += reply.octets
            self.waiting = []
            self.perform(self.session.handshakeCompleted(.test))
        case .beginContent(_, let reply):
            self.content = []
            self.output += reply?.octets ?? []
        case .discardContent(let reply):
            self.content = []
            self.discardCount += 1
            self.output += reply.octets
        case .publish(let transaction):
            self.messages.append(
                Message(transaction: transaction, content: String(decoding: self.content, as: UTF8.self))
            )
            if self.holdsPublish { return }
            self.perform(
                self.publishFailure.map { self.session.publishFailed($0) }
                    ?? self.session.published(as: "ID\(self.messages.count)")
            )
        case .lookUpCredential(let userName):
            self.lookUps.append(userName)
            self.perform(
                self.session.foundCredential(self.credentials[userName], nonce: Array(repeating: 7, count: 18))
            )
        case .checkPassword(let check):
            self.perform(self.session.checkedPassword(isMatch: check.isMatch()))
        }
    }

    private mutating func takeOutput() -> String {
        defer { self.output = [] }
        return String(decoding: self.output, as: UTF8.self)
    }
}

extension TLSFacts {
    static let test = TLSFacts(version: "TLSv1.3")
}

extension ServerConfiguration {
    static func test(
        kind: Kind = .relay,
        isTLSAvailable: Bool = true,
        isTLSRequired: Bool = false,
        authentication: Authentication? = nil,
        limits: Limits = Limits(),
        rules: ContentRules = ContentRules(sizeMax: 1_000_000)
    ) -> ServerConfiguration {
        ServerConfiguration(
            hostname: Domain(normalized: "mx.example.com"),
            listener: "test",
            kind: kind,
            isTLSAvailable: isTLSAvailable,
            isTLSRequired: isTLSRequired,
            authentication: authentication,
            limits: limits,
            contentRules: rules
        )
    }

    static let submission = ServerConfiguration.test(
        kind: .submission,
        authentication: Authentication(dummySecret: Array("secret".utf8))
    )
}
