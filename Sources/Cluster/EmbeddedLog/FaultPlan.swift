/// Makes an ``EmbeddedLog`` stop dead, or fail, at a named point. For tests.
package struct FaultPlan: Sendable {
    package enum Point: Hashable, Sendable, CaseIterable {
        /// Everything is written, nothing is committed.
        case beforeCommit
        /// Durable, but no caller was told.
        case afterCommit
        /// After a failure the segment is about to be read again.
        case reopen
        /// The new segment's file exists, its snapshot does not.
        case rollBeforeSnapshot
        /// The new segment is complete, nothing was written to it.
        case rollAfterSnapshot
        /// Live records were copied to a file that does not count yet.
        case compactionBeforeRename
        /// The copy counts, what it replaces is still there.
        case compactionBeforeUnlink
        /// History was copied, the segment is still there.
        case historyAfterCopy
        /// A finished segment is about to go.
        case beforeUnlink
    }

    package enum Action: Sendable {
        case proceed
        /// The instance is abandoned as if the process had ended here.
        case crash
        /// The operation fails with this SQLite result code.
        case fail(Int32)
    }

    /// Thrown where an instance was told to stop dead.
    package struct Crash: Error {}

    private let decide: @Sendable (Point) -> Action

    package init(_ decide: @escaping @Sendable (Point) -> Action) {
        self.decide = decide
    }

    package static let none = FaultPlan { _ in .proceed }

    func reach(_ point: Point) throws {
        switch self.decide(point) {
        case .proceed: return
        case .crash: throw Crash()
        case .fail(let code): throw SQLiteError(code: code, message: "Injected.")
        }
    }
}
