public import ClusterLog
public import Logging
import Mail
public import NIOCore
public import NodeSupport
public import Records
public import ServiceLifecycle

/// Performs what ``DeliveryCore`` decides: reads the log, resolves, connects, sends and steps.
///
/// The actor runs on one event loop, and so do its connections: a result costs no thread hop. What the log completes
/// on its own threads comes back through one mailbox, in batches.
///
/// At least once: an attempt's outcome, the retry it leads to and the progress past its record are one step. A node
/// that dies between a remote's last reply and the step delivers that message again (DESIGN, G3).
public actor DeliveryEngine: Service {
    /// What comes back from other threads.
    private enum Input: Sendable {
        case stepped(Result<Void, RecordLogError>)
        case appended(job: UInt64, Result<Reference, RecordLogError>)
    }

    /// What needs a task of its own.
    private enum Work: Sendable {
        case resolve(domain: String)
        case read(Reference, job: UInt64)
        case wake(site: String)
        case resume(OperatorCommand)
        case scan(command: String, TopicPartition, from: Offset, end: Offset, countMax: Int)
        case trim([TopicPartition: Offset])
    }

    public static let group = GroupID("posthorn.delivery")
    /// Resolutions and reads waiting for a task; the core's windows bound them below this.
    private static let workCountMax = 1 << 16
    private static let tickInterval: TimeAmount = .milliseconds(200)
    /// What answers to final dots may take once the node stops (DESIGN §5).
    private static let drainDeadline: Duration = .seconds(5)

    private let loop: any EventLoop
    private let taskExecutor: LoopTaskExecutor
    let log: any RecordLog
    private let routing: any MailRouting
    private let outboundConfiguration: OutboundConfiguration
    private let clock: any NodeClock
    let logger: Logger
    private let metrics: DeliveryMetrics
    private let readiness: Readiness.Condition
    /// After a read that failed: the first pause, doubled each time up to the longest.
    private let pauses: ClosedRange<Duration>
    /// When a read failed last, monotonic nanoseconds; `nil` when that is long ago.
    private var readFailedAt: Int64?
    var core: DeliveryCore
    /// The parts of commands that this node has seen, by key: what it reads of them again is old.
    var knownMarks: Set<String> = []
    /// Parts of commands that came while partitions were being taken up, and were about none that we had; `nil` while none
    /// are.
    var earlyParts: [StoredRecord]?
    private var member: (any GroupMember)?
    private var connections: [UInt64: OutboundConnection] = [:]
    private var isPerforming = false
    private var work: AsyncStream<Work>.Continuation?
    private lazy var mailbox = LoopMailbox<Input>(eventLoop: self.loop) { [weak self] inputs in
        self?.assumeIsolated { $0.handle(inputs) }
    }

    public nonisolated var unownedExecutor: UnownedSerialExecutor {
        self.loop.executor.asUnownedSerialExecutor()
    }

    /// - Parameter keys: how what waits is spread over partitions; `nil` spreads nothing.
    public init(
        configuration: NodeConfiguration,
        log: any RecordLog,
        keys: KeySpreading.Configuration? = nil,
        routing: any MailRouting,
        outbound: OutboundConfiguration,
        on loop: any EventLoop,
        clock: any NodeClock,
        metrics: MetricsRegistry,
        readiness: Readiness,
        logger: Logger,
        pauses: ClosedRange<Duration> = .milliseconds(100)...(.seconds(5))
    ) {
        self.loop = loop
        self.taskExecutor = LoopTaskExecutor(loop)
        self.log = log
        self.routing = routing
        self.outboundConfiguration = outbound
        self.clock = clock
        self.logger = logger
        self.metrics = DeliveryMetrics(registry: metrics)
        self.readiness = readiness.condition("delivery")
        self.pauses = pauses
        var core = DeliveryCore.Configuration(retry: RetrySchedule(configuration.retry))
        core.connectionCountMax = configuration.delivery.connectionCountMax
        core.idleTimeout = configuration.delivery.idleTimeout.milliseconds
        if let keys { core.keys = keys }
        core.source = "/posthorn/\(configuration.hostname)"
        core.valueSizeMax = log.valueSizeMax
        if log.isShared, let grace = configuration.kafka.trimAfter {
            core.trimming = TrimSchedule.Configuration(grace: grace.milliseconds)
        }
        let shares =
            log.isShared
            ? SiteShares(
                configuration: SiteShares.Configuration(
                    node: "\(configuration.hostname)-\(String(UInt64.random(in: .min ... .max), radix: 36))",
                    partitionCount: log.partitionCount
                )
            ) : nil
        self.core = DeliveryCore(configuration: core, shares: shares)
    }

    /// Joins the group and delivers until graceful shutdown; then ends what is not past its final dot, waits for what
    /// is, writes the last step and leaves.
    public func run() async throws {
        let topics = TopicSelection(topics: [.accepted, .held], prefixes: [Topic.deferredPrefix])
        let member = try await self.log.join(Self.group, topics: topics)
        self.member = member
        self.readiness.met()
        let (stream, continuation) = AsyncStream.makeStream(
            of: Work.self,
            bufferingPolicy: .bufferingOldest(Self.workCountMax)
        )
        self.work = continuation
        let ticks = self.loop.scheduleRepeatedTask(initialDelay: Self.tickInterval, delay: Self.tickInterval) {
            [weak self] _ in
            self?.assumeIsolated { $0.tick() }
        }
        try await withThrowingDiscardingTaskGroup { group in
            group.addTask { await self.perform(stream) }
            if self.log.isShared { group.addTask { await self.followCommands() } }
            try await self.consume(member)
            await self.drain()
            continuation.finish()
        }
        ticks.cancel()
        if let withdrawal = self.core.shares?.withdrawal { _ = try? await self.log.append([withdrawal]) }
        await member.leave()
        self.member = nil
    }

    private func consume(_ member: any GroupMember) async throws {
        try await withTaskExecutorPreference(self.taskExecutor) {
            // Once for all events, since each costs two tasks.
            try await cancelWhenGracefulShutdown {
                var pause = self.pauses.lowerBound
                while !Task.isCancelled {
                    do throws(RecordLogError) {
                        while let event = try await member.next() {
                            pause = self.pauses.lowerBound
                            await self.received(event)
                        }
                        return
                    } catch {
                        guard error.isRetriable else { throw error }
                        await self.readFailed(error)
                    }
                    // Cut short by shutdown, which the loop's condition sees.
                    try? await Task.sleep(for: pause)
                    pause = min(pause * 2, self.pauses.upperBound)
                }
            }
        }
    }

    private func received(_ event: GroupEvent) async {
        switch event {
        case .assigned(let assignments):
            self.earlyParts = []
            await self.restoreCommands(assignments.map(\.partition))
        case .revoked(let partitions): await self.settle(partitions)
        case .lost, .records, .truncated: break
        }
        self.handle(event)
        if let early = exchange(&self.earlyParts, with: nil) { self.adopt(early) }
    }

    /// What is in hand goes on, and the log is asked again: a disk that cannot be read now, or too many open files, is
    /// no reason to end the node, which would find the same after its restart.
    private func readFailed(_ error: RecordLogError) {
        self.readFailedAt = self.clock.monotonicNanoseconds
        self.readiness.unmet("The log cannot be read: \(error)")
        self.logger.error("The log cannot be read; it is tried again", metadata: [LogKeys.error: "\(error)"])
    }

    private func tick() {
        self.feed { core, now in core.tick(now: now) }
        if let shares = self.core.shares { self.metrics.nodes.set(shares.isSettled ? shares.nodeCount : 0) }
        // Longer than the longest pause, so that what fails each time is not ready in between.
        guard let failedAt = self.readFailedAt,
            .nanoseconds(self.clock.monotonicNanoseconds - failedAt) > self.pauses.upperBound * 2
        else { return }
        self.readFailedAt = nil
        self.readiness.met()
    }

    /// Ends what is under way for partitions that another member takes over: what is not past its final dot at once,
    /// what is with its answer or after ``drainDeadline``. What was decided is written before the partitions go.
    private func settle(_ partitions: [TopicPartition]) async {
        self.feed { core, now in core.revoking(partitions, now: now) }
        let deadline = ContinuousClock.now + Self.drainDeadline
        while !self.core.isSettled(partitions), ContinuousClock.now < deadline {
            self.feed { core, now in core.flush(now: now) }
            // Paced, not synchronised: the connections' own events change the state meanwhile.
            try? await Task.sleep(for: .milliseconds(10))
        }
    }

    private func handle(_ event: GroupEvent) {
        switch event {
        case .assigned(let assignments):
            self.core.assigned(assignments)
            let partitions = Set(assignments.map(\.partition))
            for command in self.core.commands where command.marks.contains(where: { partitions.contains($0.place) }) {
                self.resumeSoon(command)
            }
        case .revoked(let partitions), .lost(let partitions):
            self.feed { core, _ in core.revoked(partitions) }
        case .records(let partition, let records):
            self.feed { core, now in
                core.received(partition, records, now: now)
                core.flush(now: now)
            }
        case .truncated(let partition, let expected, let found):
            // A log that was cut is lost before this event and assigned after it, with the progress that is left.
            let isCut = found < expected
            if !isCut { self.feed { core, _ in core.truncated(partition, start: found) } }
            self.logger.critical(
                isCut
                    ? "Records were lost: the log ends before the group's progress"
                    : "Records were lost: the log begins after the group's progress",
                metadata: [
                    LogKeys.topic: "\(partition.topic)", LogKeys.partition: "\(partition.partition)",
                    LogKeys.offset: "\(expected)", "found_offset": "\(found)",
                ]
            )
        }
    }

    private func handle(_ inputs: [Input]) {
        self.feed { core, now in
            for input in inputs {
                switch input {
                case .stepped(let result):
                    core.stepped(result, now: now)
                case .appended(let job, let result):
                    core.contentAppended(job, result, now: now)
                }
            }
            core.flush(now: now)
        }
    }

    var now: Int64 { self.clock.milliseconds }

    func makeCommandID() -> String {
        var random = SystemRandomNumberGenerator()
        return MessageID(
            milliseconds: self.now,
            randomHigh: random.next(),
            randomLow: random.next()
        )
        .description
    }

    // MARK: Actions

    /// Feeds the core and performs what it decides. What happens while performing is performed by the outer call.
    func feed(_ event: (inout DeliveryCore, Int64) -> Void) {
        if self.core.shares != nil { self.core.shares?.advance(to: self.clock.monotonicNanoseconds / 1_000_000) }
        event(&self.core, self.clock.milliseconds)
        guard !self.isPerforming else { return }
        self.isPerforming = true
        defer { self.isPerforming = false }
        while true {
            let actions = self.core.takeActions()
            guard !actions.isEmpty else { return }
            for action in actions { self.perform(action) }
        }
    }

    private func perform(_ action: DeliveryCore.Action) {
        switch action {
        case .resolve(let domain):
            self.start(.resolve(domain: domain))
        case .read(let reference, let job):
            self.start(.read(reference, job: job))
        case .append(let record, let job):
            let mailbox = self.mailbox
            self.log.appendContent(record) { mailbox.post(.appended(job: job, $0)) }
        case .open(let id, let target):
            self.connections[id] = OutboundConnection.open(
                id: id,
                target: target,
                on: self.loop,
                configuration: self.outboundConfiguration,
                delegate: Delegate(engine: self)
            )
        case .send(let id, let transaction):
            self.connections[id]?.send(transaction)
        case .close(let id):
            self.connections[id]?.close()
        case .abort(let id):
            self.connections[id]?.abortBeforeFinalDot()
        case .pause(let partitions):
            self.member?.pause(partitions)
        case .resume(let partitions):
            self.member?.resume(partitions)
        case .step(let step):
            let mailbox = self.mailbox
            self.member?.step(step) { mailbox.post(.stepped($0.map { _ in () })) }
        case .release(let references):
            self.log.release(references)
        case .report(let outcome):
            self.report(outcome)
        case .parked(let site, let delay):
            self.metrics.parked.increment()
            self.logger.debug("Parked", metadata: [LogKeys.site: "\(site)", LogKeys.delay: "\(delay)"])
        case .handedOver(let site):
            self.metrics.handedOver.increment()
            self.logger.debug("Handed over to the site's owner", metadata: [LogKeys.site: "\(site)"])
        case .publish(let records):
            let logger = self.logger
            self.log.append(records) { result in
                guard case .failure(let error) = result else { return }
                logger.debug("posthorn.control takes nothing now", metadata: [LogKeys.error: "\(error)"])
            }
        case .wake(let site):
            self.start(.wake(site: site))
        case .scan(let command, let partition, let from, let end, let countMax):
            self.start(.scan(command: command, partition, from: from, end: end, countMax: countMax))
        case .trim(let offsets):
            self.start(.trim(offsets))
        case .dead(let position, let reason):
            self.metrics.dead.increment()
            self.logger.error(
                "A record cannot be used and goes to posthorn.dead",
                metadata: ["position": "\(position)", LogKeys.reason: "\(reason)"]
            )
        }
    }

    private func start(_ work: Work) {
        guard case .enqueued? = self.work?.yield(work) else {
            self.reject(work)
            return
        }
    }

    /// Scans for a command apart from the events.
    func resumeSoon(_ command: OperatorCommand) {
        self.start(.resume(command))
    }

    private func reject(_ work: Work) {
        switch work {
        case .resume(let command):
            self.logger.error("Too much work waits to scan for a command", metadata: ["command": "\(command.id)"])
        case .resolve(let domain):
            self.core.routed(domain, .failed(.notResolved), validUntil: 0, now: self.clock.milliseconds)
        case .read(_, let job):
            let error = RecordLogError(.queueFull, isRetriable: true)
            self.core.contentRead(job, .failure(error), now: self.clock.milliseconds)
        case .wake(let site):
            self.core.wakeFailed(site: site, now: self.clock.milliseconds)
        case .scan(let command, _, _, _, _):
            self.core.scanFailed(command)
        case .trim:
            self.trimEnded(.failure(RecordLogError(.queueFull, isRetriable: true)))
        }
    }

    private func perform(_ stream: AsyncStream<Work>) async {
        await withDiscardingTaskGroup { group in
            for await work in stream {
                group.addTask { await self.perform(work) }
            }
        }
    }

    private func perform(_ work: Work) async {
        switch work {
        case .resolve(let domain):
            let answer = await self.routing.route(Domain(normalized: domain))
            self.feed { core, now in
                core.routed(domain, answer.routing, validUntil: now + answer.validFor, now: now)
            }
        case .read(let reference, let job):
            let result: Result<ByteBuffer, RecordLogError>
            do throws(RecordLogError) {
                result = .success(try await self.log.read(reference).value)
            } catch {
                result = .failure(error)
            }
            self.feed { core, now in core.contentRead(job, result, now: now) }
        case .wake(let site):
            await self.wake(site)
        case .resume(let command):
            await self.resume(command)
        case .scan(let command, let partition, let from, let end, let countMax):
            await self.scan(command, partition, from: from, end: end, countMax: countMax)
        case .trim(let offsets):
            do throws(RecordLogError) {
                try await self.log.trim(offsets)
                self.trimEnded(.success(()))
            } catch {
                self.trimEnded(.failure(error))
            }
        }
    }

    private func trimEnded(_ result: Result<Void, RecordLogError>) {
        let report = self.core.trimmed(result, now: self.clock.milliseconds)
        self.metrics.trimmed.increment(by: Int(report.offsetCount))
        if case .failure = result { self.metrics.trimFailures.increment() }
        guard let failure = report.failure else { return }
        self.logger.warning(
            "Records behind the watermark stay for their retention: trimming failed, and is tried again quietly",
            metadata: [LogKeys.error: "\(failure)"]
        )
    }

    private func report(_ outcome: Outcome) {
        self.metrics.count(outcome)
        guard self.logger.logLevel <= .info else { return }
        var metadata: Logger.Metadata = [
            LogKeys.outcome: "\(outcome.kind.rawValue)", LogKeys.messageID: "\(outcome.messageID)",
            LogKeys.recipient: "\(outcome.recipient)", LogKeys.site: "\(outcome.site)",
            LogKeys.attempt: "\(outcome.attempt)", LogKeys.status: "\(outcome.status)",
            LogKeys.delay: "\(outcome.time - outcome.acceptedAt)",
        ]
        if let remote = outcome.remote {
            metadata[LogKeys.host] = "\(remote.host)"
            metadata[LogKeys.remote] = "\(remote.address)"
            if let version = remote.tlsVersion { metadata[LogKeys.tlsVersion] = "\(version)" }
            if let suite = remote.tlsCipherSuite { metadata[LogKeys.tlsCipherSuite] = "\(suite)" }
        }
        if let reply = outcome.reply {
            metadata[LogKeys.reply] = "\(reply.code) \(reply.text)"
        } else if let reason = outcome.reason {
            metadata[LogKeys.reason] = "\(reason)"
        }
        self.logger.info("Attempt", metadata: metadata)
    }

    /// Certificates or passwords of routes have changed: what connects from now on uses the new ones.
    public func forgetRoutes() {
        self.feed { core, _ in core.forgetRoutes() }
    }

    // MARK: Shutdown

    private func drain() async {
        self.feed { core, _ in core.drain() }
        let deadline = ContinuousClock.now + Self.drainDeadline
        while !self.core.isQuiet, ContinuousClock.now < deadline {
            self.feed { core, now in core.flush(now: now) }
            // Paced, not synchronised: the connections' own events change the state meanwhile.
            try? await Task.sleep(for: .milliseconds(20))
        }
        for connection in self.connections.values { connection.close() }
    }

    // MARK: Connections

    /// Calls back on the loop, which is the actor's executor.
    private struct Delegate: OutboundConnectionDelegate {
        unowned let engine: DeliveryEngine

        func connectionBecameReady(_ id: UInt64, facts: OutboundSessionFacts) {
            self.engine.assumeIsolated {
                $0.feed { core, now in core.connectionReady(id, facts: facts, now: now) }
            }
        }

        func connection(_ id: UInt64, finished result: TransactionResult, isReusable: Bool) {
            self.engine.assumeIsolated {
                $0.feed { core, now in
                    core.finished(connection: id, result: result, isReusable: isReusable, now: now)
                }
            }
        }

        func connectionClosed(_ id: UInt64, failure: DeliveryFailure?) {
            self.engine.assumeIsolated {
                $0.connections[id] = nil
                $0.feed { core, now in core.connectionClosed(id, failure: failure, now: now) }
            }
        }
    }
}
