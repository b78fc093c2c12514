import ClusterLog
import DequeModule
import Mail
import NIOCore
import Records

/// Decides what delivery does next: which records are worked on, where their mail goes, when it is tried again, and
/// what is written about it (DESIGN §5).
///
/// Sans-IO: the driver feeds one event, then performs what ``takeActions()`` returns. Instants are milliseconds since
/// 1970 and come in with every event.
///
/// Invariants:
/// - an offset is finished only in the moment its outputs enter the step that will carry its progress;
/// - one step is in flight at a time, so progress never runs ahead of outputs;
/// - a job is in exactly one ``Job/Stage``, and each stage has exactly one event that ends it;
/// - nothing waits for a retry while its offset is open: waiting mail is re-published.
struct DeliveryCore: Sendable {
    struct Configuration: Sendable {
        var retry: RetrySchedule
        /// Records of one partition being worked on; at most what ``Progress`` can say.
        var windowCountMax = 500
        /// Offsets between a stuck head and the end of a partition's window. At half of it the head's attempt is ended,
        /// unless it is past its final dot.
        var windowSpanMax = 50_000
        /// The part of a partition's window that one site may hold: 1/8.
        var windowShareDivisor = 8
        /// Octets of records and content held in memory; reading stops above it.
        var heldOctetsMax = 32 << 20
        /// Contents that are being read at a time.
        var readCountMax = 256
        var connectionCountMax = 500
        /// Milliseconds an idle connection is kept.
        var idleTimeout: Int64 = 5_000
        /// A site that is slower than this (milliseconds) to take its next message has its excess parked.
        var patience: Int64 = 1_000
        /// Outputs that wait for the step before them; above it no new work begins.
        var stepOutputCountMax = 1_000
        /// Their octets, likewise.
        var stepOctetsMax = 8 << 20
        /// Milliseconds after which a step that was not answered keeps new work from beginning.
        var stepPatience: Int64 = 1_000
        /// Octets of content that fan-out may copy rather than reference.
        var fanOutCopySizeMax = 1 << 20
        /// Octets of a message that a notification returns.
        var returnedSizeMax = 64 << 10
        /// Octets of a value that the log takes: what goes to `posthorn.dead` is cut to it.
        var valueSizeMax = 900_000
        /// When records behind the watermark are given up; `nil` where the log looks after that itself.
        var trimming: TrimSchedule.Configuration?
        /// How what waits, and what is fanned out, is keyed.
        var keys = KeySpreading.Configuration(partitionCount: 1)
        /// In outcomes: which node says so.
        var source = "/posthorn/localhost"

        init(retry: RetrySchedule) {
            self.retry = retry
        }
    }

    enum Action: Sendable {
        /// Then ``routed(_:_:validUntil:now:)``.
        case resolve(domain: String)
        /// Then ``contentRead(_:_:now:)``.
        case read(Reference, job: UInt64)
        /// Then ``contentAppended(_:_:now:)``.
        case append(Record, job: UInt64)
        /// Then ``connectionReady(_:facts:now:)`` or ``connectionClosed(_:failure:now:)``.
        case open(connection: UInt64, OutboundTarget)
        /// Then ``finished(connection:result:isReusable:now:)``.
        case send(connection: UInt64, OutboundTransaction)
        case close(connection: UInt64)
        /// End what is not past its final dot.
        case abort(connection: UInt64)
        case pause([TopicPartition])
        case resume([TopicPartition])
        /// Then ``stepped(_:now:)``.
        case step(Step)
        case release([Reference])
        /// For the logger and the counters.
        case report(Outcome)
        case parked(site: String, delay: Int64)
        /// The job's mail goes to the site's owner.
        case handedOver(site: String)
        /// To be appended to `posthorn.control`. Nobody waits for it: what is lost is said again.
        case publish([Record])
        /// Begin a command that wakes what is parked for the site, or say ``wakeFailed(site:now:)``.
        case wake(site: String)
        /// Then ``scanned(_:_:_:upTo:now:)`` or ``scanFailed(_:)``. An empty result is up to `end`.
        case scan(command: String, TopicPartition, from: Offset, end: Offset, countMax: Int)
        case dead(Position, reason: String)
        /// Nothing will be read below these offsets again. Then ``trimmed(_:now:)``.
        case trim([TopicPartition: Offset])
    }

    /// A record that was read and is not worked on yet.
    struct Pending: Sendable {
        var record: StoredRecord
        /// `nil` when it cannot be decoded.
        var entry: QueueEntry?
        var reason: String
    }

    struct Partition: Sendable {
        var window: PartitionWindow
        var backlog: Deque<Pending> = []
        /// Milliseconds from append to due; 0 for fresh mail.
        var delay: Int64
        var isPaused = false
        /// Jobs per site.
        var siteCounts: [Int: Int] = [:]
        /// What the last durable step says is done: for views, which count a record until its successor is there.
        var durable: Progress
        /// Octets of the records that were read since it was assigned.
        var octetsRead = 0
    }

    struct Job: Sendable {
        enum Stage: Sendable {
            /// Ends with ``routed(_:_:validUntil:now:)``.
            case routing
            /// Ends with ``contentRead(_:_:now:)``.
            case reading
            /// In its site's queue. Ends when a connection takes it.
            case ready
            /// Ends with ``finished(connection:result:isReusable:now:)``.
            case attempting
            /// Ends with ``contentAppended(_:_:now:)``.
            case appending
        }

        let id: UInt64
        let position: Position
        let key: String
        /// When the log took the record.
        let timestamp: Int64
        var entry: QueueEntry
        /// `nil` until it has been read through the entry's reference.
        var content: ByteBuffer?
        var stage: Stage
        var site: Int?
        /// When it entered its site's queue.
        var readySince: Int64 = 0
        /// What is written once the content's position is known.
        var staged: Staged?
        /// What waits for the content, when it is not an attempt.
        var afterReading: AfterReading = .attempt
        /// Attempts that ended before they began, on a connection the remote had given up.
        var staleCount = 0
        /// Somebody asked for it to be tried now: if it cannot be, it comes again at once.
        var isFlushed = false
        var heldOctets: Int

        var wasParked: Bool { self.entry.parkedSince != nil }
    }

    /// What happens once content was read.
    enum AfterReading: Sendable {
        case attempt
        /// Failures of recipients whose notifications return a part of it.
        case conclude(final: [Conclusion], retrying: [Conclusion])
        /// Late mail that waits without an attempt, of which its sender is told.
        case park(wait: Int64, outageSince: Int64?)
    }

    /// An entry on its way into a topic.
    typealias Placed = (topic: Topic, key: String, entry: QueueEntry)

    /// Outputs that need a reference to content which is still being appended.
    struct Staged: Sendable {
        /// Outputs that are complete.
        var outputs: [Record]
        /// Entries to publish with the reference filled in.
        var entries: [Placed]
    }

    /// Milliseconds that the time of day may go back without meaning anything.
    private static let clockTolerance: Int64 = 1_000

    let configuration: Configuration
    private(set) var actions: [Action] = []
    var partitions: [TopicPartition: Partition] = [:]
    /// Those whose progress is to be written.
    var dirtyPartitions: Set<TopicPartition> = []
    var jobs: [UInt64: Job] = [:]
    var nextJobID: UInt64 = 1
    var heldOctets = 0
    /// Jobs whose content is read as soon as there is room.
    var readsWaiting: Deque<UInt64> = []
    /// Reads that were asked for and not answered yet.
    var readCount = 0
    var routes: [String: Route] = [:]
    var sites: [Int: Site] = [:]
    var siteNumbers: [String: Int] = [:]
    var nextSiteNumber = 1
    /// Sites that have ready jobs and could not open a connection for want of room.
    var starved: Deque<Int> = []
    var connections: [UInt64: Connection] = [:]
    var nextConnectionID: UInt64 = 1
    var builder = StepBuilder()
    /// The keys of what is fanned out, and of what waits for its site.
    var domainKeys: KeySpreading
    var siteKeys: KeySpreading
    /// In the order they were given.
    var commands: [OperatorCommand] = []
    /// The commands as the last durable step left them, for views.
    var durableCommands: [OperatorCommand] = []
    /// What is going on for commands that wake parked mail, by their ids.
    var wakes: [String: Wake] = [:]
    var trims: TrimSchedule?
    var lastTick: Int64 = .min / 2
    var isDraining = false
    /// What this node may use of sites that others serve too; `nil` on one machine.
    var shares: SiteShares?
    /// Partitions that go to another member as soon as what is past its final dot was answered.
    var leaving: Set<TopicPartition> = []

    init(configuration: Configuration, shares: SiteShares? = nil) {
        precondition(configuration.windowCountMax <= Progress.incompleteCountMax)
        self.configuration = configuration
        self.trims = configuration.trimming.map { TrimSchedule(configuration: $0) }
        self.domainKeys = KeySpreading(configuration.keys)
        // A site is read back from its key, so it has no aliases.
        var siteKeys = configuration.keys
        siteKeys.aliases = [:]
        self.siteKeys = KeySpreading(siteKeys)
        self.shares = shares
    }

    mutating func takeActions() -> [Action] {
        var taken: [Action] = []
        swap(&taken, &self.actions)
        return taken
    }

    mutating func act(_ action: Action) {
        self.actions.append(action)
    }

    /// Whether new work begins: not while what was done cannot be written, so that a node that dies repeats little (G3).
    var mayBegin: Bool {
        !self.isDraining && !self.builder.isStuck && !self.builder.isLate && !self.builder.isContentStuck
            && self.stepLoad < 1
    }

    /// What waits for the next step, as a part of what may.
    private var stepLoad: Double {
        max(
            Double(self.builder.waitingCount) / Double(self.configuration.stepOutputCountMax),
            Double(self.builder.waitingOctets) / Double(self.configuration.stepOctetsMax)
        )
    }

    /// Much waits for the next step: who has time waits for it.
    var isCrowded: Bool {
        !self.isDraining && self.stepLoad >= 0.5
    }

    /// Nothing is being tried, waited for or written.
    var isQuiet: Bool {
        !self.builder.isBusy
            && self.jobs.values.allSatisfy { job in
                switch job.stage {
                case .attempting, .appending: false
                case .routing, .reading, .ready: true
                }
            }
    }

    // MARK: Records

    mutating func assigned(_ assignments: [Assignment]) {
        for assignment in assignments {
            let delay = (assignment.partition.topic.deferredDelay ?? 0) * 1_000
            if assignment.partition.topic == .deferredNow { self.shares?.own(assignment.partition.partition) }
            self.partitions[assignment.partition] = Partition(
                window: PartitionWindow(progress: assignment.progress),
                delay: delay,
                durable: assignment.progress
            )
        }
    }

    /// These partitions go to another member: what is not being tried is forgotten, what is being tried is ended unless
    /// it is past its final dot. Then ``isSettled(_:)`` says when ``revoked(_:)`` may follow.
    mutating func revoking(_ partitions: [TopicPartition], now: Int64) {
        self.leaving.formUnion(partitions)
        self.disown(partitions)
        for job in Array(self.jobs.values) where self.leaving.contains(job.position.partition) {
            switch job.stage {
            case .routing, .reading, .ready: self.forget(job)
            case .attempting, .appending: break
            }
        }
        for (id, connection) in self.connections {
            guard let job = connection.job.flatMap({ self.jobs[$0] }),
                self.leaving.contains(job.position.partition)
            else { continue }
            self.act(.abort(connection: id))
        }
        self.flush(now: now)
    }

    /// Whether nothing of these partitions is being tried, waited for or written.
    func isSettled(_ partitions: [TopicPartition]) -> Bool {
        let leaving = Set(partitions)
        return !self.builder.concerns(leaving) && self.dirtyPartitions.isDisjoint(with: leaving)
            && !self.jobs.values.contains { leaving.contains($0.position.partition) }
    }

    /// The log begins at `start`: what was to be worked on below it is lost.
    mutating func truncated(_ partition: TopicPartition, start: Offset) {
        guard self.partitions[partition] != nil else { return }
        for job in Array(self.jobs.values)
        where job.position.partition == partition && job.position.offset < start { self.forget(job) }
        while let pending = self.partitions[partition]?.backlog.first, pending.record.position.offset < start {
            self.partitions[partition]?.backlog.removeFirst()
            self.uncharge(pending, of: partition)
        }
        self.partitions[partition]?.window.drop(below: start)
        self.write([], of: partition)
    }

    /// These partitions are no longer ours: all that is in memory of them is forgotten, and what was not written of
    /// them is not ours to write.
    mutating func revoked(_ partitions: [TopicPartition]) {
        let gone = Set(partitions)
        self.disown(partitions)
        self.leaving.subtract(gone)
        self.dirtyPartitions.subtract(gone)
        self.builder.drop(gone)
        self.forgetCommands(in: gone)
        self.trims?.forget(gone)
        for job in Array(self.jobs.values) where gone.contains(job.position.partition) {
            self.forget(job)
        }
        for partition in partitions {
            guard let backlog = self.partitions[partition]?.backlog else { continue }
            for pending in backlog { self.uncharge(pending, of: partition) }
            self.partitions[partition] = nil
        }
    }

    mutating func received(_ partition: TopicPartition, _ records: [StoredRecord], now: Int64) {
        guard self.partitions[partition] != nil, !self.leaving.contains(partition) else { return }
        for record in records {
            guard self.partitions[partition]?.window.isWanted(record.position.offset) == true else { continue }
            self.partitions[partition]?.octetsRead += record.size
            var pending: Pending
            do throws(RecordLogError) {
                pending = Pending(record: record, entry: try QueueEntry(record), reason: "")
            } catch {
                pending = Pending(record: record, entry: nil, reason: error.reason)
            }
            // Held mail is never sent from here: it goes on from the log.
            if partition.topic == .held, pending.entry != nil { pending.record.value = ByteBuffer() }
            if self.isCharged(partition) { self.heldOctets += Self.charge(pending.record) }
            self.partitions[partition]?.backlog.append(pending)
        }
        self.advance(partition, now: now)
    }

    /// Whether what waits in a partition's backlog counts as held: mail that is not due waits for hours, and must not
    /// keep what is due from being read. It is bounded by what a member gives at once.
    private func isCharged(_ partition: TopicPartition) -> Bool {
        partition.topic != .held && (self.partitions[partition]?.delay ?? 0) == 0
    }

    private mutating func uncharge(_ pending: Pending, of partition: TopicPartition) {
        if self.isCharged(partition) { self.heldOctets -= Self.charge(pending.record) }
    }

    /// Octets that a record takes in memory with all that is made of it: for a reference that is most of it.
    private static func charge(_ record: StoredRecord) -> Int { record.size + 2_048 }

    mutating func tick(now: Int64) {
        if now < self.lastTick - Self.clockTolerance { self.clockMovedBack(to: now) }
        self.lastTick = now
        self.builder.noteTime(now, patience: self.configuration.stepPatience)
        for partition in Array(self.partitions.keys) {
            self.advance(partition, now: now)
        }
        self.tickShares(now: now)
        self.tickSites(now: now)
        self.tickCommands()
        self.tickTrims(now: now)
        self.wakeMore(now: now)
        self.readMore()
        self.flush(now: now)
    }

    /// No more attempts begin; ``isQuiet`` says when what was under way is over and written.
    mutating func drain() {
        self.isDraining = true
        for (id, connection) in self.connections {
            if connection.job == nil { self.act(.close(connection: id)) } else { self.act(.abort(connection: id)) }
        }
    }

    /// Works on the partition's next records as far as its window, its sites and the clock allow.
    mutating func advance(_ id: TopicPartition, now: Int64) {
        guard !self.leaving.contains(id) else { return }
        while self.mayBegin, let pending = self.partitions[id]?.backlog.first,
            self.mayActivate(pending, of: id, now: now)
        {
            self.partitions[id]?.backlog.removeFirst()
            self.uncharge(pending, of: id)
            self.activate(pending, of: id, now: now)
        }
        self.updatePause(id)
    }

    private func mayActivate(_ pending: Pending, of id: TopicPartition, now: Int64) -> Bool {
        guard let partition = self.partitions[id],
            partition.delay == 0 || pending.record.timestamp + partition.delay <= now
        else { return false }
        // What an earlier owner left is in the window already.
        guard
            partition.window.isInherited(pending.record.position.offset)
                || partition.window.incompleteCount < self.configuration.windowCountMax
                    && partition.window.span < self.configuration.windowSpanMax
        else { return false }
        // Held mail is worked on when a command has taken it elsewhere: then only its offset is left to finish.
        if id.topic == .held {
            return pending.entry.map { self.isSuperseded(pending.record.position, $0, key: pending.record.key) } ?? true
        }
        // A site that has its share of the window is waited for only while it is quick; else the record is parked.
        guard let domain = pending.entry?.envelope.recipients.first?.mailbox.domain.text,
            case .site(let number)? = self.routes[domain]?.state,
            (partition.siteCounts[number] ?? 0) >= self.windowShare,
            let site = self.sites[number]
        else { return true }
        let wasParked = pending.entry?.parkedSince != nil
        let wait = self.expectedWait(site, wasParked: wasParked, now: now)
        return site.isBackingOff(now: now) || wait > self.configuration.patience
    }

    var windowShare: Int { max(1, self.configuration.windowCountMax / self.configuration.windowShareDivisor) }

    private mutating func activate(_ pending: Pending, of id: TopicPartition, now: Int64) {
        let record = pending.record
        self.partitions[id]?.window.open(record.position.offset)
        guard let entry = pending.entry else {
            self.bury(record, reason: pending.reason)
            return
        }
        if !self.commands.isEmpty, self.isSuperseded(record.position, entry, key: record.key) {
            self.complete(record.position, outputs: [])
            return
        }
        let charge = Self.charge(record)
        self.heldOctets += charge
        let jobID = self.nextJobID
        self.nextJobID += 1
        let isInline = entry.content == nil
        var job = Job(
            id: jobID,
            position: record.position,
            key: record.key,
            timestamp: record.timestamp,
            entry: entry,
            content: isInline ? record.value : nil,
            stage: .routing,
            heldOctets: charge
        )
        if self.fanOut(&job, now: now) { return }
        self.jobs[jobID] = job
        self.route(jobID, now: now)
    }

    private mutating func updatePause(_ id: TopicPartition) {
        guard let partition = self.partitions[id] else { return }
        let shouldPause =
            !partition.backlog.isEmpty || self.heldOctets > self.configuration.heldOctetsMax
            || (partition.window.incompleteCount >= self.configuration.windowCountMax
                && partition.window.inheritedCount == 0)
        guard shouldPause != partition.isPaused else { return }
        self.partitions[id]?.isPaused = shouldPause
        self.act(shouldPause ? .pause([id]) : .resume([id]))
    }

    /// A record that cannot be used goes to `posthorn.dead` and blocks nobody.
    private mutating func bury(_ record: StoredRecord, reason: String) {
        self.complete(record.position, outputs: [self.dead(DeadRecord(record, reason: reason))])
    }

    private mutating func dead(_ dead: DeadRecord) -> Record {
        self.act(.dead(dead.position, reason: dead.reason))
        return dead.record(valueSizeMax: self.configuration.valueSizeMax)
    }

    // MARK: Content

    mutating func read(_ jobID: UInt64, then next: AfterReading) {
        self.jobs[jobID]?.stage = .reading
        self.jobs[jobID]?.afterReading = next
        self.readsWaiting.append(jobID)
        self.readMore()
    }

    /// Starts the reads there is room for; one is always allowed, so that the largest message gets through.
    mutating func readMore() {
        while self.readCount < self.configuration.readCountMax, let jobID = self.readsWaiting.first {
            guard let job = self.jobs[jobID], let reference = job.entry.content else {
                self.readsWaiting.removeFirst()
                continue
            }
            let isRoomLeft = self.heldOctets + reference.size <= self.configuration.heldOctetsMax
            guard isRoomLeft || self.readCount == 0 else { return }
            self.readsWaiting.removeFirst()
            self.readCount += 1
            self.heldOctets += reference.size
            self.jobs[jobID]?.heldOctets += reference.size
            self.act(.read(reference, job: jobID))
        }
    }

    mutating func contentRead(_ jobID: UInt64, _ result: Result<ByteBuffer, RecordLogError>, now: Int64) {
        self.readCount -= 1
        guard var job = self.jobs[jobID], case .reading = job.stage else { return }
        switch result {
        case .success(let content):
            job.content = content
            self.jobs[jobID] = job
            self.goOn(job, now: now)
        case .failure(let error) where error.isRetriable && now < self.expiry(job.entry) + Self.contentPatience:
            self.readsWaiting.append(jobID)
            self.heldOctets -= job.entry.content?.size ?? 0
            self.jobs[jobID]?.heldOctets -= job.entry.content?.size ?? 0
        case .failure(let error):
            self.lostContent(job, error, now: now)
        }
    }

    /// How long after a message's expiry its content is still waited for, milliseconds: a notification returns it.
    private static let contentPatience: Int64 = 3_600_000

    /// The job's content is at hand.
    private mutating func goOn(_ job: Job, now: Int64) {
        switch job.afterReading {
        case .attempt: self.enqueue(job.id, now: now)
        case .conclude(let final, let retrying): self.conclude(job.id, final, retrying: retrying, now: now)
        case .park(let wait, let since): self.park(job.id, wait: wait, outageSince: since, now: now)
        }
    }

    /// The content is gone or is not what was referenced: it is never sent (G7). What is known of it goes to
    /// `posthorn.dead`, and its recipients are final all the same (G2): their sender is told.
    private mutating func lostContent(_ job: Job, _ error: RecordLogError, now: Int64) {
        var job = job
        job.content = ByteBuffer()
        self.jobs[job.id] = job
        // What may yet be readable has had its time (a log that was cut never says that it is gone).
        let kind = error.isRetriable ? Outcome.Kind.expired : .bounced
        var final = job.entry.envelope.recipients.map {
            Conclusion(recipient: $0, kind: kind, result: .failed(.contentLost))
        }
        if case .conclude(let decided, let retrying) = job.afterReading {
            let concerned = Set(retrying.map(\.recipient.index))
            final = decided + final.filter { concerned.contains($0.recipient.index) }
        }
        var dead = DeadRecord(
            position: job.position,
            reason: "content cannot be read: \(error)",
            key: job.key,
            timestamp: job.timestamp,
            headers: job.entry.headers,
            value: ByteBuffer()
        )
        dead.isConcluded = true
        self.conclude(job.id, final, retrying: [], others: [self.dead(dead)], now: now)
    }

    mutating func contentAppended(_ jobID: UInt64, _ result: Result<Reference, RecordLogError>, now: Int64) {
        if case .success = result { self.builder.contentWritten() }
        guard let job = self.jobs[jobID], case .appending = job.stage, let staged = job.staged else { return }
        switch result {
        case .success(let reference):
            var entries = staged.entries
            for index in entries.indices { entries[index].entry.content = reference }
            // A command may have come meanwhile.
            var placed = Staged(outputs: staged.outputs, entries: [])
            self.stage(entries, of: job, into: &placed, now: now)
            if placed.entries.isEmpty { self.builder.release(reference, of: job.position.partition) }
            let isShared = placed.entries.count > 1
            for index in placed.entries.indices { placed.entries[index].entry.isContentShared = isShared }
            self.publish(placed, of: job, isFinal: false)
        case .failure(let error):
            // Not written, so nothing was decided: the job goes back to where it can be tried again.
            self.builder.contentFailed(now: now, isLogStuck: error.isRetriable)
            self.jobs[jobID]?.stage = .appending
            self.builder.retryAppends.append(jobID)
        }
    }

    /// Adds an entry's record to the outputs. One whose envelope is too large is split; when one recipient alone is too
    /// large, which ingress does not let in, the entry goes to `posthorn.dead`.
    ///
    /// - Parameter position: the record that the entry comes from.
    mutating func publish(
        _ entry: QueueEntry,
        topic: Topic,
        key: String,
        content: ByteBuffer,
        from position: Position,
        to outputs: inout [Record]
    ) {
        do throws(RecordLogError) {
            outputs.append(try entry.record(topic: topic, key: key, content: content))
        } catch {
            let half = entry.envelope.recipients.count / 2
            guard half >= 1 else {
                let dead = DeadRecord(
                    position: position,
                    reason: error.reason,
                    key: key,
                    timestamp: nil,
                    headers: entry.headers,
                    value: content
                )
                outputs.append(self.dead(dead))
                return
            }
            var first = entry
            var second = entry
            first.envelope.recipients = Array(entry.envelope.recipients[..<half])
            second.envelope.recipients = Array(entry.envelope.recipients[half...])
            first.isContentShared = entry.content != nil
            second.isContentShared = first.isContentShared
            self.publish(first, topic: topic, key: key, content: content, from: position, to: &outputs)
            self.publish(second, topic: topic, key: key, content: content, from: position, to: &outputs)
        }
    }

    // MARK: Ends

    /// Drops a job from memory without finishing its offset.
    mutating func forget(_ job: Job) {
        self.jobs[job.id] = nil
        self.heldOctets -= job.heldOctets
        if let site = job.site { self.leaveSite(job, site) }
    }

    private mutating func leaveSite(_ job: Job, _ site: Int) {
        let partition = job.position.partition
        if let count = self.partitions[partition]?.siteCounts[site] {
            self.partitions[partition]?.siteCounts[site] = count > 1 ? count - 1 : nil
        }
        self.sites[site]?.jobCount -= 1
        if case .ready = job.stage {
            self.sites[site]?.ready.remove(job.id)
        }
    }

    /// The record is done: its outputs and its progress go into the next step, its content is released if nobody needs
    /// it any more.
    mutating func finish(_ job: Job, outputs: [Record], isFinal: Bool) {
        self.forget(job)
        if isFinal, let content = job.entry.content, !job.entry.isContentShared,
            content.position.partition.topic == .content
        {
            self.builder.release(content, of: job.position.partition)
        }
        self.complete(job.position, outputs: outputs)
    }

    mutating func complete(_ position: Position, outputs: [Record]) {
        guard self.partitions[position.partition] != nil else { return }
        self.partitions[position.partition]?.window.finish(position.offset)
        self.write(outputs, of: position.partition)
    }

    /// Puts outputs into the next step, together with the progress of the partition that they come from: that is what
    /// keeps a node that has lost the partition from writing them (DESIGN §3).
    mutating func write(_ outputs: [Record], of partition: TopicPartition) {
        guard self.partitions[partition] != nil else { return }
        self.dirtyPartitions.insert(partition)
        self.builder.add(outputs, of: partition)
    }
}
