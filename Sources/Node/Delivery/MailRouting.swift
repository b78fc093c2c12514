public import Mail

/// Finds where mail for a destination domain goes.
public protocol MailRouting: Sendable {
    /// Never fails: what cannot be found out is a ``Routing/failed(_:)``. Answers within the resolver's own timeout.
    ///
    /// - Returns: the routing, and for how many milliseconds it holds.
    func route(_ domain: Domain) async -> (routing: Routing, validFor: Int64)
}
