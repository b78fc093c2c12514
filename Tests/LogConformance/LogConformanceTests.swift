import ClusterLog
import EmbeddedLog
import NIOCore
import Synchronization
import Testing

/// What every back end does, whatever it is made of.
@Suite("The log contract")
struct LogConformanceTests {
    @Test("An append gives each record the next offset of its key's partition", arguments: Backend.allCases)
    func appends(_ backend: Backend) async throws {
        try await backend.withLog { log in
            let partitioner = Partitioner(partitionCount: log.partitionCount)
            var next: [TopicPartition: Int64] = [:]
            for round in 0..<5 {
                let records = (0..<20).map { Record.numbered(round * 20 + $0, key: "domain\($0).example") }
                let positions = try await log.append(records)
                #expect(positions.count == records.count)
                for (record, position) in zip(records, positions) {
                    let partition = TopicPartition(.accepted, partitioner.partition(for: record.key))
                    #expect(position == Position(partition: partition, offset: Offset(next[partition] ?? 0)))
                    next[partition, default: 0] += 1
                }
            }
            for (partition, end) in next {
                #expect(try await log.bounds(partition) == Offset(0)..<Offset(end))
                let records = try await log.scan(partition, from: Offset(0), recordCountMax: 1_000)
                #expect(records.map { $0.position.offset.rawValue } == Array(0..<end))
                #expect(zip(records, records.dropFirst()).allSatisfy { $0.timestamp <= $1.timestamp })
            }
            #expect(try await log.topics().contains(.accepted))
        }
    }

    @Test("What is read is what was appended", arguments: Backend.allCases)
    func keepsEverything(_ backend: Backend) async throws {
        try await backend.withLog { log in
            let record = Record(
                topic: .content,
                key: "küche.example",
                headers: [
                    RecordHeader("a", ByteBuffer(bytes: [0, 255, 13, 10])), RecordHeader("empty", ByteBuffer()),
                ],
                value: ByteBuffer(bytes: (0..<70_000).map { UInt8(truncatingIfNeeded: $0) })
            )
            let bare = Record(topic: .content, key: "küche.example")
            let positions = try await log.append([record, bare])
            let first = try #require(positions.first)
            let read = try await log.scan(first.partition, from: first.offset, recordCountMax: 2)
            #expect(read.map { $0.key } == [record.key, bare.key])
            #expect(read.map { $0.headers } == [record.headers, []])
            #expect(read.map { $0.value } == [record.value, ByteBuffer()])
        }
    }

    @Test("An append with one record too large appends nothing", arguments: Backend.allCases)
    func appendsAllOrNothing(_ backend: Backend) async throws {
        try await backend.withLog { log in
            let records = [Record.numbered(1), .numbered(2, size: 2 << 20), .numbered(3)]
            await #expect(throws: RecordLogError(.recordTooLarge, isRetriable: false)) {
                try await log.append(records)
            }
            let positions = try await log.append([.numbered(4)])
            #expect(positions.first?.offset == Offset(0))
        }
    }

    @Test("Completions for one partition come in the order of the calls", arguments: Backend.allCases)
    func completesInOrder(_ backend: Backend) async throws {
        try await backend.withLog { log in
            let order = Mutex<[Int]>([])
            for number in 0..<200 {
                log.append([.numbered(number)]) { _ in order.withLock { $0.append(number) } }
            }
            _ = try await log.append([.numbered(200)])
            #expect(order.withLock { $0 } == Array(0..<200))
        }
    }

    @Test("A value in several records is read as one by its reference (G7)", arguments: Backend.allCases)
    func readsParts(_ backend: Backend) async throws {
        try await backend.withLog { log in
            let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
            var positions: [Position] = []
            var whole = ByteBuffer()
            for number in 0..<3 {
                let part = Record.numbered(number, topic: .content, key: id, size: 1_000, id: id)
                whole.writeImmutableBuffer(part.value)
                positions += try await log.append([part, .numbered(9, topic: .content, key: id)]).prefix(1)
            }
            let first = try #require(positions.first)
            let reference = Reference(
                clusterID: log.clusterID,
                position: first,
                further: positions.dropFirst().map { $0.offset },
                messageID: id,
                size: whole.readableBytes,
                hash: Reference.hash(of: whole)
            )
            #expect(try await log.read(reference).value == whole)
            var wrong = reference
            wrong.further.reverse()
            await #expect(throws: RecordLogError(.mismatch, isRetriable: false)) { try await log.read(wrong) }
            wrong = reference
            wrong.further[1] = Offset(3)
            await #expect(throws: RecordLogError(.mismatch, isRetriable: false)) { try await log.read(wrong) }
            wrong.further = []
            await #expect(throws: RecordLogError(.mismatch, isRetriable: false)) { try await log.read(wrong) }
        }
    }

    @Test("Many appenders at once: every record has a place of its own", arguments: Backend.allCases)
    func survivesManyAppenders(_ backend: Backend) async throws {
        try await backend.withLog { log in
            let positions = try await withThrowingTaskGroup(of: [Position].self) { group in
                for worker in 0..<50 {
                    group.addTask {
                        var positions: [Position] = []
                        for number in 0..<20 {
                            positions += try await log.append([
                                .numbered(worker * 20 + number, key: "k\(number)"), .numbered(0, topic: .content),
                            ])
                        }
                        return positions
                    }
                }
                return try await group.reduce(into: []) { $0 += $1 }
            }
            #expect(Set(positions).count == 2_000)
            for topic in [Topic.accepted, .content] {
                var count: Int64 = 0
                for number in 0..<4 {
                    count += try await log.bounds(TopicPartition(topic, Int32(number))).upperBound.rawValue
                }
                #expect(count == 1_000)
            }
        }
    }

    @Test("A member is assigned first, then reads everything, old and new", arguments: Backend.allCases)
    func reads(_ backend: Backend) async throws {
        try await backend.withLog { log in
            _ = try await log.append((0..<300).map { .numbered($0, key: "k\($0 % 9)") })
            let member = try await log.join(delivery, topics: accepted)
            guard case .assigned(let assignments) = try await member.next() else {
                Issue.record("The first event is not an assignment.")
                return
            }
            #expect(assignments.count == 4)
            #expect(assignments.allSatisfy { $0.progress == .upTo(0) })
            async let later = log.append((300..<400).map { .numbered($0, key: "k\($0 % 9)") })
            let records = try await member.take(400)
            _ = try await later
            #expect(Set(records.compactMap { $0.number }) == Set(0..<400))
            for (_, inPartition) in Dictionary(grouping: records, by: { $0.position.partition }) {
                #expect(inPartition.map { $0.position.offset.rawValue } == Array(0..<Int64(inPartition.count)))
            }
        }
    }

    @Test("A waiting member wakes on an append, and ends when its task is cancelled", arguments: Backend.allCases)
    func wakes(_ backend: Backend) async throws {
        try await backend.withLog { log in
            let member = try await log.join(delivery, topics: accepted)
            _ = try await member.assignment()
            async let taken = member.take(1)
            _ = try await log.append([.numbered(1)])
            #expect(try await taken.first?.number == 1)
            let ended = try await withThrowingTaskGroup(of: Bool.self) { group in
                group.addTask { try await member.next() == nil }
                group.cancelAll()
                return try await group.next()
            }
            #expect(ended == true)
        }
    }

    @Test("A step's outputs and progress are both there, or neither", arguments: Backend.allCases)
    func stepsAtomically(_ backend: Backend) async throws {
        try await backend.withLog { log in
            let partition = try #require(try await log.append([.numbered(0), .numbered(1)]).first).partition
            let member = try await log.join(delivery, topics: accepted)
            _ = try await member.take(2)
            #expect(try await log.progress(delivery, partition) == nil)
            let outputs: [Record] = [.numbered(7, topic: .outcomes), .numbered(8, topic: .deferred(delay: 60))]
            let positions = try await member.step(Step(outputs: outputs, progress: [partition: .upTo(2)]))
            #expect(positions.map { $0.partition.topic } == [.outcomes, .deferred(delay: 60)])
            #expect(try await log.progress(delivery, partition) == .upTo(2))
            let tooLarge = Step(outputs: [.numbered(9, size: 2 << 20)], progress: [partition: .upTo(3)])
            await #expect(throws: RecordLogError(.recordTooLarge, isRetriable: false)) {
                try await member.step(tooLarge)
            }
            #expect(try await log.progress(delivery, partition) == .upTo(2))
        }
    }

    @Test("A later member starts from the progress and is not given what was done", arguments: Backend.allCases)
    func honoursIncompleteOffsets(_ backend: Backend) async throws {
        try await backend.withLog { log in
            let partition = try #require(try await log.append((0..<10).map { .numbered($0) }).first).partition
            let progress = Progress(watermark: Offset(2), end: Offset(8), incomplete: [Offset(2), Offset(5)])
            let first = try await log.join(delivery, topics: accepted)
            _ = try await first.take(10)
            try await first.step(Step(progress: [partition: progress]))
            await first.leave()
            let second = try await log.join(delivery, topics: accepted)
            #expect(try await second.assignment()[partition] == progress)
            #expect(try await second.take(4).compactMap { $0.number } == [2, 5, 8, 9])
        }
    }

    @Test("A paused partition gives nothing until it is resumed; seek goes back", arguments: Backend.allCases)
    func pausesAndSeeks(_ backend: Backend) async throws {
        try await backend.withLog { log in
            let first = try #require(try await log.append([.numbered(0, key: "a")]).first).partition
            let second = try #require(
                try await (0..<20)
                    .asyncFirst { number in
                        let position = try await log.append([.numbered(1, key: "b\(number)")]).first
                        return position?.partition == first ? nil : position?.partition
                    }
            )
            let member = try await log.join(delivery, topics: accepted)
            _ = try await member.assignment()
            member.pause([first])
            let records = try await member.take(1)
            #expect(records.first?.position.partition == second)
            member.resume([first])
            #expect(try await member.take(1).first?.position.partition == first)
            member.seek(second, to: Offset(0))
            // The first partition may hold more records than the one.
            var partition = first
            while partition == first {
                partition = try #require(try await member.take(1).first).position.partition
            }
            #expect(partition == second)
        }
    }

    @Test("Groups are independent of each other", arguments: Backend.allCases)
    func separatesGroups(_ backend: Backend) async throws {
        try await backend.withLog { log in
            let partition = try #require(try await log.append([.numbered(0)]).first).partition
            let one = try await log.join(delivery, topics: accepted)
            let other = try await log.join(GroupID("metrics"), topics: accepted)
            _ = try await one.take(1)
            try await one.step(Step(progress: [partition: .upTo(1)]))
            #expect(try await other.take(1).first?.number == 0)
            #expect(try await log.progress(GroupID("metrics"), partition) == nil)
        }
    }

    @Test(
        "A second member takes over half, after the first was told and has stepped",
        arguments: Backend.withSeveralMembers
    )
    func rebalances(_ backend: Backend) async throws {
        try await backend.withLog { log in
            let first = try await log.join(delivery, topics: accepted)
            #expect(try await first.assignment().count == 4)
            let second = try await log.join(delivery, topics: accepted)
            guard case .revoked(let revoked) = try await first.next() else {
                Issue.record("The first member was not told.")
                return
            }
            #expect(revoked.count == 2)
            let partition = try #require(revoked.first)
            // Told, but the next call is not made yet: the step still counts.
            try await first.step(Step(progress: [partition: .upTo(0)]))
            async let waiting = first.next()
            #expect(try await Set(second.assignment().keys) == Set(revoked))
            await #expect(throws: RecordLogError(.fenced, isRetriable: false)) {
                try await first.step(Step(progress: [partition: .upTo(0)]))
            }
            await second.leave()
            guard case .assigned(let again) = try await waiting else {
                Issue.record("The first member did not get them back.")
                return
            }
            #expect(Set(again.map { $0.partition }) == Set(revoked))
        }
    }

    @Test("A member that left, or never owned the partition, is fenced", arguments: Backend.allCases)
    func fences(_ backend: Backend) async throws {
        try await backend.withLog { log in
            let member = try await log.join(delivery, topics: accepted)
            _ = try await member.assignment()
            let fenced = RecordLogError(.fenced, isRetriable: false)
            await #expect(throws: fenced) {
                try await member.step(
                    Step(outputs: [.numbered(1)], progress: [TopicPartition(.content, 0): .upTo(0)])
                )
            }
            await member.leave()
            await #expect(throws: fenced) {
                try await member.step(Step(progress: [TopicPartition(.accepted, 0): .upTo(0)]))
            }
            #expect(try await member.next() == nil)
            for number in 0..<4 {
                #expect(try await log.bounds(TopicPartition(.accepted, Int32(number))).upperBound == Offset(0))
            }
        }
    }

    @Test("A step without progress moves none, and is fenced once the member has left", arguments: Backend.allCases)
    func stepsWithoutProgress(_ backend: Backend) async throws {
        try await backend.withLog { log in
            let partition = try #require(try await log.append([.numbered(0), .numbered(1)]).first).partition
            let member = try await log.join(delivery, topics: accepted)
            _ = try await member.take(2)
            try await member.step(Step(progress: [partition: .upTo(1)]))
            let positions = try await member.step(Step(outputs: [.numbered(7, topic: .outcomes)]))
            #expect(positions.map { $0.partition.topic } == [.outcomes])
            #expect(try await log.progress(delivery, partition) == .upTo(1))
            await member.leave()
            await #expect(throws: RecordLogError(.fenced, isRetriable: false)) {
                try await member.step(Step(outputs: [.numbered(8, topic: .outcomes)]))
            }
        }
    }

    @Test("A topic that appears under a selected prefix is assigned", arguments: Backend.allCases)
    func assignsNewTopics(_ backend: Backend) async throws {
        try await backend.withLog(topics: [.accepted]) { log in
            let member = try await log.join(
                delivery,
                topics: TopicSelection(topics: [.accepted], prefixes: [Topic.deferredPrefix])
            )
            #expect(try await member.assignment().count == 4)
            try await backend.create(.deferred(delay: 300), log)
            _ = try await log.append([.numbered(5, topic: .deferred(delay: 300))])
            let assigned = try await member.assignment()
            #expect(Set(assigned.keys.map { $0.topic }) == [.deferred(delay: 300)])
            #expect(try await member.take(1).first?.number == 5)
        }
    }

    @Test("A reference reads its record, and nothing that differs in any field (G7)", arguments: Backend.allCases)
    func checksReferences(_ backend: Backend) async throws {
        try await backend.withLog { log in
            let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
            let positions = try await log.append([
                .numbered(1, topic: .content, id: id), .numbered(2, topic: .content, id: id),
            ])
            let position = try #require(positions.first)
            let stored = try #require(try await log.scan(position.partition, from: Offset(0), recordCountMax: 1).first)
            let reference = Reference(to: stored, in: log.clusterID)
            #expect(try await log.read(reference) == stored)
            var wrong: [Reference] = Array(repeating: reference, count: 5)
            wrong[0].clusterID = ClusterID("another")
            wrong[1].messageID = "01ARZ3NDEKTSV4RRFFQ69G5FAX"
            wrong[2].size += 1
            wrong[3].hash[15] ^= 1
            wrong[4].position.offset = Offset(1)
            for reference in wrong {
                await #expect(throws: RecordLogError(.mismatch, isRetriable: false)) { try await log.read(reference) }
            }
            var missing = reference
            missing.position.offset = Offset(-1)
            await #expect(throws: RecordLogError(.notFound, isRetriable: false)) { try await log.read(missing) }
            // What is above the end may be what this node does not know of yet, where others write too.
            let absent =
                log.isShared
                ? RecordLogError(.unavailable, isRetriable: true) : RecordLogError(.notFound, isRetriable: false)
            try await withThrowingDiscardingTaskGroup { group in
                for offset in [Int64(2), 1 << 60] {
                    var missing = reference
                    missing.position.offset = Offset(offset)
                    group.addTask { [missing] in
                        await #expect(throws: absent) { try await log.read(missing) }
                    }
                }
            }
            missing.position.partition = TopicPartition(Topic("nowhere"), 99)
            await #expect(throws: RecordLogError(.notFound, isRetriable: false)) { try await log.read(missing) }
        }
    }

    /// Not on the mock, which has no admin API.
    @Test("A trim below the watermark takes nothing from the group, and says what it took", arguments: Backend.thatTrim)
    func trims(_ backend: Backend) async throws {
        try await backend.withLog { log in
            let positions = try await log.append((0..<20).map { .numbered($0) })
            let partition = try #require(positions.first?.partition)
            let content = try await log.append([.numbered(20, topic: .content)])
            let first = try #require(
                try await log.scan(partition, from: Offset(0), recordCountMax: 1).first
            )
            let reference = Reference(to: first, in: log.clusterID)
            let member = try await log.join(delivery, topics: accepted)
            _ = try await member.assignment()
            _ = try await member.take(10)
            // 0 to 9 are done, and 11 of those above.
            let progress = Progress(watermark: Offset(10), end: Offset(12), incomplete: [Offset(10)])
            try await member.step(Step(progress: [partition: progress]))
            await member.leave()

            let end = try await log.bounds(partition).upperBound
            try await log.trim([partition: Offset(10)])
            try await log.trim([:])
            let start: Int64 = backend == .embedded ? 0 : 10
            #expect(try await log.bounds(partition) == Offset(start)..<end)
            // A node that has read ahead may serve what it has once more.
            try await eventually("a scan begins where the log does") {
                let left = try await log.scan(partition, from: Offset(0), recordCountMax: 100)
                return left.first?.position.offset == Offset(start)
            }
            if backend != .embedded {
                await #expect(throws: RecordLogError(.notFound, isRetriable: false)) { try await log.read(reference) }
                // What is gone stays gone: a trim does not go back.
                try await log.trim([partition: Offset(3)])
                #expect(try await log.bounds(partition).lowerBound == Offset(10))
            }
            #expect(try await log.bounds(content[0].partition) == Offset(0)..<Offset(1))

            let second = try await log.join(delivery, topics: accepted)
            #expect(try await second.assignment()[partition] == progress)
            var offsets: [Int64] = []
            while offsets.count < 9, let event = try await second.next() {
                switch event {
                case .truncated: Issue.record("A trim below the watermark is no loss.")
                case .records(partition, let records): offsets += records.map { $0.position.offset.rawValue }
                case .records, .assigned, .revoked, .lost: break
                }
            }
            #expect(offsets.prefix(9) == [10, 12, 13, 14, 15, 16, 17, 18, 19])
            await second.leave()
        }
    }

    @Test("A closed log refuses and ends its members; what was appended before completes", arguments: Backend.allCases)
    func closes(_ backend: Backend) async throws {
        try await backend.withLog { log in
            let member = try await log.join(delivery, topics: accepted)
            _ = try await member.assignment()
            async let waiting = member.next()
            let completed = Mutex(0)
            for number in 0..<50 {
                log.append([.numbered(number, topic: .content)]) { result in
                    if case .success = result { completed.withLock { $0 += 1 } }
                }
            }
            await log.close()
            #expect(completed.withLock { $0 } == 50)
            #expect(try await waiting == nil)
            #expect(!log.condition.acceptsMail)
            await #expect(throws: RecordLogError(.closed, isRetriable: false)) {
                try await log.append([.numbered(0)])
            }
            await #expect(throws: RecordLogError(.closed, isRetriable: false)) {
                _ = try await log.join(delivery, topics: accepted)
            }
        }
    }
}

extension Sequence {
    fileprivate func asyncFirst<Value>(_ transform: (Element) async throws -> Value?) async rethrows -> Value? {
        for element in self {
            if let value = try await transform(element) { return value }
        }
        return nil
    }
}
