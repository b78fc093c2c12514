import ClusterLog
public import NodeSupport
import Records

/// Putting dead records back.
///
/// A replay appends the record as it was to the topic it was in, and behind the dead record a mark that it was: in that
/// order, since a mark without its replay would hide mail. So a node that dies between the two leaves a replay
/// unmarked, and asking again makes it twice; so do two who ask at the same time.
extension DeadRecords {
    public func replay(
        _ request: AdminAPI.DeadReplay
    ) async throws(QueueAdministrationError) -> AdminAPI.DeadReplayResult {
        guard (1...AdminAPI.DeadReplay.countMax).contains(request.positions.count) else {
            throw QueueAdministrationError(
                .invalidRequest,
                reason: "give 1 to \(AdminAPI.DeadReplay.countMax) positions, as GET /dead/records lists them"
            )
        }
        var spent = self.begin()
        var items: [AdminAPI.DeadReplayResult.Item] = []
        var done: Set<AdminAPI.DeadPosition> = []
        for position in request.positions where done.insert(position).inserted {
            items.append(await self.replay(position, request, &spent))
        }
        return AdminAPI.DeadReplayResult(items: items)
    }

    private func replay(
        _ position: AdminAPI.DeadPosition,
        _ request: AdminAPI.DeadReplay,
        _ spent: inout Spent
    ) async -> AdminAPI.DeadReplayResult.Item {
        do throws(RecordLogError) {
            guard let stored = try await self.record(at: position) else {
                return Self.refused(position, "there is no such record")
            }
            guard let dead = DeadRecord(stored) else {
                return Self.refused(position, "it was not written by posthorn: where it belongs is not known")
            }
            if let reason = Self.obstacle(to: dead) { return Self.refused(position, reason) }
            if request.force != true {
                if let reason = await self.doubt(about: dead) { return Self.refused(position, reason) }
                if request.marksAreKnown != true {
                    let marks = try await self.marks(behind: stored.position, &spent)
                    if marks.found[position] != nil { return Self.refused(position, "it was replayed before") }
                    guard marks.isComplete else {
                        let reason = "too much lies behind it to find out whether it was replayed before"
                        return Self.refused(position, reason)
                    }
                }
            }
            let positions = try await self.log.append([dead.original, DeadRecord.replayMark(for: stored)])
            self.replayedCount.increment()
            return AdminAPI.DeadReplayResult.Item(position: position, to: positions.first?.description)
        } catch {
            let hint = error.code == .notDurable ? "; it may be there all the same: see whether its message moves" : ""
            return Self.refused(position, "the log could not do it: \(error)\(hint)")
        }
    }

    /// Why the record can never be put back.
    private static func obstacle(to dead: DeadRecord) -> String? {
        if dead.originalSize != nil { return "only a part of it was kept; the whole was at \(dead.position)" }
        let topic = dead.position.partition.topic
        let isOurs = Self.isMail(topic) || topic == .outcomes || topic == .reports
        return isOurs ? nil : "nobody reads \(topic) again"
    }

    private static func isMail(_ topic: Topic) -> Bool {
        topic == .accepted || topic == .held || topic.deferredDelay != nil
    }

    /// Why it would come back to `posthorn.dead`, or must not be delivered.
    private func doubt(about dead: DeadRecord) async -> String? {
        if dead.isConcluded { return "its recipients have final outcomes, and their sender was told" }
        guard Self.isMail(dead.position.partition.topic) else { return nil }
        do throws(RecordLogError) {
            let record = StoredRecord(
                position: dead.position,
                timestamp: 0,
                key: dead.key,
                headers: dead.headers,
                value: dead.value
            )
            let entry = try QueueEntry(record)
            if let content = entry.content { _ = try await self.log.read(content) }
            return nil
        } catch {
            return "it still cannot be used: \(error)"
        }
    }

    private static func refused(
        _ position: AdminAPI.DeadPosition,
        _ reason: String
    ) -> AdminAPI.DeadReplayResult.Item {
        AdminAPI.DeadReplayResult.Item(position: position, refusal: reason)
    }
}
