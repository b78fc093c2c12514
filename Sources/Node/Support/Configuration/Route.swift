extension NodeConfiguration {
    /// Where mail for some destination domains goes, and how.
    public struct Route: Hashable, Sendable {
        public enum NextHop: Hashable, Sendable {
            /// The mail exchangers of the destination domain (RFC 5321 §5.1).
            case mailExchangers
            /// Smart hosts, tried in order; `isImplicitTLS` is TLS from the first octet (`smtps`).
            case smtp(hosts: [Endpoint], isImplicitTLS: Bool)
            /// A mail store (RFC 2033).
            case lmtp(hosts: [Endpoint])
            /// Accepted, recorded as delivered, and thrown away.
            case discard
            /// Fails with this reply: permanently with a 5xx code, for now with a 4xx code.
            case refuse(RouteReply)
        }

        public struct Authentication: Hashable, Sendable {
            public var user: String
            /// The first line is the password.
            public var passwordFile: String

            public init(user: String, passwordFile: String) {
                self.user = user
                self.passwordFile = passwordFile
            }
        }

        public var match: DomainPattern
        public var via: NextHop
        /// `nil` is `NodeConfiguration.Delivery.tls`.
        public var tls: TLSLevel?
        public var authentication: Authentication?
        /// `nil` is `NodeConfiguration.Delivery.connectionCountPerSiteMax`.
        public var connectionCountMax: Int?
        /// `nil` is `NodeConfiguration.Delivery.messagesPerConnectionMax`; 0 is no bound.
        public var messagesPerConnectionMax: Int?

        public init(
            match: DomainPattern,
            via: NextHop,
            tls: TLSLevel? = nil,
            authentication: Authentication? = nil,
            connectionCountMax: Int? = nil,
            messagesPerConnectionMax: Int? = nil
        ) {
            self.match = match
            self.via = via
            self.tls = tls
            self.authentication = authentication
            self.connectionCountMax = connectionCountMax
            self.messagesPerConnectionMax = messagesPerConnectionMax
        }
    }

    /// A reply an operator wrote: `550 5.1.2 We do not send there`.
    public struct RouteReply: Hashable, Sendable {
        /// 400 to 599.
        public var code: Int
        /// As text, `5.1.2`; its class is the code's.
        public var enhancedStatusCode: String
        public var text: String

        public init(code: Int, enhancedStatusCode: String, text: String) {
            self.code = code
            self.enhancedStatusCode = enhancedStatusCode
            self.text = text
        }
    }
}
