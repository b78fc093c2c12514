import ClusterLog
import Foundation
import Logging
import NIOCore
import Testing

@testable import EmbeddedLog

/// Each input is a directory of files that are synced.
private let fewSeeds = UInt64(0)..<4

/// The files of the embedded log, after whatever a disk can do to them.
@Suite("Fuzz: the embedded log's files")
struct LogFileFuzzTests {
    @Test("Headers that are read from a blob, written again, are the same blob", arguments: seeds)
    func headers(seed: UInt64) {
        let headers = [RecordHeader("a", ByteBuffer(string: "value")), RecordHeader("", ByteBuffer())]
        let vectors = [[], Array(HeaderCoder.encode(headers).readableBytesView), [1]]
        forEachInput(seed: seed, like: vectors) { octets in
            guard let decoded = HeaderCoder.decode(ByteBuffer(bytes: octets)) else { return }
            #expect(HeaderCoder.decode(HeaderCoder.encode(decoded)) == decoded, "\(octets)")
        }
    }

    private func withDirectory(_ body: (String) async throws -> Void) async throws {
        let directory = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString).path
        defer { try? FileManager.default.removeItem(atPath: directory) }
        try await body(directory)
    }

    private func open(_ directory: String) throws(RecordLogError) -> EmbeddedLog {
        var configuration = EmbeddedLogConfiguration(directory: directory)
        configuration.partitionCount = 2
        configuration.reserveSize = 0
        configuration.segmentSize = 1 << 20
        return try EmbeddedLog(
            configuration: configuration,
            logger: Logger(label: "fuzz") { _ in SwiftLogNoOpLogHandler() }
        )
    }

    /// Goal: the size of a write-ahead log is told without trust in it, and lies within the file.
    @Test("The filled part of a write-ahead log lies within it", arguments: fewSeeds)
    func writeAheadSizes(seed: UInt64) async throws {
        try await self.withDirectory { directory in
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
            let magic: [UInt8] = [0x37, 0x7f, 0x06, 0x82, 0, 0x2d, 0xe2, 0x18]
            let rest: [UInt8] = [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]
            let frame: [UInt8] = [0, 0, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8] + Array(repeating: 0, count: 520)
            let vectors = [[0, 0, 2, 0], [0xff, 0xff, 0xff, 0xff], [0, 1, 0, 0]]
                .map { magic + $0 + rest + frame + frame }
            let path = directory + "/wal"
            try forEachInput(seed: seed, like: vectors, count: 30) { octets in
                // Each is a file: not every truncation.
                guard octets.count % 64 == 0 || seed > seeds.lowerBound else { return }
                try Data(octets).write(to: URL(fileURLWithPath: path))
                #expect((0...Int64(octets.count)).contains(WriteAheadFile.filledSize(path)), "\(octets)")
            }
        }
    }

    /// Goal: a log whose identity is damaged is not opened as another one, or with other partitions.
    @Test("A log with a damaged identity is opened as itself or not at all", arguments: fewSeeds)
    func identities(seed: UInt64) async throws {
        try await self.withDirectory { directory in
            let log = try self.open(directory)
            let id = log.clusterID
            await log.close()
            let path = URL(fileURLWithPath: directory + "/meta")
            let original = try Array(Data(contentsOf: path))
            var random = FuzzRandom(seed: seed)
            for _ in 0..<4 {
                let damaged = random.input(like: [original])
                try Data(damaged).write(to: path)
                do throws(RecordLogError) {
                    let log = try self.open(directory)
                    #expect(
                        damaged == original || log.clusterID != id || Self.names(id, in: damaged),
                        "\(shown(damaged))"
                    )
                    await log.close()
                } catch {
                    #expect(damaged != original && !error.reason.isEmpty)
                }
            }
        }
    }

    private static func names(_ id: ClusterID, in octets: [UInt8]) -> Bool {
        String(decoding: octets, as: UTF8.self).contains("cluster \(id.name)\n")
    }

    /// Goal: what a record in the log claims about places in the log is asked of it without trust.
    @Test("A place that nobody was given is not found, and what is released there is nothing", arguments: fewSeeds)
    func places(seed: UInt64) async throws {
        try await self.withDirectory { directory in
            let embedded = try self.open(directory)
            let memory = InMemoryLog(partitionCount: 2)
            var random = FuzzRandom(seed: seed)
            for log in [embedded, memory] as [any RecordLog] {
                let positions = try await log.append((0..<4).map { Record(topic: .content, key: "k\($0)") })
                for _ in 0..<40 {
                    let offsets = (0..<3)
                        .map { _ in
                            Offset(
                                [0, 1, -1, .min, .max, .random(in: 0...9, using: &random)].randomElement(using: &random)
                                    ?? 0
                            )
                        }
                    let topic = [Topic.content, .accepted, Topic("")].randomElement(using: &random) ?? .content
                    let number = [0, 1, 2, -1, .min, .max].randomElement(using: &random) ?? Int32(0)
                    let reference = Reference(
                        clusterID: log.clusterID,
                        position: Position(partition: TopicPartition(topic, number), offset: offsets[0]),
                        further: Array(offsets.dropFirst(Int.random(in: 1...3, using: &random))),
                        messageID: "made up",
                        size: 0,
                        hash: []
                    )
                    await #expect(throws: RecordLogError.self) { try await log.read(reference) }
                    log.release([reference])
                    let scanned = try await log.scan(reference.position.partition, from: offsets[0], recordCountMax: 9)
                    #expect(scanned.allSatisfy { positions.contains($0.position) })
                }
                await log.close()
            }
        }
    }

    /// Goal: damage on disk is an error that names what is damaged, or goes unnoticed until the record is read; it never
    /// ends the process. Method: octets of every file are changed and files are cut before the log is opened again.
    @Test("A log with damaged segments is opened or refused", arguments: fewSeeds)
    func segments(seed: UInt64) async throws {
        try await self.withDirectory { directory in
            let log = try self.open(directory)
            for number in 0..<8 {
                let value = ByteBuffer(string: String(repeating: "\(number)", count: 3_000))
                _ = try await log.append([Record(topic: .accepted, key: "k\(number)", headers: [], value: value)])
            }
            await log.close()
            var random = FuzzRandom(seed: seed)
            for name in try FileManager.default.contentsOfDirectory(atPath: directory) where name.contains(".db") {
                try Self.damage(directory + "/" + name, &random)
            }
            do throws(RecordLogError) {
                let log = try self.open(directory)
                for number in 0..<Int32(2) {
                    let partition = TopicPartition(.accepted, number)
                    let records = try? await log.scan(partition, from: Offset(0), recordCountMax: 100)
                    #expect(records?.allSatisfy { $0.position.partition == partition } ?? true)
                }
                await log.close()
            } catch {
                #expect(!error.reason.isEmpty)
            }
        }
    }

    private static func damage(_ path: String, _ random: inout FuzzRandom) throws {
        var octets = try Array(Data(contentsOf: URL(fileURLWithPath: path)))
        guard !octets.isEmpty else { return }
        // Where the records and the tables' roots are, more often than in the empty rest.
        let end = min(octets.count, 64 << 10)
        for _ in 0..<Int.random(in: 1...30, using: &random) {
            octets[Int.random(in: 0..<end, using: &random)] =
                [0, 0xff, 0x7f, UInt8.random(in: 0...255, using: &random)]
                .randomElement(using: &random) ?? 0
        }
        if Int.random(in: 0..<4, using: &random) == 0 {
            octets.removeLast(Int.random(in: 0..<octets.count, using: &random))
        }
        try Data(octets).write(to: URL(fileURLWithPath: path))
    }
}
