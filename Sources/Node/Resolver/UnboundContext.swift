import CUnbound
import DNS

/// What is said to a context before its first question.
enum UnboundContext {
    /// The caller owns `context` and no other thread knows it. Strings are copied by the library.
    static func configure(_ context: OpaquePointer, options: UnboundOptions) throws(ResolverError) {
        // Threaded: the default forks a process.
        try self.check(ub_ctx_async(context, 1), "threading")
        for (key, value) in self.tuning(options) {
            try self.set(context, key, value)
        }
        switch options.upstream {
        case .recursion(nil): break
        case .recursion(let file?): try self.set(context, "root-hints", file)
        case .resolvConf(let file): try self.check(ub_ctx_resolvconf(context, file), "resolv.conf \(file)")
        case .forwarders(let addresses):
            for address in addresses {
                try self.check(ub_ctx_set_fwd(context, address), "forwarder \(address)")
            }
        }
        if let file = options.hostsFile { try self.check(ub_ctx_hosts(context, file), "hosts file \(file)") }
        if let file = options.trustAnchorFile {
            let status =
                options.updatesTrustAnchor ? ub_ctx_add_ta_autr(context, file) : ub_ctx_add_ta_file(context, file)
            try self.check(status, "trust anchor file \(file)")
        }
        for (key, value) in options.extra {
            try self.set(context, key, value)
        }
        // Finalises the context, so that what is wrong with the options shows now and not at the first question. The
        // zone itself is one that never exists (RFC 6761 §6.4).
        try self.check(ub_ctx_zone_add(context, "invalid.", "static"), "options together")
    }

    /// The library's defaults are sized for a single small program: 16 sockets, 2 MB of cache.
    private static func tuning(_ options: UnboundOptions) -> [(String, String)] {
        [
            ("outgoing-range", "\(max(16, options.udpSocketCountMax))"),
            ("outgoing-num-tcp", "\(max(2, options.tcpSocketCountMax))"),
            ("num-queries-per-thread", "\(max(16, options.activeQueryCountMax))"),
            ("msg-cache-size", "\(options.cacheSize / 4)"),
            ("rrset-cache-size", "\(options.cacheSize / 2)"),
            ("key-cache-size", "\(options.cacheSize / 8)"),
            ("neg-cache-size", "\(options.cacheSize / 8)"),
            ("infra-cache-numhosts", "20000"),
        ]
    }

    private static func set(_ context: OpaquePointer, _ key: String, _ value: String) throws(ResolverError) {
        try self.check(ub_ctx_set_option(context, "\(key):", value), "option \(key)")
    }

    private static func check(_ status: Int32, _ what: String) throws(ResolverError) {
        guard status != 0 else { return }
        throw ResolverError(.configuration, "\(what): \(String(cString: ub_strerror(status)))")
    }
}

extension RawAnswer {
    /// Copies what a callback was given. The caller frees the result afterwards.
    init(error: Int32, result: ub_result?) {
        guard error == 0, let result else {
            self = .failure(error == UB_SERVFAIL.rawValue ? .serverFailure : .unavailable)
            return
        }
        guard result.bogus == 0 else {
            self = .failure(.bogus(result.why_bogus.map { String(cString: $0) } ?? ""))
            return
        }
        let timeToLive = Duration.seconds(max(0, result.ttl))
        let isSecure = result.secure != 0
        if result.havedata != 0 {
            self.init(outcome: .found(Self.rdata(of: result)), timeToLive: timeToLive, isSecure: isSecure)
            return
        }
        switch result.rcode {
        case 0: self.init(outcome: .noData, timeToLive: timeToLive, isSecure: isSecure)
        case 3: self.init(outcome: .nxDomain, timeToLive: timeToLive, isSecure: isSecure)
        case 2: self = .failure(.serverFailure)
        case 5: self = .failure(.refused)
        default: self = .failure(.other(responseCode: UInt16(clamping: result.rcode)))
        }
    }

    private static func rdata(of result: ub_result) -> [[UInt8]] {
        guard let data = result.data, let sizes = result.len else { return [] }
        var items: [[UInt8]] = []
        var index = 0
        // NULL ends the list.
        while let item = data[index] {
            items.append(Array(UnsafeRawBufferPointer(start: item, count: max(0, Int(sizes[index])))))
            index += 1
        }
        return items
    }
}
