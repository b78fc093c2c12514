extension NodeConfiguration {
    /// The bounds on taking mail. Beyond each, the client is told to come back or to stop; nothing grows without one.
    public struct Limits: Hashable, Sendable {
        /// Octets of content; announced with SIZE (RFC 1870).
        public var messageSizeMax = 50 << 20
        /// Forward-paths in one transaction; at least 100 (RFC 5321 §4.5.3.1.8).
        public var recipientCountMax = 1000
        /// Open sessions, all listeners together.
        public var sessionCountMax = 2000
        /// Open sessions from one address (IPv6: one /64). Networks in `relay.networks` are not bound by it.
        public var sessionCountPerAddressMax = 100
        /// Transactions in one session; 0 is no bound.
        public var messagesPerSessionMax = 0
        /// Wrong commands and refused recipients in one session before it is closed with 421.
        public var errorCountMax = 20
        /// Commands without progress (NOOP, RSET, EHLO, VRFY, what is answered with 4yz) in one session before it is closed.
        public var junkCommandCountMax = 100
        /// Octets of content received and not yet durable, all sessions together.
        public var octetsInFlightMax = 256 << 20
        /// Received fields in a message before it is taken for a loop (RFC 5321 §6.3).
        public var hopCountMax = 50
        /// Octets of header section.
        public var headerSizeMax = 1 << 20

        public init() {}
    }

    /// How long each side may keep the other waiting.
    public struct Timeouts: Hashable, Sendable {
        public var server = Server()
        public var client = Client()

        public init() {}

        /// What clients are given.
        public struct Server: Hashable, Sendable {
            /// For the next command (RFC 5321 §4.5.3.2.7).
            public var command: Duration = .seconds(300)
            /// Between two reads of content.
            public var dataBlock: Duration = .seconds(180)
            /// For the whole of the content.
            public var dataTotal: Duration = .seconds(600)
            /// From the session's start or its last message to the next message, whatever is said meanwhile.
            public var transaction: Duration = .seconds(3600)
            public var tlsHandshake: Duration = .seconds(30)
            /// For sessions to end when the node stops.
            public var drain: Duration = .seconds(10)

            public init() {}
        }

        /// What other servers are given, by phase (RFC 5321 §4.5.3.2).
        public struct Client: Hashable, Sendable {
            public var connect: Duration = .seconds(30)
            public var tlsHandshake: Duration = .seconds(30)
            public var greeting: Duration = .seconds(300)
            public var hello: Duration = .seconds(300)
            public var mail: Duration = .seconds(300)
            public var recipient: Duration = .seconds(300)
            public var dataInitiation: Duration = .seconds(120)
            public var dataBlock: Duration = .seconds(180)
            public var dataTermination: Duration = .seconds(600)
            public var reset: Duration = .seconds(20)
            public var quit: Duration = .seconds(5)

            public init() {}
        }
    }
}
