import ClusterLog
import EmbeddedLog
import Foundation
import Logging
import NIOCore
import Synchronization
import Testing

/// What only the embedded log does: files, space, retention.
@Suite("The embedded log")
struct EmbeddedLogTests {
    private func withLog(
        _ configure: (inout EmbeddedLogConfiguration) -> Void = { _ in },
        _ body: (EmbeddedLog, EmbeddedLogConfiguration) async throws -> Void
    ) async throws {
        try await withDirectory { directory in
            var configuration = EmbeddedLogConfiguration.test(directory)
            configure(&configuration)
            let log = try EmbeddedLog(configuration: configuration, logger: .quiet)
            try await body(log, configuration)
            await log.close()
        }
    }

    private func files(_ configuration: EmbeddedLogConfiguration) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: configuration.directory)
            .filter { $0.hasSuffix(".db") }.sorted()
    }

    @Test("Everything is there after a restart: records, offsets, progress, topics, identity")
    func reopens() async throws {
        try await withDirectory { directory in
            let configuration = EmbeddedLogConfiguration.test(directory)
            var log = try EmbeddedLog(configuration: configuration, logger: .quiet)
            let clusterID = log.clusterID
            let partition = try #require(try await log.append((0..<50).map { .numbered($0) }).first).partition
            let member = try await log.join(delivery, topics: accepted)
            let progress = Progress(watermark: Offset(3), end: Offset(9), incomplete: [Offset(3), Offset(7)])
            try await member.step(Step(outputs: [.numbered(1, topic: .outcomes)], progress: [partition: progress]))
            for round in 0..<3 {
                if round > 0 { await log.roll() }
                await log.close()
                log = try EmbeddedLog(configuration: configuration, logger: .quiet)
                #expect(log.clusterID == clusterID)
                #expect(try await log.progress(delivery, partition) == progress)
                #expect(try await log.bounds(partition) == Offset(0)..<Offset(50))
                #expect(
                    try await log.scan(partition, from: Offset(0), recordCountMax: 99).compactMap { $0.number }
                        == Array(0..<50)
                )
                #expect(try await Set(log.topics()) == [.accepted, .outcomes])
            }
            #expect(try await log.append([.numbered(50)]).first?.offset == Offset(50))
            await log.close()
        }
    }

    @Test("A second process is refused and told who has the log; so is another partition count")
    func locks() async throws {
        try await self.withLog { log, configuration in
            do throws(RecordLogError) {
                _ = try EmbeddedLog(configuration: configuration, logger: .quiet)
                Issue.record("Opened twice.")
            } catch {
                #expect(error.code == .configuration)
                #expect(error.reason.contains("\(ProcessInfo.processInfo.processIdentifier)"))
            }
            await log.close()
            var other = configuration
            other.partitionCount = 5
            do throws(RecordLogError) {
                _ = try EmbeddedLog(configuration: other, logger: .quiet)
                Issue.record("Opened with another partition count.")
            } catch {
                #expect(error.code == .configuration)
                #expect(error.reason.contains("4") && error.reason.contains("5"))
            }
        }
    }

    @Test("Nobody but the user that runs the node reads what is in the directory")
    func keepsOthersOut() async throws {
        try await self.withLog { _, configuration in
            let attributes = try FileManager.default.attributesOfItem(atPath: configuration.directory)
            #expect((attributes[.posixPermissions] as? NSNumber)?.intValue == 0o700)
        }
    }

    @Test("Records are read across segments, from disk, in order and without gaps")
    func readsAcrossSegments() async throws {
        try await self.withLog(
            { configuration in
                configuration.segmentSize = 256 << 10
                configuration.tailCacheSize = 0
                configuration.batchCountMax = 7
            },
            { log, configuration in
                for round in 0..<20 {
                    _ = try await log.append((0..<20).map { .numbered(round * 20 + $0, size: 2_000) })
                }
                #expect(try self.files(configuration).count > 2)
                let member = try await log.join(delivery, topics: accepted)
                #expect(try await member.take(400).compactMap { $0.number } == Array(0..<400))
            }
        )
    }

    @Test("Segments go once every group is done with them, and not before")
    func freesFinishedSegments() async throws {
        try await self.withLog { log, configuration in
            let partition = try #require(
                try await log.append((0..<100).map { .numbered($0, size: 4_000) }).first
            )
            .partition
            await log.roll()
            await log.maintain()
            #expect(try self.files(configuration).count == 2, "Nobody joined: it is all still needed.")
            let member = try await log.join(delivery, topics: accepted)
            let slow = try await log.join(GroupID("slow"), topics: accepted)
            _ = try await member.take(100)
            try await member.step(Step(progress: [partition: .upTo(100)]))
            await log.maintain()
            #expect(try self.files(configuration).count == 2, "A group that joined and did nothing yet needs it.")
            #expect(try await slow.take(100).count == 100)
            let left = Progress(watermark: Offset(50), end: Offset(100), incomplete: [Offset(50)])
            try await slow.step(Step(progress: [partition: left]))
            await log.maintain()
            #expect(try await log.bounds(partition) == Offset(50)..<Offset(100))
            #expect(try await log.scan(partition, from: Offset(0), recordCountMax: 9).compactMap { $0.number } == [50])
            #expect(
                try self.files(configuration).first == "segment-00000001-00000001-1.db",
                "What is left was rewritten."
            )
            try await slow.step(Step(progress: [partition: .upTo(100)]))
            await log.maintain()
            #expect(try self.files(configuration) == ["segment-00000002.db"])
            #expect(try await log.bounds(partition) == Offset(100)..<Offset(100))
            #expect(try await log.append([.numbered(100)]).first?.offset == Offset(100))
        }
    }

    /// Method: a copy of the directory is what a process that ends at that moment leaves.
    @Test("The WAL of a finished segment serves another one, and gives back nothing of its first use")
    func recyclesWAL() async throws {
        try await self.withLog(
            { $0.segmentSize = 1 << 20 },
            { log, configuration in
                let copy = configuration.directory + ".copy"
                let member = try await log.join(delivery, topics: accepted)
                for round in 0..<6 {
                    // Less each time: behind the last frame lie older ones.
                    let count = 120 - round * 20
                    let records = (0..<count).map { Record.numbered(round * 1_000 + $0, size: 4_000) }
                    let first = try #require(try await log.append(records).first)
                    defer { try? FileManager.default.removeItem(atPath: copy) }
                    try FileManager.default.copyItem(atPath: configuration.directory, toPath: copy)
                    var other = configuration
                    other.directory = copy
                    let found = try EmbeddedLog(configuration: other, logger: .quiet)
                    let scanned = try await found.scan(first.partition, from: first.offset, recordCountMax: 999)
                    #expect(scanned.compactMap { $0.number } == (0..<count).map { round * 1_000 + $0 })
                    let end = first.offset.advanced(by: Int64(count))
                    #expect(try await found.bounds(first.partition).upperBound == end)
                    await found.close()

                    #expect(try await member.take(count).count == count)
                    try await member.step(Step(progress: [first.partition: Progress(watermark: end)]))
                    let spares = try self.spares(configuration)
                    #expect(spares.count == (round > 0 ? 1 : 0))
                    await log.roll()
                    #expect(try self.spares(configuration).isDisjoint(with: spares), "The new segment took it.")
                    await log.maintain()
                    // The reader lets go of the file first, then it is cleared.
                    _ = try await log.scan(first.partition, from: Offset(0), recordCountMax: 1)
                    await log.maintain()
                }
            }
        )
    }

    private func spares(_ configuration: EmbeddedLogConfiguration) throws -> Set<String> {
        let files = try FileManager.default.contentsOfDirectory(atPath: configuration.directory)
        return Set(files.filter { $0.hasPrefix("spare-") })
    }

    @Test("Content goes once it is released, or past its retention", arguments: [false, true])
    func freesContent(byTime: Bool) async throws {
        try await self.withLog(
            { if byTime { $0.contentRetention = .zero } },
            { log, configuration in
                let positions = try await log.append((0..<40).map { .numbered($0, topic: .content, size: 10_000) })
                let partition = try #require(positions.first).partition
                let records = try await log.scan(partition, from: Offset(0), recordCountMax: 99)
                let references = records.map { Reference(to: $0, in: log.clusterID) }
                if !byTime { log.release(Array(references.dropLast())) }
                await log.roll()
                await log.maintain()
                if !byTime {
                    let last = try #require(references.last)
                    #expect(try await log.read(last) == records.last)
                    let first = try #require(references.first)
                    await #expect(throws: RecordLogError(.notFound, isRetriable: false)) { try await log.read(first) }
                    log.release([last])
                    await log.maintain()
                }
                #expect(try self.files(configuration) == ["segment-00000002.db"])
            }
        )
    }

    @Test("History moves to a file a day and is read from there, in order")
    func keepsHistory() async throws {
        try await self.withLog { log, configuration in
            for round in 0..<3 {
                _ = try await log.append((0..<30).map { .numbered(round * 30 + $0, topic: .outcomes) })
                await log.roll()
            }
            _ = try await log.append((90..<95).map { .numbered($0, topic: .outcomes) })
            await log.maintain()
            let names = try self.files(configuration)
            #expect(names.count == 2 && names[0].hasPrefix("history-") && names[1] == "segment-00000004.db")
            let member = try await log.join(GroupID("bounce"), topics: TopicSelection(topics: [.outcomes]))
            #expect(try await member.take(95).compactMap { $0.number } == Array(0..<95))
            await log.close()
            let again = try EmbeddedLog(configuration: configuration, logger: .quiet)
            let partition = TopicPartition(.outcomes, Partitioner(partitionCount: 4).partition(for: "example.net"))
            #expect(try await again.bounds(partition) == Offset(0)..<Offset(95))
            #expect(
                try await again.scan(partition, from: Offset(28), recordCountMax: 4).compactMap { $0.number } == [
                    28, 29, 30, 31,
                ]
            )
            await again.close()
        }
    }

    /// Method: one octet of a file that is not written any more is changed: the version of one record's headers.
    @Test("A record whose headers are damaged on disk is read as such, and those around it as ever")
    func readsPastDamage() async throws {
        try await self.withLog { log, configuration in
            let partition = try #require(
                try await log.append((0..<9).map { .numbered($0, topic: .outcomes) }).first
            )
            .partition
            await log.roll()
            await log.maintain()
            await log.close()
            let name = try #require(try self.files(configuration).first { $0.hasPrefix("history-") })
            let path = configuration.directory + "/" + name
            var octets = try Data(contentsOf: URL(fileURLWithPath: path))
            let headers = Data([1, 6]) + Data("number".utf8) + Data([0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 4])
            octets[try #require(octets.range(of: headers)).lowerBound] = 0x81
            try octets.write(to: URL(fileURLWithPath: path))

            let again = try EmbeddedLog(configuration: configuration, logger: .quiet)
            let member = try await again.join(GroupID("bounce"), topics: TopicSelection(topics: [.outcomes]))
            let records = try await member.take(9)
            #expect(records.map { $0.number } == [0, 1, 2, 3, nil, 5, 6, 7, 8])
            #expect(records[4].headers.map(\.name) == [StoredRecord.damagedHeadersName])
            #expect(records[4].value == Record.numbered(4).value)
            let reference = Reference(to: records[4], in: again.clusterID)
            let scanned = try await again.scan(partition, from: Offset(4), recordCountMax: 1)
            #expect(scanned == [records[4]])
            await #expect(throws: RecordLogError(.mismatch, isRetriable: false)) {
                var named = reference
                named.messageID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
                return try await again.read(named)
            }
            await again.close()
        }
    }

    @Test("History goes when it is too large, but not before its consumers have read it")
    func dropsHistory() async throws {
        try await self.withLog(
            { $0.historySizeMax = 0 },
            { log, configuration in
                let partition = try #require(try await log.append([.numbered(0, topic: .outcomes)]).first).partition
                let member = try await log.join(GroupID("bounce"), topics: TopicSelection(topics: [.outcomes]))
                await log.roll()
                await log.maintain()
                #expect(try self.files(configuration).count == 2)
                _ = try await member.take(1)
                try await member.step(Step(progress: [partition: .upTo(1)]))
                await log.maintain()
                #expect(try self.files(configuration) == ["segment-00000002.db"])
                #expect(try await log.bounds(partition) == Offset(1)..<Offset(1))
            }
        )
    }

    @Test("Of a compacted topic the newest record of each key stays")
    func compactsControl() async throws {
        try await self.withLog { log, configuration in
            var partitions: Set<TopicPartition> = []
            for round in 0..<3 {
                let records = (0..<5).map { Record.numbered(round * 5 + $0, topic: .control, key: "key\($0)") }
                partitions.formUnion(try await log.append(records).map { $0.partition })
                await log.roll()
                await log.maintain()
            }
            #expect(try self.files(configuration) == ["compacted.db", "segment-00000004.db"])
            var found: [Int] = []
            for partition in partitions {
                found += try await log.scan(partition, from: Offset(0), recordCountMax: 99).compactMap { $0.number }
            }
            #expect(found.sorted() == Array(10..<15))
        }
    }

    @Test("Short of space: mail is refused, steps and content go on, and it recovers by itself")
    func keepsReserve() async throws {
        try await self.withLog(
            { configuration in
                configuration.sizeMax = 3 << 20
                configuration.segmentSize = 512 << 10
            },
            { log, _ in
                var count = 0
                var refused: RecordLogError?
                while refused == nil, count < 1_000 {
                    do throws(RecordLogError) {
                        _ = try await log.append([.numbered(count, size: 20_000)])
                        count += 1
                    } catch { refused = error }
                }
                #expect(refused == RecordLogError(.noSpace, isRetriable: true))
                guard case .reserveOnly = log.condition else {
                    Issue.record("\(log.condition)")
                    return
                }
                #expect(!log.condition.acceptsMail)
                _ = try await log.append([.numbered(0, topic: .content)])
                let member = try await log.join(delivery, topics: accepted)
                let records = try await member.take(count)
                let partition = try #require(records.first).position.partition
                try await member.step(
                    Step(outputs: [.numbered(0, topic: .outcomes)], progress: [partition: .upTo(Int64(count))])
                )
                await log.maintain()
                #expect(log.condition == .writable)
                _ = try await log.append([.numbered(count)])
            }
        )
    }

    @Test("An append above the budget fails with queueFull, and the log goes on")
    func boundsQueue() async throws {
        try await self.withLog(
            { $0.queueSizeMax = 200_000 },
            { log, _ in
                let results = Mutex<[Bool]>([])
                for number in 0..<200 {
                    log.append([.numbered(number, size: 50_000)]) { result in
                        switch result {
                        case .success: results.withLock { $0.append(true) }
                        case .failure(let error):
                            #expect(error == RecordLogError(.queueFull, isRetriable: true))
                            results.withLock { $0.append(false) }
                        }
                    }
                }
                await log.roll()
                let (done, all) = results.withLock { ($0.count { $0 }, $0.count) }
                #expect(all == 200 && done > 0 && done < 200)
                let position = try #require(try await log.append([.numbered(1)]).first)
                #expect(position.offset == Offset(Int64(done)))
            }
        )
    }

    @Test("A step larger than the budget is written: refused, it would come again as it is for ever")
    func takesLargeSteps() async throws {
        try await self.withLog(
            { $0.queueSizeMax = 200_000 },
            { log, _ in
                let position = try #require(try await log.append([.numbered(0)]).first)
                let member = try await log.join(delivery, topics: accepted)
                _ = try await member.take(1)
                let outputs = (0..<8).map { Record.numbered($0, topic: .outcomes, size: 50_000) }
                let positions = try await member.step(Step(outputs: outputs, progress: [position.partition: .upTo(1)]))
                #expect(positions.count == 8)
            }
        )
    }
}
