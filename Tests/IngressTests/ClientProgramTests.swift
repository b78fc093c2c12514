import ClusterLog
import Foundation
import Mail
import NodeSupport
import Records
import SMTP
import Testing

@testable import Ingress

@Suite("Ingress: with swaks and Python's smtplib, TLS and AUTH", .serialized)
struct ClientProgramTests {
    private typealias Configure = (inout NodeConfiguration, TestCertificates) -> Void
    private typealias Body = (TestServer, TestCertificates, URL) async throws -> Void

    /// Settings, to run a test with.
    private struct Setup {
        let configure: Configure

        func run(body: Body) async throws {
            try await ClientProgramTests().run(configure: self.configure, body: body)
        }
    }

    private static func with(_ configure: @escaping Configure) -> Setup { Setup(configure: configure) }

    /// A server with all kinds of listeners, a certificate, and the user `user` with the password `secret`.
    private func run(
        configure: @escaping Configure = { _, _ in },
        body: Body
    ) async throws {
        let certificates = try await TestCertificates.shared.value
        let files = NodeConfiguration.Listener.TLSFiles(
            certificateFile: certificates.certificate,
            keyFile: certificates.key
        )
        let file = FileManager.default.temporaryDirectory.appendingPathComponent("credentials-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: file) }
        try Self.line("user", "secret").write(to: file, atomically: true, encoding: .utf8)
        let credentials = try CredentialStore(path: file.path)
        try await TestServer.run(
            credentials: credentials,
            configure: { configuration in
                configuration.relay.networks = []
                configuration.listeners = [
                    TestServer.listener("smtp", .relay, tls: files),
                    TestServer.listener("submission", .submission, tls: files),
                    TestServer.listener("submissions", .submissions, tls: files),
                ]
                configure(&configuration, certificates)
            },
            body: { try await body($0, certificates, file) }
        )
    }

    private static func line(_ user: String, _ password: String) -> String {
        "\(CredentialRecord(userName: user, password: password, salt: Array(0..<16)).line)\n"
    }

    @Test(
        "swaks sends over STARTTLS with PLAIN and LOGIN, and is refused with a wrong password",
        arguments: ["PLAIN", "LOGIN"]
    )
    func speaksWithSwaks(mechanism: String) async throws {
        try await self.run { server, _, _ in
            let port = String(server.ports["submission"] ?? 0)
            let arguments = [
                "--server", "127.0.0.1", "--port", port, "--from", "a@example.org", "--to", "b@example.com", "--tls",
                "--auth", mechanism, "--auth-user", "user", "--header", "Bcc: hidden@example.com",
            ]
            let sent = try await ExternalClient.run("swaks", arguments + ["--auth-password", "secret"])
            #expect(sent.status == 0, "\(sent.output)")
            let message = try #require(try server.accepted().first)
            #expect(message.entry.envelope.origin.authenticatedIdentity == "user")
            #expect(message.entry.envelope.origin.transmissionType == "ESMTPSA")
            #expect(!message.text.contains("hidden@"))
            let refused = try await ExternalClient.run("swaks", arguments + ["--auth-password", "wrong"])
            #expect(refused.output.contains("535 5.7.8"), "\(refused.output)")
            #expect(try server.accepted().count == 1)
        }
    }

    @Test("smtplib sends over implicit TLS; a Date and a Message-ID are added (RFC 6409 §8)")
    func speaksWithSmtplib() async throws {
        try await self.run { server, _, _ in
            let script = """
                import smtplib, ssl
                c = ssl._create_unverified_context()
                s = smtplib.SMTP_SSL("127.0.0.1", \(server.ports["submissions"] ?? 0), context=c)
                s.login("user", "secret")
                for i in range(3):
                    s.sendmail("a@example.org", ["b@example.com"], b"Subject: x\\r\\n\\r\\nhello %d\\r\\n" % i)
                s.quit()
                """
            let result = try await ExternalClient.python(script)
            #expect(result.status == 0, "\(result.output)")
            let messages = try server.accepted()
            #expect(messages.count == 3)
            #expect(messages.allSatisfy { $0.text.contains("\r\nDate: ") && $0.text.contains("\r\nMessage-ID: <") })
        }
    }

    @Test("530 before STARTTLS and before AUTH on submission, 454 never for a good user")
    func demandsTLSAndAuthentication() async throws {
        try await self.run { server, _, file in
            let port = server.ports["submission"] ?? 0
            let client = try TestClient(port: port)
            try client.hello()
            #expect(try client.ask("MAIL FROM:<a@example.org>").hasPrefix("530 5.7.0"))
            #expect(try client.ask("AUTH PLAIN AHVzZXIAc2VjcmV0").hasPrefix("530"))
            let script = """
                import smtplib, ssl
                s = smtplib.SMTP("127.0.0.1", \(port))
                s.starttls(context=ssl._create_unverified_context())
                s.ehlo()
                print(s.docmd("MAIL FROM:<a@example.org>"))
                """
            let result = try await ExternalClient.python(script)
            #expect(result.output.contains("(530, b'5.7.0 Authentication required')"), "\(result.output)")
        }
    }

    @Test("A user added to the file may log in without a restart")
    func reloadsCredentials() async throws {
        try await self.run { server, _, file in
            try (Self.line("user", "secret") + Self.line("new", "word"))
                .write(to: file, atomically: true, encoding: .utf8)
            let script = """
                import smtplib, ssl
                s = smtplib.SMTP_SSL("127.0.0.1", \(server.ports["submissions"] ?? 0), context=ssl._create_unverified_context())
                print(s.login("new", "word"))
                """
            let result = try await ExternalClient.python(script)
            #expect(result.output.contains("235"), "\(result.output)")
        }
    }

    @Test("An address that fails too often is put off with 454, whatever it sends then")
    func suspendsGuessers() async throws {
        try await Self.with({ configuration, _ in
            configuration.smtp.allowsPlainAuthWithoutTLS = true
        })
        .run { server, _, _ in
            for _ in 0..<PasswordChecker.failureCountMax {
                let client = try TestClient(port: server.port)
                try client.hello()
                #expect(try client.ask("AUTH PLAIN AHVzZXIAd3Jvbmc=").hasPrefix("535 5.7.8"))
            }
            let client = try TestClient(port: server.port)
            try client.hello()
            #expect(try client.ask("AUTH PLAIN AHVzZXIAc2VjcmV0").hasPrefix("454 4.7.0"))
            #expect(server.metric("posthorn_ingress_authentications_total{result=\"failed\"}") == 10)
        }
    }

    @Test("A wrong password counts although the reply that ends the session is another", arguments: [false, true])
    func countsLastFailure(isThird: Bool) async throws {
        try await Self.with({ configuration, _ in
            configuration.smtp.allowsPlainAuthWithoutTLS = true
        })
        .run { server, _, _ in
            let client = try TestClient(port: server.port)
            try client.hello()
            if isThird {
                for _ in 0..<2 { #expect(try client.ask("AUTH PLAIN AHVzZXIAd3Jvbmc=").hasPrefix("535")) }
            } else {
                for _ in 0..<19 { #expect(try client.ask("RCPT TO:<a@b.example>").hasPrefix("503")) }
            }
            #expect(try client.ask("AUTH PLAIN AHVzZXIAd3Jvbmc=").hasPrefix("421 4.7.0"))
            let failed = server.metric("posthorn_ingress_authentications_total{result=\"failed\"}")
            #expect(failed == (isThird ? 3 : 1))
        }
    }

    @Test("A client with a certificate of ours may relay; one without may not; a strange one gets no session")
    func knowsClientCertificates() async throws {
        try await Self.with({ configuration, certificates in
            configuration.listeners[0].clientCertificates = .init(
                authorityFile: certificates.clientCertificate,
                names: ["client.example"]
            )
        })
        .run { server, certificates, _ in
            func send(_ certificate: String) async throws -> String {
                let script = """
                    import smtplib, ssl
                    c = ssl._create_unverified_context()
                    \(certificate)
                    s = smtplib.SMTP("127.0.0.1", \(server.port))
                    s.starttls(context=c)
                    print(s.sendmail("a@example.org", ["b@example.com"], "Subject: x\\r\\n\\r\\nhello\\r\\n"))
                    """
                return try await ExternalClient.python(script).output
            }
            let known = "c.load_cert_chain('\(certificates.clientCertificate)', '\(certificates.clientKey)')"
            let knownOutput = try await send(known)
            #expect(knownOutput.hasPrefix("{}"), "\(knownOutput)")
            let anonymousOutput = try await send("")
            #expect(anonymousOutput.contains("550"), "\(anonymousOutput)")
            let strange = "c.load_cert_chain('\(certificates.certificate)', '\(certificates.key)')"
            let strangeOutput = try await send(strange)
            #expect(!strangeOutput.hasPrefix("{}"))
            #expect(try server.accepted().count == 1)
        }
    }

    @Test("smtp-source on twenty connections: every message is in the log")
    func takesLoad() async throws {
        guard FileManager.default.isExecutableFile(atPath: "/usr/sbin/smtp-source") else { return }
        try await TestServer.run { server in
            let started = ContinuousClock.now
            let result = try await ExternalClient.run(
                "/usr/sbin/smtp-source",
                [
                    "-s", "20", "-m", "2000", "-l", "4096", "-f", "a@example.org", "-t", "b@example.com",
                    "127.0.0.1:\(server.port)",
                ]
            )
            print("smtp-source: 2000 messages in \(ContinuousClock.now - started)")
            #expect(result.status == 0, "\(result.output)")
            #expect(try server.accepted().count == 2_000)
        }
    }
}
