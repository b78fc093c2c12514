import NodeSupport
import Testing

@testable import Ingress

/// Method: the node's clock stands still but for what a test lets pass. A command's reply shows that what was sent with it
/// has been dealt with.
@Suite("Ingress: no session lasts for ever", .timeLimit(.minutes(1)))
struct SessionTimeTests {
    private func withServer(
        _ clock: ManualClock,
        _ configure: @escaping (inout NodeConfiguration.Timeouts.Server) -> Void,
        body: (TestServer) async throws -> Void
    ) async throws {
        try await TestServer.with(clock: clock) {
            // Short, so that the node looks at its clock often.
            $0.timeouts.server.tlsHandshake = .milliseconds(40)
            configure(&$0.timeouts.server)
        }
        .run(body: body)
    }

    @Test(
        "421 for content that is not complete in time, also when it is only thrown away",
        arguments: ["BDAT 1000000\r\nx", "MAIL FROM:<a@example.org>\r\nBDAT 1000000 LAST\r\nx"]
    )
    func boundsDiscards(chunk: String) async throws {
        let clock = ManualClock()
        try await self.withServer(clock) {
            $0.dataTotal = .seconds(600)
            $0.dataBlock = .seconds(36_000)
            $0.transaction = .seconds(72_000)
        } body: { server in
            let client = try TestClient(port: server.port)
            try client.hello()
            #expect(try client.ask("NOOP\r\n" + chunk).hasPrefix("250"))
            if chunk.hasPrefix("MAIL") { #expect(try client.reply() == "250 2.1.0 Ok") }
            clock.advance(by: .seconds(601))
            #expect(client.rest().hasPrefix("421 4.4.2"))
        }
    }

    @Test("421 for a session that talks on without a message; each message buys as much time again")
    func boundsTalk() async throws {
        let clock = ManualClock()
        try await self.withServer(clock) {
            $0.command = .seconds(300)
            $0.transaction = .seconds(1_000)
        } body: { server in
            let client = try TestClient(port: server.port)
            try client.hello()
            for round in 0..<2 {
                for _ in 0..<3 {
                    clock.advance(by: .seconds(299))
                    #expect(try client.ask("RSET").hasPrefix("250"))
                }
                if round == 0 { #expect(try client.sendMessage().hasPrefix("250")) }
            }
            clock.advance(by: .seconds(104))
            #expect(client.rest().hasPrefix("421 4.4.2"))
            #expect(try server.accepted().count == 1)
        }
    }
}
