import ClusterLog
import Foundation
import Mail
import NIOCore
import NodeSupport
import Records
import Testing

@testable import Ingress

@Suite("Ingress: when the log fails and when things run out", .serialized)
struct AvailabilityTests {
    @Test(
        "4xx when the log does not take a message; the session survives and the next message is taken",
        arguments: [
            (RecordLogError.Code.notDurable, "451 4.3.0"), (.unavailable, "451 4.3.0"), (.queueFull, "451 4.3.0"),
            (.noSpace, "452 4.3.1"), (.recordTooLarge, "552 5.3.4"),
        ]
    )
    func survivesFailure(code: RecordLogError.Code, reply: String) async throws {
        try await TestServer.run { server in
            let client = try TestClient(port: server.port)
            try client.hello()
            server.log.failNextAppend(with: RecordLogError(code, isRetriable: true))
            #expect(try client.sendMessage().hasPrefix(reply))
            #expect(try client.sendMessage().hasPrefix("250 "))
            #expect(try server.accepted().count == 1)
            #expect(server.server.octetsInFlight == 0)
        }
    }

    @Test("No reply to end-of-data, and no other command answered, before the log has acknowledged")
    func waitsForLog() async throws {
        try await TestServer.run { server in
            let client = try TestClient(port: server.port)
            try client.hello()
            server.log.holdCompletions()
            try client.beginMessage()
            client.send("x\r\n.\r\nNOOP\r\n")
            try await eventually { server.log.heldCompletionCount == 1 }
            #expect(server.metric("posthorn_ingress_messages_total") == 0)
            #expect(server.server.octetsInFlight > 0)
            server.log.resumeCompletions()
            #expect(try client.reply().hasPrefix("250 2.0.0 Ok: queued"))
            #expect(try client.reply() == "250 2.0.0 Ok")
            #expect(server.server.octetsInFlight == 0)
        }
    }

    @Test("A log that cannot be reached: 451 to MAIL, 421 to new clients, not ready; all of it passes by itself")
    func breaks() async throws {
        try await TestServer.with({ $0.timeouts.server.tlsHandshake = .milliseconds(40) })
            .run { server in
                let client = try TestClient(port: server.port)
                try client.hello()
                server.log.setCondition(.unavailable(reason: "gone"))
                try await eventually { !server.readiness.isReady }
                #expect(server.readiness.reasons["log"] == "gone")
                #expect(try client.ask("MAIL FROM:<a@example.org>").hasPrefix("451 4.3.0"))
                #expect(try TestClient(port: server.port).rest().hasPrefix("421 4.3.2"))
                server.log.setCondition(.reserveOnly(reason: "disk"))
                try await eventually { server.readiness.reasons["log"] == "disk" }
                #expect(try client.ask("MAIL FROM:<a@example.org>").hasPrefix("452 4.3.1"))
                server.log.setCondition(.writable)
                try await eventually { server.readiness.isReady }
                #expect(try client.sendMessage().hasPrefix("250 "))
            }
    }

    @Test("The budget of octets is kept: content beyond it is refused with 452 and given back")
    func keepsBudget() async throws {
        try await TestServer.with({ $0.limits.octetsInFlightMax = 64_000 })
            .run { server in
                let client = try TestClient(port: server.port)
                try client.hello()
                let large = "\r\n" + String(repeating: String(repeating: "x", count: 98) + "\r\n", count: 1_000)
                #expect(try client.sendMessage(large).hasPrefix("452 4.3.1"))
                #expect(server.server.octetsInFlight == 0)
                #expect(try client.sendMessage().hasPrefix("250 "))
            }
    }

    @Test("421 to the session too many, of one address and of all; trusted networks are bound by the total only")
    func boundsSessions() async throws {
        try await TestServer.with({
            $0.limits.sessionCountMax = 4
            $0.limits.sessionCountPerAddressMax = 2
            $0.relay.networks = [Network("127.0.0.2")].compactMap { $0 }
        })
        .run { server in
            let one = try TestClient(port: server.port)
            let two = try TestClient(port: server.port)
            #expect(try one.reply().hasPrefix("220"))
            #expect(try two.reply().hasPrefix("220"))
            #expect(try TestClient(port: server.port).rest().hasPrefix("421 4.7.0"))
            let trusted = try (0..<2).map { _ in try TestClient(port: server.port, from: "127.0.0.2") }
            for client in trusted { #expect(try client.reply().hasPrefix("220")) }
            #expect(try TestClient(port: server.port, from: "127.0.0.3").rest().hasPrefix("421 4.7.0"))
            #expect(try one.ask("QUIT").hasPrefix("221"))
            #expect(one.isClosed())
            try await eventually { server.server.sessionCount == 3 }
            #expect(try TestClient(port: server.port).reply().hasPrefix("220"))
        }
    }

    @Test("421 4.4.2 to a client that says nothing, too little, or stops within its content")
    func timesOut() async throws {
        try await TestServer.with({
            $0.timeouts.server.command = .milliseconds(200)
            $0.timeouts.server.dataBlock = .milliseconds(200)
            $0.timeouts.server.dataTotal = .milliseconds(500)
        })
        .run { server in
            let silent = try TestClient(port: server.port)
            let slow = try TestClient(port: server.port)
            slow.send("NO")
            let stalled = try TestClient(port: server.port)
            try stalled.hello()
            try stalled.beginMessage()
            stalled.send("half a mess")
            #expect(silent.rest().contains("421 4.4.2"))
            #expect(slow.rest().contains("421 4.4.2"))
            #expect(stalled.rest().contains("421 4.4.2"))
            #expect(server.server.octetsInFlight == 0)
            try await eventually { server.server.sessionCount == 0 }
        }
    }

    @Test("Shutdown: 421 to idle sessions, 250 for the message under way, then nobody is left")
    func drains() async throws {
        try await TestServer.run { server in
            let idle = try TestClient(port: server.port)
            try idle.hello()
            let busy = try TestClient(port: server.port)
            try busy.hello()
            server.log.holdCompletions()
            try busy.beginMessage()
            busy.send("x\r\n.\r\n")
            try await eventually { server.log.heldCompletionCount == 1 }
            async let stopped: Void = server.server.stop()
            #expect(idle.rest().hasPrefix("421 4.3.2"))
            #expect(!server.readiness.isReady)
            server.log.resumeCompletions()
            #expect(try busy.reply().hasPrefix("250 2.0.0 Ok: queued"))
            #expect(busy.rest().hasPrefix("421 4.3.2"))
            await stopped
            #expect(throws: TestClient.Failure.self) { _ = try TestClient(port: server.port) }
        }
    }

    @Test("Shutdown does not wait longer than configured for a session within its content")
    func drainsInTime() async throws {
        try await TestServer.with({ $0.timeouts.server.drain = .milliseconds(100) })
            .run { server in
                let client = try TestClient(port: server.port)
                try client.hello()
                try client.beginMessage()
                await server.server.stop()
                #expect(client.isClosed())
            }
    }
}

/// Waits for a condition that another thread brings about; fails after ten seconds.
func eventually(_ condition: () -> Bool) async throws {
    let end = ContinuousClock.now.advanced(by: .seconds(10))
    while !condition() {
        guard ContinuousClock.now < end else {
            Issue.record("It did not come about in ten seconds.")
            return
        }
        try await Task.sleep(for: .milliseconds(2))
    }
}
