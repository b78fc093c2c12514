public import ClusterLog
import FoundationEssentials
import NIOCore

/// What `posthorn.control` keeps under one key: JSON, of which the latest counts and an empty record is a withdrawal.
///
/// Values hold strings, numbers and lists of them only, so that encoding them cannot fail.
public protocol ControlValue: Codable {
    /// What the keys of its kind begin with.
    static var keyPrefix: String { get }
    /// The rest of its key.
    var keyID: String { get }
}

extension ControlValue {
    public var record: Record {
        // Should encoding fail all the same, an empty value withdraws what was said, which is safe for all of them.
        let value = (try? JSONEncoder().encode(self)) ?? Data()
        return Record(topic: .control, key: Self.keyPrefix + self.keyID, value: ByteBuffer(bytes: value))
    }

    /// Forgets what was said.
    public static func withdrawal(id: String) -> Record {
        Record(topic: .control, key: Self.keyPrefix + id)
    }

    /// Reads one back; `nil` when the record is of another kind, or a withdrawal.
    public init?(_ record: StoredRecord) {
        guard record.key.hasPrefix(Self.keyPrefix), record.value.readableBytes > 0,
            let value = try? JSONDecoder().decode(Self.self, from: Data(record.value.readableBytesView)),
            record.key == Self.keyPrefix + value.keyID
        else { return nil }
        self = value
    }
}
