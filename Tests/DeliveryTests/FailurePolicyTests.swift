import SMTP
import Testing

@testable import Delivery

@Suite("FailurePolicy: what follows from a failure")
struct FailurePolicyTests {
    static func reply(_ code: Int, _ text: String = "no") -> RemoteReply {
        RemoteReply(
            code: code,
            enhancedStatusCode: EnhancedStatusCode(String(text.prefix { $0 != " " })),
            lines: [text]
        )
    }

    static let replies: [(ClientPhase, RemoteReply, DeliveryFailure.Scope, Bool, String)] = [
        (.banner, reply(554), .host, false, "4.0.0"),
        (.banner, reply(521), .host, true, "5.3.2"),
        (.banner, reply(421), .host, false, "4.3.2"),
        (.banner, reply(554, "5.7.1 no"), .host, false, "4.7.1"),
        (.ehlo, reply(550, "5.7.1 no"), .host, true, "5.7.1"),
        (.ehlo, reply(450), .host, false, "4.0.0"),
        (.starttls, reply(554), .host, false, "4.0.0"),
        (.starttls, reply(454), .host, false, "4.7.0"),
        (.auth, reply(535), .host, false, "4.7.8"),
        (.auth, reply(454), .host, false, "4.7.0"),
        (.mail, reply(550, "5.7.1 no"), .message, true, "5.7.1"),
        (.mail, reply(451, "4.7.1 greylisted"), .message, false, "4.7.1"),
        (.mail, reply(552), .message, true, "5.3.4"),
        (.mail, reply(421), .session, false, "4.3.2"),
        (.rcpt, reply(550, "5.1.1 no"), .recipient, true, "5.1.1"),
        (.rcpt, reply(550), .recipient, true, "5.0.0"),
        (.rcpt, reply(450), .recipient, false, "4.2.0"),
        (.rcpt, reply(452, "4.2.2 full"), .recipient, false, "4.2.2"),
        (.rcpt, reply(452, "4.5.3 many"), .recipient, false, "4.5.3"),
        (.rcpt, reply(452, "Too many recipients"), .recipient, false, "4.5.3"),
        (.rcpt, reply(552, "5.5.3 many"), .recipient, false, "4.5.3"),
        (.rcpt, reply(552, "5.2.2 full"), .recipient, true, "5.2.2"),
        (.rcpt, reply(552), .recipient, true, "5.2.2"),
        (.rcpt, reply(421), .session, false, "4.3.2"),
        (.data, reply(554), .message, true, "5.0.0"),
        (.data, reply(451), .message, false, "4.3.0"),
        (.content, reply(552), .message, true, "5.3.4"),
        (.finalDot, reply(554, "5.7.1 spam"), .message, true, "5.7.1"),
        (.finalDot, reply(450), .message, false, "4.0.0"),
        (.finalDot, reply(421, "4.7.0 slow down"), .session, false, "4.7.0"),
    ]

    @Test("A reply has its scope, permanence and status", arguments: Self.replies)
    func judgesReplies(
        phase: ClientPhase,
        reply: RemoteReply,
        scope: DeliveryFailure.Scope,
        isPermanent: Bool,
        status: String
    ) {
        let failure = FailurePolicy.failure(ClientFailure(phase, .reply(reply)))
        #expect(failure.scope == scope)
        #expect(failure.isPermanent == isPermanent)
        #expect(failure.status.description == status)
        #expect(failure.reply == reply)
        #expect(FailurePolicy.isTooManyRecipients(failure) == (status == "4.5.3"))
    }

    @Test("A loss is temporary; before MAIL it is the host's, then the session's", arguments: ClientPhase.allCases)
    func judgesLosses(phase: ClientPhase) {
        let isHost = [.connect, .banner, .ehlo, .starttls, .auth].contains(phase)
        for cause in [ClientFailure.Cause.connectionLost, .timedOut, .malformedReply(.notAReply)] {
            let failure = FailurePolicy.failure(ClientFailure(phase, cause))
            #expect(failure.scope == (isHost ? .host : .session))
            #expect(!failure.isPermanent)
            #expect(failure.status.classification == 4)
        }
    }

    @Test(
        "What needs protection waits; what can never be sent does not",
        arguments: [
            (ClientFailure(.starttls, .tlsNotOffered), DeliveryFailure.Scope.host, false, "4.7.4"),
            (ClientFailure(.starttls, .tlsFailed(reason: "it failed")), .host, false, "4.7.5"),
            (ClientFailure(.auth, .authenticationUnprotected), .host, false, "4.7.11"),
            (ClientFailure(.auth, .authenticationBroken), .host, false, "4.7.8"),
            (ClientFailure(.mail, .internationalizationNotOffered), .message, true, "5.6.7"),
            (ClientFailure(.mail, .eightBitNotOffered), .message, true, "5.6.3"),
            (ClientFailure(.mail, .contentTooLarge(limit: 1)), .message, true, "5.3.4"),
            (ClientFailure(.mail, .unsendableEnvelope), .message, true, "5.1.3"),
            (ClientFailure(.data, .aborted), .session, false, "4.3.2"),
        ]
    )
    func judgesOthers(cause: ClientFailure, scope: DeliveryFailure.Scope, isPermanent: Bool, status: String) {
        let failure = FailurePolicy.failure(cause)
        #expect(failure.scope == scope && failure.isPermanent == isPermanent && failure.status.description == status)
    }

    @Test("Several hosts: permanent only if all are, and a host that answered tells most")
    func concludes() {
        let refused = FailurePolicy.failure(ClientFailure(.connect, .connectionLost))
        let banner = FailurePolicy.failure(ClientFailure(.banner, .reply(Self.reply(554))))
        let never = FailurePolicy.failure(ClientFailure(.banner, .reply(Self.reply(521))))
        #expect(FailurePolicy.conclusion([]).scope == .site)
        #expect(FailurePolicy.conclusion([refused, banner, refused]).reply?.code == 554)
        #expect(FailurePolicy.conclusion([never, refused]).isPermanent == false)
        #expect(FailurePolicy.conclusion([never, never]).isPermanent)
        #expect(FailurePolicy.conclusion([never]).scope == .site)
    }
}
