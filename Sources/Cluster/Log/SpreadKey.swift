/// A record's key as it is spread: a name, and a bucket when the name's traffic is more than one partition's part.
///
/// Written as `name` or `name#bucket`. No domain ends in `#` and digits (RFC 5321 §4.1.2: labels have no `#`, an
/// address literal ends in `]`); a site may, when it is a socket's path, and is then written with bucket 0, so that the
/// name can always be told from the bucket. Bucket 0 and no bucket are the same partition.
public struct SpreadKey: Hashable, Sendable {
    /// A destination domain, or a site.
    public var name: String
    /// `nil` when the name is not spread.
    public var bucket: Int?

    /// Buckets a name can have: four digits.
    public static let bucketCountMax = 10_000

    /// - Parameter bucket: below ``bucketCountMax``.
    public init(name: String, bucket: Int? = nil) {
        precondition(bucket.map { (0..<Self.bucketCountMax).contains($0) } ?? true)
        self.name = name
        self.bucket = bucket
    }

    /// Reads a record's key.
    public init(_ text: String) {
        guard let (end, bucket) = Self.suffix(of: text.utf8) else {
            self.init(name: text)
            return
        }
        self.init(name: String(text[..<end]), bucket: bucket)
    }

    /// The record's key.
    public var text: String {
        guard let bucket else { return Self.plain(self.name) }
        return "\(self.name)#\(bucket)"
    }

    /// The key of a name without a bucket: the name itself, as a rule.
    public static func plain(_ name: String) -> String {
        Self.suffix(of: name.utf8) == nil ? name : "\(name)#0"
    }

    /// The name in a record's key.
    public static func name(of key: String) -> String {
        guard let (end, _) = Self.suffix(of: key.utf8) else { return key }
        return String(key[..<end])
    }

    /// Where `#` and the bucket begin, and the bucket; `nil` when there is none. Most keys end in a letter: one look.
    static func suffix(of octets: String.UTF8View) -> (end: String.Index, bucket: Int)? {
        var bucket = 0
        var factor = 1
        var index = octets.endIndex
        while index > octets.startIndex {
            octets.formIndex(before: &index)
            let octet = octets[index]
            if octet == UInt8(ascii: "#") { return factor > 1 ? (index, bucket) : nil }
            guard (0x30...0x39).contains(octet), factor < Self.bucketCountMax else { return nil }
            bucket += Int(octet - 0x30) * factor
            factor *= 10
        }
        return nil
    }
}
