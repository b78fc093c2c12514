import Logging
import NIOCore
import NodeSupport
import SMTP

extension SessionHandler {
    /// Looks the user up, after a look at the file when one is due. An address that has failed too often is put off.
    func lookUp(_ userName: String) {
        guard let credentials = self.shared.credentials, !self.shared.passwords.isBusy,
            !self.shared.passwords.isSuspended(self.address, now: self.loop.now)
        else { return self.perform(self.session.lookUpFailed()) }
        guard credentials.claimsCheck(now: self.loop.now) else {
            return self.perform(self.session.foundCredential(credentials.record(for: userName), nonce: Self.nonce()))
        }
        let place = SessionPlace(self)
        let logger = self.shared.logger
        self.shared.passwords.run {
            do throws(CredentialError) {
                try credentials.reload()
            } catch {
                logger.error("The credentials file cannot be read", metadata: [LogKeys.error: "\(error)"])
            }
            place.run { handler in
                handler.proceed(
                    handler.session.foundCredential(credentials.record(for: userName), nonce: Self.nonce())
                )
            }
        }
    }

    func checkPassword(_ check: PasswordCheck) {
        let place = SessionPlace(self)
        self.shared.passwords.check(check, now: self.loop.now) { isMatch in
            place.run { $0.proceed($0.session.checkedPassword(isMatch: isMatch)) }
        }
    }

    func noteAuthentication(isSuccess: Bool) {
        if isSuccess {
            self.shared.metrics.authenticated.increment()
            self.shared.passwords.noteSuccess(self.address)
        } else {
            self.shared.metrics.authenticationFailed.increment()
            self.shared.passwords.noteFailure(self.address, now: self.loop.now)
            self.shared.logger.info(
                "Authentication failed",
                metadata: [
                    LogKeys.client: .string(self.session.facts.clientAddress),
                    LogKeys.listener: .string(self.role.listener.name),
                ]
            )
        }
    }

    private static func nonce() -> [UInt8] {
        (0..<3).flatMap { _ in withUnsafeBytes(of: UInt64.random(in: .min ... .max)) { Array($0) } }
    }
}

/// A way back to a session from another thread, for as long as the session is there.
struct SessionPlace: Sendable {
    private let loop: NIOLoopBound<IngressLoop>
    private let id: UInt64

    /// On the session's event loop.
    init(_ handler: SessionHandler) {
        self.loop = NIOLoopBound(handler.loop, eventLoop: handler.loop.eventLoop)
        self.id = handler.id
    }

    func run(_ body: @escaping @Sendable (SessionHandler) -> Void) {
        self.loop.eventLoop.execute {
            guard let handler = self.loop.value.session(self.id) else { return }
            body(handler)
        }
    }
}
