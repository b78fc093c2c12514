import ArgumentParser
import ClusterLog
import Foundation

/// Exit codes by sysexits.h, which mail programs have understood since Sendmail.
enum SystemExit {
    static let ok: Int32 = 0
    static let usage: Int32 = 64
    static let dataError: Int32 = 65
    static let noUser: Int32 = 67
    static let noHost: Int32 = 68
    static let unavailable: Int32 = 69
    static let software: Int32 = 70
    static let osError: Int32 = 71
    static let temporaryFailure: Int32 = 75
    static let configuration: Int32 = 78

    /// Ends the process now. What OpenSSL does at an ordinary exit takes away what librdkafka's threads are using, for as
    /// long as they try to reach a broker by TLS.
    static func leave(_ code: Int32) -> Never {
        fflush(nil)
        _exit(code)
    }
}

/// Text for people who watch.
enum StandardError {
    static func write(_ line: String) {
        FileHandle.standardError.write(Data((line + "\n").utf8))
    }
}

extension RecordLogError {
    /// Tells standard error what is wrong with the log and what to change.
    ///
    /// - Returns: what the command ends with.
    func told() -> ExitCode {
        let reason = self.reason.isEmpty ? "\(self)" : self.reason
        StandardError.write("posthorn: \(reason)\(reason.hasSuffix(".") ? "" : ".")")
        switch self.code {
        case .configuration: return ExitCode(SystemExit.configuration)
        case .unavailable: return ExitCode(SystemExit.unavailable)
        default: return ExitCode(self.isRetriable ? SystemExit.temporaryFailure : SystemExit.software)
        }
    }
}
