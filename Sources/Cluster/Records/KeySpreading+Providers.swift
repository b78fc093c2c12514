extension KeySpreading {
    /// Other domains of large mailbox providers, and the one that each is keyed as.
    ///
    /// Mail for them goes to the same hosts: under one key it meets on the same nodes, shares their connections, and
    /// counts as one when buckets are learned. A domain that is missing, or that has moved, costs nothing but that: where
    /// mail goes is always asked of the DNS.
    public static let wellKnownAliases: [String: String] = {
        let providers = [
            ["gmail.com", "googlemail.com"],
            [
                "outlook.com", "hotmail.com", "live.com", "msn.com", "hotmail.co.uk", "hotmail.fr", "hotmail.de",
                "hotmail.it", "hotmail.es", "live.co.uk", "live.fr", "live.nl", "live.it", "outlook.fr", "outlook.de",
                "outlook.es",
            ],
            ["yahoo.com", "ymail.com", "rocketmail.com", "yahoo.co.uk", "yahoo.fr", "yahoo.de", "yahoo.es", "aol.com"],
            ["icloud.com", "me.com", "mac.com"],
            ["gmx.net", "gmx.de", "gmx.at", "gmx.ch"],
            ["proton.me", "protonmail.com", "protonmail.ch", "pm.me"],
            ["mail.ru", "inbox.ru", "list.ru", "bk.ru"],
            ["yandex.ru", "ya.ru", "yandex.com", "yandex.kz", "yandex.by"],
            ["qq.com", "foxmail.com"],
            ["orange.fr", "wanadoo.fr"],
        ]
        var aliases: [String: String] = [:]
        for domains in providers {
            for domain in domains.dropFirst() { aliases[domain] = domains[0] }
        }
        return aliases
    }()
}
