import Mail
import Testing

@Suite("DateTime: RFC 5322 and RFC 3339")
struct DateTimeTests {
    @Test(
        "Instants are written as mail and logs want them",
        arguments: [
            (Int64(0), "Thu, 01 Jan 1970 00:00:00 +0000", "1970-01-01T00:00:00.000Z"),
            (1_795_475_400_000, "Mon, 23 Nov 2026 23:10:00 +0000", "2026-11-23T23:10:00.000Z"),
            (951_827_696_789, "Tue, 29 Feb 2000 12:34:56 +0000", "2000-02-29T12:34:56.789Z"),
            (4_107_542_399_999, "Sun, 28 Feb 2100 23:59:59 +0000", "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "Mon, 01 Mar 2100 00:00:00 +0000", "2100-03-01T00:00:00.000Z"),
            (-1, "Wed, 31 Dec 1969 23:59:59 +0000", "1969-12-31T23:59:59.999Z"),
            (.max, "Fri, 31 Dec 9999 23:59:59 +0000", "9999-12-31T23:59:59.999Z"),
            (.min, "Sat, 01 Jan 0000 00:00:00 +0000", "0000-01-01T00:00:00.000Z"),
        ]
    )
    func writes(milliseconds: Int64, rfc5322: String, rfc3339: String) {
        let instant = DateTime(millisecondsSince1970: milliseconds)
        #expect(instant.rfc5322 == rfc5322)
        #expect(instant.rfc3339 == rfc3339)
    }
}
