import ClusterLog
import DequeModule
import Mail
import NIOCore
import Records
import SMTP

extension DeliveryCore {
    /// What is known of a destination domain.
    struct Route: Sendable {
        enum State: Sendable {
            /// Being resolved; these jobs wait.
            case resolving([UInt64])
            case site(Int)
            case failed(DeliveryFailure)
            case discard
        }

        var state: State
        var validUntil: Int64
    }

    struct Connection: Sendable {
        enum State: Sendable {
            case connecting
            case idle(since: Int64)
            case busy
            case closing
        }

        var site: Int
        var state: State = .connecting
        var facts: OutboundSessionFacts?
        /// The job being tried.
        var job: UInt64?
        var transactionCount = 0
    }

    // MARK: Routing

    mutating func route(_ jobID: UInt64, now: Int64) {
        guard let domain = self.jobs[jobID]?.entry.envelope.recipients.first?.mailbox.domain.text else { return }
        if let route = self.routes[domain] {
            switch route.state {
            case .resolving(var waiting):
                waiting.append(jobID)
                self.routes[domain]?.state = .resolving(waiting)
                return
            case .site, .failed, .discard:
                if now < route.validUntil {
                    self.follow(route.state, jobID, now: now)
                    return
                }
            }
        }
        self.routes[domain] = Route(state: .resolving([jobID]), validUntil: .max)
        self.act(.resolve(domain: domain))
    }

    mutating func routed(_ domain: String, _ routing: Routing, validUntil: Int64, now: Int64) {
        guard case .resolving(let waiting)? = self.routes[domain]?.state else { return }
        let state: Route.State =
            switch routing {
            case .site(let plan): .site(self.siteNumber(for: plan))
            case .failed(let failure): .failed(failure)
            case .discard: .discard
            }
        self.routes[domain] = Route(state: state, validUntil: validUntil)
        for jobID in waiting { self.follow(state, jobID, now: now) }
        self.flush(now: now)
    }

    /// Routes are found anew, with what has changed in them; mail that waits for one goes on waiting.
    mutating func forgetRoutes() {
        self.routes = self.routes.filter { _, route in
            if case .resolving = route.state { true } else { false }
        }
    }

    private mutating func siteNumber(for plan: SitePlan) -> Int {
        if let number = self.siteNumbers[plan.id] {
            self.sites[number]?.plan = plan
            return number
        }
        let number = self.nextSiteNumber
        self.nextSiteNumber += 1
        self.siteNumbers[plan.id] = number
        self.sites[number] = Site(plan: plan, partition: self.shares?.partition(of: plan.id) ?? 0)
        return number
    }

    private mutating func follow(_ state: Route.State, _ jobID: UInt64, now: Int64) {
        guard let job = self.jobs[jobID] else { return }
        switch state {
        case .resolving:
            preconditionFailure("A route was followed before it was known.")
        case .site(let number):
            self.jobs[jobID]?.site = number
            self.sites[number]?.jobCount += 1
            self.partitions[job.position.partition]?.siteCounts[number, default: 0] += 1
            self.arrive(jobID, at: number, now: now)
        case .failed(let failure):
            let results = job.entry.envelope.recipients.map { _ in RecipientResult.failed(failure) }
            self.decide(jobID, results, connection: nil, duration: nil, isInDoubt: false, now: now)
        case .discard:
            let reply = RemoteReply.discarded
            let results = job.entry.envelope.recipients.map { _ in
                RecipientResult.delivered(reply, isDSNPassedOn: false)
            }
            self.decide(jobID, results, connection: nil, duration: nil, isInDoubt: false, now: now)
        }
    }

    // MARK: Queues

    /// A job has come to its site: it expires, is parked, or waits for a connection.
    private mutating func arrive(_ jobID: UInt64, at number: Int, now: Int64) {
        guard let job = self.jobs[jobID], let site = self.sites[number] else { return }
        let topic = job.position.partition.topic
        if let command = self.pendingCommand(job.position, job.entry, in: topic, site: site.plan.id) {
            self.execute(command, on: job, now: now)
            return
        }
        let wasDelayed = job.entry.attemptCount > 0 || job.entry.parkedSince != nil
        if wasDelayed && now >= self.expiry(job.entry) {
            let failure = DeliveryFailure.expired(lastFailure: site.lastFailure)
            self.conclude(
                jobID,
                job.entry.envelope.recipients.map {
                    Conclusion(recipient: $0, kind: .expired, result: .failed(failure))
                },
                retrying: [],
                now: now
            )
            return
        }
        if self.handsOver(job, site) {
            self.handOver(jobID, now: now)
            return
        }
        let held = self.partitions[job.position.partition]?.siteCounts[number] ?? 0
        self.noteParked(job, number, now: now)
        let wait = self.expectedWait(site, wasParked: job.wasParked, now: now)
        if site.isBackingOff(now: now) || (held > self.windowShare && wait > self.configuration.patience) {
            self.park(jobID, wait: max(wait, site.backoffUntil - now), outageSince: site.outageSince, now: now)
            return
        }
        if job.content == nil {
            self.read(jobID, then: .attempt)
        } else {
            self.enqueue(jobID, now: now)
        }
    }

    mutating func enqueue(_ jobID: UInt64, now: Int64) {
        guard let job = self.jobs[jobID], let number = job.site else { return }
        if let site = self.sites[number], self.handsOver(job, site) {
            self.handOver(jobID, now: now)
            return
        }
        self.jobs[jobID]?.stage = .ready
        self.jobs[jobID]?.readySince = now
        self.sites[number]?.ready.append(jobID, wasParked: job.wasParked)
        self.wokenArrived(job)
        self.dispatch(number, now: now)
    }

    /// Milliseconds until a job that comes now would be tried, as far as can be told.
    func expectedWait(_ site: Site, wasParked: Bool, now: Int64) -> Int64 {
        // Until the nodes know of each other everything waits: that says nothing about the site.
        guard self.shares?.isSettled != false, let head = site.ready.head(wasParked: wasParked),
            let job = self.jobs[head]
        else { return 0 }
        return max(now - job.readySince, site.backlogTime(wasParked: wasParked))
    }

    /// Gives ready jobs to idle connections, and opens more where that helps.
    mutating func dispatch(_ number: Int, now: Int64) {
        guard self.mayBegin else { return }
        self.applyShare(number, now: now)
        while self.sites[number]?.ready.isEmpty == false, let connectionID = self.sites[number]?.idle.popLast() {
            guard let jobID = self.sites[number]?.ready.popNext() else { break }
            self.attempt(jobID, on: connectionID, now: now)
        }
        guard let site = self.sites[number], !site.ready.isEmpty, !site.isBackingOff(now: now) else { return }
        var wanted = min(site.ready.count - site.connectingCount, site.connectionCountLimit - site.connectionCount)
        while wanted > 0 {
            guard self.connections.count < self.configuration.connectionCountMax else {
                if !self.starved.contains(number) { self.starved.append(number) }
                self.closeOneIdle(besides: number)
                return
            }
            self.open(number)
            wanted -= 1
        }
    }

    /// Room for a site that has mail is made by one that has none.
    private mutating func closeOneIdle(besides number: Int) {
        for (id, connection) in self.connections where connection.site != number {
            if case .idle = connection.state {
                self.retire(id)
                return
            }
        }
    }

    mutating func dispatchStarved(now: Int64) {
        let waiting = self.starved
        self.starved.removeAll()
        for number in waiting { self.dispatch(number, now: now) }
    }

    mutating func open(_ number: Int) {
        guard let target = self.sites[number]?.plan.target else { return }
        let id = self.nextConnectionID
        self.nextConnectionID += 1
        self.connections[id] = Connection(site: number)
        self.sites[number]?.connectionCount += 1
        self.sites[number]?.connectingCount += 1
        self.act(.open(connection: id, target))
    }

    private mutating func attempt(_ jobID: UInt64, on connectionID: UInt64, now: Int64) {
        guard let job = self.jobs[jobID], let content = job.content else {
            preconditionFailure("A job without content was ready.")
        }
        self.jobs[jobID]?.stage = .attempting
        self.connections[connectionID]?.state = .busy
        self.connections[connectionID]?.job = jobID
        self.connections[connectionID]?.transactionCount += 1
        let envelope = job.entry.envelope
        // What the host does not take in one transaction follows in another (RFC 5321 §4.5.3.1.10, RFC 9422 §4.2).
        let countMax = max(1, self.connections[connectionID]?.facts?.recipientCountMax ?? envelope.recipients.count)
        self.act(
            .send(
                connection: connectionID,
                OutboundTransaction(
                    id: jobID,
                    reversePath: envelope.reversePath,
                    recipients: Array(envelope.recipients.prefix(countMax)),
                    bodyType: envelope.bodyType,
                    isInternationalized: envelope.isInternationalized,
                    returnContent: envelope.returnContent,
                    envelopeID: envelope.envelopeID,
                    content: content
                )
            )
        )
    }

    // MARK: Connections

    mutating func connectionReady(_ id: UInt64, facts: OutboundSessionFacts, now: Int64) {
        guard let connection = self.connections[id], case .connecting = connection.state else { return }
        self.connections[id]?.facts = facts
        self.sites[connection.site]?.connectingCount -= 1
        self.sites[connection.site]?.reached()
        self.wakeParked(connection.site, now: now)
        self.becomeIdle(id, now: now)
    }

    mutating func finished(connection id: UInt64, result: TransactionResult, isReusable: Bool, now: Int64) {
        guard let connection = self.connections[id] else { return }
        self.connections[id]?.job = nil
        self.sites[connection.site]?.finishedTransaction(duration: result.duration)
        if let jobID = connection.job {
            self.concludeAttempt(jobID, connection, result, now: now)
        }
        let countMax = self.sites[connection.site]?.plan.messagesPerConnectionMax ?? 0
        if isReusable && (countMax == 0 || connection.transactionCount < countMax) {
            self.becomeIdle(id, now: now)
        } else {
            self.connections[id]?.state = .closing
            self.sites[connection.site]?.closingCount += 1
            if isReusable { self.act(.close(connection: id)) }
        }
        self.flush(now: now)
    }

    private mutating func concludeAttempt(
        _ jobID: UInt64,
        _ connection: Connection,
        _ result: TransactionResult,
        now: Int64
    ) {
        guard let job = self.jobs[jobID] else { return }
        let sessionFailure = result.results.lazy
            .compactMap { result -> DeliveryFailure? in
                guard case .failed(let failure) = result, failure.scope != .recipient, failure.scope != .message else {
                    return nil
                }
                return failure
            }
            .first
        // What a host took of the recipients it has: LMTP answers for each.
        let isNoneTaken = !result.results.contains { if case .delivered = $0 { true } else { false } }
        if let failure = sessionFailure {
            // A kept connection that the remote had given up says nothing about the message or the site.
            let isStale = connection.transactionCount > 1 && failure.scope == .session && !failure.isPermanent
            let isLeaving = self.leaving.contains(job.position.partition)
            if isLeaving, failure.scope == .session, !result.isInDoubt, isNoneTaken {
                // Most likely ended by us: nothing was decided, and the next owner tries it.
                self.forget(job)
                return
            }
            if isStale && !result.isInDoubt && isNoneTaken && job.staleCount < 2 && !self.isDraining && !isLeaving {
                self.jobs[jobID]?.staleCount += 1
                self.jobs[jobID]?.stage = .ready
                self.jobs[jobID]?.readySince = now
                self.sites[connection.site]?.ready.prepend(jobID, wasParked: job.wasParked)
                self.dispatch(connection.site, now: now)
                return
            }
            if failure.scope == .session {
                self.sites[connection.site]?.sessionFailed(text: failure.text)
            } else {
                self.sites[connection.site]?.failed(now: now, text: failure.text)
            }
        } else {
            self.sites[connection.site]?.succeeded()
            self.wakeParked(connection.site, now: now)
        }
        self.decide(
            jobID,
            result.results,
            connection: connection.facts,
            duration: result.duration,
            isInDoubt: result.isInDoubt,
            now: now
        )
    }

    private mutating func becomeIdle(_ id: UInt64, now: Int64) {
        guard let number = self.connections[id]?.site else { return }
        if self.isDraining {
            self.retire(id)
            return
        }
        self.connections[id]?.state = .idle(since: now)
        self.sites[number]?.idle.append(id)
        self.dispatch(number, now: now)
    }

    /// Closes an idle connection.
    mutating func retire(_ id: UInt64) {
        guard let number = self.connections[id]?.site else { return }
        self.sites[number]?.idle.removeAll { $0 == id }
        self.sites[number]?.closingCount += 1
        self.connections[id]?.state = .closing
        self.act(.close(connection: id))
    }

    mutating func connectionClosed(_ id: UInt64, failure: DeliveryFailure?, now: Int64) {
        guard let connection = self.connections.removeValue(forKey: id) else { return }
        let number = connection.site
        self.sites[number]?.connectionCount -= 1
        switch connection.state {
        case .connecting:
            self.sites[number]?.connectingCount -= 1
            if let failure { self.connectFailed(number, failure, now: now) }
        case .idle:
            self.sites[number]?.idle.removeAll { $0 == id }
        case .busy:
            // What was under way would have been reported before: this one was never sent.
            if let jobID = connection.job, let job = self.jobs[jobID] {
                self.jobs[jobID]?.stage = .ready
                self.jobs[jobID]?.readySince = now
                self.sites[number]?.ready.prepend(jobID, wasParked: job.wasParked)
            }
        case .closing:
            self.sites[number]?.closingCount -= 1
        }
        self.dispatch(number, now: now)
        self.dispatchStarved(now: now)
        self.flush(now: now)
    }

    /// No host of the site could be reached: the oldest job has had its attempt, the others wait without one.
    private mutating func connectFailed(_ number: Int, _ failure: DeliveryFailure, now: Int64) {
        self.sites[number]?.failed(now: now, text: failure.text)
        // Other connections still work, or others are still trying: nothing is known yet about the waiting mail.
        guard let site = self.sites[number], site.connectionCount == 0 else { return }
        let waiting = self.sites[number]?.ready.takeAll() ?? []
        for (index, jobID) in waiting.enumerated() {
            guard let job = self.jobs[jobID] else { continue }
            // No longer in the queue: so that leaving the site does not search it.
            self.jobs[jobID]?.stage = .routing
            if index == 0 || failure.isPermanent {
                let results = job.entry.envelope.recipients.map { _ in RecipientResult.failed(failure) }
                self.decide(jobID, results, connection: nil, duration: nil, isInDoubt: false, now: now)
            } else {
                self.park(jobID, wait: site.backoffUntil - now, outageSince: site.outageSince, now: now)
            }
        }
    }

    /// The time of day was set back: what was to last until a moment of before would last too long.
    mutating func clockMovedBack(to now: Int64) {
        self.builder.endPauses()
        self.forgetRoutes()
        for number in self.sites.keys {
            self.sites[number]?.endBackoff()
            self.sites[number]?.wokenAt = 0
        }
        for (id, connection) in self.connections {
            if case .idle = connection.state { self.connections[id]?.state = .idle(since: now) }
        }
    }

    mutating func tickSites(now: Int64) {
        for (id, connection) in self.connections {
            if case .idle(let since) = connection.state, now - since >= self.configuration.idleTimeout {
                self.retire(id)
            } else if self.isInTheWay(connection) {
                self.act(.abort(connection: id))
            }
        }
        for (number, site) in self.sites {
            if site.isUnused && site.mayBeForgotten(now: now) {
                self.sites[number] = nil
                self.siteNumbers[site.plan.id] = nil
                self.routes = self.routes.filter { _, route in
                    if case .site(number) = route.state { false } else { true }
                }
            } else if !site.ready.isEmpty {
                self.dispatch(number, now: now)
            } else {
                self.probe(number, now: now)
                self.wakeStragglers(number, now: now)
            }
        }
        if self.routes.count > 10_000 {
            self.routes = self.routes.filter { _, route in
                if case .resolving = route.state { true } else { route.validUntil > now }
            }
        }
    }

    /// Whether what the connection carries is the head of a window that has grown long behind it: everything in the partition
    /// would end up waiting for one slow host.
    private func isInTheWay(_ connection: Connection) -> Bool {
        guard let job = connection.job.flatMap({ self.jobs[$0] }),
            let window = self.partitions[job.position.partition]?.window
        else { return false }
        return window.span > self.configuration.windowSpanMax / 2 && window.watermark == job.position.offset
    }
}
