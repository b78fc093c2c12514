// Whether a message can go only to a host that offers SMTPUTF8 (RFC 6531 §3.2 and §3.5). What counts is what the
// message holds, not whether its sender said SMTPUTF8: an ASCII message may go anywhere.

extension Envelope {
    /// Whether the reverse-path or any recipient has a non-ASCII local part. Domains are A-labels already.
    public var hasInternationalizedAddress: Bool {
        self.reversePath.map { !$0.isASCII } ?? false || self.recipients.contains { !$0.mailbox.isASCII }
    }

    /// Whether SMTPUTF8 is needed to send the whole message on.
    public func requiresSMTPUTF8(_ survey: ContentSurvey) -> Bool {
        survey.hasEightBitHeader || self.hasInternationalizedAddress
    }

    /// Whether SMTPUTF8 is needed in a transaction for one recipient: an internationalised address beside it does
    /// not count.
    public func requiresSMTPUTF8(_ survey: ContentSurvey, for recipient: Recipient) -> Bool {
        survey.hasEightBitHeader || !recipient.mailbox.isASCII || (self.reversePath.map { !$0.isASCII } ?? false)
    }
}
