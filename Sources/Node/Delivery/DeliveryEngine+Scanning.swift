import ClusterLog
import Mail
import NodeSupport
import Records

/// What is in the queue, as the log has it.
extension DeliveryEngine {
    /// A record that is not done, with the recipients that were not seen before.
    struct Queued {
        var entry: QueueEntry
        var site: String
        var state: AdminAPI.QueuedMessage.Recipient.State
        var dueAt: Int64?
    }

    /// What the last durable step left, at one moment.
    private struct View {
        var progress: [TopicPartition: Progress]
        var commands: [OperatorCommand]
    }

    private struct RecipientKey: Hashable {
        var message: MessageID
        var index: UInt32
    }

    /// Calls `body` with each queued record until it returns `false`.
    ///
    /// A record counts until the step that concludes or moves it is durable, and by then its successor is in the log. All
    /// progress is taken at one moment, before the first record is read, so what moves meanwhile is found where it was;
    /// where its successor is found too, each recipient counts once.
    func forEachQueued(_ body: (Queued) -> Bool) async throws(QueueAdministrationError) {
        let view = View(progress: self.core.partitions.mapValues(\.durable), commands: self.core.durableCommands)
        let partitions = view.progress.keys + (try await self.unassigned(besides: view))
        var seen: Set<RecipientKey> = []
        for partition in partitions.sorted(by: { ($0.topic.name, $0.partition) < ($1.topic.name, $1.partition) }) {
            let progress = try await self.progress(partition, in: view)
            var offset = progress.watermark
            while true {
                let from = offset
                let records = try await self.ask { () async throws(RecordLogError) in
                    try await self.log.scan(partition, from: from, recordCountMax: Self.scanCount)
                }
                guard let last = records.last else { break }
                offset = last.position.offset.advanced(by: 1)
                for record in records where !progress.isDone(record.position.offset) {
                    guard var entry = try? QueueEntry(record),
                        !DeliveryCore.isSuperseded(record.position, entry, key: record.key, by: view.commands)
                    else { continue }
                    let message = entry.envelope.messageID
                    entry.envelope.recipients.removeAll {
                        !seen.insert(RecipientKey(message: message, index: $0.index)).inserted
                    }
                    guard !entry.envelope.recipients.isEmpty else { continue }
                    guard body(self.queued(entry, record, partition)) else { return }
                }
            }
        }
    }

    private func progress(_ partition: TopicPartition, in view: View) async throws(QueueAdministrationError) -> Progress
    {
        if let progress = view.progress[partition] { return progress }
        let stepped = try await self.ask { () async throws(RecordLogError) in
            try await self.log.progress(Self.group, partition)
        }
        return stepped ?? Progress(watermark: Offset(0))
    }

    /// Partitions of tiers that a step made a moment ago and that we were not assigned yet. Asked after the view was
    /// taken, so a topic that holds what the view says is gone from elsewhere is among them.
    private func unassigned(besides view: View) async throws(QueueAdministrationError) -> [TopicPartition] {
        let topics = try await self.ask { () async throws(RecordLogError) in try await self.log.topics() }
        let assigned = Set(view.progress.keys.map(\.topic))
        let new = topics.filter { $0.deferredDelay != nil && !assigned.contains($0) }
        return new.flatMap { topic in
            (0..<self.log.partitionCount).map { TopicPartition(topic, Int32($0)) }
        }
    }

    private func queued(_ entry: QueueEntry, _ record: StoredRecord, _ partition: TopicPartition) -> Queued {
        guard partition.topic == .accepted else {
            let delay = partition.topic.deferredDelay.map { record.timestamp + $0 * 1_000 }
            return Queued(
                entry: entry,
                site: SpreadKey.name(of: record.key),
                state: partition.topic == .held ? .held : .deferred,
                dueAt: delay
            )
        }
        let domain = entry.envelope.recipients.first?.mailbox.domain.text ?? ""
        var site = domain
        if case .site(let number)? = self.core.routes[domain]?.state, let plan = self.core.sites[number]?.plan {
            site = plan.id
        }
        return Queued(entry: entry, site: site, state: .active, dueAt: nil)
    }
}
