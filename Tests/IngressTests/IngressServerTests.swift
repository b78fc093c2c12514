import ClusterLog
import Foundation
import Mail
import NIOCore
import NodeSupport
import Records
import Testing

@testable import Ingress

@Suite("IngressServer: from EHLO to 250")
struct IngressServerTests {
    @Test("250 after end-of-data, and the log holds exactly Received and the content")
    func acceptsMessage() async throws {
        try await TestServer.run { server in
            let client = try TestClient(port: server.port)
            try client.hello()
            let reply = try client.sendMessage("Subject: hello\r\n\r\n..dot\r\nend\r\n")
            let message = try #require(try server.accepted().first)
            #expect(reply == "250 2.0.0 Ok: queued as \(message.entry.envelope.messageID)")
            #expect(message.record.key == "example.com")
            #expect(message.text.hasPrefix("Received: from client.example ([127.0.0.1])\r\n"))
            #expect(message.text.contains("with ESMTP"))
            #expect(message.text.hasSuffix("\r\nSubject: hello\r\n\r\n.dot\r\nend\r\n"))
            #expect(message.entry.envelope.contentSize == message.record.value.readableBytes)
            #expect(message.entry.envelope.reversePath?.description == "a@example.org")
            #expect(message.entry.envelope.origin.clientAddress == "127.0.0.1")
            #expect(message.entry.envelope.origin.listener == "smtp")
            #expect(try client.ask("QUIT").hasPrefix("221 "))
            #expect(client.isClosed())
            #expect(server.metric("posthorn_ingress_messages_total") == 1)
        }
    }
}
