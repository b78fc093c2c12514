"""TLS and AUTH: users prove who they are, in both directions nobody can listen, and nothing is sent below its level."""

import base64
import functools
import hashlib
import hmac
import os
import shutil
import signal
import smtplib
import ssl

import pytest

from support import BINARY, CONTENT, HOST, Process, SMTPFailure, free_port, run, wait_until

USER, PASSWORD = "anna@sender.example", "correct horse bättery"


@pytest.fixture
def submission(make_node, server, certificates, tmp_path):
    """Relays for nobody; users authenticate on submission and submissions."""
    credentials = tmp_path / "credentials"
    run(BINARY, "credentials", "add", "--file", credentials, "--iterations", "4096", USER, input=PASSWORD + "\n")
    run(BINARY, "credentials", "add", "--file", credentials, "ascii", input="only ascii, says smtplib\n")
    files = {"certificate": str(certificates.certificate), "key": str(certificates.key)}
    node = make_node(start=False, relay={"networks": ["192.0.2.0/24"]}, credentials_file=str(credentials),
                     routes=[{"match": "*", "via": f"smtp {server.address}"}])
    node.submission, node.submissions = free_port(), free_port()
    node.config["listeners"] = [
        {"kind": "relay", "address": HOST, "port": node.port, "tls": files},
        {"kind": "submission", "address": HOST, "port": node.submission, "tls": files},
        {"kind": "submissions", "address": HOST, "port": node.submissions, "tls": files},
    ]
    node.write_config()
    return node.start()


def encode(text):
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


def plain(client, user, password):
    return client.command(f"AUTH PLAIN {encode(f'{chr(0)}{user}{chr(0)}{password}')}")


def login(client, user, password):
    assert client.command("AUTH LOGIN").code == 334
    assert client.command(encode(user)).code == 334
    return client.command(encode(password))


def scram(client, user, password, hash_name="sha256", channel=b"n,,"):
    """RFC 5802; the server's signature is checked."""
    nonce = encode(os.urandom(12))
    first = f"n={user.replace('=', '=3D').replace(',', '=2C')},r={nonce}"
    reply = client.command(f"AUTH SCRAM-SHA-256 {encode(channel + first.encode())}")
    assert reply.code == 334, reply
    challenge = base64.b64decode(reply.lines[0]).decode()
    fields = dict(part.split("=", 1) for part in challenge.split(","))
    assert fields["r"].startswith(nonce) and len(fields["r"]) > len(nonce)
    salted = hashlib.pbkdf2_hmac(hash_name, password.encode(), base64.b64decode(fields["s"]), int(fields["i"]))

    def mac(key, text):
        return hmac.new(key, text.encode(), hash_name).digest()

    final = f"c={encode(channel)},r={fields['r']}"
    signed = ",".join((first, challenge, final))
    key = mac(salted, "Client Key")
    signature = mac(hashlib.new(hash_name, key).digest(), signed)
    proof = encode(bytes(a ^ b for a, b in zip(key, signature)))
    reply = client.command(encode(f"{final},p={proof}"))
    if reply.code != 334:
        return reply
    expected = encode(mac(mac(salted, "Server Key"), signed))
    assert base64.b64decode(reply.lines[0]).decode() == f"v={expected}"
    return client.command("")


MECHANISMS = {"PLAIN": plain, "LOGIN": login, "SCRAM-SHA-256": scram}


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("listener", ["submission", "submissions"])
def test_authenticated_mail(submission, server, certificates, mechanism, listener):
    """STARTTLS or TLS from the start, then each mechanism; Received says ESMTPSA."""
    implicit = certificates.client if listener == "submissions" else None
    with submission.client(getattr(submission, listener), tls=implicit) as client:
        if listener == "submission":
            assert "AUTH" not in client.extensions
            client.starttls(certificates.client)
        assert "STARTTLS" not in client.extensions
        assert mechanism in client.extensions["AUTH"]
        reply = client.command("MAIL FROM:<a@sender.example>")
        assert (reply.code, reply.lines[0][:5]) == (530, "5.7.0")
        assert MECHANISMS[mechanism](client, USER, PASSWORD).code == 235
        client.send("a@sender.example", "b@rcpt.example")
        suite = standard_name(client.socket.cipher()[0])
    [delivery] = server.wait_for(1)
    assert "with ESMTPSA" in delivery.received
    assert f"(using TLSv1.3 with cipher {suite})" in " ".join(delivery.received.split())
    assert delivery.body.endswith(b"\r\n\r\nHello.\r\n")


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_wrong_password(submission, certificates, mechanism):
    """A wrong password and an unknown user get the same 535, and no right to send."""
    for user, password in ((USER, "wrong"), ("nobody@sender.example", PASSWORD)):
        with submission.client(submission.submissions, tls=certificates.client) as client:
            reply = MECHANISMS[mechanism](client, user, password)
            assert (reply.code, reply.lines[0][:5]) == (535, "5.7.8")
            assert client.command("MAIL FROM:<a@sender.example>").code == 530


def test_smtplib_login(submission, server, certificates):
    """Python's client logs in as applications do."""
    with smtplib.SMTP(HOST, submission.submission, timeout=20) as client:
        client._host = "localhost"
        client.starttls(context=certificates.client)
        client.login("ascii", "only ascii, says smtplib")
        client.sendmail("a@sender.example", ["b@rcpt.example"], CONTENT)
    server.wait_for(1)


def test_relay_denied_without_authentication(submission):
    """Without AUTH, port 25 relays for no stranger, TLS or not."""
    with submission.client() as client:
        client.expect(250, "MAIL FROM:<a@sender.example>")
        assert client.command("RCPT TO:<b@rcpt.example>").code in (550, 554)


def test_nothing_before_tls(submission):
    """Submission wants TLS first: AUTH and MAIL in the clear are refused."""
    with submission.client(submission.submission) as client:
        assert client.command(f"AUTH PLAIN {encode('x')}").code in (502, 503, 530, 538)
        assert client.command("MAIL FROM:<a@sender.example>").code == 530


def test_no_command_injection_at_starttls(submission, certificates):
    """What is pipelined behind STARTTLS in the clear never becomes a command in the TLS session (CVE-2011-0411)."""
    with submission.client() as client:
        client.write(b"STARTTLS\r\nMAIL FROM:<evil@sender.example>\r\n")
        reply = client.reply()
        if reply.code == 220:
            try:
                client.socket = certificates.client.wrap_socket(client.socket, server_hostname="localhost")
                client.hello()
            except (OSError, EOFError):
                return
            client.input = b""
            assert client.command("RCPT TO:<b@rcpt.example>").code == 503
        else:
            assert reply.code >= 500


def test_credentials_change_without_restart(submission, certificates, tmp_path):
    """`posthorn credentials` tells the truth about a password."""
    file = tmp_path / "credentials"
    assert run(BINARY, "credentials", "verify", "--file", file, USER, input=PASSWORD + "\n").returncode == 0
    assert run(BINARY, "credentials", "verify", "--file", file, USER, input="x\n", check=False).returncode == 1
    assert USER in run(BINARY, "credentials", "list", "--file", file).stdout
    assert "bättery" not in file.read_text()


# Outbound


@functools.cache
def standard_names():
    """IANA's name for each cipher suite that OpenSSL knows by another."""
    lines = run("openssl", "ciphers", "-stdname", "ALL:@SECLEVEL=0").stdout.splitlines()
    return {line.split()[2]: line.split()[0] for line in lines}


def standard_name(cipher):
    return standard_names()[cipher]


def route(server, tls="opportunistic"):
    return [{"match": "*", "via": f"smtp {server.address}", "tls": tls}]


@pytest.mark.parametrize("level,is_stranger,host", [
    ("opportunistic", True, HOST),
    ("required", True, HOST),
    ("verified", False, "localhost"),
    ("verified", False, HOST),
], ids=["opportunistic", "required", "verified by name", "verified by address"])
def test_outbound_tls(make_node, make_server, server_tls, certificates, level, is_stranger, host):
    """STARTTLS is used where offered; the outcome names the version and whether the certificate was verified."""
    server = make_server("127.0.0.1" if host == "localhost" else host, tls=server_tls(is_stranger))
    node = make_node(
        routes=[{"match": "*", "via": f"smtp {host}:{server.port}", "tls": level}],
        delivery={"trusted-certificates": str(certificates.ca)},
    )
    node.send("a@sender.example", "b@rcpt.example")
    [delivery] = server.wait_for(1, timeout=5)
    assert delivery.is_tls
    assert delivery.body == CONTENT
    node.wait_for_outcomes(delivered=1)
    node.stop()
    [outcome] = node.outcomes()
    assert outcome["remote"]["tlsVersion"] in ("TLSv1.3", "TLSv1.2")
    assert outcome["remote"]["tlsVerified"] == (level == "verified")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("ciphers", ["ECDHE+AESGCM", "ECDHE+CHACHA20"])
def test_outbound_cipher(make_node, make_server, server_tls, version, ciphers):
    """The outcome, the trace and the log line name the cipher suite that the server chose."""
    tls = server_tls()
    tls.minimum_version = tls.maximum_version = version
    tls.set_ciphers(ciphers)
    server = make_server(tls=tls)
    node = make_node(routes=route(server))
    message_id = node.send("a@sender.example", "b@rcpt.example")
    [delivery] = server.wait_for(1)
    node.wait_for_outcomes(delivered=1)
    suite = standard_name(delivery.cipher)
    text = run(BINARY, "trace", "--config", node.config_file, message_id).stdout
    assert f"TLSv1.{version.name[-1]} with {suite})" in text
    node.stop()
    [outcome] = node.outcomes()
    assert outcome["remote"]["tlsCipherSuite"] == suite
    assert f"tls_cipher_suite={suite}" in node.log


@pytest.mark.parametrize("level,offers_tls", [("required", False), ("verified", False), ("verified", True)])
def test_outbound_tls_below_its_level(make_node, make_server, server_tls, certificates, level, offers_tls):
    """No TLS, or a certificate nobody vouches for: the mail waits, and not an octet of it is sent."""
    phases = []
    server = make_server(
        tls=server_tls(is_stranger=True) if offers_tls else None, script=lambda phase, _: phases.append(phase)
    )
    node = make_node(routes=route(server, level), delivery={"trusted-certificates": str(certificates.ca)})
    node.send("a@sender.example", "b@rcpt.example")
    node.wait_for_outcomes(deferred=1)
    assert node.queue("summary")["messages"] == 1
    assert set(phases) <= {"connect", "ehlo"}
    node.stop()
    outcome = node.outcomes()[0]
    assert (outcome["kind"], outcome["status"][:4]) == ("deferred", "4.7.")


def test_opportunistic_without_tls(make_node, make_server):
    """Opportunistic goes in the clear where there is no TLS."""
    server = make_server()
    node = make_node(routes=route(server))
    node.send("a@sender.example", "b@rcpt.example")
    [delivery] = server.wait_for(1)
    assert not delivery.is_tls


def test_opportunistic_with_broken_tls(make_node, make_server):
    """Where STARTTLS is offered and its handshake fails, mail goes in the clear rather than nowhere (RFC 7435)."""
    broken = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server = make_server(tls=broken)
    node = make_node(routes=route(server))
    node.send("a@sender.example", "b@rcpt.example")
    wait_until(lambda: server.tls_failures or server.deliveries, "a handshake")
    [delivery] = server.wait_for(1)
    assert not delivery.is_tls


def test_implicit_tls_route(make_node, make_server, server_tls, certificates):
    """`via: smtps` speaks TLS from the first octet."""
    server = make_server("127.0.0.1", tls=server_tls(), is_implicit_tls=True)
    node = make_node(
        routes=[{"match": "*", "via": f"smtps localhost:{server.port}", "tls": "verified"}],
        delivery={"trusted-certificates": str(certificates.ca)},
    )
    node.send("a@sender.example", "b@rcpt.example")
    [delivery] = server.wait_for(1)
    assert delivery.body == CONTENT and delivery.is_tls


@pytest.mark.parametrize("password", ["smarthost secret", "wrong"])
def test_outbound_authentication(make_node, make_server, server_tls, tmp_path, password):
    """A smart host that wants AUTH gets the route's user and password within TLS; a refused one waits to be mended."""
    (tmp_path / "password").write_text(password + "\n")
    server = make_server(
        tls=server_tls(), script=lambda phase, session: "530 5.7.0 Authenticate"
        if phase == "mail" and not session.server.identities else None,
    )
    server.extensions.append("AUTH PLAIN LOGIN")
    server.passwords = {"relayuser": "smarthost secret"}
    node = make_node(routes=[{
        "match": "*", "via": f"smtp {server.address}", "tls": "required",
        "auth": {"user": "relayuser", "password-file": str(tmp_path / "password")},
    }])
    node.send("a@sender.example", "b@rcpt.example")
    if password == "wrong":
        node.wait_for_outcomes(deferred=1)
        assert node.queue("summary")["messages"] == 1
    else:
        [delivery] = server.wait_for(1)
        assert delivery.is_tls
        assert server.identities == ["relayuser"]


def test_refused_is_not_an_error_of_ours(submission, certificates):
    """The client is told why in words it can show."""
    with submission.client(submission.submissions, tls=certificates.client) as client:
        with pytest.raises(SMTPFailure) as failure:
            client.send("a@sender.example", "b@rcpt.example")
        assert failure.value.reply.code == 530


def test_certificates_and_credentials_are_read_again_on_sighup(make_node, server, certificates, tmp_path):
    """A renewed certificate and a new user count for the next session, without an open one noticing; a file that cannot be
    used changes nothing, and the log names it."""
    certificate, key, credentials = (tmp_path / name for name in ("server.pem", "server.key", "credentials"))
    shutil.copy(certificates.certificate, certificate)
    shutil.copy(certificates.key, key)

    def add(user):
        run(BINARY, "credentials", "add", "--file", credentials, "--iterations", "4096", user, input=PASSWORD + "\n")

    add(USER)
    node = make_node(start=False, relay={"networks": ["192.0.2.0/24"]}, credentials_file=str(credentials),
                     routes=[{"match": "*", "via": f"smtp {server.address}"}])
    port = free_port()
    files = {"certificate": str(certificate), "key": str(key)}
    node.config["listeners"] = [{"kind": "submissions", "address": HOST, "port": port, "tls": files}]
    node.write_config()
    node.process = Process([BINARY, "run", "--config", node.config_file], node.log_file)
    wait_until(lambda: node.is_ready, "the node is ready")

    renewed = ssl.create_default_context(cafile=certificates.stranger)

    def reload(said):
        count = node.log.count(said)
        node.process.child.send_signal(signal.SIGHUP)
        wait_until(lambda: node.log.count(said) > count, said)

    with node.client(port, tls=certificates.client) as before:
        # A half-written renewal: nothing changes.
        certificate.write_text("-----BEGIN CERTIFICATE-----\nnot yet\n")
        reload("Not reloaded")
        assert str(certificate) in node.log
        node.client(port, tls=certificates.client).socket.close()
        shutil.copy(certificates.stranger, certificate)
        shutil.copy(certificates.stranger_key, key)
        add("berta@sender.example")
        reload("Certificates and credentials were read again")
        with node.client(port, tls=renewed) as client:
            assert plain(client, "berta@sender.example", PASSWORD).code == 235
        with pytest.raises(ssl.SSLCertVerificationError):
            node.client(port, tls=certificates.client)
        assert plain(before, USER, PASSWORD).code == 235
        before.send("a@sender.example", "b@rcpt.example")
    server.wait_for(1)
