import ClusterLog
public import Mail

/// A stream of messages: domains by weight, ids at random, all from a seed.
public struct MailStream: Sendable {
    private var state: UInt64
    private let domains: [String]
    /// Sums of the weights up to and with each domain.
    private let sums: [Double]
    private var count: Int64 = 0

    public init(_ weights: [(String, Double)], seed: UInt64) {
        self.state = seed
        self.domains = weights.map(\.0)
        var sum = 0.0
        self.sums = weights.map { weight in
            sum += weight.1
            return sum
        }
    }

    /// One provider with 76 % of the mail, the rest by Zipf's law over so many domains.
    public static func provider(tailCount: Int, seed: UInt64) -> MailStream {
        let harmonic = (1...tailCount).reduce(0.0) { $0 + 1 / Double($1) }
        let tail = (1...tailCount).map { ("d\($0).example", 0.24 / Double($0) / harmonic) }
        return MailStream([("gmail.com", 0.76)] + tail, seed: seed)
    }

    public mutating func next() -> (name: String, message: MessageID) {
        let wanted = Double(self.random() >> 11) / Double(1 << 53) * (self.sums.last ?? 0)
        var low = 0
        var high = self.sums.count - 1
        while low < high {
            let middle = (low + high) / 2
            if self.sums[middle] < wanted { low = middle + 1 } else { high = middle }
        }
        self.count += 1
        let message = MessageID(milliseconds: self.count, randomHigh: 0, randomLow: self.random())
        return (self.domains[low], message)
    }

    public mutating func random() -> UInt64 {
        self.state &+= 0x9e37_79b9_7f4a_7c15
        return Partitioner.hash(self.state, 0)
    }
}
