import ClusterLog
import DequeModule

/// What one member of a Kafka group owns and has read ahead. Sans-IO.
///
/// The consumer's thread feeds it what librdkafka says and performs its commands; the member's caller takes events out.
/// Reading ahead is bounded by octets: a partition above its share is paused in librdkafka, which then drops what it
/// had fetched. The caller's own pause stops only the handing out, so that it costs no second fetch.
///
/// The group assigns the partitions of one topic, which leads. Those of the same numbers of the other topics follow it:
/// they come and go with it, and the group knows of them only what is committed (ADR 0015).
struct MemberState {
    /// What a consumer's thread does with librdkafka.
    enum Command: Equatable {
        case pause(TopicPartition)
        case resume(TopicPartition)
        case seek(TopicPartition, Offset)
    }

    /// Partitions of the leading topic, or those that follow it: each have a consumer and a thread.
    enum Role {
        case leading
        case following
    }

    /// What a call to `next()` does.
    enum Decision {
        case deliver(GroupEvent)
        case wait
        case end
    }

    /// The assignments that a step was begun under, by partition: a later one of the same partition is another.
    typealias Epochs = [TopicPartition: Int]

    private enum Ownership {
        /// The event waits for the caller; a step now would be about an assignment before. Next: `owned`, `revoking`.
        case assigned
        /// Next: `revoking`.
        case owned
        /// The revocation waits for the caller. Next: `revoked`.
        case revoking
        /// The caller was told: its next call gives the partition up. Next: `releasing`.
        case revoked
        /// Given up as soon as no step is in flight for all that are revoked together.
        case releasing
    }

    private struct Cursor {
        var epoch: Int
        var progress: Progress
        /// The next offset that was not seen yet.
        var next: Offset
        var ownership = Ownership.assigned
        var isPaused = false
        /// Paused in librdkafka, since the buffer is full.
        var isThrottled = false
        /// A seek is on its way: what arrives until it is done is from before.
        var isSeeking = false
        var buffer: Deque<StoredRecord> = []
        var bufferSize = 0
        var stepsInFlight = 0
        /// Follows, and its progress has to be committed again, or the group forgets it (ADR 0015).
        var isStale = false
        /// The last step that was to move its progress failed, and may have been written all the same.
        var isUncertain = false
    }

    private struct Event {
        var event: GroupEvent
        var epoch: Int
    }

    /// Records that the caller gets at once. What follows is mail that waits: the caller keeps what it got until it is due.
    static let batchCountMax = 256
    static let followingCountMax = 32
    /// Partitions whose progress one step commits again.
    private static let refreshCountMax = 256

    private let leader: Topic
    private let readAheadSize: Int
    private var cursors: [TopicPartition: Cursor] = [:]
    private var order: [TopicPartition] = []
    private var turn = 0
    private var events: Deque<Event> = []
    /// Partitions that are given up together: librdkafka goes on with the rebalance after one call for all of them.
    private var revocation: [TopicPartition] = []
    private var commands: [Role: [Command]] = [:]
    /// What is given up next, all at once; empty when the group waits for a call and nothing is ours.
    private var release: [TopicPartition]?
    /// What the step that is being written commits again.
    private var refreshing: [TopicPartition] = []
    private var epoch = 0
    private(set) var stepsInFlight = 0
    private(set) var isLeaving = false

    /// - Parameter leader: the topic whose partitions the group assigns.
    init(leader: Topic, readAheadSize: Int) {
        self.leader = leader
        self.readAheadSize = readAheadSize
    }

    /// The group was heard and gave nothing.
    private(set) var isIdle = false

    func role(of partition: TopicPartition) -> Role { partition.topic == self.leader ? .leading : .following }

    /// The partitions of the leading topic that are this member's, and those of `topics` that do not follow them yet.
    ///
    /// - Parameter topics: what can follow, and how many partitions each has.
    func unfollowed(_ topics: [Topic: Int]) -> [TopicPartition] {
        self.order.flatMap { owned -> [TopicPartition] in
            guard owned.topic == self.leader, let cursor = self.cursors[owned], !Self.isGoing(cursor) else { return [] }
            return topics.filter { $0.key != self.leader && Int(owned.partition) < $0.value }
                .map { TopicPartition($0.key, owned.partition) }
                .filter { self.cursors[$0] == nil }
        }
    }

    // MARK: What librdkafka says

    mutating func assigned(_ assignments: [Assignment]) {
        self.isIdle = assignments.isEmpty && self.order.isEmpty
        if assignments.isEmpty { return }
        self.epoch += 1
        for assignment in assignments {
            self.cursors[assignment.partition] = Cursor(
                epoch: self.epoch,
                progress: assignment.progress,
                next: assignment.progress.watermark,
                isStale: self.role(of: assignment.partition) == .following
            )
            self.order.removeAll { $0 == assignment.partition }
            self.order.append(assignment.partition)
        }
        self.events.append(Event(event: .assigned(assignments), epoch: self.epoch))
    }

    /// They go to another member, and what follows them, once the caller was told, has called again, and its steps have
    /// ended.
    mutating func revoked(_ partitions: [TopicPartition]) {
        let partitions = self.withFollowers(partitions).filter { self.cursors[$0] != nil }
        // Nothing of ours to wait for, but librdkafka waits for the call.
        if partitions.isEmpty { return self.release = self.release ?? [] }
        self.revocation += partitions
        for partition in partitions {
            self.cursors[partition]?.ownership = .revoking
            self.cursors[partition]?.buffer = []
            self.cursors[partition]?.bufferSize = 0
        }
        self.epoch += 1
        self.events.append(Event(event: .revoked(partitions), epoch: self.epoch))
    }

    /// They are another member's already, and what follows them.
    mutating func lost(_ partitions: [TopicPartition]) {
        let partitions = self.withFollowers(partitions)
        let gone = Set(partitions)
        for partition in partitions { self.cursors[partition] = nil }
        self.order.removeAll { gone.contains($0) }
        self.revocation.removeAll { gone.contains($0) }
        self.epoch += 1
        self.events.append(Event(event: .lost(partitions), epoch: self.epoch))
        self.release = (self.release ?? []) + partitions
    }

    private func withFollowers(_ partitions: [TopicPartition]) -> [TopicPartition] {
        let numbers = Set(partitions.map(\.partition))
        let named = Set(partitions)
        return partitions + self.order.filter { numbers.contains($0.partition) && !named.contains($0) }
    }

    mutating func received(_ record: StoredRecord) {
        let partition = record.position.partition
        guard var cursor = self.cursors[partition], !cursor.isSeeking, record.position.offset >= cursor.next else {
            return
        }
        switch cursor.ownership {
        case .assigned, .owned: break
        case .revoking, .revoked, .releasing: return
        }
        self.cursors[partition] = nil
        cursor.next = record.position.offset.advanced(by: 1)
        if !cursor.progress.isDone(record.position.offset) {
            cursor.buffer.append(record)
            cursor.bufferSize += record.size
            if cursor.bufferSize > self.share, !cursor.isThrottled {
                cursor.isThrottled = true
                self.commands[self.role(of: partition), default: []].append(.pause(partition))
            }
        }
        self.cursors[partition] = cursor
    }

    /// The log begins after the offset that was to be read: goes on where it begins.
    mutating func truncated(_ partition: TopicPartition, found: Offset) {
        guard let cursor = self.cursors[partition], cursor.next < found else { return }
        self.epoch += 1
        self.events.append(
            Event(event: .truncated(partition, expected: cursor.next, found: found), epoch: self.epoch)
        )
        self.seek(partition, to: found)
    }

    /// Whether the group has done something at or above `end`, where the log seems to end.
    func isBeyond(_ partition: TopicPartition, _ end: Offset) -> Bool {
        self.cursors[partition].map { $0.progress.end > end } ?? false
    }

    /// The log ends before what was read or done of it: it was cut. What comes at those offsets is new, so the caller
    /// loses the partition and is assigned it again, with the progress that is left.
    ///
    /// - Returns: that progress; `nil` when nothing is cut here.
    @discardableResult
    mutating func cut(_ partition: TopicPartition, found: Offset) -> Progress? {
        guard var cursor = self.cursors[partition] else { return nil }
        let expected = max(cursor.next, cursor.progress.end)
        guard found < expected else { return nil }
        switch cursor.ownership {
        case .assigned, .owned: break
        // The next owner finds it.
        case .revoking, .revoked, .releasing: return nil
        }
        self.epoch += 1
        cursor.epoch = self.epoch
        cursor.ownership = .assigned
        cursor.progress = cursor.progress.cut(at: found)
        cursor.isPaused = false
        cursor.stepsInFlight = 0
        self.cursors[partition] = cursor
        let assignment = Assignment(partition: partition, progress: cursor.progress)
        self.events.append(Event(event: .lost([partition]), epoch: self.epoch))
        self.events.append(Event(event: .truncated(partition, expected: expected, found: found), epoch: self.epoch))
        self.events.append(Event(event: .assigned([assignment]), epoch: self.epoch))
        self.seek(partition, to: cursor.progress.watermark)
        return cursor.progress
    }

    /// What was received and not handed out is dropped, and what comes until the seek is done; it is read again. To seek to
    /// the next offset would skip it.
    mutating func reread(_ partition: TopicPartition) {
        guard let cursor = self.cursors[partition] else { return }
        self.seek(partition, to: cursor.buffer.first?.position.offset ?? cursor.next)
    }

    mutating func seekEnded(_ partition: TopicPartition) {
        self.cursors[partition]?.isSeeking = false
    }

    mutating func takeCommands(_ role: Role) -> [Command] {
        self.commands.removeValue(forKey: role) ?? []
    }

    /// The partitions that librdkafka is told to give up now: that lets the group go on. `nil` while it need not be.
    mutating func takeRelease() -> [TopicPartition]? {
        exchange(&self.release, with: nil)
    }

    /// Whether a thread has something to do.
    func hasCommands(_ role: Role) -> Bool {
        self.commands[role] != nil || (role == .leading && self.release != nil)
    }

    /// Whether the group waits for partitions to be given up.
    var isRevoking: Bool { !self.revocation.isEmpty }

    /// Where a partition is read next; `nil` when it is not owned.
    func nextOffset(_ partition: TopicPartition) -> Offset? { self.cursors[partition]?.next }

    // MARK: What the caller does

    mutating func next() -> Decision {
        self.acknowledge()
        guard !self.isLeaving else { return .end }
        if let event = self.events.popFirst() {
            self.deliver(event)
            return .deliver(event.event)
        }
        for step in 0..<self.order.count {
            let index = (self.turn + step) % self.order.count
            let partition = self.order[index]
            guard let records = self.take(partition) else { continue }
            self.turn = (index + 1) % self.order.count
            return .deliver(.records(partition, records))
        }
        return .wait
    }

    private mutating func take(_ partition: TopicPartition) -> [StoredRecord]? {
        guard var cursor = self.cursors[partition], !cursor.isPaused, !cursor.buffer.isEmpty,
            case .owned = cursor.ownership
        else { return nil }
        self.cursors[partition] = nil
        let isLeading = self.role(of: partition) == .leading
        let count = min(cursor.buffer.count, isLeading ? Self.batchCountMax : Self.followingCountMax)
        let records = Array(cursor.buffer.prefix(count))
        cursor.buffer.removeFirst(count)
        cursor.bufferSize = cursor.buffer.isEmpty ? 0 : cursor.bufferSize - records.reduce(0) { $0 + $1.size }
        if cursor.isThrottled, cursor.bufferSize <= self.share / 2 {
            cursor.isThrottled = false
            self.commands[self.role(of: partition), default: []].append(.resume(partition))
        }
        self.cursors[partition] = cursor
        return records
    }

    mutating func setPaused(_ partitions: [TopicPartition], _ isPaused: Bool) {
        for partition in partitions { self.cursors[partition]?.isPaused = isPaused }
    }

    mutating func seek(_ partition: TopicPartition, to offset: Offset) {
        guard self.cursors[partition] != nil else { return }
        self.cursors[partition]?.buffer = []
        self.cursors[partition]?.bufferSize = 0
        self.cursors[partition]?.next = offset
        self.cursors[partition]?.isSeeking = true
        let role = self.role(of: partition)
        self.commands[role, default: []].append(.seek(partition, offset))
        if self.cursors[partition]?.isThrottled == true {
            self.cursors[partition]?.isThrottled = false
            self.commands[role, default: []].append(.resume(partition))
        }
    }

    /// What a step that was begun has to send for the group to vouch for its member: its progress, or, when it has none,
    /// that of a partition as it stands. `nil` when the member does not own, or owns again, what the step is about.
    ///
    /// What has to be committed again goes with it. That needs steps that are written one after the other, each ended
    /// before the next is vouched for.
    mutating func vouched(_ progress: [TopicPartition: Progress], _ epochs: Epochs) -> [TopicPartition: Progress]? {
        let isOurs = epochs.allSatisfy { partition, epoch in
            guard let cursor = self.cursors[partition], cursor.epoch == epoch else { return false }
            switch cursor.ownership {
            case .owned, .revoking, .revoked: return true
            case .releasing: return cursor.stepsInFlight > 0
            case .assigned: return false
            }
        }
        guard isOurs else { return nil }
        var progress = progress
        self.refreshing = Array(self.stale.lazy.filter { progress[$0] == nil }.prefix(Self.refreshCountMax))
        for partition in self.refreshing { progress[partition] = self.cursors[partition]?.progress }
        if !progress.isEmpty { return progress }
        for partition in self.order {
            if let cursor = self.cursors[partition], Self.takesSteps(cursor) { return [partition: cursor.progress] }
        }
        return nil
    }

    /// What a step can commit again: of what moves just now, nobody knows where it stands.
    private var stale: some Sequence<TopicPartition> {
        self.order.lazy.filter { partition in
            guard let cursor = self.cursors[partition] else { return false }
            return cursor.isStale && !cursor.isUncertain && cursor.stepsInFlight == 0 && Self.takesSteps(cursor)
        }
    }

    /// Whether something is to be committed again, and no step is on its way that would.
    var needsStep: Bool { self.stepsInFlight == 0 && !self.isLeaving && self.stale.contains { _ in true } }

    /// The progress of all that follows is to be committed again.
    mutating func becomeStale() {
        for partition in self.order where self.role(of: partition) == .following {
            self.cursors[partition]?.isStale = true
        }
    }

    private static func isGoing(_ cursor: Cursor) -> Bool {
        switch cursor.ownership {
        case .assigned, .owned: false
        case .revoking, .revoked, .releasing: true
        }
    }

    private static func takesSteps(_ cursor: Cursor) -> Bool {
        switch cursor.ownership {
        case .owned, .revoking, .revoked: true
        case .assigned, .releasing: false
        }
    }

    /// - Returns: what the step is begun under, when it may be written; then ``endStep(_:_:isCommitted:)`` follows.
    mutating func beginStep(_ progress: [TopicPartition: Progress]) -> Epochs? {
        guard !self.isLeaving else { return nil }
        if progress.isEmpty, !self.cursors.values.contains(where: Self.takesSteps) { return nil }
        var epochs: Epochs = [:]
        for partition in progress.keys {
            guard let cursor = self.cursors[partition], Self.takesSteps(cursor) else { return nil }
            epochs[partition] = cursor.epoch
        }
        for partition in progress.keys { self.cursors[partition]?.stepsInFlight += 1 }
        self.stepsInFlight += 1
        return epochs
    }

    mutating func endStep(_ progress: [TopicPartition: Progress], _ epochs: Epochs, isCommitted: Bool) {
        self.stepsInFlight -= 1
        for (partition, value) in progress {
            guard let cursor = self.cursors[partition], cursor.epoch == epochs[partition] else { continue }
            self.cursors[partition]?.stepsInFlight = cursor.stepsInFlight - 1
            self.cursors[partition]?.isUncertain = !isCommitted
            guard isCommitted else { continue }
            self.cursors[partition]?.progress = value
            self.cursors[partition]?.isStale = false
        }
        let refreshed = exchange(&self.refreshing, with: [])
        if isCommitted { for partition in refreshed { self.cursors[partition]?.isStale = false } }
        self.releaseIdle()
    }

    /// No more events and no new steps.
    mutating func beginLeaving() {
        self.isLeaving = true
        self.events = []
    }

    // MARK: Private

    /// Octets that one partition may hold.
    private var share: Int { max(64 << 10, self.readAheadSize / max(1, self.order.count)) }

    private mutating func deliver(_ event: Event) {
        switch event.event {
        case .assigned(let assignments):
            for assignment in assignments where self.cursors[assignment.partition]?.epoch == event.epoch {
                if case .assigned = self.cursors[assignment.partition]?.ownership {
                    self.cursors[assignment.partition]?.ownership = .owned
                }
            }
        case .revoked(let partitions):
            for partition in partitions {
                if case .revoking = self.cursors[partition]?.ownership {
                    self.cursors[partition]?.ownership = .revoked
                }
            }
        case .lost, .records, .truncated:
            break
        }
    }

    /// A call says that what the last one returned was dealt with.
    private mutating func acknowledge() {
        for partition in self.revocation {
            if case .revoked = self.cursors[partition]?.ownership { self.cursors[partition]?.ownership = .releasing }
        }
        self.releaseIdle()
    }

    private mutating func releaseIdle() {
        guard !self.revocation.isEmpty else { return }
        let isIdle = self.revocation.allSatisfy { partition in
            guard let cursor = self.cursors[partition] else { return true }
            if case .releasing = cursor.ownership { return cursor.stepsInFlight == 0 }
            return false
        }
        guard isIdle else { return }
        let gone = Set(self.revocation)
        for partition in gone { self.cursors[partition] = nil }
        self.order.removeAll { gone.contains($0) }
        self.turn = 0
        self.release = (self.release ?? []) + self.revocation
        self.revocation = []
    }
}
