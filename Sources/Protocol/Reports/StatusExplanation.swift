/// What an enhanced status code (RFC 3463, RFC 7372, RFC 7505) means to someone who knows no mail codes.
struct StatusExplanation: Hashable, Sendable {
    /// A sentence: what went wrong.
    var reason: String
    /// A sentence or two: what the sender can do.
    var advice: String

    /// - Parameter status: `5.1.1`; only subject and detail are looked at.
    init(status: String) {
        let parts = status.split(separator: ".", maxSplits: 1)
        (self.reason, self.advice) = Self.text(parts.count == 2 ? parts[1] : "0.0")
    }

    private static let askRecipient = "Ask the recipient in another way, for example by telephone."
    private static let askAdministrator =
        "Pass this report on to your administrator; the server's answer above tells what it objects to."

    private static func text(_ code: Substring) -> (String, String) {
        switch code {
        case "1.1":
            return (
                "There is no such address at the recipient's mail system.",
                "Check the address for spelling mistakes and send the message again to the right one."
            )
        case "1.2", "4.4":
            return (
                "The part of the address after the @ could not be found, or takes no mail.",
                "Check the part after the @ for spelling mistakes and send the message again."
            )
        case "1.3", "1.0":
            return ("The address is not valid.", "Check the address for spelling mistakes.")
        case "1.6":
            return ("The recipient has moved and left no new address.", Self.askRecipient)
        case "1.7", "1.8":
            return ("The recipient's server does not accept your sender address.", Self.askAdministrator)
        case "1.10", "7.27":
            return ("The domain says that it takes no mail at all.", "Check the part after the @.")
        case "2.1":
            return ("The recipient's mailbox is disabled.", Self.askRecipient)
        case "2.2":
            return (
                "The recipient's mailbox is full.",
                "Send the message again later, or tell the recipient in another way that their mailbox is full."
            )
        case "2.3", "3.4":
            return (
                "The message is larger than the recipient's server takes.",
                "Send it again with smaller attachments, or share large files by other means."
            )
        case "4.1", "4.2", "4.3":
            return (
                "The recipient's mail server cannot be reached.",
                "If it goes on, tell the recipient or their administrator in another way."
            )
        case "4.6":
            return ("The message went round in circles between mail servers.", Self.askAdministrator)
        case "4.7":
            return (
                "The recipient's mail system did not take the message in the time allowed.",
                "Send it again later, and if that fails too, tell the recipient in another way."
            )
        case "5.3":
            return ("The message has too many recipients.", "Send it to fewer recipients at a time.")
        case "6.1", "6.2", "6.3", "6.5":
            return (
                "The recipient's server cannot take this message in its format.",
                "Send it again as plain text without attachments."
            )
        case "6.7", "6.8", "6.9", "6.10":
            return (
                "The recipient's server cannot handle addresses or header fields with letters outside ASCII.",
                "Use an address without such letters, for you and for the recipient, and a plain subject."
            )
        case "7.1", "7.0", "7.2":
            return ("The recipient's server refused the message because of its rules.", Self.askAdministrator)
        case "7.20", "7.21", "7.22", "7.23", "7.24", "7.26", "7.29":
            return (
                "The recipient's server could not verify that the message comes from your domain.",
                Self.askAdministrator
            )
        case "7.4", "7.5", "7.10", "7.11":
            return ("No connection as secure as required could be made.", Self.askAdministrator)
        case "7.25":
            return ("The recipient's server refuses mail from this relay's network address.", Self.askAdministrator)
        default:
            return Self.generalText(subject: code.first)
        }
    }

    private static func generalText(subject: Character?) -> (String, String) {
        switch subject {
        case "1": return ("The recipient's server does not accept the address.", "Check the address.")
        case "2": return ("There is a problem with the recipient's mailbox.", Self.askRecipient)
        case "3": return ("The recipient's mail system has a problem.", "Send the message again later.")
        case "4": return ("The recipient's mail server could not be reached properly.", "Send the message again later.")
        case "7": return ("The recipient's server refused the message because of its rules.", Self.askAdministrator)
        default: return ("The recipient's server did not accept the message.", Self.askAdministrator)
        }
    }
}
