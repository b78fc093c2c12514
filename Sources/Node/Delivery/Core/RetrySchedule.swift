import ClusterLog
import NodeSupport

/// When a recipient is tried again, and when no more (DESIGN §2). All in milliseconds.
struct RetrySchedule: Sendable {
    /// Ascending.
    let tiers: [Int64]
    /// The delay after the first, second, ... attempt; the last one repeats.
    let schedule: [Int64]
    let lifetime: Int64
    let notificationLifetime: Int64
    let delayNotificationAfter: Int64?

    init(_ retry: NodeConfiguration.Retry) {
        self.tiers = retry.tiers.map(\.milliseconds).sorted()
        self.schedule = retry.schedule.map(\.milliseconds)
        self.lifetime = retry.lifetime.milliseconds
        self.notificationLifetime = retry.notificationLifetime.milliseconds
        self.delayNotificationAfter = retry.delayNotificationAfter?.milliseconds
    }

    func expiry(acceptedAt: Int64, isNotification: Bool) -> Int64 {
        acceptedAt + (isNotification ? self.notificationLifetime : self.lifetime)
    }

    /// The tier after an attempt that failed for now; `nil` when the life left is shorter than the shortest tier.
    func tier(afterAttempt attempt: UInt32, now: Int64, expiry: Int64) -> Int64? {
        guard let last = self.schedule.last else { return nil }
        let wanted = attempt >= 1 && Int(attempt) <= self.schedule.count ? self.schedule[Int(attempt) - 1] : last
        return self.largestTier(notAbove: min(wanted, expiry - now))
    }

    /// The tier for mail that waits without an attempt: the largest not above what the wait will be, as far as known, or
    /// three times what the outage has lasted; never longer than the life left, and at least the shortest.
    ///
    /// With the usual tiers that is the schedule of mail that was tried, so that four hours of outage move a message six
    /// times (ADR 0008).
    func tier(parkedFor wait: Int64, outageAge: Int64, now: Int64, expiry: Int64) -> Int64 {
        let wanted = max(wait, outageAge * 3)
        return self.largestTier(notAbove: min(wanted, expiry - now)) ?? self.tiers.first ?? 0
    }

    private func largestTier(notAbove bound: Int64) -> Int64? {
        self.tiers.last { $0 <= bound }
    }
}

extension Duration {
    /// Whole milliseconds, rounded down.
    var milliseconds: Int64 {
        let (seconds, attoseconds) = self.components
        return seconds * 1_000 + attoseconds / 1_000_000_000_000_000
    }
}

extension Topic {
    static func deferred(milliseconds: Int64) -> Topic {
        Topic.deferred(delay: milliseconds / 1_000)
    }
}
