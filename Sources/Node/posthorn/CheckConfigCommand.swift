import ArgumentParser
import NodeSupport

struct CheckConfigCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check-config",
        abstract: "Say what the configuration means, or everything that is wrong with it.",
        discussion: "Exits with 0 when the node would start with it, and with 78 otherwise. Nothing is changed."
    )

    @OptionGroup var options: ConfigurationOption

    @Flag(name: .shortAndLong, help: "Print nothing when all is well.")
    var quiet = false

    func run() throws {
        let configuration = try self.options.load()
        let problems = ConfiguredFiles.problems(of: configuration)
        guard problems.isEmpty else {
            StandardError.write(problems.joined(separator: "\n"))
            throw ExitCode(SystemExit.configuration)
        }
        guard !self.quiet else { return }
        print(ConfigurationSummary(configuration).text)
    }
}

/// A configuration in a few lines, for the eyes of whoever wrote it.
struct ConfigurationSummary {
    let text: String

    init(_ configuration: NodeConfiguration) {
        var lines = ["\(configuration.hostname): the configuration is good."]
        for listener in configuration.listeners {
            let address = Endpoint(host: listener.address, port: listener.port)
            var notes: [String] = []
            if listener.kind == .submissions {
                notes.append("TLS")
            } else if listener.tls != nil {
                notes.append(listener.requiresTLS ? "STARTTLS required" : "STARTTLS offered")
            } else {
                notes.append("no TLS")
            }
            if listener.requiresAuthentication { notes.append("authentication required") }
            if !listener.proxyProtocolNetworks.isEmpty { notes.append("PROXY protocol") }
            lines.append("  listens    \(listener.name) on \(address) (\(notes.joined(separator: ", ")))")
        }
        let networks = configuration.relay.networks.map(\.description).joined(separator: ", ")
        lines.append("  relays     for \(networks.isEmpty ? "authenticated clients only" : networks)")
        if !configuration.relay.domains.isEmpty {
            let domains = configuration.relay.domains.map(ConfigurationChecks.describe).joined(separator: ", ")
            lines.append("             for anybody to \(domains)")
        }
        let postmaster =
            configuration.postmaster
            ?? (configuration.hasPostmaster ? "as the routes say" : "refused for strangers: set postmaster")
        lines.append("  postmaster \(postmaster)")
        for route in configuration.routes {
            lines.append("  routes     \(ConfigurationChecks.describe(route.match)) → \(Self.describe(route.via))")
        }
        if !configuration.routes.contains(where: { $0.match == .any }) {
            lines.append("  routes     everything\(configuration.routes.isEmpty ? "" : " else") → mail exchangers")
        }
        let tiers = configuration.retry.schedule.map { ConfigurationValue.describe($0) }.joined(separator: ", ")
        lines.append("  retries    after \(tiers), for \(ConfigurationValue.describe(configuration.retry.lifetime))")
        if configuration.kafka.isUsed {
            let kafka = configuration.kafka
            lines.append("  roles      \(configuration.roles.map(\.rawValue).sorted().joined(separator: ", "))")
            lines.append("  keeps      its log in Kafka at \(kafka.bootstrap), topics \(kafka.prefix).*")
            lines.append("  spreads    \(Self.describe(configuration.partitioning))")
        } else {
            lines.append("  keeps      its log in \(configuration.dataDirectory)")
        }
        lines.append("  answers    admin requests on \(configuration.admin.address?.description ?? "no address")")
        self.text = lines.joined(separator: "\n")
    }

    private static func describe(_ partitioning: NodeConfiguration.Partitioning) -> String {
        var parts = partitioning.buckets.map { "\($0.name) over \($0.count) buckets" }
        if partitioning.learns { parts.append("what is above \(partitioning.hotRate) messages a second by its share") }
        return parts.isEmpty ? "no domain: each is one partition's" : parts.joined(separator: ", ")
    }

    private static func describe(_ hop: NodeConfiguration.Route.NextHop) -> String {
        switch hop {
        case .mailExchangers:
            "mail exchangers"
        case .smtp(let hosts, let isImplicitTLS):
            "\(isImplicitTLS ? "smtps" : "smtp") \(hosts.map(\.description).joined(separator: ", "))"
        case .lmtp(let hosts):
            "lmtp \(hosts.map(\.description).joined(separator: ", "))"
        case .discard:
            "discarded"
        case .refuse(let reply):
            "refused with \(reply.code) \(reply.enhancedStatusCode)"
        }
    }
}
