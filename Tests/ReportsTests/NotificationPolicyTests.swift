import Mail
import Reports
import Testing

@Suite("NotificationPolicy: who is told of what (RFC 3461 §4.1)")
struct NotificationPolicyTests {
    private static let sender = Mailbox(localPart: "alice", domain: Domain(normalized: "example.org"))
    private typealias Action = DeliveryStatusNotification.Action

    private static func isDue(
        _ action: Action,
        _ notify: Recipient.Notify?,
        reversePath: Mailbox? = Self.sender,
        delays: Bool = true
    ) -> Bool {
        NotificationPolicy.isNotificationDue(
            action,
            reversePath: reversePath,
            notify: notify,
            reportsDelayByDefault: delays
        )
    }

    private static let actions: [Action] = [.failed, .delayed, .delivered, .relayed, .expanded]

    @Test("Nothing is ever sent to the null reverse-path, or with NOTIFY=NEVER")
    func staysSilent() {
        for action in Self.actions {
            #expect(!Self.isDue(action, [.success, .failure, .delay], reversePath: nil))
            #expect(!Self.isDue(action, nil, reversePath: nil))
            #expect(!Self.isDue(action, .never))
            #expect(!Self.isDue(action, [.never, .failure]))
        }
    }

    @Test("Without NOTIFY failures are reported, delays where configured, successes not")
    func appliesDefaults() {
        for notify in [nil, Recipient.Notify()] {
            #expect(Self.actions.map { Self.isDue($0, notify) } == [true, true, false, false, false])
            #expect(Self.actions.map { Self.isDue($0, notify, delays: false) } == [true, false, false, false, false])
        }
    }

    @Test("With NOTIFY exactly what was asked for is reported")
    func obeysNotify() {
        #expect(Self.actions.map { Self.isDue($0, .failure) } == [true, false, false, false, false])
        #expect(Self.actions.map { Self.isDue($0, .delay, delays: false) } == [false, true, false, false, false])
        #expect(Self.actions.map { Self.isDue($0, .success) } == [false, false, true, true, true])
        #expect(Self.actions.map { Self.isDue($0, [.success, .failure]) } == [true, false, true, true, true])
    }

    @Test("Of several outcomes the due ones are picked in order")
    func picksDue() {
        var envelope = Envelope(
            messageID: MessageID(high: 0, low: 0),
            reversePath: Self.sender,
            recipients: [],
            acceptedAt: 0,
            contentSize: 0
        )
        let outcomes: [(Int, DeliveryStatusNotification.Action, Recipient.Notify?)] = [
            (0, .failed, nil), (1, .delivered, nil), (2, .failed, .never), (3, .delivered, .success),
        ]
        func due() -> [Int] {
            NotificationPolicy.due(outcomes, envelope: envelope, reportsDelayByDefault: true) { ($0.1, $0.2) }.map(\.0)
        }
        #expect(due() == [0, 3])
        envelope.reversePath = nil
        #expect(due() == [])
    }
}
