import ClusterLog
import Foundation
import NIOCore
import NodeSupport
import Testing

@testable import Ingress

@Suite("Ingress: what is under way is bounded", .serialized)
struct BackPressureTests {
    /// Goal: a log that does not answer is said at once, before its own timeouts (G6). Method: hold the log's
    /// completions and let five seconds pass on the node's clock.
    @Test("An append unanswered for 5 s: 421 to new clients, 451 to MAIL, not ready; with the answer all is well again")
    func breaksOnSilentLog() async throws {
        let clock = ManualClock()
        // Short, so that the node looks at its clock often.
        try await TestServer.with(clock: clock) { $0.timeouts.server.tlsHandshake = .milliseconds(40) }
            .run { server in
                let sender = try TestClient(port: server.port)
                let other = try TestClient(port: server.port)
                try sender.hello()
                try other.hello()
                server.log.holdCompletions()
                try sender.beginMessage()
                sender.send("x\r\n.\r\n")
                try await eventually { server.log.heldCompletionCount == 1 }
                clock.advance(by: .seconds(4))
                #expect(try other.ask("MAIL FROM:<a@example.org>").hasPrefix("250 "), "Not before its time.")
                #expect(server.readiness.isReady)
                #expect(try other.ask("RSET").hasPrefix("250 "))
                clock.advance(by: .seconds(2))
                try await eventually { !server.readiness.isReady }
                #expect(server.readiness.reasons["log"] == "appends are not acknowledged")
                #expect(try other.ask("MAIL FROM:<a@example.org>").hasPrefix("451 4.3.0"))
                #expect(try TestClient(port: server.port).rest().hasPrefix("421 4.3.2"))
                #expect(sender.isSilent(milliseconds: 50), "What was begun still waits for its answer.")
                server.log.resumeCompletions()
                #expect(try sender.reply().hasPrefix("250 2.0.0 Ok: queued"))
                try await eventually { server.readiness.isReady }
                #expect(try other.sendMessage().hasPrefix("250 "))
                #expect(try TestClient(port: server.port).reply().hasPrefix("220 "))
            }
    }

    /// Goal: with most of the budget under way, sockets are not read, so that clients wait rather than being refused
    /// (G5). Method: hold a message of four fifths of the budget in the log.
    @Test("Above three quarters of the octet budget sessions are not read; they go on when there is room")
    func pausesWhenCrowded() async throws {
        try await TestServer.with { $0.limits.octetsInFlightMax = 100_000 }
            .run { server in
                let sender = try TestClient(port: server.port)
                let other = try TestClient(port: server.port)
                try sender.hello()
                try other.hello()
                server.log.holdCompletions()
                try sender.beginMessage()
                sender.send(
                    "\r\n" + String(repeating: String(repeating: "x", count: 98) + "\r\n", count: 800) + ".\r\n"
                )
                try await eventually { server.log.heldCompletionCount == 1 }
                #expect(server.server.octetsInFlight > 75_000)
                // The read that was under way when it became crowded is answered; the one after it is not.
                #expect(try other.ask("NOOP").hasPrefix("250 "))
                other.send("NOOP\r\n")
                #expect(other.isSilent(milliseconds: 300))
                server.log.resumeCompletions()
                #expect(try other.reply().hasPrefix("250 "))
                #expect(try sender.reply().hasPrefix("250 "))
                #expect(server.server.octetsInFlight == 0)
            }
    }

    @Test("A session is not kept unread for longer than 5 s: then it is answered, and refused content")
    func endsPause() async throws {
        let clock = ManualClock()
        try await TestServer.with(clock: clock) {
            $0.limits.octetsInFlightMax = 100_000
            $0.timeouts.server.tlsHandshake = .milliseconds(40)
        }
        .run { server in
            let sender = try TestClient(port: server.port)
            let other = try TestClient(port: server.port)
            try sender.hello()
            try other.hello()
            server.log.holdCompletions()
            try sender.beginMessage()
            sender.send("\r\n" + String(repeating: String(repeating: "x", count: 98) + "\r\n", count: 800) + ".\r\n")
            try await eventually { server.log.heldCompletionCount == 1 }
            #expect(try other.ask("NOOP").hasPrefix("250 "))
            other.send("MAIL FROM:<a@example.org>\r\n")
            #expect(other.isSilent(milliseconds: 100))
            clock.advance(by: .seconds(6))
            #expect(try other.reply().hasPrefix("451 4.3.0"), "The log is silent, too, by now.")
            server.log.resumeCompletions()
            #expect(try sender.reply().hasPrefix("250 "))
        }
    }

    /// Goal: who sends and never reads costs bounded memory and no one else's service. Method: a client pipelines
    /// commands until the server reads no more, in a session that its replies fill up.
    @Test("A client that never reads its replies is not read any more, and is closed after the command timeout")
    func boundsUnreadReplies() async throws {
        try await TestServer.with { $0.timeouts.server.command = .seconds(1) }
            .run { server in
                let deaf = try TestClient(port: server.port, receiveBufferSize: 4_096)
                // A short command with a long reply: the replies fill up what is between them soon.
                let group = String(repeating: "EHLO client.example\r\n", count: 200)
                var sentCount = 0
                let octets = Array(group.utf8)
                while deaf.trySend(octets), sentCount < 64 << 20 { sentCount += octets.count }
                #expect(sentCount < 32 << 20, "The server stopped reading.")
                let other = try TestClient(port: server.port)
                try other.hello()
                #expect(try other.sendMessage().hasPrefix("250 "))
                #expect(try other.ask("QUIT").hasPrefix("221 "))
                try await eventually { server.server.sessionCount == 0 }
            }
    }
}
