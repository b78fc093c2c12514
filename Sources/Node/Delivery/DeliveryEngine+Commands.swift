import ClusterLog
import Logging
import NIOCore
import NodeSupport
import ServiceLifecycle

/// Commands as records of `posthorn.control`: how they outlive their node and reach every partition's owner (DESIGN §5).
///
/// The node that is given a command writes a part of it for every partition. Each owner follows the topic and begins
/// what concerns its partitions, and reads all parts again when it is assigned new ones; only the owner writes a part
/// after that, in its steps.
extension DeliveryEngine {
    private static let controlScanCount = 500
    /// Keys of parts that are remembered. Forgetting one is harmless: a part is about what was there when it was given.
    private static let knownMarkCountMax = 100_000
    /// Before the topic is followed again after a failure.
    private static let followPause: Duration = .seconds(2)

    /// Takes up what was under way in partitions that are ours now.
    func restoreCommands(_ partitions: [TopicPartition]) async {
        let own = Set(partitions)
        while true {
            do throws(RecordLogError) {
                for (key, command) in try await self.readCommands() {
                    guard var command else {
                        self.remember(key)
                        continue
                    }
                    command.marks.removeAll { !own.contains($0.place) }
                    // What is about others is not known yet: who follows the topic may be behind.
                    guard !command.marks.isEmpty else { continue }
                    self.remember(key)
                    self.core.restored(command)
                }
                return
            } catch {
                self.logger.warning("Commands cannot be read yet", metadata: [LogKeys.error: "\(error)"])
                guard error.isRetriable, !Task.isCancelled else { return }
                // Mail that an operator took out must not be delivered: without its commands nothing begins.
                try? await Task.sleep(for: Self.followPause)
            }
        }
    }

    /// The newest state of every part of a command, by key; `nil` for those that are over.
    private func readCommands() async throws(RecordLogError) -> [String: OperatorCommand?] {
        var newest: [String: OperatorCommand?] = [:]
        for number in 0..<self.log.partitionCount {
            let partition = TopicPartition(.control, Int32(number))
            let bounds = try await self.log.bounds(partition)
            var offset = bounds.lowerBound
            while offset < bounds.upperBound {
                let records = try await self.log.scan(partition, from: offset, recordCountMax: Self.controlScanCount)
                guard let last = records.last else { break }
                offset = last.position.offset.advanced(by: 1)
                for record in records where SiteShares.concerns(record.key) {
                    self.feed { core, now in core.controlRead(record, now: now) }
                }
                for record in records where record.key.hasPrefix(OperatorCommand.keyPrefix) {
                    newest[record.key] = .some(OperatorCommand(record))
                }
            }
        }
        return newest
    }

    /// Scans on where a command stands, until it is through or its partitions are another's. Wakes scan at their site's pace.
    func resume(_ command: OperatorCommand) async {
        guard !command.isWake else { return }
        for mark in command.marks where mark.scanned < mark.end {
            while !self.core.isDraining, !Task.isCancelled {
                do throws(QueueAdministrationError) {
                    _ = try await self.scan(command.id, mark)
                    break
                } catch {
                    self.logger.warning(
                        "A queue command cannot go on yet",
                        metadata: ["command": "\(command.id)", LogKeys.reason: "\(error.reason)"]
                    )
                    try? await Task.sleep(for: Self.followPause)
                }
            }
        }
    }

    /// Writes the parts of a new command that concern partitions other than those it was begun in.
    ///
    /// One that was begun in and has gone since took its part along. One that came meanwhile is told as well: this node
    /// follows the topic like the others.
    func tellOthers(
        _ command: OperatorCommand,
        except begun: Set<TopicPartition>
    ) async throws(QueueAdministrationError) {
        let topics = try await self.ask { () async throws(RecordLogError) in try await self.log.topics() }
        var records: [Record] = []
        for topic in topics where topic == .accepted || topic == .held || topic.deferredDelay != nil {
            guard command.concerns(topic) else { continue }
            for number in 0..<self.log.partitionCount {
                let partition = TopicPartition(topic, Int32(number))
                guard !begun.contains(partition) else { continue }
                let bounds = try await self.ask { () async throws(RecordLogError) in
                    try await self.log.bounds(partition)
                }
                guard !bounds.isEmpty else { continue }
                let mark = OperatorCommand.Mark(
                    topic: topic.name,
                    partition: partition.partition,
                    end: bounds.upperBound.rawValue,
                    scanned: bounds.lowerBound.rawValue
                )
                records.append(command.record(mark, isOver: false))
            }
        }
        guard !records.isEmpty else { return }
        _ = try await self.ask { () async throws(RecordLogError) in try await self.log.append(records) }
    }

    /// Begins what other nodes were told, until shutdown.
    func followCommands() async {
        let group = GroupID("posthorn.control-\(self.makeCommandID())")
        try? await cancelWhenGracefulShutdown {
            while !Task.isCancelled {
                var joined: (any GroupMember)?
                do {
                    let tail = try await self.log.join(group, topics: TopicSelection(topics: [.control]))
                    joined = tail
                    while let event = try await tail.next() {
                        if case .records(_, let records) = event { await self.adopt(records) }
                    }
                    await tail.leave()
                    return
                } catch {
                    // It would keep its share of the topic, and nobody would read that.
                    await joined?.leave()
                    await self.noteFollowFailure(error)
                    try await Task.sleep(for: Self.followPause)
                }
            }
        }
    }

    /// What is read of this part from now on is old.
    func remember(_ key: String) {
        if self.knownMarks.count >= Self.knownMarkCountMax { self.knownMarks.removeAll() }
        self.knownMarks.insert(key)
    }

    private func noteFollowFailure(_ error: any Error) {
        self.logger.warning("posthorn.control cannot be read yet", metadata: [LogKeys.error: "\(error)"])
    }

    func adopt(_ records: [StoredRecord]) {
        for record in records {
            if SiteShares.concerns(record.key) {
                self.feed { core, now in core.controlRead(record, now: now) }
                continue
            }
            guard record.key.hasPrefix(OperatorCommand.keyPrefix), !self.knownMarks.contains(record.key),
                record.value.readableBytes > 0
            else { continue }
            guard let command = OperatorCommand(record) else {
                self.logger.error(
                    "A queue command is of a later version and is not carried out here: upgrade this node",
                    metadata: ["command": "\(record.key)"]
                )
                continue
            }
            var adopted: OperatorCommand?
            self.feed { core, now in adopted = core.adopt(command, now: now) }
            guard let adopted else {
                self.earlyParts?.append(record)
                continue
            }
            self.remember(record.key)
            self.resumeSoon(adopted)
        }
    }
}
