import ClusterLog
import NodeSupport
import Records

/// Answers for the whole cluster: this node's index and those of the other metrics nodes, asked at once and merged. A
/// node that does not answer, and partitions that no node has, are named in the answer.
struct ClusterQueue: Sendable {
    let local: LocalIndex
    let directory: NodeDirectory
    let client: PeerClient
    let partitionCount: Int

    func summary() async throws(QueueAdministrationError) -> AdminAPI.QueueSummary {
        let (answers, missing) = await self.ask("/index/summary") { (_: AdminAPI.QueueSummary) in }
        return .merged([try await self.local.summary()] + answers, missing: missing)
    }

    func messages(_ query: QueueQuery) async throws(QueueAdministrationError) -> AdminAPI.QueueList {
        var items = [("limit", "\(query.limit)")]
        if let site = query.site { items.append(("site", site)) }
        if let domain = query.domain { items.append(("domain", domain)) }
        if let sender = query.sender { items.append(("sender", sender.isEmpty ? "<>" : sender)) }
        let (answers, missing) = await self.ask("/index/messages" + Self.text(items)) { (_: AdminAPI.QueueList) in }
        return .merged([try await self.local.messages(query)] + answers, limit: query.limit, missing: missing)
    }

    func message(_ id: String) async throws(QueueAdministrationError) -> AdminAPI.QueuedMessage? {
        let own = try await self.local.message(id)
        let target = "/index/messages/\(PeerClient.escaped(id))"
        let (answers, missing) = await self.ask(target) { (_: AdminAPI.QueuedMessage) in }
        if let message = AdminAPI.QueuedMessage.merged((own.map { [$0] } ?? []) + answers, missing: missing) {
            return message
        }
        guard missing.isEmpty else {
            throw QueueAdministrationError(
                .unavailable,
                reason: "no node that answered knows \(id); missing: " + missing.joined(separator: "; ")
            )
        }
        return nil
    }

    func trace(_ query: TraceQuery) async throws(QueueAdministrationError) -> AdminAPI.Trace {
        let own = try await self.local.trace(query)
        var items = [("limit", "\(query.limit)")]
        switch query.subject {
        case .message(let id): items.append(("message", id))
        case .address(let address): items.append(("address", address))
        }
        let (answers, missing) = await self.ask("/index/trace" + Self.text(items)) { (_: AdminAPI.Trace) in }
        return .merged([own] + answers, limit: query.limit, missing: missing)
    }

    // MARK: Private

    private static func text(_ items: [(String, String)]) -> String {
        "?" + items.map { "\($0.0)=\(PeerClient.escaped($0.1))" }.joined(separator: "&")
    }

    /// Asks every other metrics node.
    ///
    /// - Parameter kind: only says what an answer is.
    private func ask<Answer: Decodable & Sendable>(
        _ target: String,
        _ kind: (Answer) -> Void
    ) async -> (answers: [Answer], missing: [String]) {
        let client = self.client
        let peers = self.directory.peers
        var answers: [Answer] = []
        var missing: [String] = []
        await withTaskGroup(of: (NodeAnnouncement, Result<Answer?, PeerClient.Failure>).self) { group in
            for peer in peers {
                group.addTask { (peer, await Self.ask(peer, target, client)) }
            }
            for await (peer, result) in group {
                switch result {
                case .success(let answer): if let answer { answers.append(answer) }
                case .failure(let failure):
                    missing.append("\(peer.id) at \(peer.admin) did not answer: \(failure.reason)")
                }
            }
        }
        let known = Set(peers.flatMap(\.partitions) + self.local.partitions)
        let unknown = (0..<Int32(truncatingIfNeeded: self.partitionCount)).filter { !known.contains($0) }
        if !unknown.isEmpty { missing.append("no node has partition \(PartitionText(unknown)) now") }
        return (answers, missing.sorted())
    }

    private static func ask<Answer: Decodable & Sendable>(
        _ peer: NodeAnnouncement,
        _ target: String,
        _ client: PeerClient
    ) async -> Result<Answer?, PeerClient.Failure> {
        guard let endpoint = Endpoint(peer.admin) else {
            return .failure(PeerClient.Failure(reason: "its address cannot be read"))
        }
        do throws(PeerClient.Failure) {
            return .success(try await client.get(target, from: endpoint))
        } catch {
            return .failure(error)
        }
    }
}
