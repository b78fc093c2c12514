import CRdKafka
import ClusterLog

extension KafkaError {
    fileprivate var isAboutCredentials: Bool {
        self.is(
            RD_KAFKA_RESP_ERR__AUTHENTICATION,
            RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED,
            RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM,
            RD_KAFKA_RESP_ERR_ILLEGAL_SASL_STATE
        )
    }
}

extension KafkaError? {
    /// What to look at when no broker can be spoken to; the error is the last that was seen.
    var advice: String {
        switch self {
        case let error? where error.isAboutCredentials:
            "check kafka.username, kafka.password-file and kafka.mechanism"
        case let error? where error.is(RD_KAFKA_RESP_ERR__SSL):
            "check kafka.security, kafka.authorities, kafka.certificate and kafka.key"
        default:
            "check the address, kafka.security and the credentials"
        }
    }
}

extension RecordLogError {
    /// What a caller of the log is told; the reason names what to change.
    init(_ error: KafkaError, while action: String) {
        let reason = "\(action): \(error)"
        switch rd_kafka_resp_err_t(rawValue: error.code) {
        case RD_KAFKA_RESP_ERR__QUEUE_FULL:
            self.init(.queueFull, isRetriable: true, reason: reason)
        case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE, RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
            self.init(
                .recordTooLarge,
                isRetriable: false,
                reason: reason + "; the topic's max.message.bytes must be at least kafka.value-size plus 100 kB"
            )
        case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC,
            RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
            self.init(
                .configuration,
                isRetriable: true,
                reason: reason + "; a topic or partition is missing: run `posthorn topics apply`"
            )
        case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
            RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED, RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
            self.init(
                .configuration,
                isRetriable: true,
                reason: reason + "; the user of kafka.username may not do this: give it the right on the brokers"
            )
        case RD_KAFKA_RESP_ERR__AUTHENTICATION, RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED,
            RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM, RD_KAFKA_RESP_ERR_ILLEGAL_SASL_STATE,
            RD_KAFKA_RESP_ERR__SSL:
            self.init(.unavailable, isRetriable: true, reason: "\(reason); \(Optional(error).advice)")
        case RD_KAFKA_RESP_ERR__MSG_TIMED_OUT, RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
            RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND:
            self.init(
                .notDurable,
                isRetriable: true,
                reason: reason + "; brokers are out of reach, or fewer replicas in sync than min.insync.replicas"
            )
        case RD_KAFKA_RESP_ERR__TRANSPORT, RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, RD_KAFKA_RESP_ERR__RESOLVE,
            RD_KAFKA_RESP_ERR__TIMED_OUT, RD_KAFKA_RESP_ERR__WAIT_COORD:
            self.init(.unavailable, isRetriable: true, reason: reason)
        case RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE, RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION:
            self.init(
                .configuration,
                isRetriable: false,
                reason: reason + "; these brokers do not take this request: they are a mock, or older than Kafka 2.5"
            )
        case RD_KAFKA_RESP_ERR__DESTROY:
            self.init(.closed, isRetriable: false, reason: reason)
        default:
            self.init(.notDurable, isRetriable: true, reason: reason)
        }
    }
}
