"""Brokers that go away, refuse, or are not what they should be: said at once, in words that name the setting."""

import base64
import contextlib
import hashlib
import hmac
import os
import socket
import ssl
import struct
import threading
import time

import pytest

from cluster import TOPICS, Kafka, finals, routed, settle
from support import BINARY, HOST, Client, Node, Process, free_port, run, wait_until

PRODUCE, INIT_PRODUCER_ID = 0, 22
NOT_ENOUGH_REPLICAS = 19


@pytest.fixture
def kafka(tmp_path, monkeypatch):
    """Brokers of the test's own, always the mock: what is done to them is done to nobody else."""
    monkeypatch.delenv("POSTHORN_TEST_KAFKA", raising=False)
    kafka = Kafka(tmp_path / "kafka")
    yield kafka
    kafka.discard()


def timed(body):
    """What it gave and how many seconds it took."""
    start = time.monotonic()
    return body(), time.monotonic() - start


def greeting(node):
    with contextlib.closing(socket.create_connection((HOST, node.port), timeout=20)) as sock:
        return sock.makefile("rb").readline().decode()


def test_brokers_go_and_come_back(make_cluster, make_sink, kafka, report):
    """All brokers are gone: 421 to new clients and 451 to old ones at once, not ready; back: it recovers by itself."""
    sink = make_sink()
    cluster = make_cluster(**routed(sink.address)).start(ingress=1, delivery=1)
    ingress = cluster.of("ingress")[0]
    accepted = {ingress.send("a@sender.example", f"b{number}@d{number}.example") for number in range(10)}
    with ingress.client() as client:
        _, seconds = timed(lambda: (
            kafka.tell("down", -1), wait_until(lambda: not ingress.is_ready, "ingress is not ready", 8)
        ))
        reply, wait = timed(lambda: client.command("MAIL FROM:<a@sender.example>"))
        assert (reply.code, reply.lines[0][:5]) == (451, "4.3.0"), reply
        line, greeted = timed(lambda: greeting(ingress))
        assert line.startswith("421 4.3.2"), line
        report(f"brokers down: not ready after {seconds:.1f} s; then 451 in {wait * 1000:.0f} ms, "
               f"421 in {greeted * 1000:.0f} ms")
        assert wait < 0.5 and greeted < 0.5
        assert "broker" in ingress.get("/health/ready")[1]
        wait_until(lambda: not cluster.of("delivery")[0].is_ready, "delivery is not ready", 8)
        assert all(node.get("/health/live")[0] == 200 for node in cluster.nodes)
        kafka.tell("up", -1)
        wait_until(lambda: ingress.is_ready, "ingress is ready again", 30)
        accepted.add(client.send("a@sender.example", "same-session@last.example"))
    accepted.add(ingress.send("a@sender.example", "new-session@last.example"))
    wait_until(lambda: len(sink.records()) >= 12, "all arrive", 60)
    wait_until(
        lambda: accepted <= {message for message, _ in finals(cluster.outcomes())}, "all have an outcome", 60, 1.0
    )


def test_in_sync_replicas_below_the_minimum(make_cluster, make_sink, kafka):
    """The same as unreachable: the first message is refused when its append fails, the next ones at MAIL; it passes."""
    sink = make_sink()
    cluster = make_cluster(**routed(sink.address)).start(ingress=1)
    ingress = cluster.of("ingress")[0]
    ingress.send("a@sender.example", "b@d0.example")
    kafka.tell("fail", PRODUCE, NOT_ENOUGH_REPLICAS, 10_000)
    with ingress.client(timeout=40) as client:
        client.expect(250, "MAIL FROM:<a@sender.example>")
        client.expect(250, "RCPT TO:<b@d1.example>")
        assert client.data(b"Subject: x\r\n\r\n").code == 451
        reply, wait = timed(lambda: client.command("MAIL FROM:<a@sender.example>"))
        assert reply.code == 451 and wait < 0.5, reply
    assert not ingress.is_ready
    kafka.tell("clear", PRODUCE)
    wait_until(lambda: ingress.is_ready, "ingress is ready again", 30)
    ingress.send("a@sender.example", "b@d2.example")


def test_delivery_starts_nothing_while_outcomes_cannot_be_written(make_cluster, make_sink, kafka, report):
    """Brokers go while a slow destination is served: what is in hand is finished, then attempts stop; afterwards all the
    rest is delivered, and only what had no outcome yet a second time."""
    sink = make_sink("--delay", "dot=100ms")
    cluster = make_cluster(**routed(sink.address, connections=1)).start(ingress=1, delivery=1)
    ingress = cluster.of("ingress")[0]
    count = 120
    accepted = set()
    for number in range(count):
        content = b"X-Test-Id: n%d\r\n\r\nhello\r\n" % number
        accepted.add(ingress.send("a@sender.example", f"b{number}@one.example", content))
    wait_until(lambda: len(sink.records()) >= 5, "delivery is under way", 60)
    kafka.tell("down", -1)
    before = len(sink.records())
    settle(6)
    stopped = len(sink.records())
    settle(3)
    assert len(sink.records()) == stopped < count, "attempts went on without an outcome"
    kafka.tell("up", -1)
    wait_until(lambda: len({identity for identity, _ in sink.records()}) == count, "all arrive", 90)
    wait_until(
        lambda: accepted <= {message for message, _ in finals(cluster.outcomes())}, "all have an outcome", 60, 1.0
    )
    twice = len(sink.records()) - count
    report(f"brokers down under delivery: {stopped - before} attempts after it, then none; {twice} delivered twice")
    # What was delivered since the last step: the patience of two seconds, and the step under way.
    assert twice <= stopped - before + 20


def start_and_fail(node):
    """Runs a node that cannot start; gives its exit code and what it said."""
    process = Process([BINARY, "run", "--config", node.config_file], node.log_file)
    try:
        code = process.child.wait(40)
    finally:
        process.discard()
    return code, node.log


def kafka_node(directory, bootstrap, **settings):
    return Node(directory, kafka={"bootstrap": bootstrap, "prefix": "t", "start-timeout": "3s", **settings})


def test_wrong_topics_are_named(tmp_path, kafka):
    """A topic is missing, another has other partitions: the node does not start, and says which and what to do."""
    names = {"replication": 1, "in-sync-min": 1, "partitions": 4}
    # A mock cannot describe topics' settings, so this is the verdict of `topics`, which a start takes over.
    kafka.create([f"t.{name}" for name in TOPICS if name != "held"], 4)
    node = kafka_node(tmp_path / "missing", kafka.bootstrap, **{**names, "test-cluster": True})
    result = run(BINARY, "topics", "verify", "--config", node.config_file, check=False)
    assert result.returncode == 1
    assert "t.held: the topic does not exist. Run `posthorn topics apply`" in result.stdout
    kafka.create(["t.held"], 5)
    result = run(BINARY, "topics", "verify", "--config", node.config_file, check=False)
    assert "t.held: it has 5 partitions, and kafka.partitions says 4" in result.stdout
    assert "A node refuses to start" in result.stdout


class GuardedBroker:
    """Speaks just enough of Kafka's protocol to take or refuse credentials, as a broker does, and hangs up after that.

    `passwords` are of users, by their names.
    """

    METADATA, SASL_HANDSHAKE, API_VERSIONS, SASL_AUTHENTICATE = 3, 17, 18, 36
    SALT, ITERATIONS = b"a salt of ours", 4096

    def __init__(self, passwords=None, tls=None):
        self.passwords = passwords or {}
        self.tls = tls
        # Mechanism and user of who came in, and what was asked for from there on.
        self.entered, self.asked = [], []
        self.listener = socket.create_server((HOST, 0))
        self.address = "%s:%d" % self.listener.getsockname()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with contextlib.suppress(OSError, EOFError, struct.error):
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
            file = connection.makefile("rwb")
            exchange = None
            while size := file.read(4):
                request = file.read(struct.unpack(">i", size)[0])
                key, version, correlation, client = struct.unpack(">hhih", request[:10])
                body = request[10 + max(client, 0):]
                if key == self.SASL_HANDSHAKE:
                    exchange = self.exchange(body[2:].decode())
                    next(exchange)
                answer = struct.pack(">i", correlation) + self.answer(key, version, body, exchange)
                file.write(struct.pack(">i", len(answer)) + answer)
                file.flush()
        connection.close()

    def answer(self, key, version, body, exchange):
        def text(value):
            return struct.pack(">h", len(value)) + value.encode()

        if key == self.API_VERSIONS:
            if version > 0:
                # Not this version (35); what is said then is said in version 0.
                return struct.pack(">hi", 35, 1) + struct.pack(">hhh", self.API_VERSIONS, 0, 0)
            known = [(0, 0, 7), (3, 0, 4), (self.SASL_HANDSHAKE, 0, 1), (18, 0, 0), (self.SASL_AUTHENTICATE, 0, 0)]
            return struct.pack(">hi", 0, len(known)) + b"".join(struct.pack(">hhh", *each) for each in known)
        if key == self.SASL_HANDSHAKE:
            return struct.pack(">hi", 0, 2) + text("PLAIN") + text("SCRAM-SHA-256")
        if key == self.SASL_AUTHENTICATE:
            reply = exchange.send(body[4:])
            if reply is None:
                refusal = text("Authentication failed: Invalid username or password")
                return struct.pack(">h", 58) + refusal + struct.pack(">i", 0)
            return struct.pack(">hhi", 0, -1, len(reply)) + reply
        # Or not our protocol, such as TLS's first words.
        if self.entered:
            self.asked.append(key)
        raise EOFError

    def exchange(self, mechanism):
        """Takes what the client says and gives what the broker says; None refuses."""
        if mechanism == "PLAIN":
            _, user, password = (yield).decode().split("\0")
            if self.passwords.get(user) != password:
                yield None
            self.entered.append((mechanism, user))
            yield b""
        # RFC 5802 §3.
        first = (yield).decode().removeprefix("n,,")
        fields = dict(each.split("=", 1) for each in first.split(","))
        nonce = fields["r"] + "broker"
        second = f"r={nonce},s={base64.b64encode(self.SALT).decode()},i={self.ITERATIONS}"
        final = (yield second.encode()).decode()
        bare, proof = final.rsplit(",p=", 1)
        salted = hashlib.pbkdf2_hmac("sha256", self.passwords.get(fields["n"], "").encode(), self.SALT, self.ITERATIONS)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        message = f"{first},{second},{bare}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
        expected = bytes(left ^ right for left, right in zip(client_key, signature))
        # librdkafka 2.0.2 says its own part of the nonce twice, and brokers look at how it ends.
        if not bare.endswith(nonce) or not hmac.compare_digest(expected, base64.b64decode(proof)):
            yield None
        self.entered.append((mechanism, fields["n"]))
        server_key = hmac.digest(salted, b"Server Key", "sha256")
        yield b"v=" + base64.b64encode(hmac.digest(server_key, message, "sha256"))

    def close(self):
        self.listener.close()


@pytest.fixture
def broker_tls(tmp_path):
    """A TLS context for a broker, and the file of who vouches for it."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate,
        "-days", "2", "-subj", "/CN=broker.example", "-addext", f"subjectAltName=IP:{HOST}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
@pytest.mark.parametrize("source", ["file", "environment"])
def test_credentials_and_tls_are_configured_by_name(tmp_path, at_end, broker_tls, mechanism, source):
    """With what the configuration names a node comes past TLS and SASL; the secret is in a file or the environment."""
    context, authority = broker_tls
    broker = GuardedBroker({"posthorn": "open-sesame"}, tls=context)
    at_end.callback(broker.close)
    secret = tmp_path / "password"
    secret.write_text("open-sesame\n")
    node = kafka_node(
        tmp_path / "node", broker.address, security="sasl-tls", authorities=str(authority), mechanism=mechanism,
        username="posthorn", **({"password-file": str(secret)} if source == "file" else {}),
    )
    env = {**os.environ, **({"POSTHORN_KAFKA_PASSWORD": "open-sesame"} if source == "environment" else {})}
    result = run(BINARY, "topics", "verify", "--config", node.config_file, check=False, env=env)
    assert set(broker.entered) == {(mechanism, "posthorn")}, result.stderr
    assert GuardedBroker.METADATA in broker.asked


def test_wrong_credentials_are_named(tmp_path, at_end):
    """A broker that refuses the password: exit with 69, and the settings to look at."""
    broker = GuardedBroker({"posthorn": "another"})
    at_end.callback(broker.close)
    node = kafka_node(
        tmp_path / "node", broker.address,
        security="sasl-plaintext", mechanism="PLAIN", username="posthorn", password="open-sesame",
    )
    code, log = start_and_fail(node)
    assert code == 69, log
    assert not broker.entered
    last = log.strip().split("\n")[-1]
    assert "kafka.username, kafka.password-file and kafka.mechanism" in last, log
    assert "Invalid username or password" in last, log
    assert "open-sesame" not in log
    result = run(BINARY, "topics", "verify", "--config", node.config_file, check=False)
    assert result.returncode == 69 and "kafka.username, kafka.password-file" in result.stderr, result.stderr


def test_wrong_tls_is_named(tmp_path, at_end, broker_tls):
    """A broker without TLS, a broker whose certificate nobody vouches for: exit with 69, and the settings."""
    context, _ = broker_tls
    secure, plain = GuardedBroker(tls=context), GuardedBroker()
    at_end.callback(secure.close)
    at_end.callback(plain.close)

    code, log = start_and_fail(kafka_node(tmp_path / "unknown", secure.address, security="tls"))
    assert code == 69 and "kafka.authorities" in log.strip().split("\n")[-1], log
    code, log = start_and_fail(kafka_node(tmp_path / "without", plain.address, security="tls"))
    assert code == 69 and "kafka.security" in log.strip().split("\n")[-1], log
    code, log = start_and_fail(kafka_node(tmp_path / "with", secure.address))
    assert code == 69 and "kafka.security" in log.strip().split("\n")[-1], log


def test_nobody_at_the_address(tmp_path):
    code, log = start_and_fail(kafka_node(tmp_path / "node", f"{HOST}:{free_port()}"))
    assert code == 69, log
    assert "No broker of kafka.bootstrap" in log and "check the address" in log, log


def test_a_file_that_is_not_there_is_named(tmp_path):
    code, log = start_and_fail(
        kafka_node(tmp_path / "node", f"{HOST}:1", security="tls", authorities=str(tmp_path / "none.pem"))
    )
    assert code == 78, log
    assert "none.pem" in log or "kafka.authorities" in log, log
