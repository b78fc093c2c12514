"""Mail in and out over IPv6."""

import json
import socket

import pytest

from support import CONTENT, free_port

LOOPBACK = "::1"


@pytest.fixture(autouse=True)
def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind((LOOPBACK, 0))
    except OSError as error:
        pytest.skip(f"this machine has no {LOOPBACK}: {error}")


def test_in_and_out(make_node, make_server):
    """A client on ::1 relays by default, its address is in Received as RFC 5321 writes it, and a route goes to ::1."""
    server = make_server(host=LOOPBACK)
    port = free_port()
    node = make_node(
        listeners=[{"kind": "relay", "address": LOOPBACK, "port": port}],
        routes=[{"match": "*", "via": f"smtp {server.address}"}],
        logging={"format": "json"},
    )
    with pytest.raises(OSError):
        node.client(port, host="127.0.0.1", timeout=1)
    with node.client(port, host=LOOPBACK, hello=f"[IPv6:{LOOPBACK}]") as client:
        identity = client.send("a@sender.example", ["b@rcpt.example"], CONTENT)
    delivery, = server.wait_for(1)
    assert f"from [IPv6:{LOOPBACK}] ([IPv6:{LOOPBACK}])".encode() in delivery.content.replace(b"\r\n\t", b" ")
    node.wait_for_outcomes(delivered=1)
    attempts = [json.loads(line) for line in node.log.splitlines() if '"Attempt"' in line]
    assert [(each["message_id"], each["remote"]) for each in attempts] == [(identity, f"[{LOOPBACK}]:{server.port}")]
    listening, = (json.loads(line) for line in node.log.splitlines() if '"Listening"' in line)
    assert listening["local_address"] == f"[{LOOPBACK}]:{port}"


def test_both_families(make_node, make_server):
    """One listener on :: takes both families, each under its own address; a host that has both is tried at each."""
    server = make_server(host=LOOPBACK)
    port = free_port()
    node = make_node(
        listeners=[{"kind": "relay", "address": "::", "port": port}],
        routes=[{"match": "*", "via": f"smtp localhost:{server.port}"}],
    )
    for count, (host, literal) in enumerate((("127.0.0.1", "[127.0.0.1]"), (LOOPBACK, f"[IPv6:{LOOPBACK}]")), 1):
        with node.client(port, host=host) as client:
            client.send("a@sender.example", ["b@rcpt.example"], CONTENT)
        assert f"({literal})".encode() in server.wait_for(count)[-1].content
    node.wait_for_outcomes(delivered=2)
