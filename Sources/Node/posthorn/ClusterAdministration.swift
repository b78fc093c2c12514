import Delivery
import MetricsRole
import NodeSupport

/// The queue of a cluster as one node with the metrics role shows it: views from the index of all metrics nodes,
/// commands through the delivery role when this node has that too.
struct ClusterAdministration: QueueAdministration {
    let views: MetricsService
    let commands: DeliveryEngine?

    func summary() async throws(QueueAdministrationError) -> AdminAPI.QueueSummary {
        try await self.views.summary()
    }

    func messages(_ query: QueueQuery) async throws(QueueAdministrationError) -> AdminAPI.QueueList {
        try await self.views.messages(query)
    }

    func message(_ id: String) async throws(QueueAdministrationError) -> AdminAPI.QueuedMessage? {
        try await self.views.message(id)
    }

    func perform(
        _ command: AdminAPI.Command,
        on predicate: AdminAPI.QueuePredicate
    ) async throws(QueueAdministrationError) -> AdminAPI.QueueCommandResult {
        guard let commands else { return try await self.views.perform(command, on: predicate) }
        return try await commands.perform(command, on: predicate)
    }
}
