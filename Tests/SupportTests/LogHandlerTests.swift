import Foundation
import Logging
import NodeSupport
import Synchronization
import Testing

/// What a log output wrote.
private final class Written: Sendable {
    private let octets = Mutex<[UInt8]>([])

    func output(bufferSizeMax: Int = 1 << 20) -> LogOutput {
        LogOutput(bufferSizeMax: bufferSizeMax) { chunk in self.octets.withLock { $0.append(contentsOf: chunk) } }
    }

    var text: String { self.octets.withLock { String(decoding: $0, as: UTF8.self) } }
}

@Suite("Log handlers: one event, one line")
struct LogHandlerTests {
    /// 2026-11-23T23:10:00.042Z.
    private let clock = ManualClock(milliseconds: 1_795_475_400_042)

    private func logger(json: Bool, redacts: Bool = true, to output: LogOutput) -> Logger {
        Logger(label: "posthorn") { label in
            LineLogHandler(
                label: label,
                format: json ? .json : .text,
                output: output,
                redactsAddresses: redacts,
                clock: self.clock
            )
        }
    }

    @Test("JSON: fixed fields first, metadata sorted, numbers as numbers, addresses redacted")
    func writesJSON() throws {
        let written = Written()
        let output = written.output()
        var logger = self.logger(json: true, to: output)
        logger[metadataKey: LogKeys.sessionID] = "s1"
        logger.info(
            "Accepted",
            metadata: [
                LogKeys.sender: "joe@example.org", LogKeys.size: .stringConvertible(12), "time": "mine",
                LogKeys.recipient: .array(["a@example.net", "<b@example.net>"]), "flag": .stringConvertible(true),
            ]
        )
        output.flush()
        #expect(
            written.text == """
                {"time":"2026-11-23T23:10:00.042Z","level":"info","logger":"posthorn","message":"Accepted","flag":true,\
                "recipient":["…@example.net","<…@example.net>"],"sender":"…@example.org","session_id":"s1","size":12,\
                "_time":"mine"}

                """
        )
        _ = try JSONSerialization.jsonObject(with: Data(written.text.utf8))
    }

    @Test("Nothing in a value can begin a line or leave its string", arguments: [true, false])
    func keepsOneLine(isJSON: Bool) throws {
        let written = Written()
        let output = written.output()
        let hostile = "x\r\ny \"q\" \\ \u{0} \u{1b}[31m é"
        self.logger(json: isJSON, to: output).notice("Static\nmessage", metadata: [LogKeys.reply: "\(hostile)"])
        output.flush()
        #expect(written.text.utf8.count { $0 == 0x0a } == 1)
        #expect(written.text.utf8.allSatisfy { $0 >= 0x20 || $0 == 0x0a })
        if isJSON {
            let object = try JSONSerialization.jsonObject(with: Data(written.text.utf8)) as? [String: String]
            #expect(object?["reply"] == hostile)
            #expect(object?["message"] == "Static\nmessage")
        }
    }

    @Test("Text: words as they are, the rest quoted")
    func writesText() {
        let written = Written()
        let output = written.output()
        self.logger(json: false, redacts: false, to: output)
            .warning(
                "Refused",
                metadata: [LogKeys.sender: "joe@example.org", LogKeys.reason: "no such user", LogKeys.host: ""]
            )
        output.flush()
        #expect(
            written.text
                == "2026-11-23T23:10:00.042Z warning posthorn: Refused host=\"\" reason=\"no such user\" "
                + "sender=joe@example.org\n"
        )
    }

    @Test("Levels below the handler's are not written")
    func filtersLevels() {
        let written = Written()
        let output = written.output()
        let logger = self.logger(json: true, to: output)
        logger.debug("no")
        logger.error("yes")
        output.flush()
        #expect(!written.text.contains("\"no\""))
        #expect(written.text.contains("\"yes\""))
    }

    /// Goal: a reader that does not read costs lines, not memory or time. Method: the first write blocks until the
    /// buffer has overflowed.
    @Test("When the buffer is full lines are dropped, counted, and the count is written")
    func dropsWhenFull() {
        let gate = DispatchSemaphore(value: 0)
        let written = Mutex("")
        let output = LogOutput(bufferSizeMax: 1_000) { chunk in
            gate.wait()
            written.withLock { $0 += String(decoding: chunk, as: UTF8.self) }
        }
        let logger = self.logger(json: true, to: output)
        for _ in 0..<100 { logger.info("A line that is long enough to fill the buffer soon") }
        for _ in 0..<100 { gate.signal() }
        output.flush()
        let text = written.withLock { $0 }
        #expect(text.contains("Dropped log lines"))
        #expect(text.utf8.count { $0 == 0x0a } < 40)
    }

    @Test(
        "Times are RFC 3339",
        arguments: [
            (0, "1970-01-01T00:00:00.000Z"), (951_826_554_123, "2000-02-29T12:15:54.123Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"), (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (Int64.max, "9999-12-31T23:59:59.999Z"),
        ]
    )
    func writesTimes(milliseconds: Int64, text: String) {
        let written = Written()
        let output = written.output()
        Logger(label: "x") { label in
            LineLogHandler(
                label: label,
                format: .text,
                output: output,
                clock: ManualClock(milliseconds: milliseconds)
            )
        }
        .info("m")
        output.flush()
        #expect(written.text.hasPrefix(text))
    }

    @Test(
        "Redaction hides the local part and keeps the domain",
        arguments: [
            ("a@example.org", "…@example.org"), ("\"x@y\"@example.org", "…@example.org"), ("", ""), ("<>", "<>"),
            ("postmaster", "…"), ("<a@example.org>", "<…@example.org>"),
        ]
    )
    func redacts(address: String, redacted: String) {
        #expect(redact(address) == redacted)
    }
}
