import ArgumentParser
import Foundation
import NodeSupport
import SMTP

struct CredentialsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "credentials",
        abstract: "Say who may authenticate.",
        discussion: """
            The file holds SCRAM-SHA-256 verifiers, one user a line, in PostgreSQL's form: enough to check a \
            password, not to know it. Passwords come from the terminal without echo, or from the first line of \
            standard input.
            """,
        subcommands: [Add.self, Remove.self, Verify.self, List.self]
    )

    struct Location: ParsableArguments {
        @OptionGroup var configuration: ConfigurationOption

        @Option(
            name: .shortAndLong,
            help: ArgumentHelp("The credentials file.", discussion: "Default: credentials-file.", valueName: "file"),
            completion: .file()
        )
        var file: String?

        func path() throws -> String {
            if let file { return file }
            // The file may be about to be created, which is no reason to refuse the configuration.
            var loader = ConfigurationLoader()
            loader.files = FileProbe(problem: { _ in nil })
            do {
                if let path = try loader.load(path: self.configuration.config).credentialsFile { return path }
            } catch {
                StandardError.write(error.description)
                throw ExitCode(SystemExit.configuration)
            }
            throw ValidationError("The configuration has no credentials-file. Name one with --file.")
        }
    }

    struct Add: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Add a user, or give one a new password.")
        @OptionGroup var location: Location
        @Option(help: "Rounds of hashing: more is slower for everybody.") var iterations = CredentialRecord
            .defaultIterations
        @Argument(help: "The user's name.") var user: String

        func validate() throws {
            if !(4096...CredentialRecord.iterationsMax).contains(self.iterations) {
                throw ValidationError("--iterations takes 4096 to \(CredentialRecord.iterationsMax).")
            }
            let isPrintable = self.user.unicodeScalars.allSatisfy { $0.properties.generalCategory != .control }
            if self.user.isEmpty || self.user.utf8.count > 255 || !isPrintable || self.user.hasPrefix("#") {
                throw ValidationError("A user's name has 1 to 255 octets, no control characters, and no # in front.")
            }
        }

        func run() throws {
            let path = try self.location.path()
            var file = try CredentialsFile(path: path)
            let password = try PasswordPrompt.read(confirm: true)
            guard !password.isEmpty else { throw ValidationError("The password is empty.") }
            var random = SystemRandomNumberGenerator()
            let salt = (0..<16).map { _ in UInt8.random(in: 0...255, using: &random) }
            let record = CredentialRecord(
                userName: self.user,
                password: password,
                salt: salt,
                iterations: self.iterations
            )
            let isNew = file.set(record)
            try file.write()
            print("\(self.user) \(isNew ? "added to" : "changed in") \(path).")
        }
    }

    struct Remove: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Remove a user.")
        @OptionGroup var location: Location
        @Argument(help: "The user's name.") var user: String

        func run() throws {
            var file = try CredentialsFile(path: try self.location.path())
            guard file.remove(self.user) else {
                StandardError.write("posthorn: there is no user “\(self.user)”.")
                throw ExitCode(SystemExit.noUser)
            }
            try file.write()
            print("\(self.user) removed.")
        }
    }

    struct Verify: ParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Check a user's password.",
            discussion: "Exits with 0 when it is right, 1 when it is wrong, and 67 when there is no such user."
        )
        @OptionGroup var location: Location
        @Argument(help: "The user's name.") var user: String

        func run() throws {
            let file = try CredentialsFile(path: try self.location.path())
            guard let record = file.record(self.user) else {
                StandardError.write("posthorn: there is no user “\(self.user)”.")
                throw ExitCode(SystemExit.noUser)
            }
            guard record.matches(password: try PasswordPrompt.read(confirm: false)) else {
                print("The password is wrong.")
                throw ExitCode(1)
            }
            print("The password is right.")
        }
    }

    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(abstract: "List the users.")
        @OptionGroup var location: Location

        func run() throws {
            for name in try CredentialsFile(path: try self.location.path()).userNames { print(name) }
        }
    }
}

/// A credentials file as lines: comments and what is not understood stay where they are.
struct CredentialsFile {
    let path: String
    private var lines: [String]

    /// A file that does not exist is empty.
    init(path: String) throws {
        self.path = path
        guard FileManager.default.fileExists(atPath: path) else {
            self.lines = []
            return
        }
        guard let text = try? String(contentsOfFile: path, encoding: .utf8) else {
            throw ValidationError("\(path) cannot be read.")
        }
        self.lines = text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline).map(String.init)
        if self.lines.last == "" { self.lines.removeLast() }
    }

    var userNames: [String] { self.lines.compactMap { CredentialRecord(line: $0)?.userName } }

    func record(_ user: String) -> CredentialRecord? {
        self.lines.lazy.compactMap { CredentialRecord(line: $0) }.first { $0.userName == user }
    }

    /// - Returns: whether the user is new.
    mutating func set(_ record: CredentialRecord) -> Bool {
        let index = self.lines.firstIndex { CredentialRecord(line: $0)?.userName == record.userName }
        if let index {
            self.lines[index] = record.line
        } else {
            self.lines.append(record.line)
        }
        return index == nil
    }

    /// - Returns: whether there was one.
    mutating func remove(_ user: String) -> Bool {
        let count = self.lines.count
        self.lines.removeAll { CredentialRecord(line: $0)?.userName == user }
        return self.lines.count < count
    }

    /// Replaces the file in one step, readable for its owner alone; a crash leaves the old one.
    func write() throws {
        let temporary = "\(self.path).new-\(getpid())"
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw ValidationError("\(temporary) cannot be written: \(String(cString: strerror(errno))).")
        }
        let handle = FileHandle(fileDescriptor: descriptor, closeOnDealloc: true)
        do {
            // Whoever reads the old file, posthorn's user above all, reads the new one.
            let old = try? FileManager.default.attributesOfItem(atPath: self.path)
            if let user = old?[.ownerAccountID] as? NSNumber, let group = old?[.groupOwnerAccountID] as? NSNumber {
                _ = fchown(descriptor, user.uint32Value, group.uint32Value)
            }
            try handle.write(contentsOf: Data(self.lines.map { $0 + "\n" }.joined().utf8))
            try handle.synchronize()
            guard rename(temporary, self.path) == 0 else {
                throw ValidationError("\(self.path) cannot be replaced: \(String(cString: strerror(errno))).")
            }
        } catch {
            unlink(temporary)
            throw error
        }
    }
}

/// Asks for a password.
enum PasswordPrompt {
    static func read(confirm: Bool) throws -> String {
        guard isatty(STDIN_FILENO) == 1 else {
            guard let line = readLine() else { throw ValidationError("There is no password on standard input.") }
            return line
        }
        let password = try Self.prompt("Password: ")
        if confirm, try Self.prompt("Once more: ") != password { throw ValidationError("The two are different.") }
        return password
    }

    private static func prompt(_ text: String) throws -> String {
        FileHandle.standardError.write(Data(text.utf8))
        var old = termios()
        tcgetattr(STDIN_FILENO, &old)
        var silent = old
        silent.c_lflag &= ~tcflag_t(ECHO)
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &silent)
        defer {
            tcsetattr(STDIN_FILENO, TCSAFLUSH, &old)
            StandardError.write("")
        }
        guard let line = readLine() else { throw ExitCode(1) }
        return line
    }
}
