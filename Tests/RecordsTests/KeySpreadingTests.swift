import ClusterLog
import Mail
import NIOCore
import TestSupport
import Testing

@testable import Records

@Suite("KeySpreading: what records are keyed by")
struct KeySpreadingTests {
    private func configuration(
        partitionCount: Int = 64,
        learns: Bool = true,
        _ adjust: (inout KeySpreading.Configuration) -> Void = { _ in }
    ) -> KeySpreading.Configuration {
        var configuration = KeySpreading.Configuration(partitionCount: partitionCount)
        configuration.learns = learns
        adjust(&configuration)
        return configuration
    }

    /// Feeds so many messages at `rate` a second; returns how many each partition got.
    private func feed(
        _ keys: inout KeySpreading,
        _ stream: inout MailStream,
        count: Int,
        rate: Double,
        from start: Int64 = 0,
        partitionCount: Int = 64
    ) -> [Int] {
        let partitioner = Partitioner(partitionCount: partitionCount)
        var counts = Array(repeating: 0, count: partitionCount)
        for number in 0..<count {
            let (name, _) = stream.next()
            let key = keys.key(for: name, now: start + Int64(Double(number) / rate * 1_000))
            counts[Int(partitioner.partition(for: key.text))] += 1
        }
        return counts
    }

    // MARK: Configured

    @Test("Buckets take turns of five milliseconds, and other nodes begin elsewhere")
    func bucketsTakeTurns() {
        let now: Int64 = 1_800_000_000_000
        for count in [2, 16, 64, 100] {
            let buckets = (0..<Int64(5 * count)).map { KeySpreading.bucket(at: now + $0, phase: 0, bucketCount: count) }
            let turns = stride(from: 0, to: buckets.count, by: 5).map { Array(buckets[$0..<$0 + 5]) }
            #expect(turns.allSatisfy { Set($0).count == 1 })
            #expect(Set(buckets) == Set(0..<count))
            let ahead = KeySpreading.bucket(at: now, phase: 3, bucketCount: count)
            #expect(ahead == (buckets[0] + 3) % count)
        }
        #expect((0..<4).map { KeySpreading.bucket(at: now, phase: $0, bucketCount: 64) } == [0, 1, 2, 3])
        // Neither a time before 1970 nor the largest phase ends the process.
        #expect((0..<7).contains(KeySpreading.bucket(at: .min, phase: .max, bucketCount: 7)))
    }

    @Test("Aliases share a key, and what the configuration says of buckets holds", arguments: [false, true])
    func followsConfiguration(learns: Bool) {
        var keys = KeySpreading(
            self.configuration(learns: learns) {
                $0.aliases = KeySpreading.wellKnownAliases
                $0.aliases["partner.example"] = "example.com"
                $0.bucketCounts = ["gmail.com": 16, "example.com": 1, "too-many.example": 1_000]
            }
        )
        func key(_ name: String) -> String { keys.key(for: name, now: 5 * 63).text }
        #expect(key("gmail.com") == "gmail.com#15")
        #expect(key("googlemail.com") == "gmail.com#15")
        #expect(key("partner.example") == "example.com")
        #expect(key("hotmail.com") == "outlook.com")
        #expect(key("other.example") == "other.example")
        #expect(key("too-many.example") == "too-many.example#63")
    }

    @Test("A name that is configured never to be spread is not, whatever it carries")
    func neverSpreads() {
        var keys = KeySpreading(self.configuration { $0.bucketCounts = ["gmail.com": 1] })
        var stream = MailStream.provider(tailCount: 100, seed: 1)
        _ = self.feed(&keys, &stream, count: 20_000, rate: 1_000)
        #expect(keys.bucketCount(of: "gmail.com") == 1)
    }

    @Test("Aliases are a table without chains: whom a domain is keyed as is keyed as itself")
    func aliasesAreFlat() {
        let aliases = KeySpreading.wellKnownAliases
        #expect(aliases.values.allSatisfy { aliases[$0] == nil })
        #expect(aliases.allSatisfy { Domain.isPlain($0.key) && Domain.isPlain($0.value) })
    }

    // MARK: Learned

    @Test("A provider with 76 % of the mail occupies no partition alone", arguments: [8, 12, 64], UInt64(0)..<3)
    func spreadsProvider(partitionCount: Int, seed: UInt64) {
        var keys = KeySpreading(self.configuration(partitionCount: partitionCount))
        var stream = MailStream.provider(tailCount: 20_000, seed: seed)
        _ = self.feed(&keys, &stream, count: 30_000, rate: 2_000, partitionCount: partitionCount)
        #expect(keys.bucketCount(of: "gmail.com") == partitionCount)
        let count = 400 * partitionCount
        let counts = self.feed(&keys, &stream, count: count, rate: 2_000, from: 15_000, partitionCount: partitionCount)
        // The tail is one domain to a partition and no more than noise beside the provider.
        let mean = Double(count) / Double(partitionCount)
        #expect(Double(counts.max() ?? 0) <= 2 * mean)
        #expect(Double(counts.min() ?? 0) >= 0.5 * mean)
    }

    @Test("The more partitions, the smaller the names that are spread")
    func spreadsByShare() {
        var bucketCounts: [[Int]] = []
        for partitionCount in [8, 64, 1_024] {
            var keys = KeySpreading(self.configuration(partitionCount: partitionCount))
            var stream = MailStream.provider(tailCount: 1_000, seed: 1)
            _ = self.feed(&keys, &stream, count: 60_000, rate: 2_000, partitionCount: partitionCount)
            bucketCounts.append(
                ["gmail.com", "d1.example", "d2.example", "d900.example"].map { keys.bucketCount(of: $0) }
            )
        }
        // 76 %, 3.2 %, 1.6 % and 0.004 % of the mail, by twice their parts of a partition, up to the next power of two.
        #expect(bucketCounts == [[8, 1, 1, 1], [64, 8, 4, 1], [1_024, 128, 64, 1]])
    }

    @Test("What is spread over all partitions is spread within 1.3x of the mean", arguments: UInt64(0)..<4)
    func spreadsEvenly(seed: UInt64) {
        var keys = KeySpreading(self.configuration())
        var stream = MailStream([("gmail.com", 1)], seed: seed)
        _ = self.feed(&keys, &stream, count: 1_000, rate: 1_000)
        let counts = self.feed(&keys, &stream, count: 64_000, rate: 1_000, from: 1_000)
        #expect(Double(counts.max() ?? 0) <= 1.3 * 1_000)
        #expect(Double(counts.min() ?? 0) >= 1_000 / 1.3)
    }

    @Test("Cold: the first messages go to one partition, a hot name is spread within its first hundred")
    func startsCold() {
        var keys = KeySpreading(self.configuration())
        let first = (Int64(0)..<100).map { keys.key(for: "hot.example", now: $0) }
        #expect(first.prefix(60).allSatisfy { $0.bucket == nil })
        #expect(first.suffix(30).allSatisfy { $0.bucket != nil })
    }

    @Test("A little mail is not spread, even when it is all for one domain")
    func ignoresLittle() {
        var keys = KeySpreading(self.configuration { $0.hotRate = 20 })
        for number in 0..<20_000 {
            let key = keys.key(for: "quiet.example", now: Int64(number) * 100)
            #expect(key.bucket == nil)
        }
    }

    @Test("A burst is spread while it lasts and comes together again, a step a minute")
    func forgetsBurst() {
        var keys = KeySpreading(self.configuration())
        var usual = MailStream([("a.example", 1)] + (0..<500).map { ("d\($0).example", 2) }, seed: 3)
        _ = self.feed(&keys, &usual, count: 12_000, rate: 100)
        #expect(keys.bucketCount(of: "a.example") == 1)
        var burst = MailStream([("a.example", 1)], seed: 4)
        _ = self.feed(&keys, &burst, count: 40_000, rate: 4_000, from: 120_000)
        let spread = keys.bucketCount(of: "a.example")
        #expect(spread >= 32)
        var previous = spread
        var now: Int64 = 130_000
        while now < 130_000 + 20 * 60_000 {
            _ = self.feed(&keys, &usual, count: 6_000, rate: 100, from: now)
            now += 60_000
            let count = keys.bucketCount(of: "a.example")
            #expect(count == previous || count == previous / 2)
            previous = count
        }
        #expect(previous == 1)
    }

    /// Goal: no flapping. Method: names with shares around each threshold, for half an hour; a name's buckets may settle,
    /// then they stay.
    @Test("Steady mail keeps its buckets", arguments: UInt64(0)..<2)
    func doesNotFlap(seed: UInt64) {
        var keys = KeySpreading(self.configuration { $0.hotRate = 1 })
        let names = (0..<12).map { ("n\($0).example", 0.004 * (1 + Double($0) / 3)) }
        let rest = 1 - names.reduce(0) { $0 + $1.1 }
        var stream = MailStream(names + (0..<300).map { ("d\($0).example", rest / 300) }, seed: seed)
        var changeCount = 0
        var previous: [Int] = []
        for minute in 0..<20 {
            _ = self.feed(&keys, &stream, count: 12_000, rate: 200, from: Int64(minute) * 60_000)
            let now = names.map { keys.bucketCount(of: $0.0) }
            if minute > 5 { changeCount += zip(now, previous).filter { $0 != $1 }.count }
            previous = now
        }
        #expect(changeCount <= 2, "\(previous)")
    }

    @Test("However many names come, so many are kept; what is busy among them is found")
    func isBounded() {
        var keys = KeySpreading(self.configuration())
        var largest = 0
        for number in 0..<200_000 {
            let isBusy = number % 10 == 0
            _ = keys.key(for: isBusy ? "busy.example" : "n\(number).example", now: Int64(number / 2))
            largest = max(largest, keys.trackedCount)
        }
        #expect(largest <= 512)
        #expect(keys.bucketCount(of: "busy.example") >= 8)
    }

    @Test("The same records give the same keys; a clock that goes back does no harm", arguments: UInt64(0)..<8)
    func isDeterministic(seed: UInt64) {
        var left = KeySpreading(self.configuration { $0.aliases = KeySpreading.wellKnownAliases })
        var right = left
        var stream = MailStream.provider(tailCount: 2_000, seed: seed)
        var now: Int64 = 1_000_000
        for number in 0..<20_000 {
            let (name, _) = stream.next()
            now += number % 5_000 == 4_999 ? -500_000 : Int64(number % 3)
            let key = left.key(for: name, now: now)
            #expect(key == right.key(for: name, now: now))
            #expect(key.name == name)
            #expect((key.bucket ?? 0) < 64)
        }
    }

    @Test("After a night without mail nothing is left of the evening")
    func forgetsOverNight() {
        var keys = KeySpreading(self.configuration())
        var stream = MailStream.provider(tailCount: 100, seed: 9)
        _ = self.feed(&keys, &stream, count: 20_000, rate: 1_000)
        #expect(keys.bucketCount(of: "gmail.com") == 64)
        for minute in 0..<8 {
            _ = keys.key(for: "other.example", now: 30_000_000 + Int64(minute) * 60_000)
        }
        #expect(keys.bucketCount(of: "gmail.com") == 1)
        #expect(keys.trackedCount <= 2)
    }
}

@Suite("QueueEntry: the bucket that a message was accepted into")
struct DomainBucketTests {
    private func stored(_ entry: QueueEntry, _ topic: Topic, key: String) throws -> StoredRecord {
        let record = try entry.record(topic: topic, key: key, content: .init())
        return StoredRecord(
            position: Position(partition: TopicPartition(topic, 0), offset: Offset(0)),
            timestamp: 0,
            key: key,
            headers: record.headers,
            value: record.value
        )
    }

    /// Goal: the outcomes of one recipient are in one partition, in order, whatever nodes have learned meanwhile.
    @Test("It is read from the key once and travels with the message")
    func travels() throws {
        let fresh = try QueueEntry(self.stored(QueueEntryTests.full, .accepted, key: "dest.example#37"))
        #expect(fresh.domainBucket == 37)
        let waiting = try QueueEntry(self.stored(fresh, .deferred(delay: 60), key: "mx.dest.example#5"))
        #expect(waiting.domainBucket == 37)
        for recipient in waiting.envelope.recipients {
            #expect(waiting.outcomeKey(of: recipient) == "dest.example#37")
            #expect(fresh.outcomeKey(of: recipient) == "dest.example#37")
        }
        let plain = try QueueEntry(self.stored(QueueEntryTests.full, .accepted, key: "dest.example"))
        #expect(plain.outcomeKey(of: plain.envelope.recipients[0]) == "dest.example")
    }

    /// Field 20 as it is on the wire: another version's octets, or nonsense.
    @Test(
        "Field 20 is the bucket and one; a bucket that cannot be is none",
        arguments: [
            ([38], 37), ([0], nil), ([0x90, 0x4e], 9_999), ([0x91, 0x4e], nil), ([0xff, 0xff, 0xff, 0xff, 0x0f], nil),
        ] as [([UInt8], Int?)]
    )
    func readsField(value: [UInt8], bucket: Int?) throws {
        let octets = QueueEntryTests.full.encoded() + [0xa0, 0x01] + value
        let entry = try QueueEntry(decoding: .init(bytes: octets))
        #expect(entry.domainBucket == bucket)
        #expect(bucket == nil || entry.encoded() == octets)
    }
}

extension Domain {
    fileprivate static func isPlain(_ text: String) -> Bool {
        text.utf8.allSatisfy { (0x61...0x7a).contains($0) || (0x30...0x39).contains($0) || $0 == 0x2e || $0 == 0x2d }
    }
}
