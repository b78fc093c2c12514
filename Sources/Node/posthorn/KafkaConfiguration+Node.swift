import Foundation
import KafkaLog
import NodeSupport

extension KafkaConfiguration {
    /// The cluster as a node's configuration describes it.
    ///
    /// - Throws: when the password's file cannot be read.
    init(_ node: NodeConfiguration) throws {
        let kafka = node.kafka
        self.init(bootstrap: kafka.bootstrap)
        self.prefix = kafka.prefix
        self.clientID = "posthorn@\(node.hostname)"
        self.partitionCount = kafka.partitionCount
        self.securityProtocol =
            switch kafka.security {
            case .plaintext: .plaintext
            case .tls: .tls
            case .saslPlaintext: .saslPlaintext
            case .saslTLS: .saslTLS
            }
        self.mechanism = kafka.mechanism.map { mechanism in
            switch mechanism {
            case .plain: .plain
            case .scramSHA256: .scramSHA256
            case .scramSHA512: .scramSHA512
            }
        }
        self.username = kafka.username
        self.password = try kafka.password ?? kafka.passwordFile.map { path in try firstLine(ofFile: path) }
        self.authorities = kafka.authoritiesFile
        self.certificate = kafka.certificateFile
        self.key = kafka.keyFile
        self.valueSizeMax = kafka.valueSizeMax
        self.appendSizeMax = max(64 << 20, 2 * node.limits.messageSizeMax)
        self.isTestCluster = kafka.isTestCluster || kafka.isMockCluster
        self.commitsApart = kafka.isMockCluster
        for setting in kafka.settings {
            let parts = setting.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if parts.count == 2 { self.settings[String(parts[0])] = String(parts[1]) }
        }
    }
}

extension TopicPlan {
    /// The topics that nodes with this configuration need.
    init(_ node: NodeConfiguration) {
        let kafka = node.kafka
        self.init(
            tiers: node.retry.tiers.map { $0.components.seconds },
            lifetime: node.retry.lifetime.components.seconds * 1_000,
            partitionCount: kafka.partitionCount,
            replicationFactor: kafka.replicationFactor,
            inSyncMin: min(kafka.inSyncMin, kafka.replicationFactor),
            recordSizeMax: kafka.valueSizeMax + 100_000
        )
    }
}

/// The first line of a file, without its end: how secrets are kept.
func firstLine(ofFile path: String) throws -> String {
    let text = try String(contentsOfFile: path, encoding: .utf8)
    return text.split(whereSeparator: \.isNewline).first.map(String.init) ?? ""
}
