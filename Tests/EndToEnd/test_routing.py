"""Mail exchangers, looked up in a real name server and found at loopback addresses on port 25."""

import os
import socket

import pytest

from support import CONTENT, HOST, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may listen on port 25")

FIRST, SECOND, THIRD = "127.77.0.1", "127.77.0.2", "127.77.0.3"

ZONE = [
    "one.example. 60 IN MX 10 mx1.example.",
    "two.example. 60 IN MX 10 dead.example.",
    "two.example. 60 IN MX 20 mx1.example.",
    "same.example. 60 IN MX 10 mx1.example.",
    "same.example. 60 IN MX 10 mx2.example.",
    "null.example. 60 IN MX 0 .",
    f"implicit.example. 60 IN A {SECOND}",
    "loop.example. 60 IN MX 10 relay.example.",
    "backup.example. 60 IN MX 10 mx1.example.",
    "backup.example. 60 IN MX 20 relay.example.",
    "backup.example. 60 IN MX 30 mx2.example.",
    "dangling.example. 60 IN MX 10 nowhere.example.",
    "alias.example. 60 IN CNAME one.example.",
    "text.example. 60 IN TXT nothing-here",
    f"mx1.example. 60 IN A {FIRST}",
    f"mx2.example. 60 IN A {SECOND}",
    f"dead.example. 60 IN A {THIRD}",
    f"relay.example. 60 IN A {HOST}",
]


@pytest.fixture
def relay(make_node, make_unbound):
    """A node that asks our name server; notifications to sender.example go to `notices`."""
    unbound = make_unbound(*ZONE, "sender.example. 60 IN MX 10 mx2.example.")
    return make_node(dns={"forwarders": [f"{HOST}:{unbound.port}"]})


@pytest.fixture
def mx1(make_server):
    return make_server(FIRST, 25)


@pytest.fixture
def mx2(make_server):
    return make_server(SECOND, 25)


def final(node, kind):
    node.wait_for_outcomes(**{kind: 1})
    node.stop()
    [outcome] = [each for each in node.outcomes() if each["kind"] == kind]
    return outcome


def test_mail_exchanger(relay, mx1):
    """The one exchanger there is; the outcome names it."""
    relay.send("a@sender.example", "b@one.example")
    [delivery] = mx1.wait_for(1)
    assert delivery.body == CONTENT
    outcome = final(relay, "delivered")
    assert outcome["remote"]["host"].rstrip(".") == "mx1.example"
    assert outcome["remote"]["address"].startswith(FIRST)


def test_alias(relay, mx1):
    """A domain that is an alias is followed to the other's exchangers."""
    relay.send("a@sender.example", "b@alias.example")
    mx1.wait_for(1)


def test_address_of_the_domain(relay, mx2):
    """Without MX records the domain's own address is the exchanger (RFC 5321 §5.1)."""
    relay.send("a@sender.example", "b@implicit.example")
    mx2.wait_for(1)


def test_address_literal(relay, mx1):
    """user@[127.77.0.1] goes there."""
    relay.send("a@sender.example", f"b@[{FIRST}]")
    [delivery] = mx1.wait_for(1)
    assert delivery.recipients == [f"b@[{FIRST}]"]


def test_fall_through(relay, mx1):
    """The first exchanger refuses connections: the second is tried in the same attempt."""
    relay.send("a@sender.example", "b@two.example")
    mx1.wait_for(1, timeout=10)
    outcome = final(relay, "delivered")
    assert outcome["attempt"] == 1


@pytest.mark.parametrize("phase,reply", [
    ("connect", "421 4.3.2 Maintenance"), ("connect", "554 5.7.1 Not you"), ("ehlo", "421 4.7.0 Too busy"),
])
def test_fall_through_by_reply(relay, make_server, make_unbound, phase, reply, mx1):
    """An exchanger that turns us away at its banner or at EHLO is passed over as well."""
    make_server(THIRD, 25, script=lambda at, session: reply if at == phase else None)
    relay.send("a@sender.example", "b@two.example")
    mx1.wait_for(1, timeout=10)


def test_no_fall_through_at_rcpt(relay, mx1, make_server):
    """A 4xx to RCPT is that domain's answer: the next exchanger is not asked (greylisting would be defeated)."""
    asked = []

    def script(phase, session):
        if phase == "rcpt":
            asked.append(session.recipient)
            return "451 4.7.1 Greylisted" if len(asked) == 1 else None
        return None

    best = make_server(THIRD, 25, script=script)
    relay.send("a@sender.example", "b@two.example")
    best.wait_for(1)
    assert not mx1.deliveries
    assert len(asked) == 2


def test_equal_preference_is_shared(relay, mx1, mx2):
    """Exchangers of equal preference share the load, and stand in for each other."""
    for number in range(30):
        relay.send("a@sender.example", f"b{number}@same.example")
    wait_until(lambda: len(mx1.deliveries) + len(mx2.deliveries) == 30, "all are delivered")


def test_null_mx(relay, mx2):
    """`MX 0 .` says: no mail here. The sender hears it at once (RFC 7505)."""
    relay.send("a@sender.example", "b@null.example")
    [notice] = mx2.wait_for(1)
    assert b"5.1.10" in notice.content
    outcome = final(relay, "bounced")
    assert outcome["status"] == "5.1.10"


@pytest.mark.parametrize("domain,status", [
    ("nowhere.example", "5.1.2"), ("text.example", "5.1.2"), ("dangling.example", None),
])
def test_no_such_domain(relay, mx2, domain, status):
    """NXDOMAIN, no address, or exchangers that do not exist: nothing to wait for."""
    relay.send("a@sender.example", f"b@{domain}")
    mx2.wait_for(1)
    outcome = final(relay, "bounced")
    assert outcome["status"].startswith("5.")
    assert status is None or outcome["status"] == status


def test_best_exchanger_is_ourselves(relay, mx2):
    """We are the best exchanger and have no route: a loop, told as one (RFC 5321 §5.1)."""
    relay.send("a@sender.example", "b@loop.example")
    mx2.wait_for(1)
    assert final(relay, "bounced")["status"] == "5.4.6"


def test_backup_exchanger(relay, mx2):
    """As a backup we send to better exchangers only, never to ourselves or a worse one: mail waits."""
    relay.send("a@sender.example", "b@backup.example")
    relay.wait_for_outcomes(deferred=1)
    assert relay.queue("summary")["messages"] == 1
    assert not mx2.deliveries


def test_name_server_is_down(make_node):
    """No answer is no verdict: mail waits with 4.4.3."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((HOST, 0))
        node = make_node(dns={"forwarders": [f"{HOST}:{silent.getsockname()[1]}"], "timeout": "1s"})
        node.send("a@sender.example", "b@one.example")
        assert final(node, "deferred")["status"] == "4.4.3"


def test_first_route_that_matches(make_node, make_server, make_unbound):
    """Routes by domain and subdomain; refusing and discarding ones; the rest by MX."""
    unbound = make_unbound(*ZONE, "sender.example. 60 IN MX 10 mx2.example.")
    one, two, world = make_server(), make_server(), make_server(FIRST, 25)
    notices = make_server(SECOND, 25)
    node = make_node(
        dns={"forwarders": [f"{HOST}:{unbound.port}"]},
        routes=[
            {"match": "sub.one.example", "via": f"smtp {two.address}"},
            {"match": "*.one.example", "via": f"smtp {one.address}"},
            {"match": "gone.example", "via": "error 550 5.1.2 We do not send there"},
            {"match": "void.example", "via": "discard"},
        ],
    )
    node.send("a@sender.example", [
        "a@x.one.example", "a@sub.one.example", "a@one.example", "a@gone.example", "a@void.example",
    ])
    assert one.wait_for(1)[0].recipients == ["a@x.one.example"]
    assert two.wait_for(1)[0].recipients == ["a@sub.one.example"]
    assert world.wait_for(1)[0].recipients == ["a@one.example"]
    assert b"We do not send there" in notices.wait_for(1)[0].content
    node.wait_for_outcomes(delivered=5, bounced=1)


def test_smart_hosts_in_order(make_node, make_server):
    """Several hosts in `via` are tried in order."""
    from support import free_port

    server = make_server()
    node = make_node(routes=[{"match": "*", "via": f"smtp {HOST}:{free_port()} {server.address}"}])
    node.send("a@sender.example", "b@one.example")
    server.wait_for(1)


def test_lmtp(make_node, make_sink):
    """LMTP: a reply for each recipient; the one that is refused is bounced, the others are delivered once."""
    sink = make_sink("--lmtp", "--fail-recipient", "full@*=552 5.2.2 Full")
    node = make_node(routes=[{"match": "*", "via": f"lmtp {sink.address}"}])
    node.send("", ["a@one.example", "full@one.example", "b@one.example"])
    node.wait_for_outcomes(delivered=2, bounced=1)
    assert sorted(recipient for _, recipient in sink.records()) == ["a@one.example", "b@one.example"]
