import DequeModule

/// The groups of a log that lives in one process: who owns which partition, and what each member gets next.
///
/// Sans-IO: the log feeds it events under its own lock, reads records when told to, and wakes the members that
/// ``takeWakeups()`` names. A partition moves from one member to another only after the first was told, called
/// `next()` once more, and has no step in flight for it: so a new owner starts from everything that was stepped.
package struct LocalGroups: Sendable {
    package typealias MemberID = Int

    /// What a member's `next()` does now.
    package enum Decision: Sendable {
        case deliver(GroupEvent)
        /// Read the partition, then call ``finishRead(_:records:next:)``.
        case read(Read)
        case wait
        case end
    }

    /// A read that a member asked for.
    package struct Read: Hashable, Sendable {
        package var member: MemberID
        package var partition: TopicPartition
        package var offset: Offset
        fileprivate var epoch: Int
    }

    private struct Cursor: Sendable {
        enum Ownership: Sendable {
            /// Next: `revoking`.
            case owned
            /// The revocation waits to be delivered. Next: `revoked`.
            case revoking
            /// Delivered: the next call gives the partition up. Next: `releasing`.
            case revoked
            /// Given up as soon as no step is in flight.
            case releasing
        }

        var offset: Offset
        var ownership = Ownership.owned
        var isPaused = false
        var stepsInFlight = 0
        var epoch: Int
    }

    private struct Member: Sendable {
        var group: GroupID
        var topics: TopicSelection
        var cursors: [TopicPartition: Cursor] = [:]
        /// The partitions in the order in which they take turns.
        var order: [TopicPartition] = []
        var turn = 0
        var events: Deque<GroupEvent> = []
        var stepsInFlight = 0
        /// Set from a fencing until the member called `next()` after having learnt of it.
        var isFenced = false
        var isFencingDelivered = false
        var isLeaving = false
    }

    private struct Group: Sendable {
        var members: [MemberID] = []
        var owners: [TopicPartition: MemberID] = [:]
        var progress: [TopicPartition: Progress] = [:]
        /// Partitions that a member was assigned before anything was stepped there, from where it started.
        var starts: [TopicPartition: Offset] = [:]
    }

    private let partitionCount: Int
    private var groups: [GroupID: Group] = [:]
    private var members: [MemberID: Member] = [:]
    private var bounds: [TopicPartition: Range<Offset>] = [:]
    private var topicNames: [Topic] = []
    private var memberCount = 0
    private var epoch = 0
    private var wakeups: [MemberID] = []
    private var newStarts: [(group: GroupID, partition: TopicPartition, offset: Offset)] = []

    package init(partitionCount: Int) {
        self.partitionCount = partitionCount
    }

    package var topics: [Topic] { self.topicNames }
    package var groupIDs: [GroupID] { Array(self.groups.keys) }

    // MARK: What the log holds

    /// Makes a topic exist. Members that select it are assigned its partitions.
    package mutating func create(_ topic: Topic) {
        guard !self.topicNames.contains(topic) else { return }
        self.topicNames.append(topic)
        for group in Array(self.groups.keys) {
            self.rebalance(group)
        }
    }

    package func bounds(_ partition: TopicPartition) -> Range<Offset> {
        self.bounds[partition] ?? Offset(0)..<Offset(0)
    }

    /// Sets what a partition holds, after an append, a truncation or at start.
    package mutating func setBounds(_ partition: TopicPartition, _ bounds: Range<Offset>) {
        let old = self.bounds.updateValue(bounds, forKey: partition)
        guard old?.upperBound != bounds.upperBound else { return }
        for group in self.groups.values {
            if let owner = group.owners[partition] { self.wakeups.append(owner) }
        }
    }

    // MARK: Progress

    package func progress(_ group: GroupID, _ partition: TopicPartition) -> Progress? {
        self.groups[group]?.progress[partition]
    }

    package mutating func setProgress(_ group: GroupID, _ partition: TopicPartition, _ progress: Progress) {
        self.groups[group, default: Group()].progress[partition] = progress
    }

    package mutating func setStart(_ group: GroupID, _ partition: TopicPartition, _ offset: Offset) {
        self.groups[group, default: Group()].starts[partition] = offset
    }

    /// What every group that ever was assigned the partition has done there: its progress, or where it started.
    package func consumers(of partition: TopicPartition) -> [Progress] {
        self.groups.values.compactMap { group in
            group.progress[partition] ?? group.starts[partition].map { Progress(watermark: $0) }
        }
    }

    /// All progress, and all starts of partitions without any, to be kept.
    package func allProgress() -> [(group: GroupID, partition: TopicPartition, progress: Progress, isStepped: Bool)] {
        self.groups.flatMap { id, group in
            group.progress.map { (id, $0.key, $0.value, true) }
                + group.starts.filter { group.progress[$0.key] == nil }
                .map { (id, $0.key, Progress(watermark: $0.value), false) }
        }
    }

    /// The starts that came into being since the last call, to be made durable by the log.
    package mutating func takeNewStarts() -> [(group: GroupID, partition: TopicPartition, offset: Offset)] {
        exchange(&self.newStarts, with: [])
    }

    // MARK: Members

    package mutating func join(_ group: GroupID, topics: TopicSelection) -> MemberID {
        self.memberCount += 1
        let id = self.memberCount
        self.members[id] = Member(group: group, topics: topics)
        self.groups[group, default: Group()].members.append(id)
        for topic in topics.topics where !self.topicNames.contains(topic) {
            self.topicNames.append(topic)
        }
        for group in Array(self.groups.keys) {
            self.rebalance(group)
        }
        return id
    }

    /// Whether a member reads this partition.
    package func isOwned(_ partition: TopicPartition) -> Bool {
        self.groups.values.contains { $0.owners[partition] != nil }
    }

    /// The first half of leaving: no more events and no new steps.
    ///
    /// - Returns: whether no step is in flight, so that ``leave(_:)`` can follow at once.
    package mutating func beginLeaving(_ id: MemberID) -> Bool {
        guard self.members[id] != nil else { return true }
        self.members[id]?.isLeaving = true
        self.members[id]?.events = []
        self.wakeups.append(id)
        return self.members[id]?.stepsInFlight == 0
    }

    package mutating func leave(_ id: MemberID) {
        guard let member = self.members.removeValue(forKey: id) else { return }
        self.groups[member.group]?.members.removeAll { $0 == id }
        for partition in member.order {
            self.groups[member.group]?.owners[partition] = nil
        }
        self.rebalance(member.group)
    }

    /// Takes all partitions from a member at once, as when it was too slow to be counted as alive.
    package mutating func fence(_ id: MemberID) {
        guard var member = self.members[id] else { return }
        let lost = member.order
        member.cursors = [:]
        member.order = []
        member.events = [.lost(lost)]
        member.isFenced = true
        member.isFencingDelivered = false
        self.members[id] = member
        for partition in lost {
            self.groups[member.group]?.owners[partition] = nil
        }
        self.wakeups.append(id)
        self.rebalance(member.group)
    }

    package func members(of group: GroupID) -> [MemberID] {
        self.groups[group]?.members ?? []
    }

    package func stepsInFlight(_ id: MemberID) -> Int {
        self.members[id]?.stepsInFlight ?? 0
    }

    /// The members that may have something to do now.
    package mutating func takeWakeups() -> [MemberID] {
        exchange(&self.wakeups, with: [])
    }

    // MARK: Reading

    package mutating func next(_ id: MemberID) -> Decision {
        self.acknowledge(id)
        guard var member = self.members[id], !member.isLeaving else { return .end }
        defer { self.members[id] = member }
        if let event = member.events.popFirst() {
            switch event {
            case .revoked(let partitions):
                for partition in partitions {
                    member.cursors[partition]?.ownership = .revoked
                }
            case .lost:
                member.isFencingDelivered = true
            case .assigned, .records, .truncated:
                break
            }
            return .deliver(event)
        }
        let count = member.order.count
        for step in 0..<count {
            let index = (member.turn + step) % count
            let partition = member.order[index]
            guard let cursor = member.cursors[partition], self.isReadable(cursor, partition) else { continue }
            member.turn = (index + 1) % count
            return .read(Read(member: id, partition: partition, offset: cursor.offset, epoch: cursor.epoch))
        }
        return .wait
    }

    /// Whether ``next(_:)`` would not say `wait`.
    package func isReady(_ id: MemberID) -> Bool {
        guard let member = self.members[id], !member.isLeaving else { return true }
        if !member.events.isEmpty || (member.isFenced && member.isFencingDelivered) { return true }
        return member.cursors.contains { partition, cursor in
            if case .revoked = cursor.ownership { return true }
            return self.isReadable(cursor, partition)
        }
    }

    /// The records of a read came.
    ///
    /// - Parameter next: where to read on.
    /// - Returns: the event to deliver, if the partition is still the member's to read and not all of it is done.
    package mutating func finishRead(_ read: Read, records: [StoredRecord], next: Offset) -> GroupEvent? {
        guard var member = self.members[read.member], var cursor = member.cursors[read.partition],
            cursor.epoch == read.epoch, !cursor.isPaused, case .owned = cursor.ownership
        else { return nil }
        cursor.offset = max(next, cursor.offset)
        member.cursors[read.partition] = cursor
        self.members[read.member] = member
        guard let progress = self.groups[member.group]?.progress[read.partition],
            let first = records.first, first.position.offset < progress.end
        else { return records.isEmpty ? nil : .records(read.partition, records) }
        let open = records.filter { !progress.isDone($0.position.offset) }
        return open.isEmpty ? nil : .records(read.partition, open)
    }

    package mutating func setPaused(_ id: MemberID, _ partitions: [TopicPartition], _ isPaused: Bool) {
        for partition in partitions {
            guard self.members[id]?.cursors[partition]?.isPaused == !isPaused else { continue }
            self.members[id]?.cursors[partition]?.isPaused = isPaused
            if !isPaused { self.wakeups.append(id) }
        }
    }

    package mutating func seek(_ id: MemberID, _ partition: TopicPartition, to offset: Offset) {
        guard self.members[id]?.cursors[partition] != nil else { return }
        self.epoch += 1
        let offset = max(offset, self.bounds(partition).lowerBound)
        self.members[id]?.cursors[partition]?.offset = offset
        self.members[id]?.cursors[partition]?.epoch = self.epoch
        self.wakeups.append(id)
    }

    // MARK: Steps

    /// Admits a step, which then is in flight until ``endStep(_:_:isCommitted:)``.
    ///
    /// - Throws: `fenced` when the member does not own all of its partitions.
    package mutating func beginStep(
        _ id: MemberID,
        _ progress: [TopicPartition: Progress]
    ) throws(RecordLogError) {
        let fenced = RecordLogError(.fenced, isRetriable: false, reason: "The member does not own the partition.")
        guard var member = self.members[id], !member.isLeaving, !member.isFenced else { throw fenced }
        for partition in progress.keys {
            guard let cursor = member.cursors[partition] else { throw fenced }
            if case .releasing = cursor.ownership { throw fenced }
        }
        for partition in progress.keys {
            member.cursors[partition]?.stepsInFlight += 1
        }
        member.stepsInFlight += 1
        self.members[id] = member
    }

    package mutating func endStep(_ id: MemberID, _ progress: [TopicPartition: Progress], isCommitted: Bool) {
        guard var member = self.members[id] else { return }
        member.stepsInFlight -= 1
        var isReleased = false
        for (partition, value) in progress {
            if isCommitted { self.groups[member.group]?.progress[partition] = value }
            guard var cursor = member.cursors[partition] else { continue }
            cursor.stepsInFlight = max(0, cursor.stepsInFlight - 1)
            if case .releasing = cursor.ownership, cursor.stepsInFlight == 0 { isReleased = true }
            member.cursors[partition] = cursor
        }
        self.members[id] = member
        if isReleased {
            self.releaseIdle(id)
        }
    }

    // MARK: Private

    private func isReadable(_ cursor: Cursor, _ partition: TopicPartition) -> Bool {
        guard case .owned = cursor.ownership, !cursor.isPaused else { return false }
        return cursor.offset < self.bounds(partition).upperBound
    }

    /// A call to `next()` says that what the last one returned was dealt with.
    private mutating func acknowledge(_ id: MemberID) {
        guard var member = self.members[id] else { return }
        if member.isFenced && member.isFencingDelivered {
            member.isFenced = false
            member.isFencingDelivered = false
            self.members[id] = member
            self.rebalance(member.group)
            return
        }
        var isReleasing = false
        for partition in member.order {
            if case .revoked = member.cursors[partition]?.ownership {
                member.cursors[partition]?.ownership = .releasing
                isReleasing = true
            }
        }
        guard isReleasing else { return }
        self.members[id] = member
        self.releaseIdle(id)
    }

    private mutating func releaseIdle(_ id: MemberID) {
        guard var member = self.members[id] else { return }
        let idle = member.order.filter { partition in
            guard let cursor = member.cursors[partition], cursor.stepsInFlight == 0 else { return false }
            if case .releasing = cursor.ownership { return true }
            return false
        }
        guard !idle.isEmpty else { return }
        for partition in idle {
            member.cursors[partition] = nil
            self.groups[member.group]?.owners[partition] = nil
        }
        let gone = Set(idle)
        member.order.removeAll { gone.contains($0) }
        member.turn = 0
        self.members[id] = member
        self.rebalance(member.group)
    }

    /// Gives partitions without an owner to whom they fall, and tells owners which of theirs fall to another.
    private mutating func rebalance(_ id: GroupID) {
        guard let group = self.groups[id] else { return }
        let candidates = group.members.filter { member in
            guard let member = self.members[member] else { return false }
            return !member.isFenced && !member.isLeaving
        }
        var assigned: [MemberID: [TopicPartition]] = [:]
        var revoked: [MemberID: [TopicPartition]] = [:]
        for topic in self.topicNames {
            let eligible = candidates.filter { self.members[$0]?.topics.contains(topic) == true }
            guard !eligible.isEmpty else { continue }
            for number in 0..<self.partitionCount {
                let partition = TopicPartition(topic, Int32(truncatingIfNeeded: number))
                let target = eligible[number % eligible.count]
                guard let owner = group.owners[partition] else {
                    assigned[target, default: []].append(partition)
                    continue
                }
                if owner != target, case .owned = self.members[owner]?.cursors[partition]?.ownership {
                    revoked[owner, default: []].append(partition)
                }
            }
        }
        for (member, partitions) in revoked {
            for partition in partitions {
                self.members[member]?.cursors[partition]?.ownership = .revoking
            }
            self.members[member]?.events.append(.revoked(partitions))
            self.wakeups.append(member)
        }
        for (member, partitions) in assigned {
            self.assign(partitions, to: member, in: id)
        }
    }

    private mutating func assign(_ partitions: [TopicPartition], to id: MemberID, in group: GroupID) {
        guard var member = self.members[id] else { return }
        var assignments: [Assignment] = []
        var truncations: [GroupEvent] = []
        for partition in partitions {
            let start = self.bounds(partition).lowerBound
            var progress = Progress(watermark: start)
            if let stepped = self.groups[group]?.progress[partition] {
                progress = stepped
                let expected = stepped.incomplete.first ?? stepped.end
                if expected < start {
                    truncations.append(.truncated(partition, expected: expected, found: start))
                }
            } else if let start = self.groups[group]?.starts[partition] {
                progress = Progress(watermark: start)
            } else {
                self.groups[group]?.starts[partition] = start
                self.newStarts.append((group, partition, start))
            }
            self.epoch += 1
            member.cursors[partition] = Cursor(offset: max(progress.watermark, start), epoch: self.epoch)
            member.order.append(partition)
            self.groups[group]?.owners[partition] = id
            assignments.append(Assignment(partition: partition, progress: progress))
        }
        member.events.append(.assigned(assignments))
        member.events.append(contentsOf: truncations)
        self.members[id] = member
        self.wakeups.append(id)
    }
}
