import ClusterLog

/// Who owns which partition: a model of the contract of librdkafka's cooperative-sticky assignor, for members that all
/// subscribe to the same topics.
///
/// Owners keep what they have; what has none goes to the member with the fewest partitions; then partitions move from the
/// member with the most to the one with the fewest until they differ by one. Which of its partitions a member gives away
/// first is the assignor's own order: by topic, then by number. What was compared with the assignor itself is said in
/// `ops/docs/scaling.md`.
struct GroupModel {
    let topics: [Topic]
    let partitionCount: Int
    /// In their order of joining.
    private(set) var members: [Int] = []
    private(set) var owners: [TopicPartition: Int] = [:]

    init(topics: [Topic], partitionCount: Int) {
        self.topics = topics.sorted { $0.name < $1.name }
        self.partitionCount = partitionCount
    }

    mutating func join(_ member: Int) { self.members.append(member) }

    mutating func leave(_ member: Int) {
        self.members.removeAll { $0 == member }
        self.owners = self.owners.filter { $0.value != member }
    }

    /// Assigns anew. Returns the partitions that have another owner than before.
    @discardableResult
    mutating func rebalance() -> [TopicPartition: Int] {
        let before = self.owners
        guard !self.members.isEmpty else { return [:] }
        var owned = Dictionary(uniqueKeysWithValues: self.members.map { ($0, [TopicPartition]()) })
        let all = self.topics.flatMap { topic in
            (0..<self.partitionCount).map { TopicPartition(topic, Int32($0)) }
        }
        for partition in all {
            if let owner = self.owners[partition] { owned[owner, default: []].append(partition) }
        }
        for partition in all where self.owners[partition] == nil {
            owned[self.fewest(owned), default: []].append(partition)
        }
        while true {
            let least = self.fewest(owned)
            let most = self.members.max { owned[$0, default: []].count < owned[$1, default: []].count } ?? least
            guard owned[most, default: []].count > owned[least, default: []].count + 1 else { break }
            let moved = owned[most, default: []].removeFirst()
            owned[least, default: []].append(moved)
        }
        self.owners = [:]
        for (member, partitions) in owned {
            for partition in partitions { self.owners[partition] = member }
        }
        return self.owners.filter { before[$0.key] != $0.value }
    }

    private func fewest(_ owned: [Int: [TopicPartition]]) -> Int {
        self.members.min { owned[$0, default: []].count < owned[$1, default: []].count } ?? 0
    }

    /// Partitions of a topic that each member has, in the order of the members.
    func counts(_ topic: Topic) -> [Int] {
        var counts: [Int: Int] = [:]
        for (partition, owner) in self.owners where partition.topic == topic { counts[owner, default: 0] += 1 }
        return self.members.map { counts[$0] ?? 0 }
    }
}
