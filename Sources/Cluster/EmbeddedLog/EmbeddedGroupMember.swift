import ClusterLog

/// A member of a group of an ``EmbeddedLog``.
struct EmbeddedGroupMember: GroupMember {
    let core: LogCore
    let id: LocalGroups.MemberID
    let group: GroupID

    func next() async throws(RecordLogError) -> GroupEvent? {
        while !Task.isCancelled {
            switch self.core.next(self.id) {
            case .deliver(let event): return event
            case .read(let read):
                let event: GroupEvent?
                if let cached = self.core.readCached(read) {
                    event = cached
                } else {
                    do throws(RecordLogError) {
                        let found = try await self.core.read(
                            read.partition,
                            from: read.offset,
                            countMax: self.core.configuration.batchCountMax,
                            sizeMax: self.core.configuration.batchSizeMax
                        )
                        event = self.core.finish(read, found)
                    } catch {
                        if error.code == .closed { return nil }
                        throw error
                    }
                }
                if let event { return event }
            case .wait: await self.core.wait(self.id)
            case .end: return nil
            }
        }
        return nil
    }

    func step(_ step: Step, completion: @escaping StepCompletion) {
        self.core.submit(step.outputs, isStep: true, completion: completion) { state throws(RecordLogError) in
            try state.groups.beginStep(self.id, step.progress)
            for partition in step.progress.keys {
                _ = state.id(of: partition.topic)
            }
            return .step(self.id, self.group, step.progress)
        }
    }

    func pause(_ partitions: [TopicPartition]) {
        self.core.change { $0.groups.setPaused(self.id, partitions, true) }
    }

    func resume(_ partitions: [TopicPartition]) {
        self.core.change { $0.groups.setPaused(self.id, partitions, false) }
    }

    func seek(_ partition: TopicPartition, to offset: Offset) {
        self.core.change { $0.groups.seek(self.id, partition, to: offset) }
    }

    func leave() async {
        await self.core.leave(self.id)
    }
}
