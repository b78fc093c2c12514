/// Refusals in the manner of large mailbox providers: the codes they use, words of our own.
enum SinkReplies {
    static let temporary: [SinkPhase: [String]] = [
        .connect: [
            "421 4.7.0 Too many connections from your network just now, try again later",
            "421 4.3.2 This server is being maintained, please come back in a few minutes",
            "451 4.7.1 Your address is new to us and is being rate limited, retry with fewer connections",
        ],
        .mail: [
            "421 4.7.28 Unusual amount of unsolicited mail from your network; sending has been slowed down",
            "451 4.7.500 Server busy. Please retry later from the same address (S77714)",
            "450 4.1.8 Sender domain could not be looked up at the moment",
            "452 4.5.3 Your sending quota for this hour is used up; it resets by itself",
        ],
        .rcpt: [
            "450 4.2.1 The user you are writing to receives mail too quickly right now, please resend later",
            "452 4.2.2 Mailbox is over its quota; the owner has been told",
            "451 4.7.1 Greylisted: please try again in five minutes",
            "450 4.7.25 Not now: reverse name of your address does not resolve",
            "451 4.3.0 Temporary failure in directory lookup, try again",
            "421 4.7.0 [TSS04] Messages from you are deferred because of complaints from our users",
        ],
        .data: [
            "451 4.3.2 Please try again later",
            "421 4.3.0 Storage cluster is moving this mailbox, closing the channel",
        ],
        .dot: [
            "451 4.7.0 Content inspection is overloaded, message deferred (code 35)",
            "421 4.7.26 Deferred: authentication results were inconclusive, retry later",
            "452 4.3.1 Insufficient system storage for this message at the moment",
            "451 4.7.652 The mail server has exceeded its share of connections for this tenant",
        ],
    ]

    static let permanent: [SinkPhase: [String]] = [
        .connect: [
            "554 5.7.1 Connections from this address are blocked; see the postmaster site for removal",
            "550 5.7.606 Access denied, banned sending address; ask the delisting portal",
        ],
        .mail: [
            "550 5.7.1 Sender rejected by policy (AUP#CXSNDR)",
            "553 5.1.8 Sender address belongs to a domain that does not exist",
            "550 5.7.509 Access denied, sending domain fails its own DMARC policy of reject",
        ],
        .rcpt: [
            "550 5.1.1 The address you tried to reach does not exist. Check it for typing errors",
            "550 5.2.1 The account you tried to reach is disabled",
            "554 5.7.1 Recipient address refused: access denied",
            "552 5.2.2 The mailbox is full and cannot take any mail",
            "550 5.4.1 Recipient refused: no such directory entry [edge7.sink.example]",
            "554 5.2.1 Delivery error: dd This user has no mailbox here - mta4203",
        ],
        .data: [
            "554 5.5.1 No valid recipients"
        ],
        .dot: [
            "550 5.7.26 Neither SPF nor DKIM vouches for this message, which policy requires; it is refused",
            "554 5.7.9 Message not accepted for policy reasons (PH01)",
            "552 5.3.4 Message is larger than this system will take",
            "554 5.6.0 Message has a malformed header section",
            "550 5.7.1 [CS] Message contains links that are on a block list",
        ],
    ]
}
