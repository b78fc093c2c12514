import Foundation
import Hummingbird
import NIOCore
import NodeSupport

/// Answers one request of the admin listener.
struct AdminResponder: HTTPResponder {
    typealias Context = BasicRequestContext

    /// Octets of a request's body.
    static let bodySizeMax = 16 << 10

    /// A request that cannot be served, and what its sender should change.
    struct Refusal: Error {
        var status: HTTPResponse.Status
        var text: String
        var headers: HTTPFields = [:]
    }

    let metrics: MetricsRegistry
    let readiness: Readiness
    let queue: (any QueueAdministration)?
    let tracing: (any MessageTracing)?
    let index: (any QueueViews & MessageTracing)?
    let dead: DeadRecords?
    let token: [UInt8]?
    /// In lower case.
    let ownNames: Set<String>

    func respond(to request: Request, context: Context) async throws -> Response {
        do {
            return try await self.route(request)
        } catch let refusal as Refusal {
            return try Self.json(
                AdminAPI.Failure(error: refusal.text),
                status: refusal.status,
                headers: refusal.headers
            )
        } catch let error as QueueAdministrationError {
            let status: HTTPResponse.Status =
                switch error.code {
                case .invalidRequest: .badRequest
                case .unavailable: .serviceUnavailable
                }
            return try Self.json(AdminAPI.Failure(error: error.reason), status: status)
        }
    }

    private func route(_ request: Request) async throws -> Response {
        let path = request.uri.path.split(separator: "/")
        switch path.first {
        case "metrics" where path.count == 1:
            try Self.require(.get, request)
            return Response(
                status: .ok,
                headers: [.contentType: "text/plain; version=0.0.4; charset=utf-8", .cacheControl: "no-store"],
                body: ResponseBody(byteBuffer: ByteBuffer(string: self.metrics.exposition()))
            )
        case "health" where path.count == 2 && path[1] == "live":
            try Self.require(.get, request)
            return try Self.json(Health(live: true))
        case "health" where path.count == 2 && path[1] == "ready":
            try Self.require(.get, request)
            let reasons = self.readiness.reasons
            return try Self.json(
                Health(ready: reasons.isEmpty, reasons: reasons),
                status: reasons.isEmpty ? .ok : .serviceUnavailable
            )
        case "queue":
            try self.authorize(request)
            return try await self.queueRoute(Array(path.dropFirst()), request)
        case "trace" where path.count == 1:
            try self.authorize(request)
            try Self.require(.get, request)
            guard let tracing = self.tracing else {
                throw Refusal(status: .notFound, text: "this node cannot trace; ask one that runs the metrics role")
            }
            return try Self.json(try await tracing.trace(try Self.traceQuery(request)))
        case "index":
            try self.authorize(request)
            return try await self.indexRoute(Array(path.dropFirst()), request)
        case "dead":
            try self.authorize(request)
            return try await self.deadRoute(Array(path.dropFirst()), request)
        default:
            throw Refusal(
                status: .notFound,
                text: "no such path; there are /metrics, /health/live, /health/ready, /trace, /queue/... and /dead/..."
            )
        }
    }

    /// What this node alone knows: the metrics nodes of a cluster ask each other.
    private func indexRoute(_ path: [Substring], _ request: Request) async throws -> Response {
        guard let index = self.index else {
            throw Refusal(status: .notFound, text: "this node has no index; ask one that runs the metrics role")
        }
        try Self.require(.get, request)
        if path.count == 1, path[0] == "trace" {
            return try Self.json(try await index.trace(try Self.traceQuery(request)))
        }
        if let response = try await Self.view(of: index, path, request) { return response }
        throw Refusal(
            status: .notFound,
            text: "no such path; there are GET /index/summary, /index/messages, /index/messages/{id} and /index/trace"
        )
    }

    private struct Health: Encodable {
        var live: Bool?
        var ready: Bool?
        var reasons: [String: String]?
    }

    private func queueRoute(_ path: [Substring], _ request: Request) async throws -> Response {
        guard let queue = self.queue else {
            throw Refusal(
                status: .notFound,
                text: "this node has no queue; ask one that runs the delivery role"
            )
        }
        if path.count == 1, let command = AdminAPI.Command(rawValue: String(path[0])) {
            try Self.require(.post, request)
            let predicate = try await Self.predicate(request)
            return try Self.json(try await queue.perform(command, on: predicate))
        }
        if let response = try await Self.view(of: queue, path, request) { return response }
        let commands = AdminAPI.Command.allCases.map(\.rawValue).joined(separator: ", ")
        throw Refusal(
            status: .notFound,
            text: "no such path; there are GET /queue/summary, /queue/messages, /queue/messages/{id}, "
                + "and POST /queue/{command} with one of \(commands)"
        )
    }

    /// - Returns: `nil` when the path names no view.
    private static func view(
        of queue: any QueueViews,
        _ path: [Substring],
        _ request: Request
    ) async throws -> Response? {
        switch path.first {
        case "summary" where path.count == 1:
            try Self.require(.get, request)
            return try Self.json(try await queue.summary())
        case "messages" where path.count == 1:
            try Self.require(.get, request)
            return try Self.json(try await queue.messages(try Self.query(request)))
        case "messages" where path.count == 2:
            try Self.require(.get, request)
            let id = String(path[1])
            guard id.utf8.count == 26, let message = try await queue.message(id) else {
                throw Refusal(
                    status: .notFound,
                    text: "the queue has no such message; ids are 26 characters, as GET /queue/messages lists them"
                )
            }
            return try Self.json(message)
        default:
            return nil
        }
    }

    private static func traceQuery(_ request: Request) throws -> TraceQuery {
        var subjects: [TraceQuery.Subject] = []
        var limit = TraceQuery.limitDefault
        for (name, value) in request.uri.queryParameters {
            switch name {
            case "message": subjects.append(.message(String(value)))
            case "address": subjects.append(.address(String(value)))
            case "limit":
                guard let given = Int(value), (1...TraceQuery.limitMax).contains(given) else {
                    throw Refusal(status: .badRequest, text: "limit must be a number from 1 to \(TraceQuery.limitMax)")
                }
                limit = given
            default:
                throw Refusal(
                    status: .badRequest,
                    text: "unknown parameter \(name.prefix(40)); there are message, address and limit"
                )
            }
        }
        guard let subject = subjects.first, subjects.count == 1 else {
            throw Refusal(status: .badRequest, text: "say what to trace: either a message or an address")
        }
        return TraceQuery(subject, limit: limit)
    }

    private static func query(_ request: Request) throws -> QueueQuery {
        var query = QueueQuery()
        for (name, value) in request.uri.queryParameters {
            switch name {
            case "site": query.site = String(value)
            case "domain": query.domain = value.lowercased()
            case "sender": query.sender = value == "<>" ? "" : String(value)
            case "limit":
                guard let limit = Int(value), (1...QueueQuery.limitMax).contains(limit) else {
                    throw Refusal(status: .badRequest, text: "limit must be a number from 1 to \(QueueQuery.limitMax)")
                }
                query.limit = limit
            default:
                throw Refusal(
                    status: .badRequest,
                    text: "unknown parameter \(name.prefix(40)); there are site, domain, sender and limit"
                )
            }
        }
        return query
    }

    static func body(_ request: Request) async throws -> ByteBuffer {
        let type = request.headers[.contentType]?.prefix { $0 != ";" }
        guard type?.trimmingCharacters(in: .whitespaces).lowercased() == "application/json" else {
            // A web page cannot send this type elsewhere without asking first.
            throw Refusal(status: .unsupportedMediaType, text: "send the body as Content-Type: application/json")
        }
        do {
            return try await request.body.collect(upTo: self.bodySizeMax)
        } catch is NIOTooManyBytesError {
            throw Refusal(status: .contentTooLarge, text: "the body may have at most \(self.bodySizeMax) octets")
        }
    }

    private static func predicate(_ request: Request) async throws -> AdminAPI.QueuePredicate {
        let body = try await Self.body(request)
        let predicate: AdminAPI.QueuePredicate
        do {
            predicate = try JSONDecoder().decode(AdminAPI.QueuePredicate.self, from: Data(body.readableBytesView))
        } catch {
            throw Refusal(
                status: .badRequest,
                text: "the body must be a JSON object with any of domain, site, sender, recipient, message (strings) "
                    + "and all (true)"
            )
        }
        guard !predicate.isEmpty else {
            throw Refusal(
                status: .badRequest,
                text: "say which recipients: give domain, site, sender, recipient or message, or all: true"
            )
        }
        return predicate
    }

    static func require(_ method: HTTPRequest.Method, _ request: Request) throws {
        guard request.method == method else {
            throw Refusal(
                status: .methodNotAllowed,
                text: "use \(method.rawValue) for this path",
                headers: [.allow: method.rawValue]
            )
        }
    }

    private func authorize(_ request: Request) throws {
        guard request.headers[.origin] == nil else {
            throw Refusal(status: .forbidden, text: "this is no place for web pages: send no Origin")
        }
        guard let token = self.token else {
            try self.requireOwnHost(request)
            return
        }
        let challenge: HTTPFields = [.wwwAuthenticate: "Bearer realm=\"posthorn\""]
        guard let value = request.headers[.authorization], let space = value.firstIndex(of: " "),
            value[..<space].lowercased() == "bearer"
        else {
            throw Refusal(
                status: .unauthorized,
                text: "send the node's token as Authorization: Bearer <token>",
                headers: challenge
            )
        }
        let given = Array(value[value.index(after: space)...].utf8)
        // In a time that does not depend on where they differ.
        var difference: UInt8 = given.count == token.count ? 0 : 1
        for index in 0..<min(given.count, token.count) { difference |= given[index] ^ token[index] }
        guard difference == 0 else {
            throw Refusal(
                status: .unauthorized,
                text: "the token is not the one in the node's admin token file",
                headers: challenge
            )
        }
    }

    /// Refuses a page whose name was made to resolve to us (DNS rebinding), which then is of the same origin. With a token
    /// there is no need to: the page does not know it.
    private func requireOwnHost(_ request: Request) throws {
        guard let authority = request.head.authority?.lowercased() else { return }
        let host: Substring
        if authority.hasPrefix("[") {
            host = authority.dropFirst().prefix { $0 != "]" }
        } else {
            host = authority.prefix { $0 != ":" }
        }
        guard !self.ownNames.contains(String(host)), IPAddress(host) == nil else { return }
        throw Refusal(
            status: .misdirectedRequest,
            text: "this node is not \(host.prefix(255)): ask for it by address or by its own name, or give it a token "
                + "(admin.token-file)"
        )
    }

    static func json(
        _ value: some Encodable,
        status: HTTPResponse.Status = .ok,
        headers: HTTPFields = [:]
    ) throws -> Response {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        var headers = headers
        headers[.contentType] = "application/json; charset=utf-8"
        headers[.cacheControl] = "no-store"
        return Response(
            status: status,
            headers: headers,
            body: ResponseBody(byteBuffer: ByteBuffer(bytes: try encoder.encode(value)))
        )
    }
}
