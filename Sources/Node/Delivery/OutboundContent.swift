import Mail
import NIOCore
import SMTP

/// Makes a transaction fit what the host offers.
enum OutboundContent {
    /// Content with octets above 127 is converted for a host without 8BITMIME (RFC 6152 §3); if it cannot be, the
    /// session refuses the transaction. All other content goes as it is.
    static func prepare(
        _ transaction: OutboundTransaction,
        for capabilities: ClientCapabilities
    ) -> (ClientTransaction, ByteBuffer) {
        var content = transaction.content
        var request = ClientTransaction(
            reversePath: transaction.reversePath,
            recipients: transaction.recipients,
            contentSize: content.readableBytes,
            isEightBit: transaction.bodyType == .eightBitMIME,
            returnContent: transaction.returnContent,
            envelopeID: transaction.envelopeID
        )
        let hasEightBit = content.withUnsafeReadableBytes { $0.hasEightBit(0..<$0.count) }
        guard hasEightBit else { return (request, content) }

        request.hasEightBitContent = true
        if transaction.isInternationalized {
            // Without SMTPUTF8 an 8-bit header section is what it always was: junk that passes with 8BITMIME.
            request.hasInternationalizedHeader = content.withUnsafeReadableBytes { octets in
                ContentSurvey(octets, bodyOffset: HeaderSection(octets).bodyOffset).hasEightBitHeader
            }
        }
        if !capabilities.hasEightBitMIME, !request.hasInternationalizedHeader,
            case .converted(let octets) = content.withUnsafeReadableBytes({ ContentDowngrade.convert($0) })
        {
            content = ByteBuffer(bytes: octets)
            request.contentSize = octets.count
            request.isEightBit = false
            request.hasEightBitContent = false
        }
        return (request, content)
    }
}
