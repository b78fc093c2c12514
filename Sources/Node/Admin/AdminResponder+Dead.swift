import Foundation
import Hummingbird
import NIOCore
import NodeSupport

/// `/dead/...`: what could not be used.
extension AdminResponder {
    func deadRoute(_ path: [Substring], _ request: Request) async throws -> Response {
        guard let dead = self.dead else {
            throw Refusal(status: .notFound, text: "this node cannot read posthorn.dead")
        }
        switch path.first {
        case "records" where path.count == 1:
            try Self.require(.get, request)
            return try Self.json(try await dead.list(try Self.deadQuery(request)))
        case "records" where path.count == 2:
            try Self.require(.get, request)
            guard let detail = try await dead.show(try Self.position(path[1])) else { throw Self.noRecord }
            return try Self.json(detail)
        case "records" where path.count == 3 && path[2] == "value":
            try Self.require(.get, request)
            guard let value = try await dead.value(try Self.position(path[1])) else { throw Self.noRecord }
            return Response(
                status: .ok,
                headers: [.contentType: "application/octet-stream", .cacheControl: "no-store"],
                body: ResponseBody(byteBuffer: value)
            )
        case "replay" where path.count == 1:
            try Self.require(.post, request)
            return try Self.json(try await dead.replay(try await Self.replay(request)))
        default:
            throw Refusal(
                status: .notFound,
                text: "no such path; there are GET /dead/records, /dead/records/{partition@offset}, "
                    + "/dead/records/{partition@offset}/value, and POST /dead/replay"
            )
        }
    }

    private static let noRecord = Refusal(
        status: .notFound,
        text: "posthorn.dead has no such record; positions are partition@offset, as GET /dead/records lists them"
    )

    private static func position(_ text: Substring) throws -> AdminAPI.DeadPosition {
        guard let position = AdminAPI.DeadPosition(String(text).removingPercentEncoding ?? "") else {
            throw Self.noRecord
        }
        return position
    }

    private static func deadQuery(_ request: Request) throws -> DeadQuery {
        var query = DeadQuery()
        for (name, value) in request.uri.queryParameters {
            switch name {
            case "topic": query.topic = String(value)
            case "cursor": query.cursor = String(value)
            case "since":
                guard let since = Int64(value) else {
                    throw Refusal(status: .badRequest, text: "since must be a number of milliseconds since 1970")
                }
                query.since = since
            case "limit":
                guard let limit = Int(value), (1...DeadQuery.limitMax).contains(limit) else {
                    throw Refusal(status: .badRequest, text: "limit must be a number from 1 to \(DeadQuery.limitMax)")
                }
                query.limit = limit
            default:
                throw Refusal(
                    status: .badRequest,
                    text: "unknown parameter \(name.prefix(40)); there are topic, since, limit and cursor"
                )
            }
        }
        return query
    }

    private static func replay(_ request: Request) async throws -> AdminAPI.DeadReplay {
        let body = try await Self.body(request)
        do {
            return try JSONDecoder().decode(AdminAPI.DeadReplay.self, from: Data(body.readableBytesView))
        } catch {
            throw Refusal(
                status: .badRequest,
                text: "the body must be a JSON object with positions (strings partition@offset), and perhaps force and "
                    + "marksAreKnown (true)"
            )
        }
    }
}
