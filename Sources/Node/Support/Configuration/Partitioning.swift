extension NodeConfiguration {
    /// How mail is spread over partitions.
    public struct Partitioning: Hashable, Sendable {
        /// Domains that go where another one goes.
        public struct Alias: Hashable, Sendable {
            public var domain: String
            /// Empty takes the domain out of the aliases that are built in.
            public var others: [String]

            public init(domain: String, others: [String]) {
                self.domain = domain
                self.others = others
            }
        }

        /// A domain or site that is spread over so many buckets, whatever it carries.
        public struct Buckets: Hashable, Sendable {
            public var name: String
            public var count: Int

            public init(name: String, count: Int) {
                self.name = name
                self.count = count
            }
        }

        public var aliases: [Alias] = []
        /// The other domains of large providers are known.
        public var usesBuiltInAliases = true
        public var buckets: [Buckets] = []
        /// Domains and sites that carry much are spread. Only where nodes share the work.
        public var learns = true
        /// Messages a second, as one node sees them, below which none is.
        public var hotRate = 2

        public init() {}
    }
}
