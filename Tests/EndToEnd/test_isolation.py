"""One destination never delays another."""

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
