/// A mail address with its local part hidden: `a@example.org` becomes `…@example.org`.
///
/// What has no `@` is hidden whole, the null reverse-path and an empty text are kept. The domain stays: it is what an
/// operator needs to see where mail goes.
public func redact(_ address: String) -> String {
    if address.isEmpty || address == "<>" { return address }
    let hasBrackets = address.hasPrefix("<") && address.hasSuffix(">")
    guard let at = address.lastIndex(of: "@") else { return hasBrackets ? "<…>" : "…" }
    return (hasBrackets ? "<…" : "…") + address[at...]
}
