"""`sendmail`, as programs call it."""

import os
import subprocess

import pytest

from support import BINARY, HOST, free_port, run

MESSAGE = "From: a@sender.example\nTo: b@rcpt.example, C <c@rcpt.example>\nBcc: d@rcpt.example\nSubject: s\n\n.\nbody\n"


@pytest.fixture
def sendmail(tmp_path):
    """A link with that name; returns what calls it."""
    link = tmp_path / "sendmail"
    os.symlink(BINARY, link)

    def call(*arguments, server, input=MESSAGE, check=True):
        environment = {**os.environ, "POSTHORN_SERVER": server}
        return run(link, *arguments, input=input, env=environment, check=check)

    return call


def test_recipients_of_the_header(sendmail, node, server):
    """-t takes To, Cc and Bcc, removes Bcc, and -i keeps a line with a dot alone."""
    sendmail("-t", "-i", "-f", "bounces@sender.example", server=f"{HOST}:{node.port}")
    node.wait_for_outcomes(delivered=3)
    recipients = [recipient for delivery in server.deliveries for recipient in delivery.recipients]
    assert sorted(recipients) == ["b@rcpt.example", "c@rcpt.example", "d@rcpt.example"]
    content = server.deliveries[0].content
    assert server.deliveries[0].sender == "bounces@sender.example"
    assert b"Bcc" not in content and b"d@rcpt.example" not in content.split(b"Subject")[1]
    assert content.endswith(b"\r\n\r\n.\r\nbody\r\n")
    assert b"\r\nMessage-ID:" in content and b"\r\nDate:" in content


def test_recipients_of_the_command_line(sendmail, node, server):
    """Recipients as operands; without -i a dot alone ends the message."""
    sendmail("-oem", "b@rcpt.example", server=f"{HOST}:{node.port}", input="Subject: s\n\nbefore\n.\nafter\n")
    [delivery] = server.wait_for(1)
    assert delivery.recipients == ["b@rcpt.example"]
    assert b"before" in delivery.content and b"after" not in delivery.content


def test_null_sender(sendmail, node, server):
    """-f '<>' is the null reverse-path."""
    sendmail("-i", "-f", "<>", "b@rcpt.example", server=f"{HOST}:{node.port}")
    [delivery] = server.wait_for(1)
    assert delivery.sender == ""


def test_speaking_smtp(sendmail, node, server):
    """-bs is SMTP on standard input and output."""
    dialogue = (
        "EHLO me.example\r\nMAIL FROM:<a@sender.example>\r\nRCPT TO:<b@rcpt.example>\r\nDATA\r\n"
        "Subject: s\r\n\r\nx\r\n.\r\nQUIT\r\n"
    )
    result = sendmail("-bs", server=f"{HOST}:{node.port}", input=dialogue)
    assert [line[:3] for line in result.stdout.splitlines() if line[3:4] == " "] == [
        "220", "250", "250", "250", "354", "250", "221",
    ]
    server.wait_for(1)


@pytest.mark.parametrize("arguments,input,code", [
    (["-t", "-i"], MESSAGE, 75),
    (["-i", "b@rcpt.example"], "x\n", 75),
])
def test_node_is_down(sendmail, arguments, input, code):
    """75 (EX_TEMPFAIL) says: try the same again later."""
    result = sendmail(*arguments, server=f"{HOST}:{free_port()}", input=input, check=False)
    assert result.returncode == code
    assert result.stderr


def test_refused_recipient(sendmail, make_node, server):
    """What the node refuses for good is no EX_TEMPFAIL, and no recipient of the message is taken."""
    node = make_node(
        relay={"networks": ["192.0.2.0/24"], "domains": ["local.example"]},
        routes=[{"match": "*", "via": f"smtp {server.address}"}],
    )
    result = sendmail(
        "-i", "b@local.example", "b@elsewhere.example", server=f"{HOST}:{node.port}", input="x\n", check=False
    )
    assert result.returncode in (67, 68, 69, 77)
    assert "elsewhere.example" in result.stderr
    assert node.metric("posthorn_ingress_messages_total") == 0


def test_wrong_usage(sendmail):
    """64 (EX_USAGE): no recipients."""
    assert sendmail("-i", server=f"{HOST}:1", input="x\n", check=False).returncode in (64, 65)


def test_python_mail_programs(sendmail, node, server, tmp_path):
    """As cron calls it: -FCronDaemon -i -odi -oem -oi -t -f."""
    subprocess.run(
        [str(tmp_path / "sendmail"), "-FCronDaemon", "-i", "-odi", "-oem", "-oi", "-t", "-f", "root"],
        input=MESSAGE.encode(), check=True, timeout=20,
        env={**os.environ, "POSTHORN_SERVER": f"{HOST}:{node.port}"},
    )
    node.wait_for_outcomes(delivered=3)
