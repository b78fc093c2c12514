import Foundation
import Mail

/// A seeded source of octets; the seed of a failing test replays it.
struct ContentRandom: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { self.state = seed &* 0x9e37_79b9_7f4a_7c15 }

    mutating func next() -> UInt64 {
        self.state &+= 0x9e37_79b9_7f4a_7c15
        var value = self.state
        value = (value ^ value >> 30) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ value >> 27) &* 0x94d0_49bb_1331_11eb
        return value ^ value >> 31
    }

    /// Octets that look like mail often enough to reach every branch.
    mutating func content(pieces: [String], countMax: Int) -> [UInt8] {
        var octets: [UInt8] = []
        for _ in 0..<Int.random(in: 0...countMax, using: &self) {
            if Int.random(in: 0..<4, using: &self) == 0 {
                octets.append(UInt8.random(in: 0...255, using: &self))
            } else if let piece = pieces.randomElement(using: &self) {
                octets.append(contentsOf: piece.utf8)
            }
        }
        return octets
    }
}

/// What Python says about files written for it.
enum Python {
    struct Failed: Error {
        var output: String
    }

    /// Runs `script` with each of `files` written to disk and named in `sys.argv[1:]`, and returns what it prints.
    static func run(_ script: String, files: [[UInt8]]) throws -> String {
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        var arguments = ["python3", "-c", script]
        for (index, octets) in files.enumerated() {
            let file = folder.appendingPathComponent("\(index)")
            try Data(octets).write(to: file)
            arguments.append(file.path)
        }
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = arguments
        let output = Pipe()
        process.standardOutput = output
        process.standardError = output
        try process.run()
        let data = output.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        let text = String(decoding: data, as: UTF8.self)
        guard process.terminationStatus == 0 else { throw Failed(output: text) }
        return text
    }
}

func octets(_ text: String) -> [UInt8] { Array(text.utf8) }

extension HeaderSection {
    init(_ content: [UInt8], limits: Limits = Limits()) {
        self = content.withUnsafeBytes { HeaderSection($0, limits: limits) }
    }
}
