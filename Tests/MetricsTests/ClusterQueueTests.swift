import Admin
import ClusterLog
import Foundation
import Logging
import Mail
import NIOCore
import NodeSupport
import Records
import ServiceLifecycle
import Testing

@testable import MetricsRole

@Suite("ClusterQueue: any metrics node answers for all of them", .timeLimit(.minutes(1)))
struct ClusterQueueTests {
    private let log = InMemoryLog(partitionCount: 8)

    /// Runs nodes with their admin listeners on free ports until `body` returns.
    private func withNodes(_ nodes: [(node: TestNode, token: String?)], _ body: () async throws -> Void) async throws {
        let services: [any Service] = nodes.flatMap { node, token -> [any Service] in
            let admin = AdminServer(
                address: Endpoint(host: "127.0.0.1", port: 0),
                token: token,
                metrics: node.metrics,
                readiness: Readiness(),
                queue: node.service,
                tracing: node.service,
                index: node.service.index,
                logger: .silent
            ) { port in
                node.service.announce(Endpoint(host: "127.0.0.1", port: port ?? 0))
            }
            return [admin, node.service]
        }
        let group = ServiceGroup(services: services, logger: .silent)
        async let running: Void = group.run()
        let result: Result<Void, any Error>
        do {
            try await body()
            result = .success(())
        } catch {
            result = .failure(error)
        }
        await group.triggerGracefulShutdown()
        try await running
        try result.get()
    }

    private func fill() async throws {
        for number in 0..<90 {
            let message = TestMessage(number: number, domain: "d\(number % 23).example", site: "site-\(number % 5)")
            _ = try await self.log.append([message.record(number % 3 == 0 ? .delivered : .deferred)])
        }
        // One message whose recipients are in several partitions.
        _ = try await self.log.append(
            (0..<16).map { TestMessage(number: 200, recipientIndex: $0, domain: "m\($0).example").record(.deferred) }
        )
    }

    private func settle(_ nodes: [TestNode]) async throws {
        try await eventually { try await TestNode.hasReadAll(nodes, self.log) }
        for node in nodes {
            try await eventually { try await node.service.summary().missing == nil }
        }
    }

    @Test(
        "Summary, list, message and trace are the whole cluster's, whichever node is asked",
        arguments: [nil, "secret"]
    )
    func answersForAll(token: String?) async throws {
        try await self.fill()
        let nodes = ["a", "b", "c"].map { TestNode($0, log: self.log, token: token) }
        try await self.withNodes(nodes.map { ($0, token) }) {
            try await self.settle(nodes)
            for node in nodes {
                #expect(node.index?.partitions.isEmpty == false)
                let summary = try await node.service.summary()
                #expect(summary.recipients == 60 + 16)
                #expect(summary.sites.reduce(0) { $0 + $1.deferred } == 76)
                #expect(summary.sites.count == 6)
                let list = try await node.service.messages(QueueQuery(limit: 1_000))
                #expect(list.messages.count == 61)
                #expect(Set(list.messages.map(\.id)).count == 61)
                #expect(list.messages.last?.recipients.count == 16)
                #expect(list.missing == nil)
                let some = try await node.service.messages(QueueQuery(limit: 10))
                #expect(some.messages == Array(list.messages.prefix(10)))
                #expect(some.isTruncated)
                let id = TestMessage(number: 200).id.description
                #expect(try await node.service.message(id)?.recipients.count == 16)
                #expect(try await node.service.message(TestMessage(number: 999).id.description) == nil)
                let trace = try await node.service.trace(TraceQuery(.message(id)))
                #expect(trace.events.count == 16)
                let address = try await node.service.trace(TraceQuery(.address("r1-0@d1.example")))
                #expect(address.events.map(\.kind) == ["deferred"])
            }
        }
    }

    @Test("The admin listener serves the merged answers, and each node's own under /index")
    func servesOverHTTP() async throws {
        try await self.fill()
        let nodes = ["a", "b"].map { TestNode($0, log: self.log) }
        try await self.withNodes(nodes.map { ($0, nil) }) {
            try await self.settle(nodes)
            var own = 0
            for node in nodes {
                let other = try #require(nodes.first { $0.service !== node.service })
                let address = try #require(other.service.peerAddress(of: node))
                let client = PeerClient(token: nil, timeout: .seconds(20))
                let merged: AdminAPI.QueueSummary = try #require(try await client.get("/queue/summary", from: address))
                #expect(merged.recipients == 76)
                let alone: AdminAPI.QueueSummary = try #require(try await client.get("/index/summary", from: address))
                own += alone.recipients
                let trace: AdminAPI.Trace = try #require(
                    try await client.get("/trace?message=\(TestMessage(number: 200).id)", from: address)
                )
                #expect(trace.events.count == 16)
                let missing: AdminAPI.QueuedMessage? = try await client.get(
                    "/queue/messages/\(TestMessage(number: 999).id)",
                    from: address
                )
                #expect(missing == nil)
            }
            #expect(own == 76)
        }
    }

    @Test("A node that refuses the token is named, and the others' answers are given")
    func namesRefusals() async throws {
        try await self.fill()
        let right = TestNode("right", log: self.log, token: "secret")
        let strict = TestNode("strict", log: self.log, token: "secret")
        try await self.withNodes([(right, "secret"), (strict, "another")]) {
            try await eventually { try await TestNode.hasReadAll([right, strict], self.log) }
            try await eventually { right.service.announcements.first?.partitions == strict.index?.partitions }
            let summary = try await right.service.summary()
            #expect(summary.missing?.first?.hasPrefix("strict at 127.0.0.1:") == true)
            #expect(summary.missing?.first?.contains("token") == true)
            #expect(summary.recipients > 0 && summary.recipients < 76)
            let absent = TestMessage(number: 999).id.description
            await #expect(throws: QueueAdministrationError.self) { try await right.service.message(absent) }
        }
    }

    /// Goal: a node that hangs does not make the others hang. Method: announce a port that takes connections and says
    /// nothing (a listener whose backlog nobody serves), with a short bound.
    @Test("A node that does not answer in time is named")
    func namesSilence() async throws {
        try await self.fill()
        let silent = try #require(SilentListener())
        let node = TestNode("a", log: self.log) { $0.peerTimeout = .milliseconds(50) }
        let ghost = NodeAnnouncement(
            id: "ghost",
            roles: ["metrics"],
            admin: "127.0.0.1:\(silent.port)",
            partitions: [],
            until: .max
        )
        try await self.withNodes([(node, nil)]) {
            _ = try await self.log.append([ghost.record])
            try await eventually { try await TestNode.hasReadAll([node], self.log) }
            try await eventually { try await node.service.summary().missing != nil }
            let summary = try await node.service.summary()
            #expect(summary.missing?.count == 1)
            #expect(summary.missing?.first?.contains("ghost at 127.0.0.1:\(silent.port) did not answer") == true)
            #expect(summary.recipients == 76)
            // Withdrawn, it is not asked any more.
            _ = try await self.log.append([NodeAnnouncement.withdrawal(id: "ghost")])
            try await eventually { try await node.service.summary().missing == nil }
        }
    }

    @Test("Partitions that nobody has are named")
    func namesPartitions() async throws {
        let node = TestNode("a", log: self.log)
        let summary = try await node.service.summary()
        #expect(summary.missing == ["no node has partition 0-7 now"])
        #expect(PartitionText([0, 1, 2, 5, 7, 8]).description == "0-2, 5, 7-8")
    }

    // MARK: Announcements

    @Test("An announcement counts until its lease is over, and those of nodes long gone never")
    func endsLeases() async throws {
        let clock = ManualClock(milliseconds: acceptedAt)
        let log = InMemoryLog(partitionCount: 4, now: { clock.milliseconds })
        let directory = NodeDirectory(log: log, settings: MetricsSettings(nodeID: "me"), clock: clock)
        func announce(_ id: String, roles: [String] = ["metrics"]) async throws {
            let announcement = NodeAnnouncement(id: id, roles: roles, admin: "[::1]:1", partitions: [3], until: 0)
            _ = try await log.append([announcement.record])
        }
        try await announce("old")
        clock.advance(by: .seconds(120))
        try await announce("one")
        try await announce("me")
        try await announce("sender", roles: ["ingress"])
        _ = try await log.append([
            Record(topic: .control, key: "node/garbage", value: ByteBuffer(string: "{")),
            Record(topic: .control, key: "command/x", value: ByteBuffer(string: "{}")),
        ])
        try await directory.refresh()
        #expect(directory.peers.map(\.id) == ["one"])
        clock.advance(by: .seconds(20))
        try await announce("one")
        try await directory.refresh()
        clock.advance(by: .seconds(29))
        #expect(directory.peers.map(\.id) == ["one"])
        // The time of day does not matter once it is read.
        clock.set(milliseconds: 0)
        #expect(directory.peers.map(\.id) == ["one"])
        clock.advance(by: .seconds(2))
        #expect(directory.peers.isEmpty)
    }

    @Test("A node announces itself when its partitions change or the interval is over, and withdraws at the end")
    func announces() async throws {
        let clock = ManualClock()
        let log = InMemoryLog(partitionCount: 4, now: { clock.milliseconds })
        let directory = NodeDirectory(log: log, settings: MetricsSettings(nodeID: "me"), clock: clock)
        try await directory.announce(partitions: [1])
        #expect(log.records(of: .control).isEmpty)
        directory.setAddress(Endpoint(host: "relay.example", port: 9925))
        try await directory.announce(partitions: [1])
        try await directory.announce(partitions: [1])
        #expect(log.records(of: .control).count == 1)
        try await directory.announce(partitions: [1, 2])
        clock.advance(by: .seconds(10))
        try await directory.announce(partitions: [1, 2])
        let records = log.records(of: .control)
        #expect(records.compactMap { NodeAnnouncement($0)?.partitions } == [[1], [1, 2], [1, 2]])
        #expect(records.allSatisfy { $0.key == "node/me" })
        #expect(NodeAnnouncement(records[2])?.admin == "relay.example:9925")
        #expect(NodeAnnouncement(records[2])?.until == clock.milliseconds + 30_000)
        try await directory.withdraw()
        try await directory.withdraw()
        #expect(log.records(of: .control).count == 4)
        #expect(log.records(of: .control).last.flatMap { NodeAnnouncement($0) } == nil)
    }
}

extension MetricsService {
    /// Where another node said that it listens.
    fileprivate func peerAddress(of node: TestNode) -> Endpoint? {
        self.announcements.first { $0.partitions == node.index?.partitions }.flatMap { Endpoint($0.admin) }
    }
}

/// A socket that listens and never accepts.
private final class SilentListener {
    let port: Int
    private let descriptor: Int32

    init?() {
        self.descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let descriptor = self.descriptor
        let isListening = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, size) == 0 && listen(descriptor, 8) == 0 && getsockname(descriptor, $0, &size) == 0
            }
        }
        self.port = Int(UInt16(bigEndian: address.sin_port))
        guard isListening else {
            close(self.descriptor)
            return nil
        }
    }

    deinit { close(self.descriptor) }
}
