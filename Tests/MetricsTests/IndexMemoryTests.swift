import ClusterLog
import Foundation
import Mail
import NodeSupport
import Records
import Testing

@testable import MetricsRole

@Suite("Memory of the index", .serialized)
struct IndexMemoryTests {
    /// Resident octets of this process.
    private static func residentSize() throws -> Int {
        let text = try String(contentsOfFile: "/proc/self/statm", encoding: .utf8)
        let pages = try #require(text.split(separator: " ").dropFirst().first.flatMap { Int($0) })
        return pages * Int(sysconf(Int32(_SC_PAGESIZE)))
    }

    /// Goal: a recipient costs what `MetricsSettings` and ops/docs/metrics.md say. Method: 200,000 of each sort, with
    /// addresses and replies of usual lengths; the process's growth, divided. Both are kept, so that the second does not
    /// live in what the first left. Other tests of the process may add to it.
    @Test("A recipient costs what the documents say")
    func costs() throws {
        let count = 200_000
        var kept: [OutcomeIndex] = []
        for (kind, octetsMax) in [(Outcome.Kind.deferred, 700), (.delivered, 600)] {
            let before = try Self.residentSize()
            let index = Self.filled(kind, count)
            let cost = (try Self.residentSize() - before) / count
            print("\(kind): \(cost) octets a recipient")
            #expect(index.sizes.live + index.sizes.recent == count)
            #expect(cost < octetsMax)
            kept.append(index)
        }
        #expect(kept.count == 2)
    }

    private static func filled(_ kind: Outcome.Kind, _ count: Int) -> OutcomeIndex {
        var settings = MetricsSettings(nodeID: "test")
        settings.recentCountMax = count
        var index = OutcomeIndex(settings: settings)
        let generation = index.assigned(0, start: Offset(0))
        for start in stride(from: 0, to: count, by: 500) {
            let records = (start..<start + 500)
                .map { number in
                    var message = TestMessage(number: number, domain: "destination-\(number % 5_000).example")
                    message.sender = "newsletter-bounces+\(number)@sender.example"
                    var outcome = message.outcome(kind)
                    outcome.reply = Outcome.Reply(
                        code: 451,
                        enhanced: "4.7.1",
                        text: "Greylisted, try again in \(number % 300) seconds, id \(number)"
                    )
                    return IndexRecord(outcome, at: Int64(number))
                }
            index.feed(records, to: 0, generation: generation, now: acceptedAt)
        }
        return index
    }
}
