import ClusterLog

/// Maps our topic names to the cluster's, which begin with a configured prefix instead of `posthorn`.
struct TopicNames: Hashable, Sendable {
    var prefix: String

    func name(of topic: Topic) -> String {
        guard self.prefix != "posthorn", topic.name.hasPrefix("posthorn.") else { return topic.name }
        return self.prefix + topic.name.dropFirst("posthorn".utf8.count)
    }

    func topic(named name: String) -> Topic {
        guard self.prefix != "posthorn", name.hasPrefix(self.prefix + ".") else { return Topic(name) }
        return Topic("posthorn" + name.dropFirst(self.prefix.utf8.count))
    }
}
