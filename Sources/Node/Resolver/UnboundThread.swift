import CUnbound
import DNS
import Glibc
import Synchronization

/// The one thread that calls libunbound, and everything that the library's memory touches.
///
/// The library runs its resolver on a background thread of its own (`ub_ctx_async` with threading) and tells results
/// through a descriptor; ours polls that descriptor and a wake pipe. So, apart from `start`, only this thread ever
/// calls into the library, callbacks run on it, inside `ub_process`, and nothing is called during or after
/// `ub_ctx_delete`.
///
/// Cancelling a question never calls `ub_cancel`: with a threaded context (1.17.1, libunbound.c) that only marks the
/// query and keeps its memory until the background thread answers, so forgetting who asked is as good, and the answer
/// still fills the cache.
///
/// `@unchecked Sendable`, proof: `shared` is a `Mutex`; `context`, `wakeRead`, `wakeWrite` and the options are `let`.
/// The context is a pointer used on the starting thread before `pthread_create`, which orders it, and on this thread
/// after. `wakeWrite` is written to only under `shared` while `isStopped` is false, and closed after it became true.
/// `active` and `deadlines` are touched only by the functions below "On the thread", which only `run` calls.
final class UnboundThread: @unchecked Sendable {
    private struct Shared {
        /// Asked, and not yet taken by the thread.
        var inbox: [UnboundQuery] = []
        /// In the inbox, waiting, or with the library.
        var queryCount = 0
        var isStopping = false
        /// The thread is past its last look at anything. Set once.
        var isStopped = false
        var stopWaiters: [CheckedContinuation<Void, Never>] = []
    }

    private let shared = Mutex(Shared())
    private let context: OpaquePointer
    private let wakeRead: Int32
    private let wakeWrite: Int32
    private let queryTimeout: Duration
    private let activeQueryCountMax: Int
    private let queryCountMax: Int

    // On the thread only.
    /// What the library holds a bare pointer to. Being in here is what keeps it alive.
    private var active: [ObjectIdentifier: UnboundQuery] = [:]
    private var waiting = Fifo<UnboundQuery>()
    /// In order of asking, which is the order of falling due: the timeout is one for all.
    private var deadlines = Fifo<UnboundQuery>()

    static var libraryVersion: String { String(cString: ub_version()) }

    private init(context: OpaquePointer, wakeRead: Int32, wakeWrite: Int32, options: UnboundOptions) {
        self.context = context
        self.wakeRead = wakeRead
        self.wakeWrite = wakeWrite
        self.queryTimeout = options.queryTimeout
        self.activeQueryCountMax = max(1, options.activeQueryCountMax)
        self.queryCountMax = max(1, options.queryCountMax)
    }

    /// Makes and configures a context, and the thread that owns it from then on.
    static func start(options: UnboundOptions) throws(ResolverError) -> UnboundThread {
        // Owned here until the thread runs; every throwing path deletes it.
        guard let context = ub_ctx_create() else {
            throw ResolverError(.outOfMemory, "ub_ctx_create failed")
        }
        var descriptors: [Int32] = []
        do throws(ResolverError) {
            try UnboundContext.configure(context, options: options)
            descriptors = try Self.makePipe()
            let thread = UnboundThread(
                context: context,
                wakeRead: descriptors[0],
                wakeWrite: descriptors[1],
                options: options
            )
            try thread.launch()
            return thread
        } catch {
            for descriptor in descriptors { close(descriptor) }
            ub_ctx_delete(context)
            throw error
        }
    }

    private static func makePipe() throws(ResolverError) -> [Int32] {
        var descriptors: [Int32] = [-1, -1]
        guard pipe(&descriptors) == 0 else { throw ResolverError(.system, "pipe: errno \(errno)") }
        for descriptor in descriptors {
            _ = fcntl(descriptor, F_SETFL, O_NONBLOCK)
            _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        }
        return descriptors
    }

    private func launch() throws(ResolverError) {
        var handle = pthread_t()
        let argument = Unmanaged.passRetained(self)
        let status = pthread_create(
            &handle,
            nil,
            { argument in
                // Takes over the reference that `launch` made: the thread keeps itself alive.
                guard let argument else { return nil }
                Unmanaged<UnboundThread>.fromOpaque(argument).takeRetainedValue().run()
                return nil
            },
            argument.toOpaque()
        )
        guard status == 0 else {
            argument.release()
            throw ResolverError(.system, "pthread_create: error \(status)")
        }
        pthread_detach(handle)
    }

    // MARK: From any thread

    func resolve(_ name: DNSName, type: UInt16) async -> RawAnswer {
        let query = UnboundQuery(thread: self, name: name.text, type: type, deadline: .now + self.queryTimeout)
        return await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                guard query.wait(continuation) else { return }
                if let refusal = self.submit(query) { query.finish(.failure(refusal)) }
            }
        } onCancel: {
            query.finish(.failure(.cancelled))
        }
    }

    private func submit(_ query: UnboundQuery) -> DNSFailure? {
        self.shared.withLock { shared in
            guard !shared.isStopping else { return .unavailable }
            guard shared.queryCount < self.queryCountMax else { return .overloaded }
            shared.queryCount += 1
            shared.inbox.append(query)
            if shared.inbox.count == 1 { self.wake() }
            return nil
        }
    }

    func stop() {
        self.shared.withLock { shared in
            guard !shared.isStopping else { return }
            shared.isStopping = true
            self.wake()
        }
    }

    func stopAndWait() async {
        self.stop()
        await withCheckedContinuation { continuation in
            let isStopped = self.shared.withLock { shared in
                if !shared.isStopped { shared.stopWaiters.append(continuation) }
                return shared.isStopped
            }
            if isStopped { continuation.resume() }
        }
    }

    /// Under `shared`, before `isStopped`. A full pipe wakes as well as one more octet would.
    private func wake() {
        var octet: UInt8 = 0
        _ = write(self.wakeWrite, &octet, 1)
    }

    // MARK: On the thread

    private func run() {
        var descriptors = [
            pollfd(fd: ub_fd(self.context), events: Int16(POLLIN), revents: 0),
            pollfd(fd: self.wakeRead, events: Int16(POLLIN), revents: 0),
        ]
        while self.takeInbox() {
            self.startWaiting()
            let timeout = self.expire(now: .now)
            let count = poll(&descriptors, nfds_t(descriptors.count), timeout)
            if count < 0, errno != EINTR { break }
            if descriptors[1].revents != 0 { self.drainWakePipe() }
            // Runs the callbacks of every result that has arrived. A broken pipe to the background thread is final.
            if descriptors[0].revents != 0, ub_process(self.context) != 0 { break }
        }
        self.tearDown()
    }

    private func drainWakePipe() {
        withUnsafeTemporaryAllocation(byteCount: 256, alignment: 1) { buffer in
            while read(self.wakeRead, buffer.baseAddress, buffer.count) == buffer.count {}
        }
    }

    /// Returns whether to go on.
    private func takeInbox() -> Bool {
        let (taken, isStopping) = self.shared.withLock { shared in
            (exchange(&shared.inbox, with: []), shared.isStopping)
        }
        for query in taken {
            self.waiting.append(query)
            self.deadlines.append(query)
        }
        return !isStopping
    }

    private func startWaiting() {
        while self.active.count < self.activeQueryCountMax, let query = self.waiting.popFirst() {
            // Timed out or cancelled while it waited.
            guard !query.isFinished else {
                self.retire()
                continue
            }
            self.active[ObjectIdentifier(query)] = query
            // The library copies the name. It keeps the bare pointer until it calls back, which it does once, or until
            // `ub_ctx_delete`; `active` holds the reference for exactly that long.
            let status = ub_resolve_async(
                self.context,
                query.name,
                Int32(query.type),
                1,
                Unmanaged.passUnretained(query).toOpaque(),
                { argument, error, result in
                    guard let argument else { return }
                    let query = Unmanaged<UnboundQuery>.fromOpaque(argument).takeUnretainedValue()
                    // `result` is ours from here, and may be NULL with an error.
                    let answer = RawAnswer(error: error, result: result?.pointee)
                    ub_resolve_free(result)
                    query.thread.completed(query, answer)
                },
                nil
            )
            if status != 0 { self.completed(query, .failure(.unavailable)) }
        }
    }

    private func completed(_ query: UnboundQuery, _ answer: RawAnswer) {
        guard self.active.removeValue(forKey: ObjectIdentifier(query)) != nil else { return }
        self.retire()
        query.finish(answer)
    }

    private func retire() {
        self.shared.withLock { $0.queryCount -= 1 }
    }

    /// Ends what is overdue. Returns how long to poll for, in milliseconds; -1 is until something happens.
    private func expire(now: ContinuousClock.Instant) -> Int32 {
        while let first = self.deadlines.first {
            if first.isFinished {
                _ = self.deadlines.popFirst()
            } else if first.deadline <= now {
                _ = self.deadlines.popFirst()
                first.finish(.failure(.timedOut))
            } else {
                let (seconds, attoseconds) = (first.deadline - now).components
                // Rounded up, so as not to spin through the last millisecond.
                return Int32(clamping: min(seconds, 86_400) * 1_000 + attoseconds / 1_000_000_000_000_000 + 1)
            }
        }
        return -1
    }

    private func tearDown() {
        // Stops and joins the background thread, and frees every query without its callback: from here on nothing
        // but our own tables knows of them.
        ub_ctx_delete(self.context)
        let (left, waiters) = self.shared.withLock { shared in
            shared.isStopping = true
            shared.isStopped = true
            shared.queryCount = 0
            return (exchange(&shared.inbox, with: []), exchange(&shared.stopWaiters, with: []))
        }
        // Nobody wakes after `isStopping`: the descriptors are unused.
        close(self.wakeRead)
        close(self.wakeWrite)
        while let query = self.deadlines.popFirst() { query.finish(.failure(.unavailable)) }
        while self.waiting.popFirst() != nil {}
        for query in left { query.finish(.failure(.unavailable)) }
        self.active.removeAll()
        for waiter in waiters { waiter.resume() }
    }
}
