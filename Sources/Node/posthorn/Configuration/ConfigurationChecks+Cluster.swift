import NodeSupport

extension ConfigurationChecks {
    /// Roles and the cluster they need.
    func checkCluster() {
        let kafka = self.configuration.kafka
        if self.configuration.roles.isEmpty {
            self.reading.report("roles", "A node without a role does nothing.", fix: "Leave it out for all of them.")
        }
        guard kafka.isUsed else { return self.checkRolesOfOneMachine() }
        if !kafka.isTestCluster, !kafka.isMockCluster, kafka.replicationFactor < 3 || kafka.inSyncMin < 2 {
            self.reading.report(
                kafka.inSyncMin < 2 ? "kafka.in-sync-min" : "kafka.replication",
                "A broker that dies would take accepted mail with it.",
                fix: "Use at least 3 replicas and 2 in sync, or write “test-cluster: true” under kafka."
            )
        }
        if kafka.inSyncMin >= kafka.replicationFactor, kafka.replicationFactor > 1 {
            self.reading.report(
                "kafka.in-sync-min",
                "With all \(kafka.replicationFactor) replicas required, no broker may fail.",
                fix: "Write \(kafka.replicationFactor - 1)."
            )
        }
        self.checkCredentials(kafka)
    }

    private func checkRolesOfOneMachine() {
        let missing = NodeConfiguration.Role.allCases.filter { !self.configuration.roles.contains($0) }
        guard let role = missing.first, !self.configuration.roles.isEmpty else { return }
        self.reading.report(
            "roles",
            "Nobody would do “\(role.rawValue)”: on the embedded log one process does everything.",
            fix: "Leave roles out, or name a cluster in kafka.bootstrap."
        )
    }

    private func checkCredentials(_ kafka: NodeConfiguration.Kafka) {
        let usesSASL = kafka.security == .saslPlaintext || kafka.security == .saslTLS
        if usesSASL, kafka.mechanism == nil || kafka.username == nil {
            self.reading.report(
                "kafka.security",
                "SASL needs to know who we are.",
                fix: "Set kafka.mechanism, kafka.username and kafka.password-file."
            )
        }
        if usesSASL, kafka.password == nil, kafka.passwordFile == nil {
            self.reading.report(
                "kafka.password-file",
                "There is no password for “\(kafka.username ?? "")”.",
                fix: "Name a file with it, or set POSTHORN_KAFKA_PASSWORD."
            )
        }
        if !usesSASL, kafka.mechanism != nil || kafka.username != nil {
            self.reading.report(
                "kafka.security",
                "kafka.mechanism and kafka.username count for nothing here.",
                fix: "Write “sasl-tls” (or “sasl-plaintext”)."
            )
        }
    }
}
