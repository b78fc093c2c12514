import ClusterLog
import KafkaLog

/// What `posthorn topics` found or did, as text and as JSON.
struct TopicsReport {
    let plan: TopicPlan
    var bootstrap = ""
    /// Topics that were made; `nil` when none should be.
    var made: [Topic]?
    /// What is wrong; `nil` when nobody asked.
    var findings: [TopicPlan.Finding]?
    /// The topics there are; `nil` when nobody asked.
    var existing: [Topic: TopicPlan.Existing]?
    private var names: [String: String] = [:]

    init(plan: TopicPlan) {
        self.plan = plan
    }

    var hasErrors: Bool { self.findings?.contains { $0.severity == .error } ?? false }

    /// Takes over what the cluster calls the topics.
    mutating func name(by topics: KafkaTopics) {
        let all =
            self.plan.entries.map(\.topic) + (self.existing ?? [:]).keys + (self.findings ?? []).map { Topic($0.topic) }
        for topic in all { self.names[topic.name] = topics.name(of: topic) }
    }

    private func name(_ topic: String) -> String { self.names[topic] ?? topic }

    // MARK: Text

    var text: String {
        var lines: [String] = []
        if let made {
            lines += made.map { topic in
                "made     \(self.name(topic.name)): \(self.plan.partitionCount) partitions, "
                    + "\(self.plan.replicationFactor) replicas"
            }
        }
        if let existing { lines.append(self.table(existing)) }
        if let findings { lines += self.lines(findings) }
        return lines.joined(separator: "\n")
    }

    private func lines(_ findings: [TopicPlan.Finding]) -> [String] {
        guard !findings.isEmpty else { return ["\(self.plan.entries.count) topics: all is well."] }
        var lines = findings.map { finding in
            let severity = finding.severity == .error ? "error    " : "warning  "
            return "\(severity)\(self.name(finding.topic)): \(finding.problem). \(finding.remedy)."
        }
        var changes: [(topic: String, settings: [String])] = []
        for finding in findings {
            guard let setting = finding.setting else { continue }
            let text = "\(setting.name)=\(setting.value)"
            if let index = changes.firstIndex(where: { $0.topic == finding.topic }) {
                if !changes[index].settings.contains(text) { changes[index].settings.append(text) }
            } else {
                changes.append((finding.topic, [text]))
            }
        }
        if !changes.isEmpty {
            lines += ["", "Settings are changed with Kafka's own tool:"]
            lines += changes.map { change in
                "  kafka-configs.sh --bootstrap-server \(self.bootstrap) --alter --entity-type topics "
                    + "--entity-name \(self.name(change.topic)) --add-config \(change.settings.joined(separator: ","))"
            }
        }
        if self.hasErrors { lines += ["", "A node refuses to start on these topics."] }
        return lines
    }

    private func table(_ existing: [Topic: TopicPlan.Existing]) -> String {
        let columns = ["topic", "partitions", "replicas", "in sync", "cleanup", "kept", "per partition", ""]
        var table = TextTable(header: columns, numeric: [1, 2, 3])
        let planned = Set(self.plan.entries.map(\.topic))
        for topic in existing.keys.sorted(by: { $0.name < $1.name }) {
            guard let found = existing[topic] else { continue }
            let cleanup = found.settings["cleanup.policy"]
            table.rows.append([
                self.name(topic.name), "\(found.partitionCount)", "\(found.replicationFactor)",
                found.settings["min.insync.replicas"] ?? "?", cleanup ?? "?",
                cleanup == "compact" ? "latest" : Self.time(found.settings["retention.ms"]),
                Self.size(found.settings["retention.bytes"]),
                planned.contains(topic) || topic.deferredDelay != nil ? "" : "not ours to use",
            ])
        }
        for entry in self.plan.entries where existing[entry.topic] == nil {
            table.rows.append([self.name(entry.topic.name), "-", "-", "-", "-", "-", "-", "missing"])
        }
        return table.text
    }

    private static func time(_ text: String?) -> String {
        guard let text, let milliseconds = Int64(text) else { return "?" }
        return milliseconds < 0 ? "for ever" : Quantity.span(milliseconds: milliseconds)
    }

    private static func size(_ text: String?) -> String {
        guard let text, let octets = Int(text) else { return "?" }
        return octets < 0 ? "no bound" : Quantity.size(octets)
    }
}

// MARK: JSON

extension TopicsReport: Encodable {
    private struct FindingText: Encodable {
        struct Setting: Encodable {
            var name: String
            var value: String
        }

        var severity: String
        var topic: String
        var problem: String
        var remedy: String
        var setting: Setting?
    }

    private struct TopicText: Encodable {
        var topic: String
        var partitions: Int?
        var replicas: Int?
        var settings: [String: String]?
        var planned: Bool
    }

    private enum Keys: String, CodingKey {
        case bootstrap, made, findings, topics
    }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: Keys.self)
        try container.encode(self.bootstrap, forKey: .bootstrap)
        try container.encodeIfPresent(self.made?.map { self.name($0.name) }, forKey: .made)
        let findings = self.findings?
            .map { finding in
                FindingText(
                    severity: finding.severity == .error ? "error" : "warning",
                    topic: self.name(finding.topic),
                    problem: finding.problem,
                    remedy: finding.remedy,
                    setting: finding.setting.map { .init(name: $0.name, value: $0.value) }
                )
            }
        try container.encodeIfPresent(findings, forKey: .findings)
        guard let existing else { return }
        let planned = Set(self.plan.entries.map(\.topic))
        let topics = planned.union(existing.keys).sorted { $0.name < $1.name }
            .map { topic in
                TopicText(
                    topic: self.name(topic.name),
                    partitions: existing[topic]?.partitionCount,
                    replicas: existing[topic]?.replicationFactor,
                    settings: existing[topic]?.settings,
                    planned: planned.contains(topic)
                )
            }
        try container.encode(topics, forKey: .topics)
    }
}
