import DNS
import Foundation
import Mail
import NodeSupport
import Testing

/// Names and addresses, wherever they come from.
@Suite("Fuzz: mailboxes, domains, network addresses")
struct AddressFuzzTests {
    private static let mailboxes = [
        "a.b+c@example.net", "\"a b\\\"\\\\\"@x.example", "\"plain\"@[192.0.2.1]", "jürgen@Bücher.Example.",
        "x@[IPv6:2001:DB8::0:1]", "漢字@xn--bcher-kva.example", "a_b@c_d.example", "\"\"@e.example",
    ]

    /// Goal: what was normalised stays as it is, so that the same mailbox is the same record key and queue predicate
    /// wherever it is read again.
    @Test("A mailbox that is read, written again, is the same mailbox", arguments: seeds)
    func mailboxes(seed: UInt64) {
        forEachInput(seed: seed, like: Self.mailboxes) { octets in
            guard let mailbox = octets.withUnsafeBytes({ Mailbox(parsing: $0) }) else { return }
            #expect(Mailbox(parsing: mailbox.description) == mailbox, "\(shown(octets))")
            #expect((1...64).contains(mailbox.localPart.utf8.count))
            #expect(!mailbox.description.utf8.contains { $0 < 0x20 || $0 == 0x7f }, "\(shown(octets))")
        }
    }

    @Test("A domain that is read, written again, is the same domain, and can be asked for", arguments: seeds)
    func domains(seed: UInt64) {
        let vectors = [
            "Example.NET.", "bücher.example", "xn--bcher-kva.example", "[192.0.2.1]", "[IPv6:::ffff:192.0.2.1]",
            "\(String(repeating: "a", count: 63)).b", "faß.İstanbul.example", "क्‍ष.example", "a-b.c--d.1x",
        ]
        forEachInput(seed: seed, like: vectors) { octets in
            guard let domain = octets.withUnsafeBytes({ Domain(parsing: $0) }) else { return }
            #expect(Domain(parsing: domain.text) == domain, "\(shown(octets))")
            #expect(
                (1...255).contains(domain.text.utf8.count) && domain.text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7f }
            )
            if domain.isAddressLiteral {
                #expect(HostAddress(literal: domain.text) != nil, "\(domain)")
            } else if domain.text.utf8.count <= 253 {
                #expect(DNSName(domain.text)?.text == domain.text, "\(domain)")
            }
        }
    }

    @Test("A U-label that becomes an A-label comes back", arguments: seeds)
    func labels(seed: UInt64) {
        forEachInput(seed: seed, like: ["bücher", "漢字", "ünï-cödé", "क्‍ष", "xn--bcher-kva", "xn--a", "xn---"]) { octets in
            let label = String(decoding: octets, as: UTF8.self)
            if let encoded = Punycode.aLabel(of: label) {
                #expect(encoded.hasPrefix("xn--") && encoded.utf8.count <= 63 && encoded.utf8.allSatisfy { $0 < 0x80 })
                #expect(Punycode.uLabel(of: encoded).flatMap { Punycode.aLabel(of: $0) } == encoded, "\(shown(octets))")
            }
            if let decoded = Punycode.uLabel(of: label) {
                #expect(Punycode.aLabel(of: decoded) == label.lowercased(), "\(shown(octets))")
            }
        }
    }

    /// Goal: the parsers for address literals, for the DNS and for configuration agree with each other, so that no
    /// address means one thing to a policy and another to a connection. Method: the system's parser is the judge.
    @Test("All parsers of network addresses agree with the system's", arguments: seeds)
    func networkAddresses(seed: UInt64) {
        let vectors = [
            "192.0.2.1", "0.0.0.0", "255.255.255.255", "::", "::1", "1::", "2001:db8::1", "1:2:3:4:5:6:7:8",
            "::ffff:192.0.2.1", "64:ff9b::192.0.2.33", "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:7::", "fe80::1:0:0:1",
        ]
        forEachInput(seed: seed, like: vectors, count: 300) { octets in
            let text = String(decoding: octets, as: UTF8.self)
            guard text.utf8.elementsEqual(octets), !octets.contains(0) else { return }
            let v4 = Self.system(text, AF_INET, 4).map { HostAddress.v4(IPv4Address(rawValue: $0)) }
            let v6 = Self.system(text, AF_INET6, 16)
            let host = HostAddress(text)
            #expect((host?.isV6 == false ? host : nil) == v4, "\(shown(octets))")
            #expect((IPv6Address(text) != nil) == (v6 != nil), "\(shown(octets))")
            let literal = octets.withUnsafeBytes { octets in
                AddressLiteral.ipv4(octets) != nil || AddressLiteral.ipv6(octets) != nil
            }
            #expect(literal == (v4 != nil || v6 != nil), "\(shown(octets))")
            #expect((IPAddress(text) != nil) == literal, "\(shown(octets))")
            // Each writes what the others read as the same.
            if let address = IPv6Address(text) {
                let written = Array(address.description.utf8).withUnsafeBytes { AddressLiteral.ipv6($0) }
                #expect(written == octets.withUnsafeBytes { AddressLiteral.ipv6($0) }, "\(shown(octets))")
            }
            if let address = IPAddress(text) { #expect(IPAddress(address.description) == address, "\(shown(octets))") }
        }
    }

    /// The first 32 bits of what `inet_pton` reads.
    private static func system(_ text: String, _ family: Int32, _ size: Int) -> UInt32? {
        var out = [UInt8](repeating: 0, count: size)
        guard inet_pton(family, text, &out) == 1 else { return nil }
        return out.prefix(4).reduce(0) { $0 << 8 | UInt32($1) }
    }

    @Test("Networks and endpoints that are read, written again, are the same", arguments: seeds)
    func networks(seed: UInt64) {
        let vectors = [
            "192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0", "::/0", "127.0.0.1", "[2001:db8::1]:25", "mx.example:587",
            "192.0.2.1:25", "::1", "/run/posthorn/lmtp.sock", "::ffff:192.0.2.1",
        ]
        forEachInput(seed: seed, like: vectors) { octets in
            let text = String(decoding: octets, as: UTF8.self)
            if let network = Network(text) {
                #expect(Network(network.description) == network, "\(shown(octets))")
                #expect(network.contains(network.base))
            }
            if let endpoint = Endpoint(text, defaultPort: 25) {
                #expect(Endpoint(endpoint.description) == endpoint, "\(shown(octets))")
            }
        }
    }

    @Test("A message id that is read, written again, is the same id", arguments: seeds)
    func messageIDs(seed: UInt64) {
        forEachInput(seed: seed, like: ["01M85F6Z6B2JK5BY4WXQ4WZFZH", "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"]) { octets in
            let text = String(decoding: octets, as: UTF8.self)
            guard let id = MessageID(text) else { return }
            #expect(id.description == text.uppercased())
        }
    }
}
