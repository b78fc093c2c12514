"""Who may send where: nobody relays through us by accident."""

import socket

import pytest

from support import BINARY, CONTENT, HOST, Node, run

SOURCE = "127.0.0.9"


@pytest.mark.parametrize("relay", [
    {"networks": ["0.0.0.0/0"]},
    {"networks": ["::/0"]},
    {"networks": ["0.0.0.0/1", "128.0.0.0/1"]},
    {"domains": ["*"]},
    {"domains": [".com"]},
])
def test_open_relay_is_refused(tmp_path, relay):
    """What would relay for the world is not started with, and check-config says which line and why."""
    node = Node(tmp_path / "node", relay=relay)
    for command in ("check-config", "run"):
        result = run(BINARY, command, "--config", node.config_file, check=False)
        assert result.returncode == 78, result
        assert "open relay" in (result.stdout + result.stderr).lower()
        assert "posthorn.yaml:" in result.stdout + result.stderr


def test_open_relay_on_purpose(tmp_path):
    """It can be had by saying so."""
    node = Node(tmp_path / "node", relay={"networks": ["0.0.0.0/0"], "i-know-this-is-an-open-relay": True})
    assert run(BINARY, "check-config", "--config", node.config_file).returncode == 0


def test_every_mistake_is_reported_at_once(tmp_path):
    """check-config names every mistake with its line, and offers the key that was meant."""
    node = Node(tmp_path / "node", retry={"tiers": ["2s", "1s"]}, hostnam="x", delivery={"conections": 3})
    result = run(BINARY, "check-config", "--config", node.config_file, check=False)
    text = result.stdout + result.stderr
    assert result.returncode == 78
    assert all(word in text for word in ("hostnam", "hostname", "conections", "connections", "retry.tiers[1]"))


@pytest.fixture
def guarded(make_node, server):
    """Relays for 192.0.2.0/24 only, and to local.example for everybody; believes proxies at SOURCE."""
    node = make_node(
        start=False,
        relay={"networks": ["192.0.2.0/24"], "domains": ["local.example", ".under.example"]},
        routes=[{"match": "*", "via": f"smtp {server.address}"}],
    )
    node.config["listeners"][0]["proxy-protocol-from"] = [f"{SOURCE}/32"]
    node.write_config()
    return node.start()


def test_relay_domains(guarded, server):
    """Strangers reach our domains and our postmaster, and nobody else."""
    with guarded.client() as client:
        client.expect(250, "MAIL FROM:<a@sender.example>")
        for recipient in ("b@elsewhere.example", "b@local.example.elsewhere.example", "b@notunder.example",
                          "b%elsewhere.example@relay.example", "elsewhere.example!b@relay.example"):
            reply = client.command(f"RCPT TO:<{recipient}>")
            assert (reply.code, reply.lines[0][:5]) in ((550, "5.7.1"), (554, "5.7.1")), recipient
        client.expect(250, "RCPT TO:<B@LOCAL.example>")
        client.expect(250, "RCPT TO:<b@deep.under.example>")
        client.expect(250, "RCPT TO:<postmaster@relay.example>")
        assert client.data(CONTENT).code == 250
    guarded.wait_for_outcomes(delivered=3)
    assert {recipient for delivery in server.deliveries for recipient in delivery.recipients} == {
        "B@local.example", "b@deep.under.example", "postmaster@relay.example",
    }


def test_source_routes_do_not_relay(guarded):
    """A source route is ignored, as RFC 5321 §4.1.1.3 has it: what counts is the final domain."""
    with guarded.client() as client:
        client.expect(250, "MAIL FROM:<a@sender.example>")
        assert client.command("RCPT TO:<@local.example:b@elsewhere.example>").code in (501, 550, 553, 554)


def proxy_v2(source, destination):
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
    ports = source[1].to_bytes(2, "big") + destination[1].to_bytes(2, "big")
    return b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + (12).to_bytes(2, "big") + addresses + ports


@pytest.mark.parametrize("preamble", [
    b"PROXY TCP4 192.0.2.7 198.51.100.1 4000 25\r\n", proxy_v2(("192.0.2.7", 4000), ("198.51.100.1", 25)),
], ids=["v1", "v2"])
def test_proxy_protocol(guarded, server, preamble):
    """From the named proxy, the address in the PROXY header is the client's: in policy, log and Received."""
    with guarded.client(source=SOURCE, preamble=preamble) as client:
        client.send("a@sender.example", "b@elsewhere.example")
    [delivery] = server.wait_for(1)
    assert "[192.0.2.7]" in delivery.received
    assert "client=192.0.2.7" in guarded.log


def test_proxy_header_of_a_stranger(guarded):
    """Others cannot choose their address: their PROXY line is a syntax error, and they stay who they are."""
    with guarded.client(hello=None) as client:
        assert client.command("PROXY TCP4 192.0.2.7 198.51.100.1 4000 25").code in (500, 502, 503)
        client.hello()
        client.expect(250, "MAIL FROM:<a@sender.example>")
        assert client.command("RCPT TO:<b@elsewhere.example>").code in (550, 554)


def test_proxied_stranger(guarded):
    """Behind the proxy, a stranger is a stranger."""
    preamble = b"PROXY TCP4 203.0.113.5 198.51.100.1 4000 25\r\n"
    with guarded.client(source=SOURCE, preamble=preamble) as client:
        client.expect(250, "MAIL FROM:<a@sender.example>")
        assert client.command("RCPT TO:<b@elsewhere.example>").code in (550, 554)


def test_loopback_relays_by_default(make_node, server):
    """Without a word in the configuration, this machine may send and nobody else."""
    node = make_node(routes=[{"match": "*", "via": f"smtp {server.address}"}])
    node.send("a@sender.example", "b@elsewhere.example")
    server.wait_for(1)
    assert HOST.startswith("127.")
