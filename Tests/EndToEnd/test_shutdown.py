"""SIGTERM: in order, in time, and with nothing lost."""

import signal
import socket

from support import CONTENT, HOST, Client, wait_until
from test_crash import Load


def test_under_load(make_node, make_sink):
    """Not ready first, then sessions end, exit code 0; what was accepted is delivered by the next start."""
    sink = make_sink("--delay", "dot=20ms")
    node = make_node(routes=[{"match": "*", "via": f"smtp {sink.address}"}])
    load = Load(node)
    load.start()
    wait_until(lambda: len(load.accepted) >= 300, "load", 30)
    node.process.child.send_signal(signal.SIGTERM)
    # From now on the node is either not ready or gone.
    wait_until(lambda: not node.is_ready, "the node is not ready", 5)
    assert node.process.child.wait(20) == 0
    load.stopped.set()
    node.start()
    load.join()
    node.wait_until_empty()
    assert node.stop() == 0
    arrived = {identity for identity, _ in sink.records()}
    assert set(load.accepted) <= arrived
    assert len(sink.records()) == len(arrived), "an orderly stop makes no duplicates"
    final = [each["messageID"] for each in node.outcomes() if each["kind"] == "delivered"]
    assert len(final) == len(set(final)) and set(load.accepted.values()) <= set(final)


def test_session_in_progress(node, server):
    """A transaction under way when the node is told to stop ends with a reply: 250 or 421, never silence."""
    client = Client(node.port)
    client.expect(250, "MAIL FROM:<a@sender.example>")
    client.expect(250, "RCPT TO:<b@rcpt.example>")
    client.expect(354, "DATA")
    node.process.child.send_signal(signal.SIGTERM)
    wait_until(lambda: not node.is_ready, "the node is not ready", 5)
    client.write(CONTENT + b".\r\n")
    code = client.reply().code
    assert code in (250, 421, 451)
    assert node.process.child.wait(20) == 0
    node.start()
    if code == 250:
        [delivery] = server.wait_for(1)
        assert delivery.body == CONTENT
    else:
        node.send("marker@sender.example", "b@rcpt.example")
        assert [each.sender for each in server.wait_for(1)] == ["marker@sender.example"]


def test_idle_session(node):
    """A client that is connected and says nothing is told 421 rather than kept or cut off."""
    with Client(node.port) as client:
        node.process.child.send_signal(signal.SIGTERM)
        assert client.reply().code == 421
    assert node.process.child.wait(20) == 0


def test_no_new_sessions(node):
    """Soon after SIGTERM nobody is let in any more."""
    idle = Client(node.port)
    idle.expect(250, "MAIL FROM:<a@sender.example>")
    node.process.child.send_signal(signal.SIGTERM)

    def refused():
        try:
            with socket.create_connection((HOST, node.port), 2) as sock:
                return not sock.recv(100).startswith(b"220")
        except OSError:
            return True

    wait_until(refused, "connections are refused", 5)
    idle.socket.close()
    assert node.process.child.wait(20) == 0


def test_stop_with_a_dead_site(make_node, at_end):
    """Connections that hang do not hold up the end."""
    from support import BlackHole

    hole = BlackHole()
    at_end.callback(hole.close)
    node = make_node(routes=[{"match": "*", "via": f"smtp {hole.address}"}])
    node.send("a@sender.example", "b@rcpt.example")
    wait_until(lambda: node.queue("summary")["sites"][0]["connections"] > 0, "a connection")
    assert node.stop(timeout=20) == 0
    node.start()
    wait_until(lambda: node.queue("summary")["messages"] == 1, "it is there still")


def test_sigint(node):
    """Ctrl-C is the same."""
    assert node.process.end(signal.SIGINT) == 0
