/// What the admin listener and its clients say to each other: JSON over HTTP.
///
/// - `GET /queue/summary` answers ``QueueSummary``.
/// - `GET /queue/messages?site=&domain=&sender=&limit=` answers ``QueueList``.
/// - `GET /queue/messages/{id}` answers ``QueuedMessage``, or 404.
/// - `POST /queue/flush`, `hold`, `release`, `remove` with a ``QueuePredicate`` answer ``QueueCommandResult``.
/// - `GET /trace?message=&address=&limit=` answers ``Trace``.
/// - `GET /dead/records?topic=&since=&limit=&cursor=` answers ``DeadList``; `GET /dead/records/{position}` ``DeadDetail``,
///   or 404; `GET /dead/records/{position}/value` the value's octets; `POST /dead/replay` with a ``DeadReplay``
///   ``DeadReplayResult``. Any node answers them.
///
/// In a cluster any node with the metrics role answers for all of them; `GET /index/...` with the paths `summary`,
/// `messages`, `messages/{id}` and `trace` answers for that node alone.
///
/// Errors answer ``Failure`` with a 4xx or 5xx status. Where the node has a token, requests carry it as
/// `Authorization: Bearer`.
public enum AdminAPI {
    /// Milliseconds since 1970 (UTC).
    public typealias Instant = Int64

    public enum Command: String, Codable, Sendable, CaseIterable {
        /// Try now whatever waits.
        case flush
        /// Stop trying until released.
        case hold
        case release
        /// Give up without telling the sender.
        case remove
    }

    public struct Failure: Codable, Hashable, Sendable {
        public var error: String

        public init(error: String) {
            self.error = error
        }
    }

    public struct QueueSummary: Codable, Hashable, Sendable {
        public struct Site: Codable, Hashable, Sendable {
            public var site: String
            /// Recipients waiting to be tried for the first time, or being tried.
            public var active: Int
            /// Recipients waiting after a failed attempt.
            public var deferred: Int
            public var held: Int
            /// When the oldest of its messages was accepted.
            public var oldest: Instant?
            /// Open connections, of those allowed.
            public var connections: Int
            public var connectionMax: Int
            /// Until when nothing is tried, after failures of the site itself.
            public var suspendedUntil: Instant?
            /// The last reply that was not a success.
            public var lastError: String?
            /// When the first of its waiting recipients is tried again.
            public var nextDue: Instant?

            public init(
                site: String,
                active: Int = 0,
                deferred: Int = 0,
                held: Int = 0,
                oldest: Instant? = nil,
                connections: Int = 0,
                connectionMax: Int = 0,
                suspendedUntil: Instant? = nil,
                lastError: String? = nil,
                nextDue: Instant? = nil
            ) {
                self.site = site
                self.active = active
                self.deferred = deferred
                self.held = held
                self.oldest = oldest
                self.connections = connections
                self.connectionMax = connectionMax
                self.suspendedUntil = suspendedUntil
                self.lastError = lastError
                self.nextDue = nextDue
            }
        }

        /// Records of a topic that delivery is not done with.
        public struct Backlog: Codable, Hashable, Sendable {
            public var topic: String
            public var records: Int

            public init(topic: String, records: Int) {
                self.topic = topic
                self.records = records
            }
        }

        public var messages: Int
        public var recipients: Int
        public var octets: Int
        public var oldest: Instant?
        /// Those with mail, the fullest first.
        public var sites: [Site]
        /// When the first waiting recipient is tried again.
        public var nextDue: Instant?
        /// Accepted records without a first attempt or decision: nothing is known of them but their number. Of a
        /// cluster only.
        public var notAttempted: Int?
        /// What waits in each retry tier, tried or parked. Of a cluster only.
        public var tiers: [Backlog]?
        /// What the answer lacks, for people: nodes that did not answer, partitions still being read.
        public var missing: [String]?

        public init(messages: Int, recipients: Int, octets: Int, oldest: Instant? = nil, sites: [Site]) {
            self.messages = messages
            self.recipients = recipients
            self.octets = octets
            self.oldest = oldest
            self.sites = sites
        }
    }

    public struct QueueList: Codable, Hashable, Sendable {
        public var messages: [QueuedMessage]
        /// More matched than `limit` lets through.
        public var isTruncated: Bool
        /// See ``QueueSummary/missing``.
        public var missing: [String]?

        public init(messages: [QueuedMessage], isTruncated: Bool = false) {
            self.messages = messages
            self.isTruncated = isTruncated
        }
    }

    public struct QueuedMessage: Codable, Hashable, Sendable {
        public struct Recipient: Codable, Hashable, Sendable {
            public enum State: String, Codable, Sendable {
                case active
                case deferred
                case held
            }

            public var address: String
            public var site: String
            public var state: State
            public var attempts: Int
            public var nextAttempt: Instant?
            public var lastReply: String?

            public init(
                address: String,
                site: String,
                state: State,
                attempts: Int = 0,
                nextAttempt: Instant? = nil,
                lastReply: String? = nil
            ) {
                self.address = address
                self.site = site
                self.state = state
                self.attempts = attempts
                self.nextAttempt = nextAttempt
                self.lastReply = lastReply
            }
        }

        /// 26 characters; see `MessageID`.
        public var id: String
        /// Empty is the null reverse-path.
        public var sender: String
        public var octets: Int
        public var accepted: Instant
        public var expires: Instant?
        /// Those without a final state.
        public var recipients: [Recipient]
        /// See ``QueueSummary/missing``.
        public var missing: [String]?

        public init(
            id: String,
            sender: String,
            octets: Int,
            accepted: Instant,
            expires: Instant? = nil,
            recipients: [Recipient]
        ) {
            self.id = id
            self.sender = sender
            self.octets = octets
            self.accepted = accepted
            self.expires = expires
            self.recipients = recipients
        }
    }

    /// What a command is about: recipients that match everything that is given. Nothing given matches nothing; `all`
    /// must be said.
    public struct QueuePredicate: Codable, Hashable, Sendable {
        public var domain: String?
        public var site: String?
        /// `<>` or empty is the null reverse-path.
        public var sender: String?
        public var recipient: String?
        public var message: String?
        public var all: Bool?

        public init(
            domain: String? = nil,
            site: String? = nil,
            sender: String? = nil,
            recipient: String? = nil,
            message: String? = nil,
            all: Bool? = nil
        ) {
            self.domain = domain
            self.site = site
            self.sender = sender
            self.recipient = recipient
            self.message = message
            self.all = all
        }

        /// Nothing is given.
        public var isEmpty: Bool { self == QueuePredicate() || self == QueuePredicate(all: false) }
    }

    public struct QueueCommandResult: Codable, Hashable, Sendable {
        /// Recipients the command is about, as far as is known when it is answered.
        public var matched: Int
        /// The other nodes of the cluster were told, and have not answered yet: ``matched`` is about this node's mail.
        public var toldOthers: Bool?

        public init(matched: Int, toldOthers: Bool? = nil) {
            self.matched = matched
            self.toldOthers = toldOthers
        }
    }
}
