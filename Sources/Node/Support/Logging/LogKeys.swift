/// The names of metadata in log lines: the same thing has the same name everywhere.
///
/// ```swift
/// logger.info("Accepted message", metadata: [LogKeys.messageID: "\(id)", LogKeys.sender: "\(sender)"])
/// ```
public enum LogKeys {
    // Ids.
    public static let sessionID = "session_id"
    public static let messageID = "message_id"
    public static let attemptID = "attempt_id"
    public static let connectionID = "connection_id"

    // Who and where. `sender`, `recipient` and `identity` hold mail addresses: handlers redact them.
    public static let sender = "sender"
    public static let recipient = "recipient"
    public static let identity = "identity"
    public static let client = "client"
    public static let clientName = "client_name"
    public static let listener = "listener"
    public static let localAddress = "local_address"
    public static let domain = "domain"
    public static let site = "site"
    public static let host = "host"
    public static let remote = "remote"
    public static let route = "route"

    // What happened.
    public static let reply = "reply"
    public static let status = "status"
    public static let phase = "phase"
    public static let outcome = "outcome"
    public static let reason = "reason"
    public static let error = "error"
    public static let attempt = "attempt"
    public static let tlsVersion = "tls_version"
    public static let tlsCipherSuite = "tls_cipher_suite"

    // How much and how long.
    public static let size = "size"
    public static let count = "count"
    public static let recordCount = "record_count"
    public static let recipientCount = "recipient_count"
    public static let duration = "duration_ms"
    public static let delay = "delay_ms"
    public static let port = "port"

    // The log.
    public static let topic = "topic"
    public static let partition = "partition"
    public static let offset = "offset"
    public static let group = "group"
    public static let path = "path"

    /// Whose values are mail addresses.
    static let addressKeys: Set<String> = [sender, recipient, identity]
}
