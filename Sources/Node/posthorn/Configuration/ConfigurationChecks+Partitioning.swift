import NodeSupport
import Records

extension ConfigurationChecks {
    /// Aliases and buckets that contradict each other.
    func checkPartitioning() {
        let partitioning = self.configuration.partitioning
        var homes: [String: Int] = [:]
        for (index, alias) in partitioning.aliases.enumerated() {
            for domain in [alias.domain] + alias.others {
                if let other = homes[domain] {
                    self.reading.report(
                        "partitioning.aliases[\(index)]",
                        "“\(domain)” is in partitioning.aliases[\(other)] too.",
                        fix: "Name each domain once."
                    )
                }
                homes[domain] = homes[domain] ?? index
            }
        }
        self.checkBuckets(partitioning)
    }

    private func checkBuckets(_ partitioning: NodeConfiguration.Partitioning) {
        let kafka = self.configuration.kafka
        let partitionCount = kafka.isUsed ? kafka.partitionCount : self.configuration.log.partitionCount
        let key = kafka.isUsed ? "kafka.partitions" : "log.partitions"
        let aliases =
            KeySpreading.Configuration(
                self.configuration,
                partitionCount: partitionCount,
                isShared: kafka.isUsed
            )
            .aliases
        var counts: [String: Int] = [:]
        for (index, buckets) in partitioning.buckets.enumerated() {
            let path = "partitioning.buckets[\(index)]"
            if buckets.count > partitionCount {
                self.reading.report(
                    "\(path).count",
                    "There are only \(partitionCount) partitions.",
                    fix: "Write \(partitionCount) or less (\(key))."
                )
            }
            if let other = counts[buckets.name] {
                self.reading.report(
                    "\(path).name",
                    "“\(buckets.name)” is in partitioning.buckets[\(other)] too.",
                    fix: "Name each once."
                )
            }
            counts[buckets.name] = counts[buckets.name] ?? index
            if let domain = aliases[buckets.name] {
                self.reading.report(
                    "\(path).name",
                    "“\(buckets.name)” is keyed as “\(domain)”, so its own buckets count for nothing.",
                    fix: "Write \(domain), or “- domain: \(buckets.name)” under partitioning.aliases."
                )
            }
        }
    }
}
