"""One destination never delays another."""

import pathlib
import socket
import time

from support import HOST, BlackHole, free_port


def test_dead_and_slow_sites(make_node, make_server, make_sink, at_end, report):
    """A site that never answers, one that refuses, and a slow one: mail to a healthy one is not delayed."""
    hole = BlackHole()
    at_end.callback(hole.close)
    slow = make_sink("--delay", "dot=2s")
    server = make_server()
    node = make_node(routes=[
        {"match": "hole.example", "via": f"smtp {hole.address}"},
        {"match": "dead.example", "via": f"smtp {HOST}:{free_port()}"},
        {"match": "slow.example", "via": f"smtp {slow.address}"},
        {"match": "*", "via": f"smtp {server.address}"},
    ])
    sent = {}
    with node.client() as client:
        for number in range(150):
            for domain in ("hole.example", "dead.example", "slow.example"):
                client.send("a@sender.example", f"b{number}@{domain}")
            recipient = f"b{number}@healthy{number % 5}.example"
            sent[recipient] = time.monotonic()
            client.send("a@sender.example", recipient)
    deliveries = server.wait_for(150)
    delays = sorted(delivery.time - sent[delivery.recipients[0]] for delivery in deliveries)
    report(f"delay to the healthy site: median {delays[75]:.3f} s, worst {delays[-1]:.3f} s")
    assert delays[-1] < 3
    # One message with recipients everywhere is one as well.
    start = time.monotonic()
    node.send("a@sender.example", ["x@hole.example", "x@dead.example", "x@slow.example", "x@healthy.example"])
    server.wait_for(151)
    assert time.monotonic() - start < 3


def test_slow_recipient_of_a_fast_site(make_node, make_server):
    """A site that is slow in one transaction goes on with the others."""
    import threading

    gate = threading.Event()

    def script(phase, session):
        if phase == "dot" and session.recipients == ["slow@rcpt.example"]:
            gate.wait(25)

    server = make_server(script=script)
    node = make_node(routes=[{"match": "*", "via": f"smtp {server.address}"}])
    node.send("a@sender.example", "slow@rcpt.example")
    for number in range(50):
        node.send("a@sender.example", f"b{number}@rcpt.example")
    deliveries = server.wait_for(50, timeout=10)
    assert "slow@rcpt.example" not in [each.recipients[0] for each in deliveries]
    gate.set()
    server.wait_for(51)


def test_what_a_session_sent_is_not_kept(node, report):
    """A client whose every packet ends within a command costs no memory for what was taken already."""
    def resident():
        status = pathlib.Path(f"/proc/{node.process.child.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) >> 10

    with socket.create_connection((HOST, node.port), timeout=20) as sock:
        file = sock.makefile("rb")

        def ask(octets, replies=1):
            sock.sendall(octets)
            lines = [file.readline() for _ in range(replies)]
            assert all(line[:3] in (b"250", b"220") for line in lines), lines
            return lines

        def message(chunks, more):
            # The R of the next RSET, and the B of the next BDAT, come with what is before them.
            ask(b"SET\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nB", 3)
            for number in range(chunks):
                last = number == chunks - 1
                ask(b"DAT 8000\r\n" + b"x" * 7998 + b"\r\n" + (more if last else b"B"))

        assert file.readline().startswith(b"220")
        sock.sendall(b"EHLO client.example\r\n")
        while file.readline()[3:4] == b"-":
            pass
        sock.sendall(b"R")
        message(100, b"R")
        before = resident()
        for _ in range(59):
            message(100, b"R")
        grown = resident() - before
        report(f"{59 * 800_000 >> 20} MiB in packets that end within a command: {grown} MiB more resident")
        assert grown < 20
