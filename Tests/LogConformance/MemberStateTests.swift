import ClusterLog
import NIOCore
import Testing

@testable import KafkaLog

@Suite("What a member of a Kafka group owns")
struct MemberStateTests {
    private static let partition = TopicPartition(.accepted, 0)
    private static let other = TopicPartition(.accepted, 1)

    /// A member that was told of its partitions.
    private func member(_ partitions: [TopicPartition], _ progress: Progress = .upTo(0)) -> MemberState {
        var member = MemberState(leader: .accepted, readAheadSize: 1 << 20)
        member.assigned(partitions.map { Assignment(partition: $0, progress: progress) })
        _ = member.next()
        return member
    }

    private func record(_ offset: Int64) -> StoredRecord {
        let position = Position(partition: Self.partition, offset: Offset(offset))
        return StoredRecord(position: position, timestamp: 0, key: "", headers: [], value: ByteBuffer())
    }

    private func events(_ member: inout MemberState) -> [GroupEvent] {
        var events: [GroupEvent] = []
        while case .deliver(let event) = member.next() { events.append(event) }
        return events
    }

    private func begin(_ member: inout MemberState, _ progress: [TopicPartition: Progress]) throws -> MemberState.Epochs
    {
        let epochs = member.beginStep(progress)
        return try #require(epochs)
    }

    @Test("A step that was begun is not vouched for by a later assignment of its partition")
    func tellsAssignmentsApart() throws {
        var member = self.member([Self.partition])
        let step: [TopicPartition: Progress] = [Self.partition: .upTo(7)]
        let epochs = try self.begin(&member, step)
        #expect(member.vouched(step, epochs) == step)
        member.lost([Self.partition])
        #expect(member.vouched(step, epochs) == nil)
        member.assigned([Assignment(partition: Self.partition, progress: .upTo(3))])
        _ = self.events(&member)
        #expect(member.vouched(step, epochs) == nil)
        // Its end is nothing to the new assignment either.
        let later = try self.begin(&member, [Self.partition: .upTo(4)])
        member.revoked([Self.partition])
        _ = self.events(&member)
        _ = member.takeRelease()
        member.endStep(step, epochs, isCommitted: true)
        let early = member.takeRelease()
        #expect(early == nil)
        member.endStep([Self.partition: .upTo(4)], later, isCommitted: true)
        let late = member.takeRelease()
        #expect(late == [Self.partition])
    }

    @Test("A step without progress is sent with that of a partition as it stands, or not at all")
    func vouchesWithoutProgress() throws {
        var member = MemberState(leader: .accepted, readAheadSize: 1 << 20)
        let before = member.beginStep([:])
        #expect(before == nil)
        member.assigned([Assignment(partition: Self.partition, progress: .upTo(3))])
        let untold = member.beginStep([:])
        #expect(untold == nil)
        _ = member.next()
        let first: [TopicPartition: Progress] = [Self.partition: .upTo(5)]
        let epochs = try self.begin(&member, first)
        let empty = try self.begin(&member, [:])
        member.endStep(first, epochs, isCommitted: true)
        #expect(member.vouched([:], empty) == [Self.partition: .upTo(5)])
        member.lost([Self.partition])
        #expect(member.vouched([:], empty) == nil)
    }

    @Test("A log that ends before what was done is lost and assigned again with what is left")
    func startsAgainWhereTheLogWasCut() throws {
        let progress = Progress(watermark: Offset(5), end: Offset(100), incomplete: [Offset(5)])
        var member = self.member([Self.partition, Self.other], progress)
        #expect(member.isBeyond(Self.partition, Offset(20)))
        #expect(!member.isBeyond(Self.partition, Offset(100)))
        let step: [TopicPartition: Progress] = [Self.partition: .upTo(100)]
        let epochs = try self.begin(&member, step)
        member.cut(Self.partition, found: Offset(20))
        // Neither is a step from before written, nor does one that was written bring back what it said.
        #expect(member.vouched(step, epochs) == nil)
        member.endStep(step, epochs, isCommitted: true)
        let commands = member.takeCommands(.leading)
        #expect(commands == [.seek(Self.partition, Offset(5))])
        member.seekEnded(Self.partition)
        let events = self.events(&member)
        guard events.count == 3, case .lost([Self.partition]) = events[0],
            case .truncated(Self.partition, let expected, let found) = events[1],
            case .assigned(let assignments) = events[2]
        else {
            Issue.record("\(events)")
            return
        }
        #expect(expected == Offset(100) && found == Offset(20))
        let left = Progress(watermark: Offset(5), end: Offset(20), incomplete: [Offset(5)])
        #expect(assignments == [Assignment(partition: Self.partition, progress: left)])
        for offset in [Int64(5), 6, 19, 20, 21] { member.received(self.record(offset)) }
        guard case .records(_, let records)? = self.events(&member).first else {
            Issue.record("Nothing is read after the cut.")
            return
        }
        #expect(records.map(\.position.offset.rawValue) == [5, 20, 21])
    }

    // MARK: What follows

    private static let follower = TopicPartition(.deferred(delay: 60), 0)
    private static let otherFollower = TopicPartition(.deferred(delay: 60), 1)

    @Test("What follows a partition goes with it, and is given up once its own steps have ended")
    func followersGoAlong() throws {
        var member = self.member([Self.partition, Self.other, Self.follower, Self.otherFollower])
        let step: [TopicPartition: Progress] = [Self.follower: .upTo(4)]
        let epochs = try self.begin(&member, step)
        member.revoked([Self.partition])
        guard case .revoked(let revoked)? = self.events(&member).first else {
            Issue.record("Nobody was told.")
            return
        }
        #expect(revoked == [Self.partition, Self.follower])
        let early = member.takeRelease()
        #expect(early == nil)
        #expect(member.vouched(step, epochs)?[Self.follower] == .upTo(4))
        member.endStep(step, epochs, isCommitted: true)
        let late = member.takeRelease()
        #expect(late == [Self.partition, Self.follower])
        #expect(member.nextOffset(Self.follower) == nil)
        #expect(member.nextOffset(Self.otherFollower) != nil)
        member.lost([Self.other])
        let lost = member.takeRelease()
        #expect(lost == [Self.other, Self.otherFollower])
        #expect(member.nextOffset(Self.otherFollower) == nil)
    }

    @Test("A partition that is read again goes on with what was not handed out, and drops what comes before the seek")
    func readsAgain() {
        var member = self.member([Self.partition])
        member.received(self.record(0))
        member.received(self.record(1))
        _ = self.events(&member)
        member.received(self.record(2))
        member.received(self.record(5))
        member.reread(Self.partition)
        // From an assignment before: it would hide what lies below it.
        member.received(self.record(9))
        #expect(self.events(&member).isEmpty)
        let commands = member.takeCommands(.leading)
        #expect(commands == [.seek(Self.partition, Offset(2))])
        member.seekEnded(Self.partition)
        for offset in [Int64(2), 5, 6, 9] { member.received(self.record(offset)) }
        guard case .records(_, let records)? = self.events(&member).first else {
            Issue.record("Nothing is read.")
            return
        }
        #expect(records.map(\.position.offset.rawValue) == [2, 5, 6, 9])
    }

    @Test("A topic that is new follows the partitions that are owned and stay, as far as it has partitions")
    func takesUpTopics() {
        var member = self.member([Self.partition, Self.other, Self.otherFollower])
        let tier = Topic.deferred(delay: 300)
        #expect(member.unfollowed([.accepted: 4, tier: 1]) == [TopicPartition(tier, 0)])
        #expect(Set(member.unfollowed([.deferred(delay: 60): 4])) == [Self.follower])
        member.revoked([Self.partition])
        #expect(member.unfollowed([tier: 4]) == [TopicPartition(tier, 1)])
    }

    @Test("The progress of what follows is committed again with a step, as it stands and not while it moves")
    func commitsAgain() throws {
        var member = self.member([Self.partition, Self.follower, Self.otherFollower, Self.other], .upTo(3))
        #expect(member.needsStep)
        // A partition that moves in a step behind this one is left out; the step's own progress counts.
        let first: [TopicPartition: Progress] = [Self.partition: .upTo(5)]
        let epochs = try self.begin(&member, first)
        let second: [TopicPartition: Progress] = [Self.follower: .upTo(8)]
        let secondEpochs = try self.begin(&member, second)
        #expect(member.vouched(first, epochs) == [Self.partition: .upTo(5), Self.otherFollower: .upTo(3)])
        member.endStep(first, epochs, isCommitted: true)
        #expect(member.vouched(second, secondEpochs) == second)
        // It failed, and may have been written: until it is known, nothing older is committed over it.
        member.endStep(second, secondEpochs, isCommitted: false)
        let empty = try self.begin(&member, [:])
        #expect(member.vouched([:], empty) == [Self.partition: .upTo(5)])
        member.endStep([:], empty, isCommitted: true)
        #expect(!member.needsStep)
        let again = try self.begin(&member, second)
        #expect(member.vouched(second, again) == second)
        member.endStep(second, again, isCommitted: true)
        #expect(!member.needsStep)
        member.becomeStale()
        #expect(member.needsStep)
        let third = try self.begin(&member, [:])
        #expect(!member.needsStep)
        #expect(member.vouched([:], third) == [Self.follower: .upTo(8), Self.otherFollower: .upTo(3)])
        // What was not committed is still to be committed.
        member.endStep([:], third, isCommitted: false)
        #expect(member.needsStep)
    }
}
