import NodeSupport
import Records

extension KeySpreading.Configuration {
    /// How a node with this configuration keys its records.
    ///
    /// - Parameter isShared: other nodes work on the same log; one machine has nobody to spread the work over.
    init(_ node: NodeConfiguration, partitionCount: Int, isShared: Bool) {
        let partitioning = node.partitioning
        self.init(partitionCount: partitionCount)
        if partitioning.usesBuiltInAliases { self.aliases = KeySpreading.wellKnownAliases }
        for alias in partitioning.aliases {
            self.aliases[alias.domain] = nil
            for other in alias.others { self.aliases[other] = alias.domain }
        }
        // What is named by an alias of an alias goes to the same place.
        for (domain, target) in self.aliases {
            if let further = self.aliases[target] { self.aliases[domain] = further }
        }
        for buckets in partitioning.buckets { self.bucketCounts[buckets.name] = buckets.count }
        self.learns = partitioning.learns && isShared
        self.hotRate = Double(partitioning.hotRate)
        self.phase = Int.random(in: 0..<max(1, partitionCount))
    }
}
