"""SMTP smuggling: only CRLF.CRLF ends data, so nobody sends a second message through us by disagreeing about it."""

import pytest

from support import CONTENT, Client, wait_until

HEADER = b"From: a@sender.example\r\nTo: b@rcpt.example\r\nSubject: outer\r\n\r\nouter\r\n"
INNER = (
    b"MAIL FROM:<evil@sender.example>\r\nRCPT TO:<victim@rcpt.example>\r\nDATA\r\n"
    b"From: evil@sender.example\r\n\r\ninner\r\n.\r\n"
)
ENDS = {
    "LF.LF": b"\n.\n",
    "LF.CRLF": b"\n.\r\n",
    "CRLF.LF": b"\r\n.\n",
    "CR.CR": b"\r.\r",
    "CR.CRLF": b"\r.\r\n",
    "CRLF.CR": b"\r\n.\r",
    "CR.LF": b"\r.\n",
    "LF.CR": b"\n.\r",
    "CRLF.CRCRLF": b"\r\n.\r\r\n",
    "CRCRLF.CRLF": b"x\r\r\n.\r\r\n",
    "CRLF NUL.CRLF": b"\r\n\0.\r\n",
    "CRLF. CRLF": b"\r\n. \r\n",
    "CRLF.NUL CRLF": b"\r\n.\0\r\n",
    "VT": b"\x0b.\x0b",
    "NEL": b"\xc2\x85.\xc2\x85",
    "LS": b"\xe2\x80\xa8.\xe2\x80\xa8",
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One node and destination for each policy: these tests only differ in octets."""
    from support import Node, Server

    started = {}

    def get(policy):
        if policy not in started:
            server = Server()
            node = Node(
                tmp_path_factory.mktemp(policy), smtp={"bare-newlines": policy},
                routes=[{"match": "*", "via": f"smtp {server.address}"}],
            )
            started[policy] = (node, server)
            node.start()
        return started[policy]

    yield get
    for node, server in started.values():
        node.process.discard()
        server.close()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("policy", ["refuse", "normalise"])
def test_smuggling(shared, policy, end):
    """However the end is written wrongly, there is at most one message, and no command is taken from content."""
    node, server = shared(policy)
    before = len(server.deliveries)
    accepted = node.metric("posthorn_ingress_messages_total")
    with Client(node.port) as client:
        client.expect(250, "MAIL FROM:<a@sender.example>")
        client.expect(250, "RCPT TO:<b@rcpt.example>")
        client.expect(354, "DATA")
        client.write(HEADER + ENDS[end] + INNER + b"NOOP\r\n")
        # One reply to the end of data, one to NOOP: any other reply would be to a smuggled command.
        reply = client.reply()
        assert reply.code in (250, 550, 554), reply
        assert client.reply().code == 250
        client.send("marker@sender.example", "b@rcpt.example", CONTENT)
    wait_until(
        lambda: any(each.sender == "marker@sender.example" for each in server.deliveries[before:]), "the marker"
    )
    expected = 1 if reply.code == 250 else 0
    assert node.metric("posthorn_ingress_messages_total") - accepted == expected + 1
    wait_until(lambda: len(server.deliveries) - before >= expected + 1, "what was accepted")
    new = [each for each in server.deliveries[before:] if each.sender != "marker@sender.example"]
    assert len(new) == expected
    for delivery in new:
        assert delivery.sender == "a@sender.example"
        # And what leaves has no line ends that the next server could take otherwise.
        assert delivery.content.replace(b"\r\n", b"").count(b"\r") == 0
        assert delivery.content.replace(b"\r\n", b"").count(b"\n") == 0


def test_bare_newlines_are_refused_by_default(node, server):
    """A bare LF in content: 550, and the session goes on."""
    with node.client() as client:
        client.expect(250, "MAIL FROM:<a@sender.example>")
        client.expect(250, "RCPT TO:<b@rcpt.example>")
        assert client.data(HEADER + b"bare\nnewline\r\n").code in (550, 554)
        client.send("a@sender.example", "b@rcpt.example")
    [delivery] = server.wait_for(1)
    assert delivery.body == CONTENT


def test_bare_newlines_in_commands(node):
    """A command ended by a bare LF does not smuggle a second one behind a proxy that thinks otherwise."""
    with node.client() as client:
        client.write(b"NOOP\nNOOP\r\n")
        replies = [client.reply()]
        client.write(b"RSET\r\n")
        replies.append(client.reply())
    # Either refused as one line or taken as lines, but never out of step.
    assert replies[-1].code == 250


def test_bdat_is_counted_not_scanned(node, server):
    """In BDAT, an end of data is content, and so is a command behind it."""
    content = HEADER + b".\r\n" + INNER
    with node.client() as client:
        client.expect(250, "MAIL FROM:<a@sender.example>")
        client.expect(250, "RCPT TO:<b@rcpt.example>")
        client.write(b"BDAT %d LAST\r\n" % len(content) + content + b"NOOP\r\n")
        assert [client.reply().code, client.reply().code] == [250, 250]
    [delivery] = server.wait_for(1)
    assert delivery.body == content
    assert node.metric("posthorn_ingress_messages_total") == 1


def test_http_is_not_smtp(node):
    """A browser that is made to talk to us gets nothing done (RFC 5321 §7.8: cross-protocol requests)."""
    with Client(node.port, hello=None) as client:
        client.write(
            b"POST / HTTP/1.1\r\nHost: x\r\n\r\nEHLO a\r\nMAIL FROM:<a@sender.example>\r\nRCPT TO:<b@rcpt.example>\r\n"
            b"DATA\r\nx\r\n.\r\nQUIT\r\n"
        )
        codes = []
        try:
            while True:
                codes.append(client.reply().code)
        except (EOFError, OSError):
            pass
    assert 250 not in codes
    assert node.metric("posthorn_ingress_messages_total") == 0
