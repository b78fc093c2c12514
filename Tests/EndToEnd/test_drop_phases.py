"""A destination that hangs up at any point: everything arrives in the end, and only the in-doubt may arrive twice."""

import collections

import pytest

from support import DROP

COUNT = 40


@pytest.mark.parametrize("phase", ["connect", "banner", "ehlo", "mail", "rcpt", "data", "content", "dot"])
def test_drop(make_node, make_sink, phase):
    """Three chances of ten at a phase end the connection."""
    sink = make_sink("--drop", f"{phase}=0.3")
    # A connection for each message, so that there are chances at every phase.
    node = make_node(
        routes=[{"match": "*", "via": f"smtp {sink.address}", "limits": {"messages-per-connection": 1}}],
        retry={"tiers": ["1s"]},
    )
    with node.client() as client:
        for number in range(COUNT):
            content = b"X-Test-Id: %d\r\nSubject: x\r\n\r\n" % number + b"line\r\n" * 200
            client.send("a@sender.example", f"b{number}@rcpt.example", content)
    # A site that cannot be reached is left alone for 30 s: an operator need not wait for that.
    node.wait_for_outcomes(delivered=COUNT, timeout=25, flush=phase in ("connect", "banner", "ehlo"))
    node.wait_until_empty()
    counts = collections.Counter(identity for identity, _ in sink.records())
    assert set(counts) == {str(number) for number in range(COUNT)}
    twice = {identity: count for identity, count in counts.items() if count > 1}
    # The sink counts a message only with its reply, and drops at dot before that.
    assert not twice
    node.stop()
    final = collections.Counter(each["messageID"] for each in node.outcomes() if each["kind"] == "delivered")
    assert len(final) == COUNT and set(final.values()) == {1}
    assert sink.stop()["drops"] > 0


def test_drop_after_taking(make_node, make_server):
    """The destination has taken the message and its reply is lost: marked in doubt, sent again, at most twice."""
    lost = set()

    def script(phase, session):
        if phase == "dot" and session.recipients[0] not in lost and session.number % 2:
            lost.add(session.recipients[0])
            return DROP
        return None

    server = make_server(script=script)
    node = make_node(routes=[{"match": "*", "via": f"smtp {server.address}"}])
    for number in range(10):
        node.send("a@sender.example", f"b{number}@rcpt.example")
    node.wait_for_outcomes(delivered=10)
    node.wait_until_empty()
    counts = collections.Counter(each.recipients[0] for each in server.deliveries)
    assert set(counts) == {f"b{number}@rcpt.example" for number in range(10)}
    assert set(counts.values()) == {1}
    assert lost
    node.stop()
    doubts = {each["recipient"] for each in node.outcomes() if each.get("inDoubt")}
    assert doubts == lost
