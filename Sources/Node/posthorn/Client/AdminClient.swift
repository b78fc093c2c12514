import Foundation
import NodeSupport

/// Asks a node's admin listener: one HTTP request, one connection. Small, because a queue command should not take
/// longer to start than to work.
struct AdminClient {
    struct Failure: Error, CustomStringConvertible {
        var description: String
        var status: Int?
    }

    private static let responseSizeMax = 256 << 20

    let endpoint: Endpoint
    let token: String?
    /// For the connection and for each read.
    var timeoutSeconds = 30

    func get<Answer: Decodable>(_ path: String, query: [(String, String)] = []) throws(Failure) -> Answer {
        let items = query.map { "\($0.0)=\(Self.escaped($0.1))" }.joined(separator: "&")
        return try self.decode(self.request("GET", items.isEmpty ? path : "\(path)?\(items)", body: nil))
    }

    func post<Answer: Decodable>(_ path: String, _ body: some Encodable) throws(Failure) -> Answer {
        let data: Data
        do {
            data = try JSONEncoder().encode(body)
        } catch {
            throw Failure(description: "The request cannot be written: \(error)")
        }
        return try self.decode(self.request("POST", path, body: data))
    }

    /// The octets at a path.
    func octets(_ path: String) throws(Failure) -> Data {
        try self.request("GET", path, body: nil)
    }

    private func decode<Answer: Decodable>(_ data: Data) throws(Failure) -> Answer {
        do {
            return try JSONDecoder().decode(Answer.self, from: data)
        } catch {
            throw Failure(description: "\(self.endpoint) answered something that is not understood: is it posthorn?")
        }
    }

    static func escaped(_ text: String) -> String {
        var result = ""
        for octet in text.utf8 {
            let isPlain =
                (0x30...0x39).contains(octet) || (0x41...0x5a).contains(octet) || (0x61...0x7a).contains(octet)
                || [0x2d, 0x2e, 0x5f, 0x7e].contains(octet)
            if isPlain {
                result.unicodeScalars.append(UnicodeScalar(octet))
            } else {
                let digits = String(octet, radix: 16, uppercase: true)
                result += octet < 16 ? "%0\(digits)" : "%\(digits)"
            }
        }
        return result
    }

    /// Asks for a path, and returns the answer whatever its status.
    func status(_ path: String) throws(Failure) -> (status: Int, content: Data) {
        try self.exchange("GET", path, body: nil)
    }

    private func request(_ method: String, _ target: String, body: Data?) throws(Failure) -> Data {
        let (status, content) = try self.exchange(method, target, body: body)
        guard 200..<300 ~= status else {
            let text = (try? JSONDecoder().decode(AdminAPI.Failure.self, from: content))?.error
            switch status {
            case 401, 403:
                throw Failure(
                    description: text ?? "The node wants a token. Give it with --token-file.",
                    status: status
                )
            default:
                throw Failure(description: text ?? "The node answered with HTTP status \(status).", status: status)
            }
        }
        return content
    }

    private func exchange(
        _ method: String,
        _ target: String,
        body: Data?
    ) throws(Failure) -> (status: Int, content: Data) {
        var head = "\(method) \(target) HTTP/1.1\r\nHost: \(self.endpoint)\r\nConnection: close\r\n"
        head += "Accept: application/json\r\n"
        if let token { head += "Authorization: Bearer \(token)\r\n" }
        if let body { head += "Content-Type: application/json\r\nContent-Length: \(body.count)\r\n" }
        var response: [UInt8] = []
        do throws(BlockingConnection.Failure) {
            let connection = try BlockingConnection(self.endpoint, timeoutSeconds: self.timeoutSeconds)
            try connection.write(Array((head + "\r\n").utf8) + (body.map { Array($0) } ?? []))
            while true {
                let more = try connection.readSome()
                if more.isEmpty { break }
                response += more
                guard response.count <= Self.responseSizeMax else {
                    throw BlockingConnection.Failure(description: "the answer is too large; ask for less with --limit")
                }
            }
        } catch {
            throw Failure(description: "The node cannot be asked: \(error). Is it running?")
        }
        return try self.parse(response)
    }

    /// Takes an HTTP/1.1 response apart (RFC 9112).
    func parse(_ response: [UInt8]) throws(Failure) -> (status: Int, content: Data) {
        let malformed = Failure(description: "\(self.endpoint) does not speak HTTP.")
        guard let end = response.firstRange(of: Array("\r\n\r\n".utf8)) else { throw malformed }
        let lines = String(decoding: response[..<end.lowerBound], as: UTF8.self).components(separatedBy: "\r\n")
        let words = lines[0].split(separator: " ")
        guard words.count >= 2, words[0].hasPrefix("HTTP/1."), let status = Int(words[1]) else { throw malformed }
        var content = response[end.upperBound...]
        let isChunked = lines.contains {
            $0.lowercased().replacingOccurrences(of: " ", with: "") == "transfer-encoding:chunked"
        }
        guard isChunked else { return (status, Data(content)) }
        var result = Data()
        while let lineEnd = content.firstRange(of: Array("\r\n".utf8)) {
            let size = String(decoding: content[..<lineEnd.lowerBound], as: UTF8.self).prefix { $0 != ";" }
            guard let count = Int(size, radix: 16), count >= 0, count <= content.endIndex - lineEnd.upperBound else {
                throw malformed
            }
            if count == 0 { break }
            result.append(contentsOf: content[lineEnd.upperBound..<(lineEnd.upperBound + count)])
            content = content[(lineEnd.upperBound + count)...].dropFirst(2)
        }
        return (status, result)
    }
}
