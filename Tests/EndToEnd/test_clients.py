"""Clients that people have: each hands its mail over, and exactly its octets arrive."""

import random
import smtplib

import pytest

from support import CONTENT, HOST, Client, run

HEADER = b"From: a@sender.example\r\nTo: b@rcpt.example\r\nSubject: shape\r\n\r\n"

SHAPES = {
    "plain": HEADER + b"Hello.\r\n",
    "nothing at all": b"",
    "no header section": b"Just a line.\r\n",
    "header section only": HEADER,
    "leading dots": HEADER + b".\r\n..\r\n...\r\n.a\r\n..a\r\na.\r\n",
    "a dot before anything": b".\r\n" + HEADER + b"x\r\n",
    "empty lines": HEADER + b"\r\n\r\n\r\nx\r\n\r\n\r\n",
    "trailing blanks": HEADER + b"x \t\r\n \r\n\t\r\n",
    "lines of 998 octets": HEADER + (b"x" * 998 + b"\r\n") * 20,
    "a line of 100,000 octets": HEADER + b"y" * 100_000 + b"\r\n",
    "8-bit": HEADER + bytes(range(128, 256)) * 20 + b"\r\n",
    "every octet but NUL, CR, LF": HEADER + bytes(octet for octet in range(1, 256) if octet not in (10, 13)) + b"\r\n",
    "dots at chunk borders": HEADER + b"".join(b"z" * (k % 97) + b"\r\n.\r\n"[:2] + b".\r\n" for k in range(3000)),
    "fields that only a submission or the end of the way changes": (
        b"Return-Path: <other@sender.example>\r\nFrom: a@sender.example\r\nBcc: hidden@rcpt.example\r\n\r\nHello.\r\n"
    ),
    "5 MB": HEADER + b"\r\n".join(random.Random(5).randbytes(57).hex().encode() for _ in range(44_000)) + b"\r\n",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_octets(node, server, shape):
    """What was sent arrives octet by octet, behind one Received field."""
    content = SHAPES[shape]
    with node.client() as client:
        identity = client.send("a@sender.example", "b@rcpt.example", content, mail="BODY=8BITMIME")
    [delivery] = server.wait_for(1)
    assert delivery.body == content
    assert identity in delivery.received
    assert (delivery.sender, delivery.recipients) == ("a@sender.example", ["b@rcpt.example"])


def test_nul_is_refused(node):
    """NUL, which no server need take (RFC 2045 §2.7), is refused at once rather than bounced later."""
    with node.client() as client:
        client.expect(250, "MAIL FROM:<a@sender.example>")
        client.expect(250, "RCPT TO:<b@rcpt.example>")
        reply = client.data(HEADER + b"a\0b\r\n")
        assert (reply.code, reply.lines[0][:5]) == (550, "5.6.0")


def test_content_without_final_newline(node, server):
    """BDAT takes content that does not end with a line end; SMTP has no way to pass it on but to end the line."""
    with node.client() as client:
        assert "CHUNKING" in client.extensions
        client.expect(250, "MAIL FROM:<a@sender.example>")
        client.expect(250, "RCPT TO:<b@rcpt.example>")
        content = HEADER + b"no line end"
        client.write(b"BDAT 10\r\n" + content[:10])
        assert client.reply().code == 250
        client.write(b"BDAT %d LAST\r\n" % (len(content) - 10) + content[10:])
        assert client.reply().code == 250
    [delivery] = server.wait_for(1)
    assert delivery.body == content + b"\r\n"


def test_swaks(node, server):
    """swaks, with several recipients."""
    result = run(
        "swaks", "--server", HOST, "--port", node.port, "--from", "a@sender.example",
        "--to", "b@rcpt.example,c@rcpt.example", "--ehlo", "client.example", "--body", "A body.", "--pipeline",
    )
    assert "queued as" in result.stdout
    deliveries = server.wait_for(1)
    assert sorted(recipient for delivery in deliveries for recipient in delivery.recipients) == [
        "b@rcpt.example", "c@rcpt.example",
    ]
    assert b"A body." in deliveries[0].content


@pytest.mark.parametrize("hello", ["ehlo", "helo"])
def test_smtplib(node, server, hello):
    """Python's client, by EHLO and by HELO."""
    with smtplib.SMTP(HOST, node.port, timeout=20) as client:
        code, _ = getattr(client, hello)("client.example")
        assert code == 250
        assert client.sendmail("a@sender.example", ["b@rcpt.example"], CONTENT) == {}
    [delivery] = server.wait_for(1)
    assert delivery.body == CONTENT
    assert ("with ESMTP" if hello == "ehlo" else "with SMTP") in delivery.received


def test_smtputf8(node, server):
    """An internationalised address and header go through as they are."""
    content = "From: jörg@sender.example\r\nSubject: grüße\r\n\r\nπ\r\n".encode()
    with smtplib.SMTP(HOST, node.port, timeout=20) as client:
        client.ehlo("client.example")
        client.sendmail("jörg@sender.example", ["δοκιμή@rcpt.example"], content, ["SMTPUTF8", "BODY=8BITMIME"])
    [delivery] = server.wait_for(1)
    assert delivery.body == content
    assert (delivery.sender, delivery.recipients) == ("jörg@sender.example", ["δοκιμή@rcpt.example"])
    assert "SMTPUTF8" in delivery.mail


def test_pipelining(node, server):
    """Two transactions in one write, with RSET between, get their replies in order."""
    with Client(node.port) as client:
        assert "PIPELINING" in client.extensions
        client.write(
            b"MAIL FROM:<a@sender.example>\r\nRCPT TO:<b@rcpt.example>\r\nRSET\r\n"
            b"MAIL FROM:<c@sender.example>\r\nRCPT TO:<d@rcpt.example>\r\nDATA\r\n"
        )
        assert [client.reply().code for _ in range(6)] == [250, 250, 250, 250, 250, 354]
        client.write(CONTENT + b".\r\nMAIL FROM:<e@sender.example>\r\nRCPT TO:<f@rcpt.example>\r\nNOOP\r\n")
        assert [client.reply().code for _ in range(4)] == [250, 250, 250, 250]
    [delivery] = server.wait_for(1)
    assert (delivery.sender, delivery.recipients) == ("c@sender.example", ["d@rcpt.example"])


def test_one_octet_at_a_time(node, server):
    """A client that writes octet by octet is understood."""
    with Client(node.port) as client:
        for octet in b"MAIL FROM:<a@sender.example>\r\n":
            client.write(bytes([octet]))
        assert client.reply().code == 250
        client.expect(250, "RCPT TO:<b@rcpt.example>")
        client.expect(354, "DATA")
        for octet in CONTENT + b"..x\r\n.\r\n":
            client.write(bytes([octet]))
        assert client.reply().code == 250
    [delivery] = server.wait_for(1)
    assert delivery.body == CONTENT + b".x\r\n"


def test_smtp_source(node, make_sink):
    """Postfix's load generator: 500 messages on 20 sessions, each delivered once."""
    sink = make_sink()
    node.stop()
    node.config["routes"] = [{"match": "*", "via": f"smtp {sink.address}"}]
    node.write_config()
    node.start()
    run(
        "/usr/sbin/smtp-source", "-s", "20", "-m", "500", "-l", "4000", "-f", "a@sender.example",
        "-t", "b@rcpt.example", f"{HOST}:{node.port}",
    )
    node.wait_for_outcomes(delivered=500)
    assert len(sink.records()) == 500
    assert node.queue_is_empty()


def test_many_recipients(node, server):
    """250 recipients in three domains: each gets the message once."""
    recipients = [f"u{number}@d{number % 3}.example" for number in range(250)]
    node.send("a@sender.example", recipients)
    node.wait_for_outcomes(delivered=250)
    got = [recipient for delivery in server.deliveries for recipient in delivery.recipients]
    assert sorted(got) == sorted(recipients)
    assert {delivery.body for delivery in server.deliveries} == {CONTENT}


def test_size_is_refused_early(make_node, server):
    """SIZE= beyond the limit is refused at MAIL, and content beyond it at the end."""
    node = make_node(routes=[{"match": "*", "via": f"smtp {server.address}"}], limits={"message-size": "64KiB"})
    with node.client() as client:
        assert client.extensions["SIZE"] == ["65536"]
        assert client.command("MAIL FROM:<a@sender.example> SIZE=70000").code == 552
        client.expect(250, "MAIL FROM:<a@sender.example>")
        client.expect(250, "RCPT TO:<b@rcpt.example>")
        assert client.data(HEADER + b"x" * 70_000).code == 552
        client.send("a@sender.example", "b@rcpt.example")
    assert len(server.wait_for(1)) == 1
