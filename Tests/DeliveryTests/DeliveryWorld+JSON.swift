import Foundation
import NIOCore
import Records

extension DeliveryWorld {
    static func decode(_ value: ByteBuffer) throws -> Outcome {
        try JSONDecoder().decode(Outcome.self, from: Data(value.readableBytesView))
    }
}
