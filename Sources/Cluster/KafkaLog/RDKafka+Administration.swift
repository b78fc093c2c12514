// The second half of the wrapper: librdkafka's admin API. Everything that is made here is destroyed here.
import CRdKafka
import ClusterLog

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// A topic that is to be made.
struct NewTopic {
    var name: String
    var partitionCount: Int
    var replicationFactor: Int
    var settings: [(name: String, value: String)]
}

extension KafkaClient {
    /// Makes topics that are not there yet. Blocks.
    ///
    /// - Returns: what went wrong, by topic name; a topic that exists already is no error.
    func createTopics(_ topics: [NewTopic], timeout: Int32) throws(KafkaError) -> [String: KafkaError] {
        var text = [CChar](repeating: 0, count: 512)
        var handles: [OpaquePointer?] = []
        defer { for case let handle? in handles { rd_kafka_NewTopic_destroy(handle) } }
        var failures: [String: KafkaError] = [:]
        for topic in topics {
            let handle = rd_kafka_NewTopic_new(
                topic.name,
                Int32(truncatingIfNeeded: topic.partitionCount),
                Int32(truncatingIfNeeded: topic.replicationFactor),
                &text,
                text.count
            )
            guard let handle else { throw KafkaError(RD_KAFKA_RESP_ERR__INVALID_ARG, topic.name) }
            for (name, value) in topic.settings { _ = rd_kafka_NewTopic_set_config(handle, name, value) }
            handles.append(handle)
        }
        try self.administer(timeout: timeout) { client, queue in
            // The call copies what it needs.
            rd_kafka_CreateTopics(client, &handles, handles.count, nil, queue)
        } result: { event throws(KafkaError) in
            var count = 0
            guard let result = rd_kafka_event_CreateTopics_result(event),
                let results = rd_kafka_CreateTopics_result_topics(result, &count)
            else { throw KafkaError(RD_KAFKA_RESP_ERR__FAIL) }
            for index in 0..<count {
                let code = rd_kafka_topic_result_error(results[index])
                guard code != RD_KAFKA_RESP_ERR_NO_ERROR, code != RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS else {
                    continue
                }
                let name = String(cString: rd_kafka_topic_result_name(results[index]))
                let reason = rd_kafka_topic_result_error_string(results[index]).map { String(cString: $0) } ?? ""
                failures[name] = KafkaError(code, reason)
            }
        }
        return failures
    }

    func deleteTopics(_ names: [String], timeout: Int32) throws(KafkaError) {
        var handles: [OpaquePointer?] = names.map { rd_kafka_DeleteTopic_new($0) }
        defer { for case let handle? in handles { rd_kafka_DeleteTopic_destroy(handle) } }
        try self.administer(timeout: timeout) { client, queue in
            rd_kafka_DeleteTopics(client, &handles, handles.count, nil, queue)
        } result: { (_: OpaquePointer) throws(KafkaError) in
        }
    }

    /// The settings of topics, as they are in force. Blocks.
    func describeTopics(_ names: [String], timeout: Int32) throws(KafkaError) -> [String: [String: String]] {
        try self.describe(names, RD_KAFKA_RESOURCE_TOPIC, timeout: timeout)
    }

    func describeBroker(_ id: Int32, timeout: Int32) throws(KafkaError) -> [String: String] {
        try self.describe(["\(id)"], RD_KAFKA_RESOURCE_BROKER, timeout: timeout)["\(id)"] ?? [:]
    }

    private func describe(
        _ names: [String],
        _ type: rd_kafka_ResourceType_t,
        timeout: Int32
    ) throws(KafkaError) -> [String: [String: String]] {
        var handles: [OpaquePointer?] = names.map { rd_kafka_ConfigResource_new(type, $0) }
        defer { for case let handle? in handles { rd_kafka_ConfigResource_destroy(handle) } }
        return try self.administer(timeout: timeout) { client, queue in
            rd_kafka_DescribeConfigs(client, &handles, handles.count, nil, queue)
        } result: { event throws(KafkaError) in
            var count = 0
            guard let result = rd_kafka_event_DescribeConfigs_result(event),
                let resources = rd_kafka_DescribeConfigs_result_resources(result, &count)
            else { throw KafkaError(RD_KAFKA_RESP_ERR__FAIL) }
            var described: [String: [String: String]] = [:]
            for index in 0..<count {
                guard let resource = resources[index] else { continue }
                let code = rd_kafka_ConfigResource_error(resource)
                guard code == RD_KAFKA_RESP_ERR_NO_ERROR else { throw KafkaError(code) }
                var entryCount = 0
                let entries = rd_kafka_ConfigResource_configs(resource, &entryCount)
                var settings: [String: String] = [:]
                for index in 0..<entryCount {
                    guard let entry = entries?[index], let value = rd_kafka_ConfigEntry_value(entry) else { continue }
                    settings[String(cString: rd_kafka_ConfigEntry_name(entry))] = String(cString: value)
                }
                described[String(cString: rd_kafka_ConfigResource_name(resource))] = settings
            }
            return described
        }
    }

    /// Forgets the records below these offsets: one request to each leader. Blocks.
    ///
    /// - Returns: what went wrong, by partition.
    func deleteRecords(
        below offsets: [TopicPartition: Offset],
        timeout: Int32
    ) throws(KafkaError) -> [TopicPartition: KafkaError] {
        let partitions = Array(offsets.keys)
        // Ours; the request copies it.
        let list = self.list(partitions, offsets: partitions.map { offsets[$0] ?? Offset(0) })
        defer { rd_kafka_topic_partition_list_destroy(list) }
        var handles: [OpaquePointer?] = [rd_kafka_DeleteRecords_new(list)]
        defer { for case let handle? in handles { rd_kafka_DeleteRecords_destroy(handle) } }
        // The request's own end comes first.
        return try self.administer(timeout: timeout + 1_000) { client, queue in
            // The call copies what it needs, the options too. Without options it waits for up to a minute.
            let options = rd_kafka_AdminOptions_new(client, RD_KAFKA_ADMIN_OP_DELETERECORDS)
            defer { rd_kafka_AdminOptions_destroy(options) }
            var text = [CChar](repeating: 0, count: 256)
            _ = rd_kafka_AdminOptions_set_request_timeout(options, timeout, &text, text.count)
            _ = rd_kafka_AdminOptions_set_operation_timeout(options, timeout, &text, text.count)
            rd_kafka_DeleteRecords(client, &handles, handles.count, options, queue)
        } result: { event throws(KafkaError) in
            // The result and its list stay the event's.
            guard let result = rd_kafka_event_DeleteRecords_result(event),
                let list = rd_kafka_DeleteRecords_result_offsets(result)
            else { throw KafkaError(RD_KAFKA_RESP_ERR__FAIL) }
            var failures: [TopicPartition: KafkaError] = [:]
            for index in 0..<Int(list.pointee.cnt) {
                let element = list.pointee.elems[index]
                guard element.err != RD_KAFKA_RESP_ERR_NO_ERROR else { continue }
                let topic = self.names.topic(named: String(cString: element.topic))
                failures[TopicPartition(topic, element.partition)] = KafkaError(element.err)
            }
            return failures
        }
    }

    /// How many partitions the members of a group have been assigned, all together. Blocks.
    ///
    /// - Returns: `nil` while the group is changing.
    func assignedCount(of group: String, timeout: Int32) throws(KafkaError) -> Int? {
        var name = strdup(group)
        defer { free(name) }
        return try self.administer(timeout: timeout + 1_000) { client, queue in
            let options = rd_kafka_AdminOptions_new(client, RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS)
            defer { rd_kafka_AdminOptions_destroy(options) }
            var text = [CChar](repeating: 0, count: 256)
            _ = rd_kafka_AdminOptions_set_request_timeout(options, timeout, &text, text.count)
            // The call copies the name and the options.
            withUnsafeMutablePointer(to: &name) { pointer in
                pointer.withMemoryRebound(to: UnsafePointer<CChar>?.self, capacity: 1) { names in
                    rd_kafka_DescribeConsumerGroups(client, names, 1, options, queue)
                }
            }
        } result: { event throws(KafkaError) in
            // All of it stays the event's.
            var count = 0
            guard let result = rd_kafka_event_DescribeConsumerGroups_result(event),
                let groups = rd_kafka_DescribeConsumerGroups_result_groups(result, &count), count == 1,
                let group = groups[0]
            else { throw KafkaError(RD_KAFKA_RESP_ERR__FAIL) }
            if let error = rd_kafka_ConsumerGroupDescription_error(group) {
                throw KafkaError(rd_kafka_error_code(error), String(cString: rd_kafka_error_string(error)))
            }
            guard rd_kafka_ConsumerGroupDescription_state(group) == RD_KAFKA_CONSUMER_GROUP_STATE_STABLE else {
                return nil
            }
            var assigned = 0
            for index in 0..<rd_kafka_ConsumerGroupDescription_member_count(group) {
                let member = rd_kafka_ConsumerGroupDescription_member(group, index)
                let assignment = rd_kafka_MemberDescription_assignment(member)
                assigned += Int(rd_kafka_MemberAssignment_partitions(assignment)?.pointee.cnt ?? 0)
            }
            return assigned
        }
    }
}
