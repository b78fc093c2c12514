import NodeSupport

/// What no single value can be blamed for: values that contradict each other, or would do harm.
struct ConfigurationChecks {
    let configuration: NodeConfiguration
    let reading: ConfigurationReading
    let files: FileProbe

    func run() {
        self.checkOpenRelay()
        self.checkListeners()
        self.checkPorts()
        self.checkLimits()
        self.checkRetry()
        self.checkRoutes()
        self.checkFiles()
        self.checkAdmin()
        self.checkCluster()
        self.checkPartitioning()
    }

    // MARK: - Relaying

    private func checkOpenRelay() {
        guard !self.configuration.relay.isKnownOpenRelay else { return }
        let consequence = "Restrict it, or write “i-know-this-is-an-open-relay: true” under relay."
        if OpenRelay.isOpen(self.configuration.relay.networks) {
            self.reading.report(
                "relay.networks",
                "These networks let much of the Internet relay mail anywhere: an open relay.",
                fix: "List only your own networks. " + consequence
            )
        }
        if let pattern = self.configuration.relay.domains.first(where: OpenRelay.isOpen) {
            self.reading.report(
                "relay.domains",
                "“\(Self.describe(pattern))” lets anybody send mail to domains that are not yours: an open relay.",
                fix: "List only the domains you take mail for. " + consequence
            )
        }
        for (index, listener) in self.configuration.listeners.enumerated()
        where OpenRelay.isOpen(listener.proxyProtocolNetworks) {
            self.reading.report(
                "listeners[\(index)].proxy-protocol-from",
                "Whoever is in these networks can claim any client address, and so relay anywhere.",
                fix: "List only your load balancers. " + consequence
            )
        }
    }

    static func describe(_ pattern: DomainPattern) -> String {
        switch pattern {
        case .any: "*"
        case .exact(let name): name
        case .suffix(let name): ".\(name)"
        case .subdomains(let name): "*.\(name)"
        }
    }

    // MARK: - Listeners

    private func checkListeners() {
        if self.configuration.listeners.isEmpty, self.reading.problems.isEmpty {
            self.reading.report(
                "listeners",
                "There are none.",
                fix: "Leave the key out to listen on port 25."
            )
        }
        var names: [String: Int] = [:]
        for (index, listener) in self.configuration.listeners.enumerated() {
            let path = "listeners[\(index)]"
            if let other = names[listener.name] {
                self.reading.report(
                    "\(path).name",
                    "listeners[\(other)] is called “\(listener.name)” too.",
                    fix: "Give each listener a name of its own."
                )
            }
            names[listener.name] = names[listener.name] ?? index
            self.checkTLS(listener, path)
            self.checkAuthentication(listener, path)
        }
    }

    private func checkTLS(_ listener: NodeConfiguration.Listener, _ path: String) {
        guard listener.tls == nil else { return }
        let fix = "Add tls: {certificate: /path/chain.pem, key: /path/key.pem}."
        if listener.kind == .submissions {
            self.reading.report(
                path,
                "A submissions listener speaks TLS from the first octet and has no tls.",
                fix: fix
            )
        } else if listener.requiresTLS {
            self.reading.report("\(path).require-tls", "TLS is required and there is no tls.", fix: fix)
        }
        if listener.clientCertificates != nil {
            self.reading.report(
                "\(path).client-certificates",
                "Client certificates need TLS and there is no tls.",
                fix: fix
            )
        }
    }

    private func checkAuthentication(_ listener: NodeConfiguration.Listener, _ path: String) {
        let canAuthenticate = self.configuration.credentialsFile != nil
        if listener.requiresAuthentication, !canAuthenticate, listener.clientCertificates == nil {
            self.reading.report(
                path,
                "“\(listener.name)” requires authentication and nobody can authenticate.",
                fix: "Set credentials-file (see “posthorn credentials add”), add client-certificates, or set "
                    + "require-auth: false."
            )
        }
        if listener.requiresAuthentication, canAuthenticate, listener.tls == nil,
            !self.configuration.smtp.allowsPlainAuthWithoutTLS
        {
            self.reading.report(
                path,
                "“\(listener.name)” asks for passwords and has no tls, without which it takes none: they could be read.",
                fix: "Add tls: {certificate: /path/chain.pem, key: /path/key.pem}, or set "
                    + "smtp.allow-plain-auth-without-tls: true where nobody can listen."
            )
        }
    }

    private func checkPorts() {
        var taken: [(address: String, port: Int, owner: String)] = []
        func claim(_ address: String, _ port: Int, _ owner: String, _ path: String) {
            guard port != 0 else { return }
            if let other = taken.first(where: { $0.port == port && Self.overlap($0.address, address) }) {
                self.reading.report(
                    path,
                    "Port \(port) is taken by \(other.owner).",
                    fix: "Choose another port, or addresses that do not overlap."
                )
            }
            taken.append((address, port, owner))
        }
        for (index, listener) in self.configuration.listeners.enumerated() {
            claim(
                listener.address,
                listener.port,
                "the listener “\(listener.name)”",
                "listeners[\(index)].port"
            )
        }
        if case .host(let host, let port)? = self.configuration.admin.address {
            claim(host == "localhost" ? "127.0.0.1" : host, port, "admin", "admin.address")
        }
    }

    /// Whether both cannot be bound with the same port; `::` takes IPv4 too.
    private static func overlap(_ left: String, _ right: String) -> Bool {
        guard let first = IPAddress(left), let second = IPAddress(right) else { return left == right }
        let anyIPv6 = IPAddress(high: 0, low: 0)
        let anyIPv4 = IPAddress(ipv4: 0)
        if first == second || first == anyIPv6 || second == anyIPv6 { return true }
        return first.isIPv4 && second.isIPv4 && (first == anyIPv4 || second == anyIPv4)
    }

    // MARK: - Numbers

    private func checkLimits() {
        let limits = self.configuration.limits
        if limits.octetsInFlightMax < limits.messageSizeMax {
            self.reading.report(
                "limits.octets-in-flight",
                "A message of limits.message-size (\(ConfigurationValue.describe(limits.messageSizeMax))) does not fit.",
                fix: "Raise octets-in-flight, or lower message-size."
            )
        }
        if limits.sessionCountPerAddressMax > limits.sessionCountMax,
            self.reading.isGiven("limits.sessions-per-address")
        {
            self.reading.report(
                "limits.sessions-per-address",
                "It is more than limits.sessions (\(limits.sessionCountMax)).",
                fix: "One address could take every session; lower it."
            )
        }
        if self.configuration.delivery.connectionCountPerSiteMax > self.configuration.delivery.connectionCountMax {
            self.reading.report(
                "delivery.connections-per-site",
                "It is more than delivery.connections (\(self.configuration.delivery.connectionCountMax)).",
                fix: "One site could take every connection; lower it."
            )
        }
    }

    private func checkRetry() {
        let retry = self.configuration.retry
        if retry.tiers.isEmpty || retry.tiers.count > 32 {
            self.reading.report("retry.tiers", "There must be 1 to 32.", fix: "The default is [1m, 5m, 15m, 1h, 4h].")
        }
        for (index, pair) in zip(retry.tiers, retry.tiers.dropFirst()).enumerated() where pair.0 >= pair.1 {
            self.reading.report(
                "retry.tiers[\(index + 1)]",
                "\(ConfigurationValue.describe(pair.1)) is not longer than \(ConfigurationValue.describe(pair.0)).",
                fix: "Order the tiers from short to long, each once."
            )
        }
        for (index, tier) in retry.tiers.enumerated() where tier > retry.lifetime {
            self.reading.report(
                "retry.tiers[\(index)]",
                "\(ConfigurationValue.describe(tier)) is longer than retry.lifetime "
                    + "(\(ConfigurationValue.describe(retry.lifetime))).",
                fix: "Remove the tier, or lengthen the lifetime."
            )
        }
        if retry.schedule.isEmpty {
            self.reading.report("retry.schedule", "It is empty.", fix: "Leave it out to use each tier in turn.")
        }
        for (index, delay) in retry.schedule.enumerated() where !retry.tiers.contains(delay) {
            let tiers = retry.tiers.map { ConfigurationValue.describe($0) }.joined(separator: ", ")
            self.reading.report(
                "retry.schedule[\(index)]",
                "\(ConfigurationValue.describe(delay)) is not one of the tiers.",
                fix: "Use \(tiers), or add it to retry.tiers."
            )
        }
        if retry.notificationLifetime > retry.lifetime {
            self.reading.report(
                "retry.notification-lifetime",
                "It is longer than retry.lifetime (\(ConfigurationValue.describe(retry.lifetime))).",
                fix: "Shorten it."
            )
        }
        if let delay = retry.delayNotificationAfter, delay >= retry.lifetime {
            self.reading.report(
                "retry.delay-notification-after",
                "Mail expires after \(ConfigurationValue.describe(retry.lifetime)), before anybody is told of a delay.",
                fix: "Shorten it, or write none."
            )
        }
    }

    // MARK: - Routes

    private func checkRoutes() {
        var seen: [(index: Int, pattern: DomainPattern)] = []
        for (index, route) in self.configuration.routes.enumerated() {
            let path = self.reading.routePaths[index] ?? "routes"
            if let earlier = seen.first(where: { Self.covers($0.pattern, route.match) }) {
                let place = self.reading.routePaths[earlier.index] ?? "routes"
                self.reading.report(
                    "\(path).match",
                    "“\(Self.describe(route.match))” never gets here: “\(Self.describe(earlier.pattern))” in \(place) "
                        + "matches first.",
                    fix: "Put the narrower route above the wider one, or remove it."
                )
            }
            seen.append((index, route.match))
            self.checkAuthentication(route, path)
        }
    }

    private func checkAuthentication(_ route: NodeConfiguration.Route, _ path: String) {
        guard route.authentication != nil else { return }
        guard case .smtp(let hosts, let isImplicitTLS) = route.via else {
            self.reading.report(
                "\(path).auth",
                "Only smtp and smtps hosts are authenticated to.",
                fix: "Remove auth, or name the host in via."
            )
            return
        }
        let isLocal = hosts.allSatisfy { host in
            guard case .host(let name, _) = host else { return true }
            guard let address = IPAddress(name) else { return name == "localhost" }
            return Network.loopback.contains { $0.contains(address) }
        }
        let level = route.tls ?? self.configuration.delivery.tls
        if !isImplicitTLS, !isLocal, level == .none || level == .opportunistic {
            self.reading.report(
                "\(path).auth",
                "The password could be sent without TLS.",
                fix: "Set tls: verified (or required) on this route, or use smtps."
            )
        }
    }

    /// Whether everything the second matches is matched by the first.
    static func covers(_ wide: DomainPattern, _ narrow: DomainPattern) -> Bool {
        if wide == narrow { return true }
        switch (wide, narrow) {
        case (.any, _): return true
        case (_, .any): return false
        case (_, .exact(let name)): return wide.matches(name)
        case (.suffix, .suffix(let name)), (.suffix, .subdomains(let name)): return wide.matches(name)
        case (.subdomains(let outer), .subdomains(let name)): return name == outer || wide.matches(name)
        case (.subdomains, .suffix(let name)): return wide.matches(name)
        case (.exact, .suffix), (.exact, .subdomains): return false
        }
    }

    // MARK: - Files

    private func checkFiles() {
        for (index, listener) in self.configuration.listeners.enumerated() {
            let path = "listeners[\(index)]"
            self.check(listener.tls?.certificateFile, "\(path).tls.certificate")
            self.check(listener.tls?.keyFile, "\(path).tls.key")
            self.check(listener.clientCertificates?.authorityFile, "\(path).client-certificates.ca")
        }
        var checked: Set<String> = []
        for (index, route) in self.configuration.routes.enumerated() {
            guard let path = self.reading.routePaths[index], checked.insert(path).inserted else { continue }
            self.check(route.authentication?.passwordFile, "\(path).auth.password-file")
        }
        self.check(self.configuration.credentialsFile, "credentials-file")
        self.check(self.configuration.delivery.trustedCertificatesFile, "delivery.trusted-certificates")
        self.check(self.configuration.dns.trustAnchorFile, "dns.trust-anchor")
        if case .file(let token) = self.configuration.admin.token { self.check(token, "admin.token-file") }
        self.check(self.configuration.kafka.passwordFile, "kafka.password-file")
        self.check(self.configuration.kafka.authoritiesFile, "kafka.authorities")
        self.check(self.configuration.kafka.certificateFile, "kafka.certificate")
        self.check(self.configuration.kafka.keyFile, "kafka.key")
        if self.reading.isGiven("dns.resolv-conf") {
            self.check(self.configuration.dns.resolvConf, "dns.resolv-conf")
        }
    }

    private func check(_ file: String?, _ path: String) {
        guard let file, !file.isEmpty, let problem = self.files.problem(file) else { return }
        self.reading.report(
            path,
            problem,
            fix: "Create it, or correct the path; posthorn's user must be able to read it."
        )
    }

    private func checkAdmin() {
        guard case .host(let host, _)? = self.configuration.admin.address else { return }
        // The one that a node makes is nowhere else: who asks from elsewhere, and the nodes of a cluster, share one.
        if case .file = self.configuration.admin.token { return }
        let isLoopback =
            IPAddress(host).map { address in Network.loopback.contains { $0.contains(address) } }
            ?? (host == "localhost")
        if !isLoopback {
            self.reading.report(
                "admin.address",
                "Others could administer this node: \(host) is not loopback and there is no admin.token-file.",
                fix: "Listen on 127.0.0.1, or set admin.token-file."
            )
        }
    }
}
