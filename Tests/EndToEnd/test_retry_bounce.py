"""Failures for now are tried again, failures for good come back as notifications, and nobody is told twice."""

import email
import email.policy
import re

import pytest

from support import CONTENT, HOST, free_port, wait_until


def fail(recipients):
    """A script that refuses some recipients: a mapping of recipient to reply."""
    return lambda phase, session: recipients.get(session.recipient) if phase == "rcpt" else None


def parse(delivery):
    return email.message_from_bytes(delivery.content, policy=email.policy.default)


def notification(delivery):
    """The parts of a multipart/report: text, per-message fields, per-recipient fields, what is returned."""
    message = parse(delivery)
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    text, status, returned = message.iter_parts()
    assert text.get_content_type() == "text/plain"
    assert status.get_content_type() in ("message/delivery-status", "message/global-delivery-status")
    groups = [group for group in status.get_payload() if group.keys()]
    assert message["Auto-Submitted"].startswith("auto-")
    assert delivery.sender == ""
    return message, text.get_content(), groups[0], groups[1:], returned


def test_tempfail_then_accept(make_node, make_server):
    """A recipient refused for now is tried again by the schedule, and delivered once."""
    refusals = []

    def script(phase, session):
        if phase == "rcpt" and len(refusals) < 3:
            refusals.append(session.recipient)
            return "451 4.7.1 Greylisted"
        return None

    server = make_server(script=script)
    node = make_node(routes=[{"match": "*", "via": f"smtp {server.address}"}])
    node.send("a@sender.example", "b@rcpt.example")
    [delivery] = server.wait_for(1)
    assert delivery.body == CONTENT
    node.wait_for_outcomes(delivered=1, deferred=3)
    assert node.queue_is_empty()
    node.stop()
    outcomes = sorted(node.outcomes(), key=lambda outcome: outcome["attempt"])
    assert [(outcome["kind"], outcome["attempt"]) for outcome in outcomes] == [
        ("deferred", 1), ("deferred", 2), ("deferred", 3), ("delivered", 4),
    ]
    assert outcomes[0]["reply"] == {"code": 451, "enhanced": "4.7.1", "text": outcomes[0]["reply"]["text"]}
    times = [outcome["time"] for outcome in outcomes]
    assert all(wait >= 900 for wait in (times[1] - times[0], times[2] - times[1]))
    assert len(server.deliveries) == 1


@pytest.mark.parametrize("phase,reply", [
    ("mail", "450 4.1.8 No such sender domain at the moment"),
    ("data", "451 4.3.2 Later"),
    ("dot", "451 4.7.0 Overloaded"),
    ("dot", "421 4.3.0 Closing"),
])
def test_tempfail_of_a_transaction(make_node, make_server, phase, reply):
    """Refused for now as a whole, a message comes again for all its recipients."""
    refusals = []

    def script(at, session):
        if at == phase and not refusals:
            refusals.append(at)
            return reply
        return None

    server = make_server(script=script)
    node = make_node(routes=[{"match": "*", "via": f"smtp {server.address}"}])
    node.send("a@sender.example", ["b@rcpt.example", "c@rcpt.example"])
    [delivery] = server.wait_for(1)
    assert sorted(delivery.recipients) == ["b@rcpt.example", "c@rcpt.example"]
    node.wait_for_outcomes(delivered=2)


def test_refused_recipient_is_notified(make_node, make_server):
    """A 5xx to one recipient: its sender gets an RFC 3464 notification, and the others their mail, once."""
    server = make_server(script=fail({"gone@rcpt.example": "550 5.1.1 No such user here"}))
    node = make_node(routes=[{"match": "*", "via": f"smtp {server.address}"}])
    node.send(
        "a@sender.example", ["b@rcpt.example", "gone@rcpt.example", "c@rcpt.example"], mail="ENVID=QQ314159"
    )
    deliveries = server.wait_for(2)
    bounce = next(delivery for delivery in deliveries if delivery.sender == "")
    mail = [delivery for delivery in deliveries if delivery.sender]
    assert sorted(recipient for delivery in mail for recipient in delivery.recipients) == [
        "b@rcpt.example", "c@rcpt.example",
    ]
    assert bounce.recipients == ["a@sender.example"]
    message, text, per_message, per_recipient, returned = notification(bounce)
    assert message["To"] == "a@sender.example"
    assert "gone@rcpt.example" in text and "No such user here" in text
    assert per_message["Reporting-MTA"] == "dns; relay.example"
    assert per_message["Original-Envelope-Id"] == "QQ314159"
    [fields] = per_recipient
    assert fields["Final-Recipient"] == "rfc822; gone@rcpt.example"
    assert fields["Action"] == "failed"
    assert fields["Status"] == "5.1.1"
    assert fields["Diagnostic-Code"].startswith("smtp; 550")
    assert fields["Remote-MTA"].startswith("dns;")
    assert "Subject: test" in returned.as_string()
    node.wait_for_outcomes(delivered=3, bounced=1)
    assert node.queue_is_empty()
    assert len(server.deliveries) == 2


def test_all_failures_of_a_message(make_node, make_server):
    """Every failed recipient is notified of once, in one message or several."""
    gone = [f"gone{number}@d{number % 2}.example" for number in range(6)]
    server = make_server(script=fail({recipient: "550 5.1.1 No such user here" for recipient in gone}))
    node = make_node(routes=[{"match": "*", "via": f"smtp {server.address}"}])
    node.send("a@sender.example", gone)
    node.wait_for_outcomes(bounced=6)

    def reported():
        return [
            fields["Final-Recipient"].removeprefix("rfc822; ")
            for delivery in server.deliveries for fields in notification(delivery)[3]
        ]

    wait_until(lambda: len(reported()) >= 6 and node.queue_is_empty(), "all are reported")
    assert sorted(reported()) == sorted(gone)


@pytest.mark.parametrize("ret", ["FULL", "HDRS", None])
def test_what_is_returned(make_node, make_server, ret):
    """RET=FULL returns the message, RET=HDRS its header section; a body never leaks into the latter."""
    server = make_server(script=fail({"gone@rcpt.example": "550 5.1.1 No such user here"}))
    node = make_node(routes=[{"match": "*", "via": f"smtp {server.address}"}])
    node.send("a@sender.example", "gone@rcpt.example", mail=f"RET={ret}" if ret else "")
    [bounce] = server.wait_for(1)
    returned = notification(bounce)[4]
    if ret == "FULL":
        assert returned.get_content_type() in ("message/rfc822", "message/global")
        assert b"Hello." in bounce.content
    elif ret == "HDRS":
        assert returned.get_content_type() in ("text/rfc822-headers", "message/global-headers")
        assert b"Hello." not in bounce.content
    assert b"Subject: test" in bounce.content


def test_notify_parameters(make_node, make_server):
    """NOTIFY=NEVER is silent, ORCPT comes back, SUCCESS is reported when the next hop cannot."""
    server = make_server(
        script=fail({
            "never@rcpt.example": "550 5.1.1 No such user here", "orcpt@rcpt.example": "550 5.1.1 No such user here",
        }),
        extensions=["PIPELINING", "8BITMIME"],
    )
    node = make_node(routes=[{"match": "*", "via": f"smtp {server.address}"}])
    with node.client() as client:
        client.expect(250, "MAIL FROM:<a@sender.example>")
        client.expect(250, "RCPT TO:<never@rcpt.example> NOTIFY=NEVER")
        client.expect(250, "RCPT TO:<orcpt@rcpt.example> NOTIFY=FAILURE ORCPT=rfc822;first+2Bname@else.example")
        client.expect(250, "RCPT TO:<good@rcpt.example> NOTIFY=SUCCESS,FAILURE")
        client.expect(250, "RCPT TO:<quiet@rcpt.example>")
        assert client.data(CONTENT).code == 250

    def reported():
        return {
            fields["Final-Recipient"]: fields
            for delivery in server.deliveries if delivery.sender == "" for fields in notification(delivery)[3]
        }

    wait_until(lambda: len(reported()) >= 2 and node.queue_is_empty(), "both are reported")
    fields = reported()
    assert set(fields) == {"rfc822; orcpt@rcpt.example", "rfc822; good@rcpt.example"}
    original = re.sub(r"\s", "", fields["rfc822; orcpt@rcpt.example"]["Original-Recipient"])
    assert original in ("rfc822;first+name@else.example", "rfc822;first+2Bname@else.example")
    assert fields["rfc822; good@rcpt.example"]["Action"] in ("delivered", "relayed")
    assert fields["rfc822; good@rcpt.example"]["Status"].startswith("2.")


def test_dsn_parameters_are_passed_on(node, server):
    """A next hop with DSN gets what the client asked for, and the reporting with it."""
    node.send(
        "a@sender.example", "b@rcpt.example", mail="RET=HDRS ENVID=abc", rcpt="NOTIFY=SUCCESS ORCPT=rfc822;x@y.example"
    )
    [delivery] = server.wait_for(1)
    assert "RET=HDRS" in delivery.mail and "ENVID=abc" in delivery.mail
    assert "NOTIFY=SUCCESS" in delivery.rcpt[0] and "ORCPT=rfc822;x@y.example" in delivery.rcpt[0]
    node.wait_for_outcomes(delivered=1)
    assert node.queue_is_empty()
    assert len(server.deliveries) == 1


def test_null_reverse_path_is_never_notified(make_node, make_server):
    """A notification that fails makes no other: no loop, no postmaster flood."""
    server = make_server(script=fail({
        "gone@rcpt.example": "550 5.1.1 No such user here", "a@sender.example": "550 5.1.1 Nor here",
    }))
    node = make_node(routes=[{"match": "*", "via": f"smtp {server.address}"}])
    node.send("", "gone@rcpt.example")
    node.send("a@sender.example", "gone@rcpt.example")
    # Two messages and the one notification there may be.
    node.wait_for_outcomes(bounced=3)
    node.send("b@sender.example", "last@rcpt.example")
    server.wait_for(1)
    assert node.queue_is_empty()
    assert node.metric("posthorn_bounce_notifications_total") == 1
    assert node.outcome_count("bounced") == 3


def test_expiry(make_node, make_server):
    """Mail that could not be delivered in its lifetime expires, and its sender learns why."""
    server = make_server(script=fail({"busy@rcpt.example": "452 4.2.2 Mailbox full"}))
    node = make_node(
        routes=[{"match": "*", "via": f"smtp {server.address}"}],
        retry={"tiers": ["1s", "2s"], "lifetime": "4s", "delay-notification-after": "none"},
    )
    node.send("a@sender.example", ["busy@rcpt.example", "b@rcpt.example"])
    node.wait_for_outcomes(expired=1)
    deliveries = server.wait_for(2)
    [bounce] = [delivery for delivery in deliveries if delivery.sender == ""]
    [fields] = notification(bounce)[3]
    assert fields["Action"] == "failed"
    assert fields["Final-Recipient"] == "rfc822; busy@rcpt.example"
    assert fields["Status"][0] in "45"
    assert "Mailbox full" in bounce.content.decode()
    assert node.outcome_count("deferred") >= 2


def test_expiry_at_a_dead_site(make_node, make_server):
    """Mail expires as well when nothing was ever there to talk to."""
    server = make_server()
    node = make_node(
        routes=[
            {"match": "dead.example", "via": f"smtp {HOST}:{free_port()}"},
            {"match": "*", "via": f"smtp {server.address}"},
        ],
        retry={"tiers": ["1s", "2s"], "lifetime": "4s", "delay-notification-after": "none"},
    )
    for number in range(3):
        node.send("a@sender.example", f"b{number}@dead.example")
    node.wait_for_outcomes(expired=3)
    wait_until(lambda: len(server.deliveries) >= 3 and node.queue_is_empty(), "all are reported")
    assert len(server.deliveries) == 3


def test_delay_notification(make_node, make_server):
    """The sender is told of a delay once, and the mail is delivered when it can be."""
    is_busy = True
    server = make_server(
        script=lambda phase, session: "451 4.3.0 Busy"
        if is_busy and phase == "rcpt" and session.recipient == "b@rcpt.example" else None
    )
    node = make_node(
        routes=[{"match": "*", "via": f"smtp {server.address}"}],
        retry={"tiers": ["1s", "2s"], "lifetime": "10m", "delay-notification-after": "2s"},
    )
    node.send("a@sender.example", "b@rcpt.example")
    [notice] = server.wait_for(1)
    _, text, _, per_recipient, _ = notification(notice)
    assert per_recipient[0]["Action"] == "delayed"
    assert per_recipient[0]["Status"].startswith("4.")
    assert per_recipient[0]["Will-Retry-Until"]
    deferred = node.outcome_count("deferred")
    wait_until(lambda: node.outcome_count("deferred") > deferred, "another attempt")
    is_busy = False
    node.wait_for_outcomes(delivered=2)
    assert [delivery.sender for delivery in server.deliveries] == ["", "a@sender.example"]
    assert node.queue_is_empty()
