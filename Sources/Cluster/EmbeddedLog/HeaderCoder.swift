import ClusterLog
import NIOCore

/// How the headers of a record are stored: one blob, version 1.
///
/// ```
/// blob   = [ version *( name-size name value-size value ) ]   ; empty when there are no headers
/// version = %x01 ; name-size = 1 octet ; value-size = 4 octets, big-endian
/// ```
enum HeaderCoder {
    static let nameSizeMax = 255
    private static let version: UInt8 = 1

    static func encode(_ headers: [RecordHeader]) -> ByteBuffer {
        guard !headers.isEmpty else { return ByteBuffer() }
        let size = headers.reduce(1) { $0 + 5 + $1.name.utf8.count + $1.value.readableBytes }
        var blob = ByteBuffer()
        blob.reserveCapacity(size)
        blob.writeInteger(Self.version)
        for header in headers {
            blob.writeInteger(UInt8(truncatingIfNeeded: header.name.utf8.count))
            blob.writeString(header.name)
            blob.writeInteger(UInt32(truncatingIfNeeded: header.value.readableBytes))
            blob.writeImmutableBuffer(header.value)
        }
        return blob
    }

    /// Values share the blob's storage. `nil` when the blob is damaged.
    static func decode(_ blob: ByteBuffer) -> [RecordHeader]? {
        var blob = blob
        guard blob.readableBytes > 0 else { return [] }
        guard blob.readInteger(as: UInt8.self) == Self.version else { return nil }
        var headers: [RecordHeader] = []
        while blob.readableBytes > 0 {
            guard let nameSize = blob.readInteger(as: UInt8.self),
                let name = blob.readString(length: Int(nameSize)),
                let valueSize = blob.readInteger(as: UInt32.self),
                let value = blob.readSlice(length: Int(valueSize))
            else { return nil }
            headers.append(RecordHeader(name, value))
        }
        return headers
    }
}
