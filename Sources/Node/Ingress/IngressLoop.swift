import ClusterLog
import Logging
import Mail
import NIOCore
import NodeSupport
import Records

/// What all sessions of a node share.
struct IngressShared: Sendable {
    let configuration: NodeConfiguration
    let log: any RecordLog
    let gate: IntakeGate
    let metrics: IngressMetrics
    let clock: any NodeClock
    let logger: Logger
    let credentials: CredentialStore?
    let passwords: PasswordChecker
    /// As one event loop is to count.
    let keys: KeySpreading.Configuration
    let logReadiness: Readiness.Condition

    /// How often deadlines are looked at: each second, oftener when timeouts are short.
    var tickInterval: Duration {
        let timeouts = self.configuration.timeouts.server
        let shortest = min(
            min(timeouts.command, timeouts.dataBlock, timeouts.dataTotal),
            min(timeouts.transaction, timeouts.tlsHandshake)
        )
        return min(max(shortest / 4, .milliseconds(10)), .seconds(1))
    }
}

/// What the sessions of one event loop share; used on that loop alone.
final class IngressLoop {
    /// The log's answer to one append.
    private struct Completion: Sendable {
        let id: UInt64
        let result: Result<[Position], RecordLogError>
    }

    private struct Append {
        /// Kept until it has been told, even when the client has gone.
        let session: SessionHandler
        let startedAt: Int64
        /// What of the gate's budget is given back when it completes.
        let chargedCount: Int
    }

    /// How long a session may go unread because of the budget; then it is told instead.
    private static let pauseMax: Int64 = 5_000_000_000

    let eventLoop: any EventLoop
    let shared: IngressShared
    private let index: Int
    private var sessions: [UInt64: SessionHandler] = [:]
    private var appends: [UInt64: Append] = [:]
    /// Sessions that are not read, and since when.
    private var paused: [UInt64: Int64] = [:]
    private var lastID: UInt64 = 0
    private var mailbox: LoopMailbox<Completion>?
    private var ticks: RepeatedTask?
    private(set) var isDraining = false
    private var whenEmpty: EventLoopPromise<Void>?
    private var random = MessageIDGenerator()
    private var keys: KeySpreading

    /// On the event loop.
    init(eventLoop: any EventLoop, index: Int, shared: IngressShared) {
        self.eventLoop = eventLoop
        self.index = index
        self.shared = shared
        self.keys = KeySpreading(shared.keys)
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        self.mailbox = LoopMailbox(eventLoop: eventLoop) { bound.value.completed($0) }
        let interval = TimeAmount(shared.tickInterval)
        self.ticks = eventLoop.scheduleRepeatedTask(initialDelay: interval, delay: interval) { _ in
            bound.value.tick()
        }
        self.updateGate()
    }

    var now: Int64 { self.shared.clock.monotonicNanoseconds }

    func makeMessageID(milliseconds: Int64) -> MessageID {
        self.random.next(milliseconds: milliseconds)
    }

    // MARK: Sessions

    /// Returns the session's id.
    func add(_ session: SessionHandler) -> UInt64 {
        self.lastID += 1
        self.sessions[self.lastID] = session
        return self.lastID
    }

    func remove(_ id: UInt64) {
        self.sessions[id] = nil
        self.paused[id] = nil
        self.finishIfEmpty()
    }

    /// The session with this id, if it is still there.
    func session(_ id: UInt64) -> SessionHandler? { self.sessions[id] }

    /// The session is not read until the budget allows it.
    func pause(_ id: UInt64) {
        if self.paused[id] == nil { self.paused[id] = self.now }
    }

    private func resumePaused() {
        guard !self.paused.isEmpty else { return }
        let now = self.now
        let isCrowded = self.shared.gate.isCrowded && self.shared.gate.logState == .open
        for (id, since) in self.paused where !isCrowded || now - since > Self.pauseMax {
            self.paused[id] = nil
            self.sessions[id]?.resumed()
        }
    }

    // MARK: Appends

    /// Appends; the session hears of it through ``SessionHandler/appended(_:)``.
    ///
    /// Content that is too large to ride along, once or in each of several records, goes first. What names it follows when it is durable, and only then is
    /// the message accepted: content that nothing names is nobody's mail.
    func append(_ envelope: Envelope, content: ByteBuffer, session: SessionHandler, chargedCount: Int) {
        self.lastID += 1
        let id = self.lastID
        self.appends[id] = Append(session: session, startedAt: self.now, chargedCount: chargedCount)
        guard let mailbox = self.mailbox else { return }
        let log = self.shared.log
        let key = MessageRecords.key(of: envelope, &self.keys, now: self.now / 1_000_000)
        let post: RecordLog.AppendCompletion = { mailbox.post(Completion(id: id, result: $0)) }
        let size = content.readableBytes
        guard size > log.inlineSizeMax || MessageRecords.sharesContent(envelope, size: size) else {
            do throws(RecordLogError) {
                log.append(try MessageRecords.make(envelope, content: content, key: key), completion: post)
            } catch {
                post(.failure(error))
            }
            return
        }
        log.appendContent(MessageRecords.content(envelope, content, key: key)) { result in
            do throws(RecordLogError) {
                let reference = try result.get()
                log.append(try MessageRecords.make(envelope, reference: reference, key: key), completion: post)
            } catch {
                post(.failure(error))
            }
        }
    }

    private func completed(_ completions: [Completion]) {
        var hasFailure = false
        for completion in completions {
            guard let append = self.appends.removeValue(forKey: completion.id) else { continue }
            self.shared.gate.release(append.chargedCount)
            let duration = self.now - append.startedAt
            if case .failure = completion.result {
                hasFailure = true
            } else {
                self.shared.metrics.appendDuration.observe(nanoseconds: duration)
            }
            append.session.appended(completion.result, duration: duration)
        }
        if hasFailure || self.shared.gate.logState != .open { self.updateGate() }
        self.resumePaused()
        self.finishIfEmpty()
    }

    private func updateGate() {
        let oldest = self.appends.values.min { $0.startedAt < $1.startedAt }?.startedAt
        let condition = self.shared.log.condition
        guard
            let state = self.shared.gate.update(
                loop: self.index,
                oldestAppend: oldest,
                condition: condition,
                now: self.now
            )
        else { return }
        switch state {
        case .open:
            self.shared.logReadiness.met()
            self.shared.logger.info("The log takes mail")
        case .short, .unavailable:
            let reason =
                switch condition {
                case .writable: "appends are not acknowledged"
                case .reserveOnly(let reason), .unavailable(let reason): reason
                }
            self.shared.logReadiness.unmet(reason)
            self.shared.logger.warning("The log takes no mail", metadata: [LogKeys.reason: "\(reason)"])
        }
    }

    private func tick() {
        self.updateGate()
        let now = self.now
        // Those whose time is up change the dictionary.
        for session in self.sessions.values.filter({ $0.deadline <= now }) { session.timedOut() }
        self.resumePaused()
    }

    // MARK: Shutdown

    /// Idle sessions are told to go, the others when they have been answered; the promise is for the last one.
    func drain(_ promise: EventLoopPromise<Void>) {
        self.isDraining = true
        self.whenEmpty = promise
        for session in Array(self.sessions.values) { session.drain() }
        self.finishIfEmpty()
    }

    func closeAll() {
        for session in Array(self.sessions.values) { session.closeNow() }
        self.whenEmpty?.succeed()
        self.whenEmpty = nil
        self.ticks?.cancel()
        self.ticks = nil
    }

    private func finishIfEmpty() {
        guard self.isDraining, self.sessions.isEmpty else { return }
        self.whenEmpty?.succeed()
        self.whenEmpty = nil
    }
}
