import ClusterLog
import Mail
import NIOCore
import NodeSupport
import Records
import SMTP

extension DeliveryCore {
    /// Commands kept until every record they are about has been passed.
    static let commandCountMax = 1_000

    /// A command read back from the log at start.
    mutating func restored(_ command: OperatorCommand) {
        Self.merge(command, into: &self.commands)
        Self.merge(command, into: &self.durableCommands)
    }

    private static func merge(_ command: OperatorCommand, into commands: inout [OperatorCommand]) {
        guard let index = commands.firstIndex(where: { $0.id == command.id }) else {
            commands.append(command)
            return
        }
        for mark in command.marks where commands[index].mark(mark.place) == nil {
            commands[index].marks.append(mark)
        }
    }

    /// A command that another node was given, as far as it is about a partition of ours that it does not know yet:
    /// begins here from what is worked on now.
    ///
    /// - Returns: the command as it was begun, for its scan.
    mutating func adopt(_ command: OperatorCommand, now: Int64) -> OperatorCommand? {
        var own = command
        own.marks = command.marks.compactMap { mark in
            guard let window = self.partitions[mark.place]?.window,
                self.commands.first(where: { $0.id == command.id })?.mark(mark.place) == nil
            else { return nil }
            var mark = mark
            mark.scanned = max(mark.scanned, min(window.end.rawValue, mark.end))
            // What an owner before us was working on is worked on again here.
            mark.excluded = Set(mark.excluded).union(window.incompleteOffsets.map(\.rawValue)).sorted()
            return mark
        }
        guard !own.marks.isEmpty else { return nil }
        _ = self.begin(own, now: now)
        return own
    }

    /// What commands are about in these partitions is another owner's from now on.
    mutating func forgetCommands(in partitions: Set<TopicPartition>) {
        for index in self.commands.indices { self.commands[index].marks.removeAll { partitions.contains($0.place) } }
        for index in self.durableCommands.indices {
            self.durableCommands[index].marks.removeAll { partitions.contains($0.place) }
        }
        self.commands.removeAll { $0.marks.isEmpty }
        self.durableCommands.removeAll { $0.marks.isEmpty }
    }

    /// A new command: mail that is in memory and not being tried is dealt with now, the rest as it is scanned or falls
    /// due. Returns how many recipients were dealt with.
    mutating func begin(_ command: OperatorCommand, now: Int64) -> Int {
        var command = command
        // Marks take a while to make: what is another's by now is left to it.
        command.marks.removeAll { self.partitions[$0.place] == nil || self.leaving.contains($0.place) }
        for index in command.marks.indices {
            command.marks[index].hasMatched = command.marks[index].hasMatched ?? false
        }
        guard !command.marks.isEmpty else { return 0 }
        Self.merge(command, into: &self.commands)
        for mark in command.marks { self.write([command.record(mark, isOver: false)], of: mark.place) }
        if command.isWake {
            self.wakeMore(now: now)
            self.flush(now: now)
            return 0
        }
        var matched = 0
        if command.kind == .flush {
            for number in self.sites.keys { self.sites[number]?.endBackoff() }
        }
        for job in Array(self.jobs.values) {
            switch job.stage {
            case .routing, .reading, .ready: break
            // Being tried or being written: `republish` asks again.
            case .attempting, .appending: continue
            }
            guard self.isBelowEnd(job.position, of: command) else { continue }
            matched += self.execute(command, on: job, now: now)
        }
        self.flush(now: now)
        return matched
    }

    /// Records of a partition that have not been worked on, of `from..<end`. Returns how many recipients were dealt with.
    ///
    /// A scan that began before the partition was lost and came back may stand ahead of the mark, and of two scans one is
    /// behind: what would leave a gap counts for nothing, and the mark never goes back.
    mutating func scanned(
        _ commandID: String,
        _ partition: TopicPartition,
        _ records: [StoredRecord],
        from: Offset,
        upTo end: Offset,
        now: Int64
    ) -> Int {
        self.wakes[commandID]?.isScanning = false
        guard let index = self.commands.firstIndex(where: { $0.id == commandID }),
            let markIndex = self.commands[index].marks
                .firstIndex(where: {
                    $0.topic == partition.topic.name && $0.partition == partition.partition
                }),
            from.rawValue <= self.commands[index].marks[markIndex].scanned,
            let frontier = self.partitions[partition]?.window.end
        else { return 0 }
        var matched = 0
        var recordCount = 0
        var end = end
        let command = self.commands[index]
        let before = command.marks[markIndex]
        let room = command.isWake ? self.wakeRoom(command, now: now) : .max
        for record in records where record.position.offset >= frontier {
            let offset = record.position.offset.rawValue
            guard offset < command.marks[markIndex].end, offset >= command.marks[markIndex].scanned,
                let entry = try? QueueEntry(record), !self.isSuperseded(record.position, entry, key: record.key)
            else { continue }
            let recipients = command.matching(entry, site: Self.site(of: record.key, in: partition.topic))
            guard !recipients.isEmpty else { continue }
            // The rest is scanned again, once there is room in a step.
            guard recordCount < room,
                recordCount == 0 || self.builder.waitingOctets < self.configuration.stepOctetsMax
            else {
                end = record.position.offset
                break
            }
            recordCount += 1
            matched += recipients.count
            var outputs: [Record] = []
            self.apply(
                command,
                to: recipients,
                of: entry,
                // It stays where it is; what has no site yet waits under its domain.
                key: partition.topic == .accepted ? SpreadKey.plain(self.domain(of: entry)) : record.key,
                content: record.value,
                topic: partition.topic,
                outputs: &outputs,
                from: record.position,
                now: now
            )
            self.write(outputs, of: partition)
        }
        // What is being worked on keeps its own end; after a restart it is worked on again, not skipped.
        let passed = command.marks[markIndex].scanned..<max(end.rawValue, command.marks[markIndex].scanned)
        if let window = self.partitions[partition]?.window {
            self.commands[index].marks[markIndex].excluded += window.incompleteOffsets.map(\.rawValue)
                .filter(passed.contains)
        }
        self.commands[index].marks[markIndex].scanned = passed.upperBound
        if recordCount > 0 { self.commands[index].marks[markIndex].hasMatched = true }
        if command.isWake { self.woke(recordCount, index, markIndex, now: now) }
        let after = self.commands[index]
        self.write(
            [after.mark(partition).map { after.record($0, isOver: false) } ?? command.record(before, isOver: true)],
            of: partition
        )
        self.flush(now: now)
        return matched
    }

    /// Whether a command has dealt with the record already.
    func isSuperseded(_ position: Position, _ entry: QueueEntry, key: String) -> Bool {
        Self.isSuperseded(position, entry, key: key, by: self.commands)
    }

    static func isSuperseded(
        _ position: Position,
        _ entry: QueueEntry,
        key: String,
        by commands: [OperatorCommand]
    ) -> Bool {
        commands.contains { command in
            guard let mark = command.mark(position.partition), mark.covers(position.offset) else { return false }
            return !command.matching(entry, site: Self.site(of: key, in: position.partition.topic)).isEmpty
        }
    }

    /// The site that a record's key names; `nil` for fresh mail, whose site is not known yet.
    static func site(of key: String, in topic: Topic) -> String? {
        topic == .accepted ? nil : SpreadKey.name(of: key)
    }

    func domain(of entry: QueueEntry) -> String {
        entry.envelope.recipients.first?.mailbox.domain.text ?? ""
    }

    private func isBelowEnd(_ position: Position, of command: OperatorCommand) -> Bool {
        guard let mark = command.mark(position.partition) else { return false }
        return position.offset.rawValue < mark.end
    }

    /// The command that a record falls under when it is about to be worked on or written again, if any.
    ///
    /// - Parameter topic: where the entry is or is to be.
    func pendingCommand(
        _ position: Position,
        _ entry: QueueEntry,
        in topic: Topic,
        site: String?
    ) -> OperatorCommand? {
        self.commands.first { command in
            switch command.kind {
            // Being worked on is what these ask for.
            case .flush, .release: false
            case .hold, .remove:
                command.concerns(topic) && self.isBelowEnd(position, of: command)
                    && !command.matching(entry, site: site).isEmpty
            }
        }
    }

    /// Deals with a job that nobody is trying. Returns the recipients concerned.
    @discardableResult
    mutating func execute(_ command: OperatorCommand, on job: Job, now: Int64) -> Int {
        let recipients = command.matching(job.entry, site: self.siteName(job))
        guard !recipients.isEmpty else { return 0 }
        switch command.kind {
        case .flush, .release:
            self.jobs[job.id]?.isFlushed = true
            return recipients.count
        case .hold, .remove:
            break
        }
        let key = self.siteKey(job, now: now)
        var staged = Staged(outputs: [], entries: [])
        self.split(command, recipients, job.entry, key: key, topic: .deferredNow, into: &staged, now: now)
        self.place(job, staged, isFinal: staged.entries.isEmpty)
        return recipients.count
    }

    /// Writes what the command does to some recipients of an entry; the others go on in `topic`.
    private mutating func apply(
        _ command: OperatorCommand,
        to recipients: [Recipient],
        of entry: QueueEntry,
        key: String,
        content: ByteBuffer,
        topic: Topic,
        outputs: inout [Record],
        from position: Position,
        now: Int64
    ) {
        var staged = Staged(outputs: [], entries: [])
        self.split(command, recipients, entry, key: key, topic: topic, into: &staged, now: now)
        outputs += staged.outputs
        for var item in staged.entries {
            item.entry.isContentShared = item.entry.isContentShared || staged.entries.count > 1
            self.publish(
                item.entry,
                topic: item.topic,
                key: item.key,
                content: content,
                from: position,
                to: &outputs
            )
        }
    }

    /// Stages what the command does to some recipients of an entry; the others go on in `topic`.
    mutating func split(
        _ command: OperatorCommand,
        _ recipients: [Recipient],
        _ entry: QueueEntry,
        key: String,
        topic: Topic,
        into staged: inout Staged,
        now: Int64
    ) {
        let concerned = Set(recipients.map(\.index))
        var chosen = entry
        chosen.envelope.recipients = recipients
        var rest = entry
        rest.envelope.recipients = entry.envelope.recipients.filter { !concerned.contains($0.index) }
        let kind: Outcome.Kind
        switch command.kind {
        case .flush, .release:
            staged.entries.append((.deferredNow, key, chosen))
            if !rest.envelope.recipients.isEmpty { staged.entries.append((topic, key, rest)) }
            return
        case .hold:
            staged.entries.append((.held, key, chosen))
            kind = .held
        case .remove:
            kind = .removed
        }
        for recipient in recipients {
            staged.outputs.append(self.decision(kind, recipient, entry, site: SpreadKey.name(of: key), now: now))
        }
        if !rest.envelope.recipients.isEmpty { staged.entries.append((topic, key, rest)) }
    }

    /// The outcome of a decision that no attempt led to.
    private mutating func decision(
        _ kind: Outcome.Kind,
        _ recipient: Recipient,
        _ entry: QueueEntry,
        site: String,
        now: Int64
    ) -> Record {
        var outcome = Outcome(
            kind: kind,
            messageID: entry.envelope.messageID.description,
            recipientIndex: recipient.index,
            recipient: recipient.mailbox.description,
            sender: entry.envelope.reversePath?.description ?? "",
            site: site,
            time: now,
            acceptedAt: entry.envelope.acceptedAt,
            contentSize: entry.envelope.contentSize,
            attempt: entry.attemptCount,
            status: kind == .removed ? "5.7.0" : "4.7.0"
        )
        outcome.reason = "An operator asked for it."
        self.act(.report(outcome))
        return outcome.record(key: entry.outcomeKey(of: recipient), source: self.configuration.source)
    }

    /// Forgets commands whose records have all been passed.
    mutating func tickCommands() {
        guard !self.commands.isEmpty else { return }
        let over = self.commands.filter { command in command.marks.allSatisfy { self.isOver($0, of: command) } }
        guard !over.isEmpty else { return }
        let ids = Set(over.map(\.id))
        self.commands.removeAll { ids.contains($0.id) }
        for id in ids { self.wakes[id] = nil }
        for command in over {
            for mark in command.marks { self.write([command.record(mark, isOver: true)], of: mark.place) }
        }
    }

    /// Whether no record is left that the mark says something about: all were passed, or it found none and what was being
    /// worked on is done. (Held mail is not passed for as long as it is held.)
    private func isOver(_ mark: OperatorCommand.Mark, of command: OperatorCommand) -> Bool {
        // A command is restored a moment before its partition is assigned.
        guard let window = self.partitions[mark.place]?.window else { return false }
        if window.watermark.rawValue >= mark.end { return true }
        // The site of fresh mail shows when it is worked on, not in a scan.
        guard mark.scanned >= mark.end, mark.hasMatched == false,
            mark.place.topic != .accepted || command.predicate.site == nil
        else { return false }
        return (window.incompleteOffsets.first?.rawValue ?? .max) >= mark.end
            && mark.excluded.allSatisfy { window.isDone(Offset($0)) }
    }
}
