import AsyncHTTPClient
import Foundation
import NIOCore
import NIOHTTP1
import NodeSupport

/// Asks the admin listeners of other nodes about their indexes.
struct PeerClient: Sendable {
    /// Octets of an answer.
    private static let answerSizeMax = 64 << 20

    /// Why a node did not answer, for people.
    struct Failure: Error {
        var reason: String
    }

    let token: String?
    let timeout: Duration

    /// - Returns: `nil` when the node has nothing of what was asked for.
    func get<Answer: Decodable & Sendable>(
        _ target: String,
        from endpoint: Endpoint
    ) async throws(Failure) -> Answer? {
        var request = HTTPClientRequest(url: Self.base(endpoint) + target)
        request.headers.add(name: "Accept", value: "application/json")
        if let token { request.headers.add(name: "Authorization", value: "Bearer \(token)") }
        let (status, body): (HTTPResponseStatus, ByteBuffer)
        do {
            let made = request
            (status, body) = try await Self.within(self.timeout) {
                let response = try await HTTPClient.shared.execute(made, deadline: .distantFuture)
                return (response.status, try await response.body.collect(upTo: Self.answerSizeMax))
            }
        } catch let failure as Failure {
            throw failure
        } catch {
            throw Failure(reason: "\(error)")
        }
        switch status {
        case .ok: break
        case .notFound: return nil
        default:
            let text = try? JSONDecoder().decode(AdminAPI.Failure.self, from: Data(body.readableBytesView))
            throw Failure(reason: "HTTP status \(status.code)" + (text.map { ": \($0.error)" } ?? ""))
        }
        do {
            return try JSONDecoder().decode(Answer.self, from: Data(body.readableBytesView))
        } catch {
            throw Failure(reason: "it answered something that is not understood")
        }
    }

    private static func base(_ endpoint: Endpoint) -> String {
        switch endpoint {
        case .host: "http://\(endpoint)"
        case .unixSocket(let path): "http+unix://\(Self.escaped(path))"
        }
    }

    /// A value for a query, or a part of a path.
    static func escaped(_ text: String) -> String {
        text.addingPercentEncoding(withAllowedCharacters: self.plain) ?? ""
    }

    private static let plain = CharacterSet(
        charactersIn: "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
    )

    private static func within<Value: Sendable>(
        _ time: Duration,
        _ body: @escaping @Sendable () async throws -> Value
    ) async throws -> Value {
        try await withThrowingTaskGroup(of: Value?.self) { group in
            group.addTask { try await body() }
            group.addTask {
                try await Task.sleep(for: time)
                return nil
            }
            defer { group.cancelAll() }
            guard let value = try await group.next() ?? nil else { throw Failure(reason: "no answer within \(time)") }
            return value
        }
    }
}
