import Foundation

/// A notification as Python's `email` package reads it, under `policy.default`.
struct PythonReport: Decodable {
    struct Part: Decodable {
        var type: String
        var encoding: String?
        var text: String?
        /// The fields of each block of a report, or of the message or headers returned.
        var blocks: [[[String]]]?
    }

    var headers: [[String]]
    var type: String
    var reportType: String?
    var parts: [Part]
    /// Every defect of every part and header field.
    var defects: [String]

    func header(_ name: String) -> [String] {
        self.headers.filter { $0[0].lowercased() == name.lowercased() }.map { $0[1] }
    }

    struct Failed: Error {
        var output: String
    }

    private static let script = """
        import sys, json, email
        from email import policy
        raw = open(sys.argv[1], 'rb').read()
        p = policy.default.clone(utf8=True)
        m = email.message_from_bytes(raw, policy=p)
        defects = []
        def collect(part, own):
            defects.extend(repr(d) for d in part.defects)
            if own:
                for name, value in part.items():
                    defects.extend('%s: %r' % (name, d) for d in getattr(value, 'defects', ()))
        own = [m] + (m.get_payload() if m.is_multipart() else [])
        # Python 3.11 cannot read some header fields that senders write: only ours are read in full.
        for part in m.walk(): collect(part, part in own)
        def fields(part):
            try: return [[n, str(v)] for n, v in part.items()]
            except Exception: return [[n, repr(v)] for n, v in part.raw_items()]
        def fix(s): return s.encode('ascii', 'surrogateescape').decode('utf-8', 'replace')
        parts = []
        for part in (m.get_payload() if m.is_multipart() else []):
            t = part.get_content_type()
            out = {'type': t, 'encoding': part['content-transfer-encoding']}
            if t == 'message/delivery-status':
                out['blocks'] = [fields(b) for b in part.get_payload()]
            elif t.startswith('message/rfc822') or t == 'message/global':
                inner = part.get_payload(0) if part.is_multipart() else email.message_from_bytes(
                    part.get_payload(decode=True), policy=p)
                out['blocks'] = [fields(inner)]
                out['text'] = inner.get_payload()
            elif t.startswith('text/'):
                out['text'] = part.get_content()
            else:
                payload = part.get_payload()
                text = payload if isinstance(payload, str) else ''.join(
                    b.as_bytes().decode('utf-8') for b in payload)
                out['text'] = text
            if isinstance(out.get('text'), str):
                try: out['text'] = fix(out['text'])
                except UnicodeEncodeError: pass
            parts.append(out)
        json.dump({'headers': fields(m), 'type': m.get_content_type(),
            'reportType': m['content-type'].params.get('report-type'), 'parts': parts, 'defects': defects}, sys.stdout)
        """

    init(_ content: [UInt8]) throws {
        let file = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        try Data(content).write(to: file)
        defer { try? FileManager.default.removeItem(at: file) }
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["python3", "-c", Self.script, file.path]
        let output = Pipe()
        process.standardOutput = output
        process.standardError = output
        try process.run()
        let data = output.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw Failed(output: String(decoding: data, as: UTF8.self)) }
        self = try JSONDecoder().decode(Self.self, from: data)
    }
}
