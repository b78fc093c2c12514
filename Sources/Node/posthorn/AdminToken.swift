import Foundation
import NodeSupport

/// The token that the admin listener asks for, as the node finds or makes it.
enum AdminToken {
    struct Failure: Error, CustomStringConvertible {
        var description: String
    }

    /// Reads the token, and makes it first when the file is the node's own and is not there yet: other users of the
    /// machine reach the listener, but must not see or remove mail.
    ///
    /// - Returns: `nil` when none is asked for.
    static func prepare(_ configuration: NodeConfiguration) throws(Failure) -> String? {
        guard let path = configuration.adminTokenFile else { return nil }
        if case .made = configuration.admin.token, !FileManager.default.fileExists(atPath: path) {
            try self.make(path)
        }
        let token: String
        do {
            token = try firstLine(ofFile: path)
        } catch {
            throw self.failure(path, "cannot be read: \(error)")
        }
        // An empty one would let everybody in who sends none.
        guard !token.isEmpty else { throw self.failure(path, "is empty") }
        return token
    }

    /// Written beside and renamed, so that a token that is there is whole.
    private static func make(_ path: String) throws(Failure) {
        var random = SystemRandomNumberGenerator()
        let octets = (0..<32).map { _ in UInt8.random(in: .min ... .max, using: &random) }
        let text = Data(octets).base64EncodedString() + "\n"
        let new = path + ".new"
        do {
            let directory = URL(fileURLWithPath: path).deletingLastPathComponent().path
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        } catch {
            throw self.failure(path, "cannot be made: \(error)")
        }
        unlink(new)
        let descriptor = open(new, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw self.failure(path, "cannot be made: \(String(cString: strerror(errno)))") }
        let count = write(descriptor, text, text.utf8.count)
        guard close(descriptor) == 0, count == text.utf8.count, rename(new, path) == 0 else {
            throw self.failure(path, "cannot be written: \(String(cString: strerror(errno)))")
        }
    }

    private static func failure(_ path: String, _ problem: String) -> Failure {
        Failure(
            description: "The token of the admin listener, \(path), \(problem). Set admin.token-file to a file with a "
                + "token, or to none on a machine whose users you all trust."
        )
    }
}
