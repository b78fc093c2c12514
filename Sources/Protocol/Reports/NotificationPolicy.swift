import Mail

/// Which outcomes a sender is to be told of (RFC 3461 §4.1 and §6.1, RFC 5321 §6.1).
public enum NotificationPolicy {
    /// Whether an outcome deserves a notification.
    ///
    /// `relayed` means passed on to a host that knows no DSN; what a host with DSN took over is that host's to
    /// report, and must not be asked here.
    /// - Parameters:
    ///   - reversePath: the message's; `nil` is the null reverse-path, to which nothing is ever sent.
    ///   - notify: the recipient's NOTIFY parameter; `nil` when the sender gave none.
    ///   - reportsDelayByDefault: whether senders who gave no NOTIFY hear of delays.
    public static func isNotificationDue(
        _ action: DeliveryStatusNotification.Action,
        reversePath: Mailbox?,
        notify: Recipient.Notify?,
        reportsDelayByDefault: Bool
    ) -> Bool {
        guard reversePath != nil else { return false }
        guard let notify, !notify.isEmpty else {
            switch action {
            case .failed: return true
            case .delayed: return reportsDelayByDefault
            case .delivered, .relayed, .expanded: return false
            }
        }
        guard !notify.contains(.never) else { return false }
        switch action {
        case .failed: return notify.contains(.failure)
        case .delayed: return notify.contains(.delay)
        case .delivered, .relayed, .expanded: return notify.contains(.success)
        }
    }

    /// Picks, from a message's outcomes, those to report; the order stays.
    public static func due<Outcome>(
        _ outcomes: [Outcome],
        envelope: Envelope,
        reportsDelayByDefault: Bool,
        facts: (Outcome) -> (action: DeliveryStatusNotification.Action, notify: Recipient.Notify?)
    ) -> [Outcome] {
        guard envelope.reversePath != nil else { return [] }
        return outcomes.filter { outcome in
            let facts = facts(outcome)
            return Self.isNotificationDue(
                facts.action,
                reversePath: envelope.reversePath,
                notify: facts.notify,
                reportsDelayByDefault: reportsDelayByDefault
            )
        }
    }
}
