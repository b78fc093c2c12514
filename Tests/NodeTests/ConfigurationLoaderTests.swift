import NodeSupport
import Records
import Testing

@testable import posthorn

/// Files that exist are those that are named here.
func load(
    _ yaml: String,
    environment: [String: String] = [:],
    files: Set<String> = []
) throws(ConfigurationProblems) -> NodeConfiguration {
    var loader = ConfigurationLoader()
    loader.environment = environment
    loader.files = FileProbe(problem: { files.contains($0) ? nil : "There is no file \($0)." })
    loader.systemHostname = { "relay.example.com" }
    return try loader.load(yaml: yaml, file: "/etc/p.yaml")
}

func problems(
    _ yaml: String,
    environment: [String: String] = [:],
    files: Set<String> = []
) -> [String] {
    do {
        _ = try load(yaml, environment: environment, files: files)
        return []
    } catch {
        return error.problems.map(\.description)
    }
}

@Suite("Configuration: what files mean")
struct ConfigurationLoaderTests {
    @Test(
        "An empty file is the default, with the machine's name",
        arguments: ["", "# nothing\n", "---\n", "~", "limits:\n"]
    )
    func defaults(yaml: String) throws {
        var expected = NodeConfiguration()
        expected.hostname = "relay.example.com"
        #expect(try load(yaml) == expected)
    }

    /// RFC 5321 §4.5.3.2.7: a server waits at least five minutes for the next command.
    @Test("Clients are given the time that RFC 5321 asks for, and an end to it")
    func waitsForClients() {
        let server = NodeConfiguration.Timeouts.Server()
        #expect(server.command >= .seconds(300))
        #expect(server.dataBlock >= .seconds(180) && server.dataTotal > server.dataBlock)
        #expect(server.transaction > server.command && server.transaction <= .seconds(3_600))
        #expect(server.tlsHandshake <= .seconds(60))
    }

    @Test("Without a word about addresses nobody but this machine reaches a listener")
    func listensOnLoopback() throws {
        #expect(try load("").listeners.map(\.address) == ["127.0.0.1"])
        let listeners = try load("listeners: [{port: 2525}, {name: all, port: 2526, address: \"::\"}]").listeners
        #expect(listeners.map(\.address) == ["127.0.0.1", "::"])
    }

    @Test("The admin listener asks for a token: one that the node makes, one from a file, or none when told so")
    func readsAdminToken() throws {
        #expect(try load("data-directory: /d").adminTokenFile == "/d/admin-token")
        let given = try load("admin: {token-file: t, address: 0.0.0.0:9925}", files: ["/etc/t"])
        #expect(given.admin.token == .file("/etc/t") && given.adminTokenFile == "/etc/t")
        #expect(try load("admin: {token-file: none}").adminTokenFile == nil)
        #expect(problems("admin: {token-file: none, address: 0.0.0.0:9925}").count == 1)
        #expect(problems("admin: {token-file: /missing}").count == 1)
    }

    @Test("The postmaster is an address, or where the routes send the host name")
    func readsPostmaster() throws {
        #expect(try load("postmaster: Admin@Example.com").postmaster == "Admin@example.com")
        #expect(problems("postmaster: admin").count == 1)
        #expect(try !load("hostname: mail.example.com").hasPostmaster)
        #expect(try load("hostname: mail.example.com\nrelay: {domains: .example.com}").hasPostmaster)
        let routes = "routes: [{match: mail.example.com, via: discard}]"
        #expect(try load("hostname: mail.example.com\n\(routes)").hasPostmaster)
        #expect(try !load("hostname: other.example.com\n\(routes)").hasPostmaster)
    }

    @Test("Every section is read")
    func everything() throws {
        let yaml = """
            hostname: Mail.Example.COM
            data-directory: data
            listeners:
              - {kind: relay, address: 0.0.0.0}
              - name: users
                kind: submission
                port: 2587
                tls: {certificate: /c.pem, key: k.pem}
                proxy-protocol-from: 10.1.0.0/16
                client-certificates: {ca: /ca.pem, names: [a.example]}
            relay:
              networks: [10.0.0.0/8, "2001:db8::/32", "::1"]
              domains: [example.com, .example.net]
            limits: {message-size: 10 MiB, recipients: 200, octets-in-flight: 1G}
            timeouts: {server: {command: 1m30s}, client: {data-termination: 5m}}
            smtp: {bare-newlines: normalise}
            credentials-file: users
            routes:
              - {match: [a.example, "*.b.example"], via: "lmtp /run/lmtp.sock [::1]:24", limits: {connections: 3}}
              - {match: c.example, via: discard}
              - {match: d.example, via: error 550 5.1.2 Not there}
              - match: "*"
                via: smtp one.example, two.example:587
                tls: verified
                auth: {user: me, password-file: /pw}
            retry: {tiers: [30s, 10m], lifetime: 2d, delay-notification-after: none}
            delivery: {ip-preference: ipv4-only, source-addresses: [192.0.2.1], tls: none}
            dns: {forwarders: [127.0.0.1:5353, "::1"], resolv-conf: none}
            log: {partitions: 4, segment-size: 8MiB}
            partitioning:
              aliases: [{domain: a.example, also: [B.example, c.example]}, {domain: hotmail.com}]
              built-in-aliases: false
              buckets: [{name: A.example, count: 4}, {name: /run/MX, count: 2}]
              learn: false
              hot-rate: 5
            admin: {address: none}
            logging: {level: debug, format: json, redact-addresses: no}
            """
        let files: Set = ["/c.pem", "/etc/k.pem", "/ca.pem", "/etc/users", "/pw"]
        let configuration = try load(yaml, files: files)
        #expect(configuration.hostname == "mail.example.com")
        #expect(configuration.dataDirectory == "/etc/data")
        let users = configuration.listeners[1]
        #expect(users.port == 2587 && users.requiresTLS && users.requiresAuthentication)
        #expect(users.tls == .init(certificateFile: "/c.pem", keyFile: "/etc/k.pem"))
        #expect(users.clientCertificates == .init(authorityFile: "/ca.pem", names: ["a.example"]))
        #expect(configuration.relay.networks.map(\.description) == ["10.0.0.0/8", "2001:db8::/32", "::1/128"])
        #expect(configuration.relay.domains == [.exact("example.com"), .suffix("example.net")])
        #expect(configuration.limits.messageSizeMax == 10 << 20)
        #expect(configuration.timeouts.server.command == .seconds(90))
        #expect(configuration.smtp.bareNewlines == .normalise)
        #expect(configuration.routes.count == 5)
        #expect(
            configuration.route(for: "x.b.example").via
                == .lmtp(hosts: [.unixSocket(path: "/run/lmtp.sock"), Endpoint(host: "::1", port: 24)])
        )
        #expect(configuration.route(for: "a.example").connectionCountMax == 3)
        #expect(
            configuration.route(for: "d.example").via
                == .refuse(.init(code: 550, enhancedStatusCode: "5.1.2", text: "Not there"))
        )
        #expect(configuration.route(for: "b.example").tls == .verified)
        #expect(configuration.retry.schedule == [.seconds(30), .seconds(600)])
        #expect(configuration.retry.delayNotificationAfter == nil)
        #expect(configuration.dns.resolvConf == nil && configuration.dns.forwarders.count == 2)
        #expect(configuration.delivery.tls == .none && configuration.delivery.addressPreference == .ipv4Only)
        let partitioning = configuration.partitioning
        #expect(partitioning.aliases.map(\.domain) == ["a.example", "hotmail.com"])
        #expect(partitioning.aliases.map(\.others) == [["b.example", "c.example"], []])
        #expect(partitioning.buckets == [.init(name: "a.example", count: 4), .init(name: "/run/MX", count: 2)])
        #expect(!partitioning.learns && !partitioning.usesBuiltInAliases && partitioning.hotRate == 5)
        #expect(configuration.admin.address == nil)
        #expect(
            configuration.logging
                == {
                    var it = configuration.logging
                    it.level = .debug
                    it.format = .json
                    it.redactsAddresses = false
                    return it
                }()
        )
    }

    @Test(
        "Each mistake is told with its place, key, reason and remedy",
        arguments: [
            ("hostnam: x", "/etc/p.yaml:1: hostnam: There is no such key. Did you mean “hostname”?"),
            (
                "relay:\n  xyzzy: 1",
                "/etc/p.yaml:2: relay.xyzzy: There is no such key. "
                    + "Known here: domains, i-know-this-is-an-open-relay, networks."
            ),
            (
                "limits: {message-size: 5 apples}",
                "/etc/p.yaml:1: limits.message-size: “5 apples” is not a size of 64KiB to 1GiB. "
                    + "Write a number with a unit, like 64KiB, 50MiB or 2GiB."
            ),
            (
                "limits:\n\n  recipients: 99",
                "/etc/p.yaml:3: limits.recipients: “99” is not a whole number from 100 to 100000. Write digits only."
            ),
            (
                "timeouts: {server: {command: [1]}}",
                "/etc/p.yaml:1: timeouts.server.command: This is a list, not a duration. "
                    + "Write a number with a unit, like 30s, 5m, 4h or 5d."
            ),
            (
                "relay: yes",
                "/etc/p.yaml:1: relay: This is “yes”, not a section. "
                    + "Write its keys on lines of their own, indented, as “key: value”."
            ),
            (
                "listeners: {}",
                "/etc/p.yaml:1: listeners: This is a section, not a list. Begin each of its sections with “- ”."
            ),
            (
                "relay: {networks: [10.0.0.1/8]}",
                "/etc/p.yaml:1: relay.networks[0]: “10.0.0.1/8” is not a network. "
                    + "Write one like 192.0.2.0/24 or 2001:db8::/32, with no bits set behind the prefix."
            ),
            (
                "hostname: a\nhostname: b",
                "/etc/p.yaml:1: “hostname” is given more than once in the same section. Keep one of each."
            ),
            (
                "listeners: [{kind: submision}]",
                "/etc/p.yaml:1: listeners[0].kind: “submision” is not one of relay, submission, submissions. "
                    + "Write relay, submission or submissions."
            ),
            (
                "listeners: [{kind: submission}]",
                "/etc/p.yaml:1: listeners[0]: “submission” requires authentication and nobody can authenticate. "
                    + "Set credentials-file (see “posthorn credentials add”), add client-certificates, or set "
                    + "require-auth: false."
            ),
            (
                "credentials-file: users\nlisteners: [{kind: submission, address: 127.0.0.1}]",
                "/etc/p.yaml:2: listeners[0]: “submission” asks for passwords and has no tls, without which it takes none: "
                    + "they could be read. Add tls: {certificate: /path/chain.pem, key: /path/key.pem}, or set "
                    + "smtp.allow-plain-auth-without-tls: true where nobody can listen."
            ),
            (
                "listeners: [{}, {name: b, address: 127.0.0.1}]",
                "/etc/p.yaml:1: listeners[1].port: Port 25 is taken by the listener “relay”. "
                    + "Choose another port, or addresses that do not overlap."
            ),
            (
                "listeners: [{tls: {certificate: /c, key: /k}}]",
                "/etc/p.yaml:1: listeners[0].tls.certificate: There is no file /c. "
                    + "Create it, or correct the path; posthorn's user must be able to read it."
            ),
            (
                "retry: {tiers: [5m, 1m]}",
                "/etc/p.yaml:1: retry.tiers[1]: 1m is not longer than 5m. Order the tiers from short to long, each once."
            ),
            (
                "retry: {lifetime: 1h}",
                "/etc/p.yaml:1: retry.tiers[4]: 4h is longer than retry.lifetime (1h). "
                    + "Remove the tier, or lengthen the lifetime."
            ),
            (
                "routes: [{match: \"*\", via: mx}, {match: a.example, via: mx}]",
                "/etc/p.yaml:1: routes[1].match: “a.example” never gets here: “*” in routes[0] matches first. "
                    + "Put the narrower route above the wider one, or remove it."
            ),
            (
                "routes: [{match: a.example}]",
                "/etc/p.yaml:1: routes[0].via: This key is missing. Write mx, smtp HOST:PORT, smtps HOST:PORT, lmtp "
                    + "HOST:PORT or /SOCKET (several hosts apart by spaces), discard, or error 550 5.1.2 TEXT."
            ),
            (
                "admin: {address: 0.0.0.0:9925}",
                "/etc/p.yaml:1: admin.address: Others could administer this node: 0.0.0.0 is not loopback and there is no "
                    + "admin.token-file. Listen on 127.0.0.1, or set admin.token-file."
            ),
            (
                "kafka: {bootstrap: b}\npartitioning: {buckets: [{name: a.example, count: 65}]}",
                "/etc/p.yaml:2: partitioning.buckets[0].count: There are only 64 partitions. "
                    + "Write 64 or less (kafka.partitions)."
            ),
            (
                "partitioning: {buckets: [{name: a.example, count: 2}, {name: a.example, count: 3}]}",
                "/etc/p.yaml:1: partitioning.buckets[1].name: “a.example” is in partitioning.buckets[0] too. "
                    + "Name each once."
            ),
            (
                "partitioning: {buckets: [{name: hotmail.com, count: 2}]}",
                "/etc/p.yaml:1: partitioning.buckets[0].name: “hotmail.com” is keyed as “outlook.com”, so its own buckets "
                    + "count for nothing. Write outlook.com, or “- domain: hotmail.com” under partitioning.aliases."
            ),
            (
                "partitioning: {aliases: [{domain: a.example, also: [b.example]}, {domain: b.example}]}",
                "/etc/p.yaml:1: partitioning.aliases[1]: “b.example” is in partitioning.aliases[0] too. "
                    + "Name each domain once."
            ),
            (
                "partitioning: {aliases: [{domain: \"*.example\"}]}",
                "/etc/p.yaml:1: partitioning.aliases[0].domain: “*.example” is not a domain. "
                    + "Write one like example.com; international ones in their xn-- form."
            ),
            (
                "a: [",
                "/etc/p.yaml:2: This is not YAML: did not find expected node content. "
                    + "Check indentation (spaces, no tabs), colons and quotes here and just above."
            ),
        ]
    )
    func mistakes(yaml: String, message: String) {
        #expect(problems(yaml, files: ["/etc/users"]).first == message)
    }

    @Test("What is done is trimmed after ten minutes, unless the file says when, or never")
    func trimming() throws {
        let kafka = "kafka: {bootstrap: b:9092, "
        #expect(try load(kafka + "prefix: p}").kafka.trimAfter == .seconds(600))
        #expect(try load(kafka + "trim-after: 1h}").kafka.trimAfter == .seconds(3_600))
        #expect(try load(kafka + "trim-after: none}").kafka.trimAfter == nil)
        #expect(problems(kafka + "trim-after: 10ms}").first?.contains("kafka.trim-after") == true)
    }

    @Test("Aliases add to those that are built in, take a domain out of them, and are followed once")
    func aliases() throws {
        let yaml = """
            kafka: {bootstrap: b}
            partitioning:
              aliases: [{domain: hotmail.com}, {domain: corp.example, also: [gmail.com, other.example]}]
              buckets: [{name: corp.example, count: 8}]
            """
        let configuration = try load(yaml)
        let keys = KeySpreading.Configuration(configuration, partitionCount: 64, isShared: true)
        #expect(keys.aliases["hotmail.com"] == nil)
        #expect(keys.aliases["live.com"] == "outlook.com")
        #expect(keys.aliases["other.example"] == "corp.example")
        #expect(keys.aliases["googlemail.com"] == "corp.example")
        #expect(keys.learns && keys.bucketCounts == ["corp.example": 8])
        #expect(!KeySpreading.Configuration(configuration, partitionCount: 64, isShared: false).learns)
        let text = ConfigurationSummary(configuration).text
        #expect(
            text.contains("spreads    corp.example over 8 buckets, what is above 2 messages a second by its share")
        )
    }

    @Test("Passwords are not sent or taken in the clear unless somebody insists")
    func plaintextPasswords() {
        let submission = "listeners: [{kind: submission, address: \"::\"}]\ncredentials-file: /u\n"
        #expect(problems(submission, files: ["/u"]).count == 1)
        #expect(problems(submission + "smtp: {allow-plain-auth-without-tls: true}", files: ["/u"]) == [])
        let route = "routes: [{match: a.example, via: \"smtp b.example\", auth: {user: u, password-file: /p}, tls: "
        #expect(problems(route + "opportunistic}]", files: ["/p"]).count == 1)
        #expect(problems(route + "required}]", files: ["/p"]) == [])
    }

    @Test("All mistakes are told at once, in the order of the file")
    func allAtOnce() {
        let yaml = "log: {partitions: 0}\nhostnam: x\nlogging: {level: loud}\nrelay: {networks: 0.0.0.0/0}\n"
        let lines = problems(yaml, environment: ["POSTHORN_LIMITS_ERRORS": "x"]).map { $0.prefix(14) }
        #expect(lines == ["/etc/p.yaml:1:", "/etc/p.yaml:2:", "/etc/p.yaml:3:", "/etc/p.yaml:4:", "environment va"])
    }

    @Test(
        "An open relay is refused without the key that admits it",
        arguments: [
            "networks: [0.0.0.0/0]", "networks: [\"::/0\"]", "networks: [0.0.0.0/1, 128.0.0.0/1]",
            "networks: [\"2000::/3\"]", "networks: [16.0.0.0/4, 10.0.0.0/8]", "domains: [\"*\"]", "domains: [.com]",
        ]
    )
    func openRelay(keys: String) {
        #expect(problems("relay:\n  \(keys)").count == 1)
        #expect(problems("relay:\n  \(keys)\n  i-know-this-is-an-open-relay: true") == [])
    }

    @Test(
        "Private and owned networks are no open relay",
        arguments: [
            "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16", "\"fc00::/7\", \"fe80::/10\"", "17.0.0.0/8",
            "\"2001:db8::/32\"",
        ]
    )
    func ownNetworks(list: String) {
        #expect(problems("relay: {networks: [\(list)]}") == [])
    }

    @Test("Load balancers that may be anybody are an open relay")
    func openProxy() {
        #expect(problems("listeners: [{proxy-protocol-from: 0.0.0.0/0}]").count == 1)
    }
}

@Suite("Configuration: environment variables")
struct ConfigurationEnvironmentTests {
    @Test("A variable overrides its key, whether the file has it or not")
    func overrides() throws {
        let environment = [
            "POSTHORN_RELAY_NETWORKS": "10.0.0.0/8, ::1",
            "POSTHORN_LIMITS_MESSAGE_SIZE": "1MiB",
            "POSTHORN_TIMEOUTS_SERVER_COMMAND": "10s",
            "POSTHORN_LISTENERS": "[{port: 2525}]",
            "POSTHORN_HOSTNAME": "",
            "POSTHORN_TEST_ANYTHING": "x",
            "POSTHORN_CONFIG": "x",
            "OTHER": "x",
        ]
        let configuration = try load("relay: {networks: 192.0.2.0/24}\nhostname: a.example", environment: environment)
        #expect(configuration.relay.networks.map(\.description) == ["10.0.0.0/8", "::1/128"])
        #expect(configuration.limits.messageSizeMax == 1 << 20)
        #expect(configuration.timeouts.server.command == .seconds(10))
        #expect(configuration.listeners.map(\.port) == [2525])
        #expect(configuration.hostname == "a.example")
    }

    @Test(
        "Mistakes name the variable and what was probably meant",
        arguments: [
            (
                "POSTHORN_RELAY_NETWROKS", "::1",
                "environment variable POSTHORN_RELAY_NETWROKS: There is no such key. Did you mean POSTHORN_RELAY_NETWORKS?"
            ),
            (
                "POSTHORN_LIMITS_ERRORS", "many",
                "environment variable POSTHORN_LIMITS_ERRORS: limits.errors: “many” is not a whole number from 1 to "
                    + "1000000000. Write digits only."
            ),
            (
                "POSTHORN_QQQQQQQQQQQQQQQ", "1",
                "environment variable POSTHORN_QQQQQQQQQQQQQQQ: There is no such key. Its name is POSTHORN_ and the key's "
                    + "path, in capitals, with _ for dots and hyphens."
            ),
        ]
    )
    func mistakes(name: String, value: String, message: String) {
        #expect(problems("", environment: [name: value]) == [message])
    }

    @Test("No two keys share a variable")
    func unambiguous() {
        let discovery = ConfigurationReading(file: "")
        _ = ConfigurationDecoder(reading: discovery, directory: "").decode(nil)
        let names = discovery.keys.keys.map(ConfigurationLoader.variable)
        #expect(Set(names).count == names.count)
        #expect(names.count > 60)
    }
}

@Suite("Configuration: hostile input")
struct ConfigurationFuzzTests {
    private static let seedText = """
        hostname: a.example
        listeners:
          - {name: a, kind: submission, port: 25, tls: {certificate: /c, key: /k}}
        relay: {networks: [10.0.0.0/8, "::1/128"], domains: [.a.example]}
        limits: {message-size: 9223372036854775807GiB, recipients: -1}
        routes: &r
          - {match: ["*", a], via: "smtp [::1]:99999", auth: *r}
        retry: {tiers: [1m, 99999999999999999d], lifetime: 5d}
        """

    /// Goal: whatever stands in the file, the loader answers. Method: random edits of a file that uses every feature.
    @Test("Random edits never trap", arguments: UInt64(0)..<64)
    func mutations(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let alphabet = Array("\n :-[]{}\"'&*!|>%@#,.0123456789abz~\t\\<?\u{0}é".utf8)
        for _ in 0..<40 {
            var octets = Array(Self.seedText.utf8)
            for _ in 0..<Int.random(in: 1...12, using: &random) {
                let index = Int.random(in: 0..<octets.count, using: &random)
                switch Int.random(in: 0..<4, using: &random) {
                case 0: octets.remove(at: index)
                case 1: octets.insert(alphabet.randomElement(using: &random) ?? 0, at: index)
                case 2: octets[index] = UInt8.random(in: 0...255, using: &random)
                default: octets.insert(contentsOf: octets[index...].prefix(20), at: index)
                }
                if octets.isEmpty { octets = [0x20] }
            }
            _ = problems(String(decoding: octets, as: UTF8.self))
        }
    }

    @Test(
        "Depth, size and aliases of aliases are bounded",
        arguments: [
            String(repeating: "[", count: 100_000),
            String(repeating: "{a: ", count: 100_000),
            String(repeating: "- ", count: 100_000),
            String(repeating: "a: [\n", count: 50) + String(repeating: "]", count: 50),
            String(repeating: "#", count: 2 << 20),
            "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
                + "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n"
                + "f: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n",
        ]
    )
    func bombs(yaml: String) {
        #expect(!problems(yaml).isEmpty)
    }
}

@Suite("Configuration: suggestions, addresses, patterns")
struct ConfigurationValueTests {
    @Test(
        "The nearest key is suggested, a far one is not",
        arguments: [
            ("hostnam", "hostname"), ("NETWORKS", "networks"), ("netwroks", "networks"),
            ("message_size", "message-size"),
            ("xyzzy", nil), ("", nil),
        ]
    )
    func nearest(word: String, expected: String?) {
        #expect(Suggestion.nearest(to: word, in: ["hostname", "networks", "message-size"]) == expected)
    }

    @Test(
        "Addresses are read and written as RFC 5952 has it",
        arguments: [
            ("192.0.2.1", "192.0.2.1"), ("::", "::"), ("::1", "::1"), ("2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
            ("::ffff:192.0.2.1", "192.0.2.1"), ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"), ("1::", "1::"),
            ("64:ff9b::192.0.2.33", "64:ff9b::c000:221"), ("1:0:2:3:4:5:6:7", "1:0:2:3:4:5:6:7"),
        ]
    )
    func addresses(text: String, canonical: String) {
        #expect(IPAddress(text)?.description == canonical)
    }

    @Test(
        "What is no address is refused",
        arguments: [
            "", "1", "1.2.3", "1.2.3.256", "01.2.3.4", "1.2.3.4.5", ":", ":::", "1::2::3", "1:2:3:4:5:6:7", "g::",
            "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7::8", "::1%eth0", "+1::", "::1.2.3", "1.2.3.4::", "１.2.3.4",
        ]
    )
    func notAddresses(text: String) {
        #expect(IPAddress(text) == nil)
    }

    @Test("Networks contain what shares their prefix")
    func networks() throws {
        let network = try #require(Network("10.0.0.0/8"))
        #expect(IPAddress("10.255.0.1").map(network.contains) == true)
        #expect(IPAddress("::ffff:10.0.0.1").map(network.contains) == true)
        #expect(IPAddress("11.0.0.0").map(network.contains) == false)
        #expect(IPAddress("::a00:1").map(network.contains) == false)
        let wide = try #require(Network("2001:db8:8000::/33"))
        #expect(IPAddress("2001:db8:8000::1").map(wide.contains) == true)
        #expect(IPAddress("2001:db8::1").map(wide.contains) == false)
        #expect(Network("0.0.0.0/0")?.contains(IPAddress(ipv4: 1)) == true)
        #expect(Network("10.0.0.0/33") == nil && Network("::1/64") == nil && Network("10.0.0.0/-1") == nil)
    }

    @Test(
        "Patterns match whole labels",
        arguments: [
            (DomainPattern.suffix("example.com"), "example.com", true), (.suffix("example.com"), "a.example.com", true),
            (.suffix("example.com"), "notexample.com", false), (.subdomains("example.com"), "example.com", false),
            (.subdomains("example.com"), "a.b.example.com", true), (.subdomains("example.com"), ".example.com", false),
            (.exact("example.com"), "a.example.com", false), (.any, "x", true),
        ]
    )
    func patterns(pattern: DomainPattern, domain: String, expected: Bool) {
        #expect(pattern.matches(domain) == expected)
    }

    @Test(
        "Durations and sizes have units and bounds",
        arguments: [
            ("90", nil), ("5m", 300_000), ("1h30m", 5_400_000), ("500ms", 500), ("2 d", 172_800_000), ("", nil),
            ("m", nil),
            ("99999999999999999999d", nil), ("9223372036854775807w", nil), ("-5m", nil), ("5 fortnights", nil),
        ]
    )
    func durations(text: String, milliseconds: Int?) {
        #expect(ConfigurationValue.duration().parse(text) == milliseconds.map { Duration.milliseconds($0) })
    }
}
