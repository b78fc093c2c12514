"""`posthorn trace`: what became of a message, or of the mail of an address."""

import json

from support import BINARY, run, wait_until


def trace(node, subject, *arguments):
    result = run(BINARY, "trace", "--config", node.config_file, "--json", *arguments, subject)
    return json.loads(result.stdout)


def test_trace(make_node, make_server):
    """Every attempt with what the remote said, by message, by recipient and by sender, also after a restart."""
    refusals = ["452 4.2.2 Mailbox full", "450 4.2.0 Later"]

    def script(phase, session):
        if phase == "rcpt" and "b1@" in session.recipient and refusals:
            return refusals.pop(0)
        if phase == "rcpt" and "b2@" in session.recipient:
            return "550 5.1.1 No such user"
        return None

    server = make_server(script=script)
    node = make_node(routes=[{"match": "*", "via": f"smtp {server.address}"}])
    first = node.send("a@sender.example", ["b1@rcpt.example", "b2@rcpt.example"])
    second = node.send("other@sender.example", "b3@rcpt.example")
    # The third is the notification of the failure.
    node.wait_for_outcomes(delivered=3, bounced=1)
    wait_until(lambda: len(trace(node, first)["events"]) == 4, "all events are durable")

    def kinds(events, recipient):
        return [event["kind"] for event in events if event["recipient"] == recipient]

    for _ in range(2):
        answer = trace(node, first)
        events = answer["events"]
        assert not answer["isTruncated"]
        assert {event["messageID"] for event in events} == {first}
        assert kinds(events, "b1@rcpt.example") == ["deferred", "deferred", "delivered"]
        assert kinds(events, "b2@rcpt.example") == ["bounced"]
        attempts = [event for event in events if event["recipient"] == "b1@rcpt.example"]
        assert [event["attempt"] for event in attempts] == [1, 2, 3]
        assert [event["reply"]["code"] for event in attempts] == [452, 450, 250]
        assert attempts[0]["nextDueAt"] > attempts[0]["time"]
        assert [event["messageID"] for event in trace(node, "B3@rcpt.example")["events"]] == [second]
        assert {event["messageID"] for event in trace(node, "other@sender.example")["events"]} == {second}
        text = run(BINARY, "trace", "--config", node.config_file, first).stdout
        assert "bounced, attempt 1" in text and "550 5.1.1 No such user" in text, text
        assert node.stop() == 0
        node.start()
    assert trace(node, "nobody@sender.example")["events"] == []
    assert "Nothing is known" in run(BINARY, "trace", "--config", node.config_file, "0" * 26).stdout
    assert run(BINARY, "trace", "--config", node.config_file, "nonsense", check=False).returncode != 0
