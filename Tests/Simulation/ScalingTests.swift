import ClusterLog
import Foundation
import Testing

@testable import Delivery

/// How load and throughput follow from the number of nodes and partitions, with one provider at 76 % of the mail.
///
/// A few sizes are asserted. `POSTHORN_TEST_SCALING=1` prints the table of `ops/docs/scaling.md`.
@Suite("Scaling: many nodes in virtual time")
struct ScalingTests {
    typealias Scenario = SimulatedCluster.Scenario

    private static func drained(_ scenario: Scenario) throws -> SimulatedCluster {
        var cluster = try SimulatedCluster(scenario)
        cluster.drain()
        return cluster
    }

    @Test(
        "No node has more than 1.3x the mean of the mail, with four partitions a node or more",
        arguments: [(4, 64, 1_500), (10, 64, 2_500), (16, 256, 2_500)]
    )
    func isBalanced(nodeCount: Int, partitionCount: Int, messageCount: Int) throws {
        let cluster = try Self.drained(
            Scenario(nodeCount: nodeCount, partitionCount: partitionCount, messageCount: messageCount)
        )
        #expect(cluster.arrivals.count == messageCount)
        #expect(cluster.arrivals.values.allSatisfy { $0 == 1 })
        #expect(cluster.loads.map(\.delivered).maxToMean <= 1.3, "\(cluster.loads.map(\.delivered))")
        #expect(cluster.loads.map(\.records).maxToMean <= 1.3, "\(cluster.loads.map(\.records))")
        // Outcomes are spread as the mail is: no bounce or metrics member has three quarters of them.
        let outcomes = (0..<Int32(partitionCount)).map { cluster.outcomeCounts[$0] ?? 0 }
        #expect(outcomes.maxToMean < Double(partitionCount) / 8)
    }

    @Test("Without buckets the provider's mail is one node's")
    func needsBuckets() throws {
        var scenario = Scenario(nodeCount: 4, partitionCount: 64, messageCount: 1_000)
        scenario.spreads = false
        let cluster = try Self.drained(scenario)
        #expect(cluster.arrivals.count == 1_000)
        #expect(cluster.loads.map(\.delivered).maxToMean > 2.8)
    }

    @Test("A node that joins takes its part, and nothing arrives twice")
    func joins() throws {
        var cluster = try SimulatedCluster(Scenario(nodeCount: 4, partitionCount: 64, messageCount: 1_500))
        cluster.drain(until: 500)
        let (moved, idle) = cluster.join()
        cluster.drain()
        // 12 of 64 partitions of each of the four topics.
        #expect(moved == 4 * 12)
        #expect(idle <= 200)
        #expect(cluster.arrivals.count == 1_500)
        #expect(cluster.arrivals.values.allSatisfy { $0 == 1 })
        #expect((cluster.loads.last?.delivered ?? 0) > 0)
    }

    @Test("A node that dies is replaced; what arrives twice is what it had under way or not written")
    func crashes() throws {
        var cluster = try SimulatedCluster(Scenario(nodeCount: 4, partitionCount: 64, messageCount: 1_500))
        cluster.drain(until: 500)
        #expect(cluster.crash(2) == 4 * 16)
        cluster.drain()
        #expect(cluster.arrivals.count == 1_500)
        let twice = cluster.arrivals.values.reduce(0) { $0 + $1 - 1 }
        // 40 connections at most for a site of twenty and the tail, and one step's work.
        #expect(twice <= 100, "\(twice)")
    }

    // MARK: The group

    /// Figures of librdkafka 2.0.2's own assignor, run on the same memberships: partitions of `accepted` that members
    /// have, least and most, when all have joined at once, then one joins, one leaves, one dies and comes again.
    @Test(
        "The model of the group agrees with the assignor",
        arguments: [
            (3, [21...22, 16...16, 21...22, 32...32, 21...22]),
            (10, [6...7, 5...6, 6...7, 7...8, 6...7]),
            (30, [2...3, 2...3, 2...3, 2...3, 2...3]),
            (100, [0...1, 0...1, 0...1, 0...1, 0...1]),
        ]
    )
    func modelAgreesForOneTopic(nodeCount: Int, expected: [ClosedRange<Int>]) {
        #expect(Self.lifecycle(topics: [.accepted], nodeCount: nodeCount) == expected)
    }

    /// The same for a group that consumes eight topics together: whoever joins is given `accepted` first.
    @Test(
        "Topics that are assigned together are not balanced each",
        arguments: [(3, [22, 64, 64, 64, 64]), (10, [7, 46, 46, 46, 41]), (30, [3, 16, 16, 16, 17])]
    )
    func modelAgreesForManyTopics(nodeCount: Int, expected: [Int]) {
        let topics: [Topic] =
            [.accepted, .held, .deferredNow] + [60, 300, 900, 3_600, 14_400].map { Topic.deferred(delay: $0) }
        // Members that are equal are taken in another order: that is worth one partition.
        let most = Self.lifecycle(topics: topics, nodeCount: nodeCount).map(\.upperBound)
        #expect(zip(most, expected).allSatisfy { abs($0 - $1) <= 1 }, "\(most)")
    }

    private static func lifecycle(topics: [Topic], nodeCount: Int) -> [ClosedRange<Int>] {
        var group = GroupModel(topics: topics, partitionCount: 64)
        var ranges: [ClosedRange<Int>] = []
        func note() {
            group.rebalance()
            let counts = group.counts(.accepted)
            ranges.append((counts.min() ?? 0)...(counts.max() ?? 0))
        }
        for member in 0..<nodeCount { group.join(member) }
        note()
        group.join(nodeCount)
        note()
        group.leave(0)
        note()
        group.leave(1)
        note()
        group.join(nodeCount + 1)
        note()
        return ranges
    }

    // MARK: The table

    @Test(
        "The table of ops/docs/scaling.md",
        .enabled(if: ProcessInfo.processInfo.environment["POSTHORN_TEST_SCALING"] != nil)
    )
    func table() throws {
        print(
            "| nodes | partitions | messages/s | of ideal | delivered | records | a join moves | idle | delivered after it |"
        )
        print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        let single = try Self.drained(Scenario(nodeCount: 1, partitionCount: 64, messageCount: 800)).rate
        for partitionCount in [64, 256, 1_024] {
            for nodeCount in [1, 3, 10, 30, 100] {
                let scenario = Scenario(
                    nodeCount: nodeCount,
                    partitionCount: partitionCount,
                    messageCount: 800 * nodeCount
                )
                print(try Self.row(scenario, single: single))
            }
        }
        var scenario = Scenario(nodeCount: 10, partitionCount: 64, messageCount: 8_000)
        scenario.spreads = false
        print("without buckets:", try Self.row(scenario, single: single))
        scenario.spreads = true
        scenario.assignsTopicsTogether = true
        print("topics assigned together:", try Self.row(scenario, single: single))
    }

    private static func row(_ scenario: Scenario, single: Double) throws -> String {
        let cluster = try Self.drained(scenario)
        var joined = try SimulatedCluster(scenario)
        joined.drain(until: scenario.messageCount / 10)
        let (moved, idle) = joined.join()
        let before = joined.loads.map(\.delivered)
        joined.drain()
        let after = zip(joined.loads, before).map { $0.delivered - $1 }
        let columns = [
            "\(scenario.nodeCount)", "\(scenario.partitionCount)", "\(Int(cluster.rate))",
            "\(Int((cluster.rate / Double(scenario.nodeCount) / single * 100).rounded())) %",
            cluster.loads.map(\.delivered).maxToMean.text, cluster.loads.map(\.records).maxToMean.text,
            "\(moved) of \(4 * scenario.partitionCount)", "\(idle) ms", after.maxToMean.text,
        ]
        return "| \(columns.joined(separator: " | ")) |"
    }
}

extension SimulatedCluster {
    /// Messages a second until half had arrived: what was deferred, or parked for want of connections, comes later.
    var rate: Double {
        let count = self.arrivalTimes.count / 2
        guard count > 0 else { return 0 }
        return Double(count) / Double(max(1, self.arrivalTimes[count - 1])) * 1_000
    }
}

extension [Int] {
    var maxToMean: Double {
        let mean = Double(self.reduce(0, +)) / Double(Swift.max(1, self.count))
        return mean > 0 ? Double(self.max() ?? 0) / mean : 0
    }
}

extension Double {
    fileprivate var text: String { String(format: "%.2f", self) }
}
