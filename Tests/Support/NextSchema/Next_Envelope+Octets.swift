import SwiftProtobuf

extension Next_Envelope {
    init(octets: [UInt8]) throws {
        self = try Next_Envelope(serializedBytes: octets)
    }

    var octets: [UInt8] {
        get throws { try self.serializedBytes() }
    }
}
