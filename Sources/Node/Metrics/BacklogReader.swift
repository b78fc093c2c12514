import ClusterLog

/// Counts the records that delivery is not done with. Acceptance makes no event, so this is what is known of mail
/// before its first attempt.
///
/// On Kafka some offsets hold no record (the ends of transactions), so counts of tiers may be a little too high.
struct BacklogReader: Sendable {
    let log: any RecordLog
    let group: GroupID

    /// By topic, in these partitions.
    func count(_ partitions: [Int32]) async throws(RecordLogError) -> [Topic: Int] {
        var counts: [Topic: Int] = [:]
        for topic in try await self.log.topics() where topic == .accepted || topic.deferredDelay != nil {
            counts[topic] = 0
            for number in partitions {
                let partition = TopicPartition(topic, number)
                let bounds = try await self.log.bounds(partition)
                guard !bounds.isEmpty else { continue }
                let progress = try await self.log.progress(self.group, partition)
                counts[topic, default: 0] += Self.count(bounds, progress)
            }
        }
        return counts
    }

    static func count(_ bounds: Range<Offset>, _ progress: Progress?) -> Int {
        guard let progress else { return Int(clamping: bounds.upperBound.rawValue - bounds.lowerBound.rawValue) }
        let ahead = bounds.upperBound.rawValue - max(progress.end, bounds.lowerBound).rawValue
        let incomplete = progress.incomplete.count { bounds.contains($0) }
        return max(0, Int(clamping: ahead)) + incomplete
    }
}
