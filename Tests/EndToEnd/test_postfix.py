"""Postfix on either side."""

import smtplib

from support import CONTENT, HOST, run, wait_until


def test_next_hop(make_node, make_postfix):
    """Postfix takes what we send, 8-bit too, and delivers it into its mailboxes; what it refuses bounces."""
    postfix = make_postfix(
        virtual_mailbox_domains="rcpt.example, sender.example",
        virtual_mailbox_base="/",
        virtual_mailbox_maps="inline:{b@rcpt.example=b/, c@rcpt.example=c/, a@sender.example=a/}",
        virtual_minimum_uid="1",
        virtual_uid_maps="static:65534",
        virtual_gid_maps="static:65534",
        smtpd_recipient_restrictions="reject_unlisted_recipient, permit_mynetworks, reject",
        smtpd_relay_restrictions="permit_mynetworks, reject",
    )
    run("/usr/sbin/postconf", "-c", postfix.directory / "etc", "-e", f"virtual_mailbox_base={postfix.directory}/mail")
    postfix.command("reload")
    node = make_node(routes=[{"match": "*", "via": f"smtp {HOST}:{postfix.port}"}])
    # With the fields that Postfix would add.
    added = b"Date: Tue, 24 Nov 2026 00:00:00 +0000\r\nMessage-ID: <1@sender.example>\r\n"
    content = added + CONTENT + "grüße\r\n.\r\n".encode() + b"x" * 900 + b"\r\n"
    node.send("a@sender.example", ["b@rcpt.example", "c@rcpt.example", "nobody@rcpt.example"], content,
              mail="BODY=8BITMIME")
    node.wait_for_outcomes(delivered=2, bounced=1)
    wait_until(lambda: postfix.mailbox("b") and postfix.mailbox("c") and postfix.mailbox("a"), "mail in the boxes")
    [b] = postfix.mailbox("b")
    [c] = postfix.mailbox("c")
    assert b.endswith(content.replace(b"\r\n", b"\n")) and c.endswith(content.replace(b"\r\n", b"\n"))
    assert b"Return-Path: <a@sender.example>" in b
    [notice] = postfix.mailbox("a")
    assert b"multipart/report" in notice and b"nobody@rcpt.example" in notice and b"550" in notice


def test_previous_hop(make_node, make_postfix, server):
    """Postfix with the node as its relayhost: a burst of mail arrives once each, its ids with it."""
    node = make_node(routes=[{"match": "*", "via": f"smtp {server.address}"}])
    postfix = make_postfix(relayhost=f"[{HOST}]:{node.port}", default_transport="smtp")
    with smtplib.SMTP(HOST, postfix.port, timeout=20) as client:
        for number in range(50):
            client.sendmail(
                "a@sender.example", [f"b{number}@rcpt.example", f"c{number}@other.example"],
                CONTENT.replace(b"Subject: test", b"Subject: number %d" % number),
            )
    node.wait_for_outcomes(delivered=100)
    recipients = sorted(recipient for delivery in server.deliveries for recipient in delivery.recipients)
    assert recipients == sorted(
        [f"b{number}@rcpt.example" for number in range(50)] + [f"c{number}@other.example" for number in range(50)]
    )
    wait_until(lambda: postfix.log.count("status=sent") == 100, "Postfix has logged all as sent")
    assert "status=deferred" not in postfix.log and "status=bounced" not in postfix.log


def test_between_two(make_node, make_postfix):
    """Postfix, node, Postfix: a round trip of a notification request (NOTIFY=SUCCESS) that the last one honours."""
    last = make_postfix(
        virtual_mailbox_domains="rcpt.example", virtual_transport="discard:", default_transport="discard:",
        virtual_mailbox_maps="static:all",
    )
    node = make_node(routes=[{"match": "*", "via": f"smtp {HOST}:{last.port}"}])
    first = make_postfix(relayhost=f"[{HOST}]:{node.port}", default_transport="smtp")
    with smtplib.SMTP(HOST, first.port, timeout=20) as client:
        client.ehlo("client.example")
        client.sendmail("a@sender.example", ["b@rcpt.example"], CONTENT, rcpt_options=["NOTIFY=SUCCESS,FAILURE"])
    wait_until(lambda: "to=<b@rcpt.example>" in last.log and "status=sent" in last.log, "the last has it")
    wait_until(lambda: "to=<a@sender.example>" in last.log, "the last one's success notification")
    node.wait_for_outcomes(delivered=1)
    assert node.metric("posthorn_bounce_notifications_total") == 0
