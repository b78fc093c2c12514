import ClusterLog
import DequeModule

/// When, and how far, each partition is trimmed behind its durable watermark (DESIGN §2, ADR 0012). Instants and spans
/// are milliseconds.
///
/// A partition is trimmed to where its durable watermark was one grace ago, at most once an interval, and only for a
/// gain that is worth a request. A durable watermark is one that a committed step carried, and it never goes back, so no
/// later owner begins below it: trimming loses nothing and raises no alarm, whoever does it and however late.
struct TrimSchedule: Sendable {
    struct Configuration: Sendable {
        /// How long records stay behind the watermark: views and scans that began above them may still read there.
        var grace: Int64
        /// A partition is not trimmed more often.
        var interval: Int64
        /// What a trim must free at least: so many records, or so many octets.
        var recordCountMin: Int64 = 1_000
        var octetsMin = 8 << 20
        /// When the log refuses, it is not asked again before: somebody has to change something there.
        var refusedPause: Int64 = 3_600_000

        /// Once a minute, or once a grace when that is shorter.
        init(grace: Int64) {
            self.grace = grace
            self.interval = max(1_000, min(60_000, grace))
        }

        /// Between two looks at the watermarks.
        var lookInterval: Int64 { max(1_000, min(self.interval, self.grace / 8)) }
    }

    /// Where a partition stood at some time.
    struct Standing: Sendable {
        /// Durable.
        var watermark: Offset
        /// Of all records read so far: a bound on what lies below.
        var octetsRead: Int
    }

    private struct Sample {
        var time: Int64
        var standing: Standing
    }

    private struct Place {
        /// Oldest first; one a look, as far as the watermark moved.
        var samples: Deque<Sample> = []
        /// What was last trimmed to; `nil` when an earlier owner may have trimmed.
        var trimmed: Standing?
        var nextAt: Int64 = 0
    }

    /// What the end of a trim tells.
    struct Report: Sendable {
        /// Offsets that went, as far as it is known where the partitions began.
        var offsetCount: Int64 = 0
        /// For the logger, the first time in a row.
        var failure: RecordLogError?
    }

    let configuration: Configuration
    private var places: [TopicPartition: Place] = [:]
    /// What the log is asked for now.
    private var inFlight: [TopicPartition: Standing] = [:]
    private var nextLookAt: Int64 = 0
    private var hasFailed = false

    init(configuration: Configuration) {
        precondition(configuration.grace > 0)
        self.configuration = configuration
    }

    func isLookDue(now: Int64) -> Bool { now >= self.nextLookAt && self.inFlight.isEmpty }

    /// Looks at where the partitions stand.
    ///
    /// - Returns: what to trim now; then ``ended(_:now:)``.
    mutating func look(_ standings: [TopicPartition: Standing], now: Int64) -> [TopicPartition: Offset] {
        self.nextLookAt = now + self.configuration.lookInterval
        for (partition, standing) in standings {
            var place = self.places[partition] ?? Self.newPlace(standing)
            if standing.watermark > place.samples.last?.standing.watermark ?? Offset(0) {
                place.samples.append(Sample(time: now, standing: standing))
            }
            // Of those that are old enough the newest counts.
            while place.samples.count > 1, place.samples[1].time + self.configuration.grace <= now {
                place.samples.removeFirst()
            }
            if let oldest = place.samples.first, oldest.time + self.configuration.grace <= now, place.nextAt <= now,
                self.isWorthIt(oldest.standing, place.trimmed)
            {
                self.inFlight[partition] = oldest.standing
            }
            self.places[partition] = place
        }
        return self.inFlight.mapValues(\.watermark)
    }

    private static func newPlace(_ standing: Standing) -> Place {
        var place = Place()
        if standing.watermark == Offset(0) { place.trimmed = Standing(watermark: Offset(0), octetsRead: 0) }
        return place
    }

    private func isWorthIt(_ standing: Standing, _ trimmed: Standing?) -> Bool {
        guard let trimmed else { return true }
        let count = standing.watermark.rawValue - trimmed.watermark.rawValue
        guard count > 0 else { return false }
        return count >= self.configuration.recordCountMin
            || standing.octetsRead - trimmed.octetsRead >= self.configuration.octetsMin
    }

    mutating func ended(_ result: Result<Void, RecordLogError>, now: Int64) -> Report {
        var report = Report()
        var pause = self.configuration.interval
        switch result {
        case .success:
            self.hasFailed = false
        case .failure(let error):
            if error.code == .configuration { pause = self.configuration.refusedPause }
            if !self.hasFailed { report.failure = error }
            self.hasFailed = true
        }
        for (partition, standing) in self.inFlight {
            guard self.places[partition] != nil else { continue }
            self.places[partition]?.nextAt = now + pause
            guard case .success = result else { continue }
            if let trimmed = self.places[partition]?.trimmed {
                report.offsetCount += standing.watermark.rawValue - trimmed.watermark.rawValue
            }
            self.places[partition]?.trimmed = standing
        }
        self.inFlight = [:]
        return report
    }

    /// These partitions are another owner's, who begins anew.
    mutating func forget(_ partitions: Set<TopicPartition>) {
        for partition in partitions { self.places[partition] = nil }
    }
}

extension DeliveryCore {
    /// Gives up what nobody will read again: of `accepted` and of the tiers. `held` has what waits for an operator, and
    /// `content` what references of any partition name; of those nothing is known by a watermark.
    mutating func tickTrims(now: Int64) {
        guard !self.isDraining, self.trims?.isLookDue(now: now) == true else { return }
        var standings: [TopicPartition: TrimSchedule.Standing] = [:]
        for (id, partition) in self.partitions where id.topic == .accepted || id.topic.deferredDelay != nil {
            standings[id] = .init(watermark: partition.durable.watermark, octetsRead: partition.octetsRead)
        }
        guard let offsets = self.trims?.look(standings, now: now), !offsets.isEmpty else { return }
        self.act(.trim(offsets))
    }

    mutating func trimmed(_ result: Result<Void, RecordLogError>, now: Int64) -> TrimSchedule.Report {
        self.trims?.ended(result, now: now) ?? TrimSchedule.Report()
    }
}
