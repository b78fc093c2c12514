public import NIOCore

/// Writes JSON objects into one buffer without building a tree: outcomes are written once per recipient, on the
/// message path, where `JSONEncoder` costs more than the rest of the step.
public struct JSONWriter: Sendable {
    public private(set) var buffer: ByteBuffer
    private var needsComma = false

    public init(capacity: Int) {
        self.buffer = ByteBufferAllocator().buffer(capacity: capacity)
    }

    public mutating func beginObject() {
        self.buffer.writeInteger(UInt8(ascii: "{"))
        self.needsComma = false
    }

    public mutating func endObject() {
        self.buffer.writeInteger(UInt8(ascii: "}"))
        self.needsComma = true
    }

    /// Writes a key; its value is the next thing written. Keys are our own literals, without anything to escape.
    public mutating func key(_ key: StaticString) {
        if self.needsComma { self.buffer.writeInteger(UInt8(ascii: ",")) }
        self.buffer.writeInteger(UInt8(ascii: "\""))
        self.buffer.writeStaticString(key)
        self.buffer.writeStaticString("\":")
        self.needsComma = true
    }

    public mutating func field(_ key: StaticString, _ value: String) {
        self.key(key)
        self.string(value)
    }

    public mutating func field(_ key: StaticString, _ value: Int64) {
        self.key(key)
        self.buffer.writeString(String(value))
    }

    public mutating func field(_ key: StaticString, _ value: Bool) {
        self.key(key)
        if value { self.buffer.writeStaticString("true") } else { self.buffer.writeStaticString("false") }
    }

    private mutating func string(_ value: String) {
        self.buffer.writeInteger(UInt8(ascii: "\""))
        if value.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x22 && $0 != 0x5c }) {
            self.buffer.writeString(value)
        } else {
            for octet in value.utf8 {
                switch octet {
                case 0x22: self.buffer.writeStaticString("\\\"")
                case 0x5c: self.buffer.writeStaticString("\\\\")
                case 0x0a: self.buffer.writeStaticString("\\n")
                case 0x0d: self.buffer.writeStaticString("\\r")
                case 0x09: self.buffer.writeStaticString("\\t")
                case 0..<0x20:
                    self.buffer.writeStaticString("\\u00")
                    self.buffer.writeInteger(Self.hexDigit(octet >> 4))
                    self.buffer.writeInteger(Self.hexDigit(octet & 15))
                default: self.buffer.writeInteger(octet)
                }
            }
        }
        self.buffer.writeInteger(UInt8(ascii: "\""))
    }

    private static func hexDigit(_ value: UInt8) -> UInt8 {
        value < 10 ? 0x30 + value : 0x61 + value - 10
    }
}
