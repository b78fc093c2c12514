"""Mail for hosts that offer less than the message asks for, and what several messages to one host cost."""

import base64
import email
import email.policy

import pytest

from support import CONTENT
from test_retry_bounce import notification

BARE = ("PIPELINING", "ENHANCEDSTATUSCODES")
SENDER = b"From: a@sender.example\r\nTo: b@rcpt.example\r\nSubject: x\r\nMIME-Version: 1.0\r\n"
TEXT = "Grüße, καλημέρα\r\n" * 30
PLAIN = (
    SENDER + b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + TEXT.encode()
)
PARTS = (
    SENDER + b"Content-Type: multipart/mixed; boundary=B\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    b"--B\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + TEXT.encode()
    + b"\r\n--B\r\nContent-Type: text/plain\r\n\r\nASCII\r\n\r\n--B--\r\n"
)
SIGNED = (
    SENDER + b"Content-Type: multipart/signed; protocol=\"application/pgp-signature\"; micalg=pgp-sha256; boundary=B\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n\r\n"
    b"--B\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + TEXT.encode()
    + b"\r\n--B\r\nContent-Type: application/pgp-signature\r\n\r\nASCII\r\n\r\n--B--\r\n"
)


@pytest.fixture
def bare(make_server, make_node):
    """A node whose next hop offers neither 8BITMIME nor SMTPUTF8."""
    server = make_server(extensions=BARE)
    return make_node(routes=[{"match": "*", "via": f"smtp {server.address}"}]), server


def leaves(message):
    return [part.get_content() for part in message.walk() if not part.is_multipart()]


@pytest.mark.parametrize("content", [PLAIN, PARTS], ids=["text", "multipart"])
def test_content_is_converted(bare, content):
    """8-bit text arrives in 7 bits, and Python's parser reads from it what it reads from the original."""
    node, server = bare
    node.send("a@sender.example", "b@rcpt.example", content, mail="BODY=8BITMIME")
    [delivery] = server.wait_for(1)
    assert max(delivery.content) < 128 and "BODY" not in delivery.mail
    sent, got = (email.message_from_bytes(octets, policy=email.policy.default) for octets in (content, delivery.content))
    assert leaves(got) == leaves(sent)
    assert max(map(len, delivery.content.split(b"\r\n"))) <= 998
    node.wait_for_outcomes(delivered=1)


def test_what_cannot_be_converted_bounces(bare):
    """A signature would not hold: the message comes back with 5.6.3 (RFC 3463 §3.7), itself in 7 bits."""
    node, server = bare
    node.send("a@sender.example", "b@rcpt.example", SIGNED, mail="BODY=8BITMIME")
    [delivery] = server.wait_for(1)
    assert max(delivery.content) < 128
    _, _, _, [recipient], _ = notification(delivery)
    assert recipient["Status"] == "5.6.3"
    assert recipient["Final-Recipient"] == "rfc822; b@rcpt.example"


def test_internationalized_address_bounces(bare):
    """An address beyond ASCII needs SMTPUTF8: it comes back with 5.6.7, and the ASCII one of the same message arrives."""
    node, server = bare
    with node.client() as client:
        client.send("a@sender.example", ["δοκιμή@rcpt.example", "b@rcpt.example"], CONTENT, mail="SMTPUTF8")
    deliveries = server.wait_for(2)
    [mail] = [each for each in deliveries if each.sender]
    assert mail.recipients == ["b@rcpt.example"]
    [bounce] = [each for each in deliveries if not each.sender]
    message = email.message_from_bytes(bounce.content, policy=email.policy.default)
    text, status, _ = message.iter_parts()
    assert "SMTPUTF8" in text.get_content() and "answered" not in text.get_content()
    assert status.get_content_type() == "message/global-delivery-status"
    # Only Python's parser leaves what it holds to us: encoded, since this host takes 7 bits (RFC 6533 §3).
    fields = base64.b64decode(status.get_payload(0).get_payload()).decode()
    assert "Status: 5.6.7\r\n" in fields and "Final-Recipient: utf-8; δοκιμή@rcpt.example\r\n" in fields


@pytest.mark.parametrize("limit,sessions", [(100, 1), (1, 5)])
def test_connections_are_kept(make_node, make_server, limit, sessions):
    """Mail that comes one after the other goes over one connection, up to what a route allows."""
    server = make_server()
    route = {"match": "*", "via": f"smtp {server.address}", "limits": {"messages-per-connection": limit}}
    node = make_node(routes=[route])
    for count in range(1, 6):
        node.send("a@sender.example", "b@rcpt.example")
        server.wait_for(count)
        node.wait_for_outcomes(delivered=count)
    assert server.session_count == sessions
