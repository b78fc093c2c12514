import NodeSupport

/// Which key of the file sets which value: the one place that knows both.
struct ConfigurationDecoder {
    let reading: ConfigurationReading
    /// Where relative paths start.
    let directory: String

    private var path: ConfigurationValue<String> { .path(relativeTo: self.directory) }

    /// Reads the whole tree; what is wrong is in `reading`.
    func decode(_ root: ConfigurationItem?) -> NodeConfiguration {
        var result = NodeConfiguration()
        let section = ConfigurationSection(reading: self.reading, path: "", item: root)
        section.read("hostname", as: .hostname, into: &result.hostname)
        section.read("data-directory", as: self.path, into: &result.dataDirectory)
        self.decodeListeners(section, into: &result.listeners)
        section.section("relay") { self.decode($0, into: &result.relay) }
        section.section("limits") { self.decode($0, into: &result.limits) }
        section.section("timeouts") { self.decode($0, into: &result.timeouts) }
        section.section("smtp") { self.decode($0, into: &result.smtp) }
        section.read("credentials-file", as: self.path, into: &result.credentialsFile)
        section.read("postmaster", as: .mailbox, into: &result.postmaster)
        self.decodeRoutes(section, into: &result.routes)
        section.section("retry") { self.decode($0, into: &result.retry) }
        section.section("delivery") { self.decode($0, into: &result.delivery) }
        section.section("dns") { self.decode($0, into: &result.dns) }
        var roles = NodeConfiguration.Role.allCases
        section.read("roles", asListOf: .choice, into: &roles)
        result.roles = Set(roles)
        section.section("log") { self.decode($0, into: &result.log) }
        section.section("kafka") { self.decode($0, into: &result.kafka) }
        section.section("partitioning") { self.decode($0, into: &result.partitioning) }
        section.section("admin") { self.decode($0, into: &result.admin) }
        section.section("logging") { self.decode($0, into: &result.logging) }
        section.finish()
        return result
    }

    private func decodeListeners(
        _ section: ConfigurationSection,
        into listeners: inout [NodeConfiguration.Listener]
    ) {
        var read: [NodeConfiguration.Listener] = []
        let isGiven = section.sections("listeners") { section in
            guard let listener = self.decodeListener(section) else { return }
            read.append(listener)
        }
        if isGiven { listeners = read }
    }

    private func decodeListener(_ section: ConfigurationSection) -> NodeConfiguration.Listener? {
        var kind = NodeConfiguration.Listener.Kind.relay
        let problemCount = self.reading.problems.count
        section.read("kind", as: .choice, into: &kind)
        let isKindKnown = self.reading.problems.count == problemCount
        var name = kind.rawValue
        section.read("name", as: .listenerName, into: &name)
        var address = NodeConfiguration.Listener.defaultAddress
        section.read("address", as: .address, into: &address)
        var port = kind.defaultPort
        section.read("port", as: .count(0...65535), into: &port)
        var tls: NodeConfiguration.Listener.TLSFiles?
        section.sectionIfPresent("tls") { section in
            let certificate = section.require("certificate", as: self.path)
            let key = section.require("key", as: self.path)
            tls = .init(certificateFile: certificate ?? "", keyFile: key ?? "")
        }
        var requiresTLS: Bool?
        section.read("require-tls", as: .boolean, into: &requiresTLS)
        var requiresAuthentication: Bool?
        section.read("require-auth", as: .boolean, into: &requiresAuthentication)
        var proxies: [Network] = []
        section.read("proxy-protocol-from", asListOf: .network, into: &proxies)
        var certificates: NodeConfiguration.Listener.ClientCertificates?
        section.sectionIfPresent("client-certificates") { section in
            let authority = section.require("ca", as: self.path)
            var names: [String] = []
            section.read("names", asListOf: .text, into: &names)
            certificates = .init(authorityFile: authority ?? "", names: names)
        }
        // What follows from a kind nobody meant would only confuse.
        guard isKindKnown else { return nil }
        return .init(
            name: name,
            kind: kind,
            address: address,
            port: port,
            tls: tls,
            requiresTLS: requiresTLS,
            requiresAuthentication: requiresAuthentication,
            proxyProtocolNetworks: proxies,
            clientCertificates: certificates
        )
    }

    private func decode(_ section: ConfigurationSection, into relay: inout NodeConfiguration.Relay) {
        section.read("networks", asListOf: .network, into: &relay.networks)
        section.read("domains", asListOf: .domainPattern, into: &relay.domains)
        section.read("i-know-this-is-an-open-relay", as: .boolean, into: &relay.isKnownOpenRelay)
    }

    private func decode(_ section: ConfigurationSection, into limits: inout NodeConfiguration.Limits) {
        let many = 1...1_000_000_000
        // At least 64 KiB (RFC 5321 §4.5.3.1.7).
        section.read("message-size", as: .size(64 << 10...1 << 30), into: &limits.messageSizeMax)
        section.read("recipients", as: .count(100...100_000), into: &limits.recipientCountMax)
        section.read("sessions", as: .count(1...1_000_000), into: &limits.sessionCountMax)
        section.read("sessions-per-address", as: .count(1...1_000_000), into: &limits.sessionCountPerAddressMax)
        section.read("messages-per-session", as: .count(0...1_000_000_000), into: &limits.messagesPerSessionMax)
        section.read("errors", as: .count(many), into: &limits.errorCountMax)
        section.read("junk-commands", as: .count(many), into: &limits.junkCommandCountMax)
        section.read("octets-in-flight", as: .size(1 << 20...Int.max), into: &limits.octetsInFlightMax)
        section.read("hop-count", as: .count(10...1000), into: &limits.hopCountMax)
        section.read("header-size", as: .size(16 << 10...1 << 30), into: &limits.headerSizeMax)
    }

    private func decode(_ section: ConfigurationSection, into timeouts: inout NodeConfiguration.Timeouts) {
        section.section("server") { section in
            section.read("command", as: .duration(), into: &timeouts.server.command)
            section.read("data-block", as: .duration(), into: &timeouts.server.dataBlock)
            section.read("data-total", as: .duration(), into: &timeouts.server.dataTotal)
            section.read("transaction", as: .duration(), into: &timeouts.server.transaction)
            section.read("tls-handshake", as: .duration(), into: &timeouts.server.tlsHandshake)
            section.read("drain", as: .duration(), into: &timeouts.server.drain)
        }
        section.section("client") { section in
            section.read("connect", as: .duration(), into: &timeouts.client.connect)
            section.read("tls-handshake", as: .duration(), into: &timeouts.client.tlsHandshake)
            section.read("greeting", as: .duration(), into: &timeouts.client.greeting)
            section.read("hello", as: .duration(), into: &timeouts.client.hello)
            section.read("mail", as: .duration(), into: &timeouts.client.mail)
            section.read("recipient", as: .duration(), into: &timeouts.client.recipient)
            section.read("data-initiation", as: .duration(), into: &timeouts.client.dataInitiation)
            section.read("data-block", as: .duration(), into: &timeouts.client.dataBlock)
            section.read("data-termination", as: .duration(), into: &timeouts.client.dataTermination)
            section.read("reset", as: .duration(), into: &timeouts.client.reset)
            section.read("quit", as: .duration(), into: &timeouts.client.quit)
        }
    }

    private func decode(_ section: ConfigurationSection, into smtp: inout NodeConfiguration.SMTPPolicy) {
        section.read("bare-newlines", as: .choice, into: &smtp.bareNewlines)
        section.read("add-missing-headers", as: .boolean, into: &smtp.addMissingHeaders)
        section.read("allow-plain-auth-without-tls", as: .boolean, into: &smtp.allowsPlainAuthWithoutTLS)
    }

    private func decodeRoutes(_ section: ConfigurationSection, into routes: inout [NodeConfiguration.Route]) {
        section.sections("routes") { section in
            let matches = section.requireList("match", of: .domainPattern)
            let via = section.require("via", as: .nextHop)
            // `none` is a level here, not the absence of one.
            var level = TLSLevel.opportunistic
            section.read("tls", as: .choice, into: &level)
            let tls = self.reading.isGiven(section.path(of: "tls")) ? level : nil
            var authentication: NodeConfiguration.Route.Authentication?
            section.sectionIfPresent("auth") { section in
                let user = section.require("user", as: .text)
                let file = section.require("password-file", as: self.path)
                authentication = .init(user: user ?? "", passwordFile: file ?? "")
            }
            var connectionCountMax: Int?
            var messagesPerConnectionMax: Int?
            section.section("limits") { section in
                section.read("connections", as: .count(1...10_000), into: &connectionCountMax)
                section.read("messages-per-connection", as: .count(0...1_000_000), into: &messagesPerConnectionMax)
            }
            guard let via else { return }
            for match in matches {
                self.reading.noteRoute(routes.count, section.path)
                routes.append(
                    .init(
                        match: match,
                        via: via,
                        tls: tls,
                        authentication: authentication,
                        connectionCountMax: connectionCountMax,
                        messagesPerConnectionMax: messagesPerConnectionMax
                    )
                )
            }
        }
    }

    private func decode(_ section: ConfigurationSection, into retry: inout NodeConfiguration.Retry) {
        section.read("tiers", asListOf: .duration(.seconds(1) ... .seconds(86400)), into: &retry.tiers)
        if self.reading.isGiven("retry.tiers") { retry.schedule = retry.tiers }
        section.read("schedule", asListOf: .duration(.seconds(1) ... .seconds(86400)), into: &retry.schedule)
        section.read("lifetime", as: .duration(.seconds(1) ... .seconds(30 * 86400)), into: &retry.lifetime)
        let isShort = retry.lifetime < retry.notificationLifetime
        if isShort { retry.notificationLifetime = retry.lifetime }
        section.read(
            "notification-lifetime",
            as: .duration(.seconds(1) ... .seconds(30 * 86400)),
            into: &retry.notificationLifetime
        )
        if let delay = retry.delayNotificationAfter, delay >= retry.lifetime { retry.delayNotificationAfter = nil }
        section.read("delay-notification-after", as: .duration(), into: &retry.delayNotificationAfter)
    }

    private func decode(_ section: ConfigurationSection, into delivery: inout NodeConfiguration.Delivery) {
        section.read("connections", as: .count(1...100_000), into: &delivery.connectionCountMax)
        section.read("connections-per-site", as: .count(1...10_000), into: &delivery.connectionCountPerSiteMax)
        section.read(
            "messages-per-connection",
            as: .count(0...1_000_000),
            into: &delivery.messagesPerConnectionMax
        )
        section.read("idle-timeout", as: .duration(), into: &delivery.idleTimeout)
        section.read("ip-preference", as: .choice, into: &delivery.addressPreference)
        section.read("source-addresses", asListOf: .ipAddress, into: &delivery.sourceAddresses)
        section.read("tls", as: .choice, into: &delivery.tls)
        section.read("trusted-certificates", as: self.path, into: &delivery.trustedCertificatesFile)
    }

    private func decode(_ section: ConfigurationSection, into dns: inout NodeConfiguration.DNSSettings) {
        section.read("forwarders", asListOf: .endpoint(defaultPort: 53, allowsSocket: false), into: &dns.forwarders)
        section.read("resolv-conf", as: self.path, into: &dns.resolvConf)
        section.read("trust-anchor", as: self.path, into: &dns.trustAnchorFile)
        section.read("timeout", as: .duration(), into: &dns.timeout)
    }

    private func decode(_ section: ConfigurationSection, into log: inout NodeConfiguration.LogSettings) {
        section.read("partitions", as: .count(1...1024), into: &log.partitionCount)
        section.read("segment-size", as: .size(1 << 20...Int.max), into: &log.segmentSizeMax)
        section.read("disk-reserve", as: .size(1 << 20...Int.max), into: &log.diskReserve)
        section.read(
            "outcome-retention",
            as: .duration(.seconds(3600) ... .seconds(3650 * 86400)),
            into: &log.outcomeRetention
        )
    }

    private func decode(_ section: ConfigurationSection, into kafka: inout NodeConfiguration.Kafka) {
        section.read("bootstrap", as: .text, into: &kafka.bootstrap)
        section.read("prefix", as: .listenerName, into: &kafka.prefix)
        section.read("partitions", as: .count(1...1024), into: &kafka.partitionCount)
        section.read("replication", as: .count(1...16), into: &kafka.replicationFactor)
        section.read("in-sync-min", as: .count(1...16), into: &kafka.inSyncMin)
        section.read("security", as: .choice, into: &kafka.security)
        section.read("mechanism", as: .choice, into: &kafka.mechanism)
        section.read("username", as: .text, into: &kafka.username)
        section.read("password", as: .text, into: &kafka.password)
        section.read("password-file", as: self.path, into: &kafka.passwordFile)
        section.read("authorities", as: self.path, into: &kafka.authoritiesFile)
        section.read("certificate", as: self.path, into: &kafka.certificateFile)
        section.read("key", as: self.path, into: &kafka.keyFile)
        section.read("value-size", as: .size(65_536...900_000_000), into: &kafka.valueSizeMax)
        section.read("settings", asListOf: .assignment, into: &kafka.settings)
        section.read("trim-after", as: .duration(.seconds(1) ... .seconds(30 * 86_400)), into: &kafka.trimAfter)
        section.read("start-timeout", as: .duration(), into: &kafka.startTimeout)
        section.read("test-cluster", as: .boolean, into: &kafka.isTestCluster)
        section.read("mock-cluster", as: .boolean, into: &kafka.isMockCluster)
    }

    private func decode(_ section: ConfigurationSection, into partitioning: inout NodeConfiguration.Partitioning) {
        section.sections("aliases") { section in
            let domain = section.require("domain", as: .domain)
            var others: [String] = []
            section.read("also", asListOf: .domain, into: &others)
            if let domain { partitioning.aliases.append(.init(domain: domain, others: others)) }
        }
        section.read("built-in-aliases", as: .boolean, into: &partitioning.usesBuiltInAliases)
        section.sections("buckets") { section in
            let name = section.require("name", as: .text)
            let count = section.require("count", as: .count(1...1024))
            guard let name, let count else { return }
            // A site may be a socket's path, whose case counts.
            let isDomain = ConfigurationValue<String>.isDomain(name)
            partitioning.buckets.append(.init(name: isDomain ? name.lowercased() : name, count: count))
        }
        section.read("learn", as: .boolean, into: &partitioning.learns)
        section.read("hot-rate", as: .count(1...1_000_000), into: &partitioning.hotRate)
    }

    private func decode(_ section: ConfigurationSection, into admin: inout NodeConfiguration.AdminSettings) {
        section.read("address", as: .endpoint(defaultPort: 9925, allowsSocket: false), into: &admin.address)
        var file: String?
        section.read("token-file", as: self.path, into: &file)
        guard self.reading.isGiven("admin.token-file") else { return }
        admin.token = file.map { .file($0) } ?? .notAsked
    }

    private func decode(_ section: ConfigurationSection, into logging: inout NodeConfiguration.LoggingSettings) {
        section.read("level", as: .choice, into: &logging.level)
        section.read("format", as: .choice, into: &logging.format)
        section.read("redact-addresses", as: .boolean, into: &logging.redactsAddresses)
    }
}
