import ClusterLog
import SMTP

extension Reply {
    /// The log cannot be reached, so there is no use in a session (G6).
    static let logUnavailable = Reply(421, EnhancedStatusCode(4, 3, 2), "Service not available now, try again later")
    static let tooManySessions = Reply(421, EnhancedStatusCode(4, 7, 0), "Too many connections, try again later")
    /// RFC 5321 §6.3.
    static let tooManyHops = Reply(554, EnhancedStatusCode(5, 4, 6), "Too many hops, the message loops")
    static let headerTooLarge = Reply(552, EnhancedStatusCode(5, 3, 4), "Header section too large")

    /// The reply to content that the log did not take.
    init(_ error: RecordLogError) {
        switch error.code {
        case .noSpace:
            self = .insufficientStorage
        case .recordTooLarge:
            self = .messageTooLarge
        case .queueFull, .notDurable, .unavailable, .fenced, .notFound, .mismatch, .corruptRecord, .configuration,
            .closed:
            self = .notStored
        }
    }
}
