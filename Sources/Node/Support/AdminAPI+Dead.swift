extension AdminAPI {
    /// Where a record of `posthorn.dead` is: `PARTITION@OFFSET`.
    public struct DeadPosition: Hashable, Sendable, CustomStringConvertible, Codable {
        public var partition: Int32
        public var offset: Int64

        public init(partition: Int32, offset: Int64) {
            self.partition = partition
            self.offset = offset
        }

        /// Reads `3@17`, with or without `posthorn.dead/` before it.
        public init?(_ text: some StringProtocol) {
            let parts = (text.split(separator: "/").last ?? "").split(separator: "@", omittingEmptySubsequences: false)
            guard parts.count == 2, let partition = Int32(parts[0]), let offset = Int64(parts[1]),
                partition >= 0, offset >= 0
            else { return nil }
            self.init(partition: partition, offset: offset)
        }

        public init(from decoder: any Decoder) throws {
            let container = try decoder.singleValueContainer()
            let text = try container.decode(String.self)
            guard let position = Self(text) else {
                throw DecodingError.dataCorruptedError(in: container, debugDescription: "not PARTITION@OFFSET")
            }
            self = position
        }

        public func encode(to encoder: any Encoder) throws {
            var container = encoder.singleValueContainer()
            try container.encode(self.description)
        }

        public var description: String { "\(self.partition)@\(self.offset)" }
    }

    /// A record that could not be used, without its value.
    public struct DeadRecord: Codable, Hashable, Sendable {
        public var position: DeadPosition
        /// When it came to `posthorn.dead`.
        public var buried: Instant
        public var reason: String
        /// Octets of key, headers and value, as they are here.
        public var size: Int
        /// Where it was, `TOPIC/PARTITION@OFFSET`; `nil` when somebody else wrote it to `posthorn.dead`.
        public var from: String?
        public var topic: String?
        public var key: String?
        /// When its own topic took it.
        public var appended: Instant?
        /// Octets that it had, when a part of it was cut.
        public var originalSize: Int?
        /// 26 characters; `nil` when the envelope cannot be read.
        public var message: String?
        /// Its recipients have final outcomes all the same.
        public var isConcluded: Bool?
        /// When it was last put back.
        public var replayed: Instant?

        public init(position: DeadPosition, buried: Instant, reason: String, size: Int) {
            self.position = position
            self.buried = buried
            self.reason = reason
            self.size = size
        }
    }

    /// The mark that a record was put back. It is newer than the record, so a page may have marks of records on later
    /// pages.
    public struct DeadReplayMark: Codable, Hashable, Sendable {
        public var position: DeadPosition
        public var time: Instant

        public init(position: DeadPosition, time: Instant) {
            self.position = position
            self.time = time
        }
    }

    public struct DeadList: Codable, Hashable, Sendable {
        /// The newest first.
        public var records: [DeadRecord]
        /// Ask again with it for older ones; `nil` when there are none.
        public var cursor: String?
        public var replays: [DeadReplayMark]

        public init(records: [DeadRecord], cursor: String?, replays: [DeadReplayMark]) {
            self.records = records
            self.cursor = cursor
            self.replays = replays
        }
    }

    /// A dead record with all that can be read of it but its value.
    public struct DeadDetail: Codable, Hashable, Sendable {
        public struct Header: Codable, Hashable, Sendable {
            public var name: String
            public var size: Int
            /// `nil` when the value is no short text.
            public var text: String?

            public init(name: String, size: Int, text: String?) {
                self.name = name
                self.size = size
                self.text = text
            }
        }

        public struct Envelope: Codable, Hashable, Sendable {
            public var message: String
            /// Empty is the null reverse-path.
            public var sender: String
            public var recipients: [String]
            public var accepted: Instant
            public var octets: Int
            public var attempts: Int
            /// Where the content is, when it is not the record's value.
            public var content: String?

            public init(
                message: String,
                sender: String,
                recipients: [String],
                accepted: Instant,
                octets: Int,
                attempts: Int,
                content: String?
            ) {
                self.message = message
                self.sender = sender
                self.recipients = recipients
                self.accepted = accepted
                self.octets = octets
                self.attempts = attempts
                self.content = content
            }
        }

        public var record: DeadRecord
        public var valueSize: Int
        public var headers: [Header]
        public var envelope: Envelope?
        /// Why there is no ``envelope``.
        public var envelopeError: String?

        public init(
            record: DeadRecord,
            valueSize: Int,
            headers: [Header],
            envelope: Envelope?,
            envelopeError: String?
        ) {
            self.record = record
            self.valueSize = valueSize
            self.headers = headers
            self.envelope = envelope
            self.envelopeError = envelopeError
        }
    }

    /// Which records to put back where they were.
    public struct DeadReplay: Codable, Hashable, Sendable {
        public static let countMax = 100

        public var positions: [DeadPosition]
        /// Also those that were put back before, that still cannot be read, whose content is gone, or whose recipients have
        /// final outcomes.
        public var force: Bool?
        /// Whoever asks has looked for marks of earlier replays.
        public var marksAreKnown: Bool?

        public init(positions: [DeadPosition], force: Bool? = nil, marksAreKnown: Bool? = nil) {
            self.positions = positions
            self.force = force
            self.marksAreKnown = marksAreKnown
        }
    }

    public struct DeadReplayResult: Codable, Hashable, Sendable {
        public struct Item: Codable, Hashable, Sendable {
            public var position: DeadPosition
            /// Where it is now, `TOPIC/PARTITION@OFFSET`; `nil` when it was refused.
            public var to: String?
            public var refusal: String?

            public init(position: DeadPosition, to: String? = nil, refusal: String? = nil) {
                self.position = position
                self.to = to
                self.refusal = refusal
            }
        }

        public var items: [Item]

        public init(items: [Item]) {
            self.items = items
        }
    }
}

/// Which records of `posthorn.dead` to list: those that match everything that is given.
public struct DeadQuery: Hashable, Sendable {
    public static let limitDefault = 100
    public static let limitMax = 1_000

    /// The topic they were in.
    public var topic: String?
    /// Milliseconds since 1970: those that came to `posthorn.dead` then or later.
    public var since: Int64?
    /// Records at most, in `1...limitMax`.
    public var limit: Int
    /// ``AdminAPI/DeadList/cursor`` of the page before.
    public var cursor: String?

    public init(topic: String? = nil, since: Int64? = nil, limit: Int = DeadQuery.limitDefault, cursor: String? = nil) {
        precondition((1...Self.limitMax).contains(limit))
        self.topic = topic
        self.since = since
        self.limit = limit
        self.cursor = cursor
    }
}
