public import ClusterLog
import Foundation
import Mail
import NIOCore
public import NodeSupport
import Records

/// Traces read straight from `posthorn.outcomes`: for one machine, where nobody keeps an index.
///
/// A search goes back from the newest event and ends when everything since the message was accepted was seen, or when it
/// has taken its time: then the oldest events are missing, and the answer says so. It costs nothing while nobody asks.
public struct LogTracing: MessageTracing {
    private static let scanCount = 500

    private let log: any RecordLog
    private let clock: any NodeClock
    private let timeMax: Duration

    /// - Parameter timeMax: how long one search reads.
    public init(log: any RecordLog, clock: any NodeClock, timeMax: Duration = .seconds(20)) {
        self.log = log
        self.clock = clock
        self.timeMax = timeMax
    }

    /// What is left to be read of one partition, from its end on.
    private struct Rest {
        var partition: TopicPartition
        var offsets: Range<Offset>
    }

    public func trace(_ query: TraceQuery) async throws(QueueAdministrationError) -> AdminAPI.Trace {
        guard let subject = TraceSubject(query.subject) else {
            throw QueueAdministrationError(.invalidRequest, reason: "that is no message id: 26 letters and digits")
        }
        do throws(RecordLogError) {
            return try await self.search(subject, limit: query.limit)
        } catch {
            throw QueueAdministrationError(.unavailable, reason: "the log cannot be read: \(error)")
        }
    }

    private func search(_ subject: TraceSubject, limit: Int) async throws(RecordLogError) -> AdminAPI.Trace {
        let start = self.clock.monotonicNanoseconds
        var rests: [Rest] = []
        for partition in 0..<self.log.partitionCount {
            let id = TopicPartition(.outcomes, Int32(partition))
            let bounds = try await self.log.bounds(id)
            let from = try await self.start(of: subject, in: id, bounds)
            if from < bounds.upperBound { rests.append(Rest(partition: id, offsets: from..<bounds.upperBound)) }
        }
        var events: [AdminAPI.TraceEvent] = []
        // A turn takes the newest part of each partition.
        while !rests.isEmpty, Duration.nanoseconds(self.clock.monotonicNanoseconds - start) < self.timeMax {
            for index in rests.indices {
                events += try await self.readBack(&rests[index], subject)
            }
            rests.removeAll { $0.offsets.isEmpty }
        }
        events.sort { $0.time < $1.time }
        return AdminAPI.Trace(
            events: Array(events.suffix(limit)),
            isTruncated: !rests.isEmpty || events.count > limit
        )
    }

    /// The events of a partition's last records; takes them off the rest.
    private func readBack(
        _ rest: inout Rest,
        _ subject: TraceSubject
    ) async throws(RecordLogError) -> [AdminAPI.TraceEvent] {
        let end = rest.offsets.upperBound
        let from = max(rest.offsets.lowerBound, end.advanced(by: -Int64(Self.scanCount)))
        rest.offsets = rest.offsets.lowerBound..<from
        var events: [AdminAPI.TraceEvent] = []
        var next = from
        while next < end {
            let records = try await self.log.scan(rest.partition, from: next, recordCountMax: Self.scanCount)
            guard let last = records.last else { break }
            next = last.position.offset.advanced(by: 1)
            for record in records where record.position.offset < end {
                if let event = Self.event(record, subject) { events.append(event) }
            }
        }
        return events
    }

    private static func event(_ record: StoredRecord, _ subject: TraceSubject) -> AdminAPI.TraceEvent? {
        // Most records are of other messages: their id says so without decoding the event.
        if case .message(let id) = subject {
            guard let eventID = record.header("ce_id"), String(buffer: eventID).hasPrefix(id.description) else {
                return nil
            }
        }
        let data = Data(record.value.readableBytesView)
        guard let event = try? JSONDecoder().decode(AdminAPI.TraceEvent.self, from: data) else { return nil }
        guard let id = MessageID(event.messageID) else { return nil }
        return subject.matches(messageID: id, recipient: event.recipient, sender: event.sender) ? event : nil
    }

    /// Where events of the subject can begin: a message has none from before it was accepted.
    private func start(
        of subject: TraceSubject,
        in partition: TopicPartition,
        _ bounds: Range<Offset>
    ) async throws(RecordLogError) -> Offset {
        guard case .message(let id) = subject else { return bounds.lowerBound }
        // The clocks of the node and of the log may differ a little.
        let time = id.milliseconds - 60_000
        var low = bounds.lowerBound
        var high = bounds.upperBound
        while low < high {
            let middle = Offset((low.rawValue + high.rawValue) / 2)
            let record = try await self.log.scan(partition, from: middle, recordCountMax: 1).first
            guard let record, record.position.offset < high else {
                high = middle
                continue
            }
            if record.timestamp < time { low = record.position.offset.advanced(by: 1) } else { high = middle }
        }
        return low
    }
}
