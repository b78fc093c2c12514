"""Fixtures: whatever a test starts is ended with it."""

import contextlib
import os
import shutil
import ssl
import types

import pytest

import cluster
import support

LINES = []


def pytest_report_header():
    return f"posthorn: {support.BINARY}"


def pytest_sessionstart():
    if not os.access(support.BINARY, os.X_OK):
        pytest.exit(f"{support.BINARY} is missing: build it, or name one with POSTHORN_TEST_BINARY", 2)


def pytest_terminal_summary(terminalreporter):
    for line in LINES:
        terminalreporter.write_line(line)


@pytest.fixture
def report():
    """Adds a line to what is shown at the end, whatever the verdict."""
    return LINES.append


@pytest.fixture
def at_end():
    """What is to be closed when the test is over, last first."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def make_node(tmp_path, at_end, request):
    """Starts nodes; keywords are merged into the configuration."""
    nodes = []

    def make(start=True, name=None, **config):
        node = support.Node(tmp_path / (name or f"node{len(nodes)}"), **config)
        nodes.append(node)
        at_end.callback(lambda: node.process and node.process.discard())
        if start:
            node.start()
        return node

    yield make
    # Of a failed test, pytest shows this.
    for node in nodes:
        if node.log_file.exists():
            print(f"--- {node.log_file}\n{node.log[-6000:]}")


@pytest.fixture(scope="module")
def kafka(tmp_path_factory):
    """Brokers: those that POSTHORN_TEST_KAFKA names, or the mock."""
    kafka = cluster.Kafka(tmp_path_factory.mktemp("kafka"))
    yield kafka
    kafka.discard()


@pytest.fixture
def make_cluster(tmp_path, kafka, at_end):
    """Makes clusters over topics of their own; keywords are merged into the nodes' configuration."""
    clusters = []

    def make(**config):
        made = cluster.Cluster(tmp_path / f"cluster{len(clusters)}", kafka, **config)
        clusters.append(made)
        at_end.callback(made.discard)
        return made

    yield make
    for made in clusters:
        print(made.describe())


@pytest.fixture
def make_server(at_end):
    """Starts destinations in this process."""

    def make(*arguments, **options):
        server = support.Server(*arguments, **options)
        at_end.callback(server.close)
        return server

    return make


@pytest.fixture
def make_sink(tmp_path, at_end):
    """Starts `posthorn sink` with options."""
    count = 0

    def make(*options, port=None, start=True):
        nonlocal count
        count += 1
        sink = support.Sink(tmp_path / f"sink{count}", *options, port=port)
        at_end.callback(lambda: sink.process and sink.process.discard())
        return sink.start() if start else sink

    return make


@pytest.fixture
def server(make_server):
    """A destination that takes everything."""
    return make_server()


@pytest.fixture
def node(make_node, server):
    """A node that sends everything to `server`."""
    return make_node(routes=[{"match": "*", "via": f"smtp {server.address}"}])


@pytest.fixture
def make_postfix(at_end):
    """Starts Postfix instances; keywords are main.cf parameters."""
    if os.geteuid() != 0:
        pytest.skip("Postfix is started by root only")
    if not shutil.which("postfix", path="/usr/sbin"):
        pytest.skip("Postfix is not installed")

    def make(**settings):
        postfix = support.Postfix(**settings)
        at_end.callback(postfix.close)
        return postfix.start()

    return make


@pytest.fixture
def make_unbound(tmp_path, at_end):
    """Starts a name server with local data."""
    if not shutil.which("unbound", path="/usr/sbin"):
        pytest.skip("unbound is not installed")

    def make(*data):
        unbound = support.Unbound(tmp_path / "unbound", *data)
        at_end.callback(unbound.process.discard)
        return unbound

    return make


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """An authority, a certificate of its for our names, and one that nobody vouches for."""
    directory = tmp_path_factory.mktemp("certificates")
    files = types.SimpleNamespace(
        ca=directory / "ca.pem", certificate=directory / "server.pem", key=directory / "server.key",
        stranger=directory / "stranger.pem", stranger_key=directory / "stranger.key",
    )
    names = f"subjectAltName=DNS:localhost,DNS:relay.example,DNS:mx.example,IP:{support.HOST}"

    def openssl(*arguments):
        support.run("openssl", *arguments)

    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *new_key, "-keyout", directory / "ca.key", "-out", files.ca, "-days", "2",
            "-subj", "/CN=Test authority")
    openssl("req", *new_key, "-keyout", files.key, "-out", directory / "server.csr", "-subj", "/CN=localhost")
    (directory / "names").write_text(names + "\n")
    openssl("x509", "-req", "-in", directory / "server.csr", "-CA", files.ca, "-CAkey", directory / "ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", directory / "names", "-out", files.certificate)
    openssl("req", "-x509", *new_key, "-keyout", files.stranger_key, "-out", files.stranger, "-days", "2",
            "-subj", "/CN=stranger", "-addext", names)
    files.client = ssl.create_default_context(cafile=files.ca)
    return files


@pytest.fixture
def server_tls(certificates):
    """Makes a server's TLS context; of the authority unless told otherwise."""

    def make(is_stranger=False):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if is_stranger:
            context.load_cert_chain(certificates.stranger, certificates.stranger_key)
        else:
            context.load_cert_chain(certificates.certificate, certificates.key)
        return context

    return make
