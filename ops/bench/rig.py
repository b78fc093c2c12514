"""What the benchmarks share: a sink, the relays as processes of our own, and what they cost."""

import asyncio
import contextlib
import ctypes
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
TICK = os.sysconf("SC_CLK_TCK")
DESTINATION = "user@destination.example"
SENDER = "sender@origin.example"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port, process, log=None, seconds=30):
    """Until something answers with a line; a process that ends first is an error."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            text = pathlib.Path(log).read_text(errors="replace") if log else ""
            raise RuntimeError(f"{process.args[0]} ended with {process.returncode}\n{text[-2000:]}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.settimeout(2)
                if connection.recv(4):
                    connection.sendall(b"QUIT\r\n")
                    return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nothing answers on port {port} after {seconds} s")


def adopt_orphans():
    """Processes whose parent dies become ours: none is left behind (PR_SET_CHILD_SUBREAPER)."""
    ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)


def _stat(pid):
    """Parent, and CPU seconds including those of children it has waited for."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[1]), sum(map(int, fields[11:15])) / TICK


def tree(root):
    """The process and all its descendants: {pid: CPU seconds}."""
    parents, cpu = {}, {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parents[int(name)], cpu[int(name)] = _stat(name)
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = {}
    for pid in parents:
        ancestor = pid
        while ancestor not in (0, root) and ancestor in parents:
            ancestor = parents[ancestor]
        if ancestor == root:
            found[pid] = cpu[pid]
    return found


def memory(root):
    """Proportional set size of the tree in octets: pages that processes share count once."""
    total = 0
    for pid in tree(root):
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                for line in file:
                    if line.startswith("Pss:"):
                        total += int(line.split()[1]) * 1024
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return total


class MemoryWatch:
    """The peak of a tree's memory, sampled twice a second."""

    def __init__(self, root):
        self.peak = 0
        self._root = root
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while True:
            self.peak = max(self.peak, memory(self._root))
            if self._stop.wait(0.5):
                return

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


class Scratch:
    """A directory on the disk of the checkout, removed at the end, so that both relays write to the same disk."""

    def __init__(self):
        parent = os.environ.get("POSTHORN_TEST_DIRECTORY", ROOT / ".build")
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="bench.", dir=parent))
        # Postfix's processes run as postfix and have to get through.
        self.path.chmod(0o755)
        self._closers = []

    def closing(self, thing):
        self._closers.append(thing)
        return thing

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: exit(143))
        adopt_orphans()
        return self

    def __exit__(self, *_):
        for thing in reversed(self._closers):
            thing.stop()
        shutil.rmtree(self.path, ignore_errors=True)


class Sink:
    """Postfix's smtp-sink; its counter of messages goes to a file, whose end says how many it took."""

    def __init__(self, scratch, port=None):
        self.port = port or free_port()
        self._path = scratch.path / f"sink.{self.port}"
        self._file = open(self._path, "wb")
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        self.process = subprocess.Popen(
            ["smtp-sink", *user, "-c", "-m", "512", f"inet:127.0.0.1:{self.port}", "1024"],
            stdout=self._file, stderr=subprocess.DEVNULL,
        )
        scratch.closing(self)
        wait_for_port(self.port, self.process)

    def count(self):
        size = os.stat(self._path).st_size
        with open(self._path, "rb") as file:
            file.seek(max(0, size - 200))
            tail = file.read()
        _, mark, number = tail.rpartition(b"mesg=")
        digits = number.split(b"\r")[0].strip()
        return int(digits) if mark and digits.isdigit() else 0

    def wait(self, count, seconds):
        """The instant at which `count` messages had come."""
        deadline = time.monotonic() + seconds
        while self.count() < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the sink has {self.count()} of {count} messages after {seconds} s")
            time.sleep(0.005)
        return time.monotonic()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


def binary():
    """The release build, made now if it is not there."""
    path = pathlib.Path(os.environ.get("POSTHORN_TEST_BINARY", ROOT / ".build/release/posthorn"))
    if not path.exists():
        subprocess.run(
            ["swift", "build", "-c", "release", "--product", "posthorn", "--static-swift-stdlib"], cwd=ROOT, check=True)
    return path


class Posthorn:
    name = "Posthorn"

    def __init__(self, scratch, sink_port, extra="", routes=""):
        self.binary = binary()
        self.port, self.admin_port = free_port(), free_port()
        self.directory = scratch.path / "posthorn"
        self.directory.mkdir(exist_ok=True)
        self._configuration = self.directory / "posthorn.yaml"
        self._configuration.write_text(f"""\
hostname: relay.example
data-directory: {self.directory}/data
listeners:
  - name: smtp
    address: 127.0.0.1
    port: {self.port}
routes:
{routes}  - match: "*"
    via: smtp 127.0.0.1:{sink_port}
admin:
  address: 127.0.0.1:{self.admin_port}
logging:
  level: warning
{extra}""")
        self.process = None
        scratch.closing(self)
        self.start()

    def start(self):
        with open(self.directory / "log", "ab") as file:
            self.process = subprocess.Popen(
                [self.binary, "run", "-c", self._configuration], stdout=file, stderr=file)
        wait_for_port(self.port, self.process, self.directory / "log")

    @property
    def pid(self):
        return self.process.pid

    def cpu(self):
        return sum(tree(self.pid).values())

    def queue(self, *arguments):
        """The command, under way."""
        return subprocess.Popen(
            [self.binary, "queue", *arguments, "-c", self._configuration], stdout=subprocess.DEVNULL)

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Postfix:
    """A Postfix instance of our own: its own configuration, queue and processes, at its default durability."""

    name = "Postfix"

    MAIN = """\
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
command_directory = /usr/sbin
daemon_directory = {daemons}
mail_owner = postfix
setgid_group = postdrop
myhostname = relay.example
mydestination =
local_recipient_maps =
local_transport = error:none
alias_maps =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
relayhost = [127.0.0.1]:{sink}
smtpd_recipient_restrictions = permit_mynetworks, reject
message_size_limit = 52428800

# As a busy relay is set up: no process limit in the way, no throttling of input, connections kept, as many to the
# destination as Posthorn opens (20), no lookups that say nothing about a loopback address.
default_process_limit = 200
in_flow_delay = 0
default_destination_concurrency_limit = 20
initial_destination_concurrency = 20
smtp_connection_cache_destinations = [127.0.0.1]:{sink}
smtp_connection_reuse_count_limit = 100
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_peername_lookup = no
disable_dns_lookups = yes
smtp_host_lookup = native
smtp_tls_security_level = none
"""

    MASTER = """\
127.0.0.1:{port} inet n - n - 100 smtpd
cleanup   unix  n  -  n  -     0    cleanup
qmgr      unix  n  -  n  300   1    qmgr
tlsmgr    unix  -  -  n  1000? 1    tlsmgr
rewrite   unix  -  -  n  -     -    trivial-rewrite
bounce    unix  -  -  n  -     0    bounce
defer     unix  -  -  n  -     0    bounce
trace     unix  -  -  n  -     0    bounce
verify    unix  -  -  n  -     1    verify
flush     unix  n  -  n  1000? 0    flush
proxymap  unix  -  -  n  -     -    proxymap
smtp      unix  -  -  n  -     100  smtp
relay     unix  -  -  n  -     100  smtp
showq     unix  n  -  n  -     -    showq
error     unix  -  -  n  -     -    error
retry     unix  -  -  n  -     -    error
discard   unix  -  -  n  -     -    discard
anvil     unix  -  -  n  -     1    anvil
scache    unix  -  -  n  -     1    scache
"""

    def __init__(self, scratch, sink_port):
        if os.geteuid() != 0:
            raise RuntimeError("Postfix's master has to be started by root")
        daemons = subprocess.run(
            ["postconf", "-dh", "daemon_directory"], check=True, capture_output=True, text=True).stdout.strip()
        self.port = free_port()
        self._configuration = scratch.path / "postfix"
        for name in ("", "queue", "data"):
            (self._configuration / name).mkdir()
        shutil.chown(self._configuration / "data", "postfix")
        (self._configuration / "main.cf").write_text(
            self.MAIN.format(directory=self._configuration, daemons=daemons, sink=sink_port))
        (self._configuration / "master.cf").write_text(self.MASTER.format(port=self.port))
        # It creates and checks the queue's directories.
        subprocess.run(
            ["postfix", "-c", self._configuration, "check"], check=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        self.process = subprocess.Popen(
            [f"{daemons}/master", "-c", self._configuration, "-d"], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True)
        scratch.closing(self)
        wait_for_port(self.port, self.process)

    @property
    def pid(self):
        return self.process.pid

    def cpu(self):
        return sum(tree(self.pid).values())

    def stop(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait()


class Cluster:
    """Nodes of one role each, in processes of their own, over a Kafka that runs already, in topics of their own (which stay)."""

    name = "Posthorn"

    def __init__(self, scratch, bootstrap, sink_port, replication, settings=(), extra="", routes=""):
        self.binary = binary()
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="cluster.", dir=scratch.path))
        self.prefix = f"bench{os.getpid()}{self.directory.name[-6:].lower().replace('_', '0')}"
        self.bootstrap = bootstrap
        self._common = f"""\
hostname: relay.example
routes:
{routes}  - match: "*"
    via: smtp 127.0.0.1:{sink_port}
kafka:
  bootstrap: {bootstrap}
  prefix: {self.prefix}
  replication: {replication}
  in-sync-min: {2 if replication > 1 else 1}
  test-cluster: {"false" if replication > 1 else "true"}
  settings: [{", ".join(settings)}]
logging:
  level: warning
{extra}"""
        self.nodes = {}
        self.port = None
        (self.directory / "token").write_text(f"{os.urandom(16).hex()}\n")
        subprocess.run(
            [self.binary, "topics", "apply", "-c", self._configure("topics", "")], check=True,
            stdout=subprocess.DEVNULL)
        scratch.closing(self)

    def _configure(self, name, extra):
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        path = directory / "posthorn.yaml"
        path.write_text(f"""\
{self._common}data-directory: {directory}/data
admin:
  address: 127.0.0.1:{free_port()}
  token-file: {self.directory}/token
{extra}""")
        return path

    def start(self, role, name=None):
        """A node; returns when it is ready."""
        name = name or role
        port = free_port()
        listener = f"listeners:\n  - name: smtp\n    address: 127.0.0.1\n    port: {port}\n"
        path = self.directory / name / "posthorn.yaml"
        if name not in self.nodes:
            path = self._configure(name, listener)
        log = self.directory / name / "log"
        with open(log, "ab") as file:
            process = subprocess.Popen(
                [self.binary, "run", "-c", path, "--role", role], stdout=file, stderr=file)
        self.nodes[name] = process
        admin = next(line.split()[-1] for line in path.read_text().splitlines() if "address: 127.0.0.1:" in line)
        deadline = time.monotonic() + 60
        while not self._is_ready(admin):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} is not ready\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)
        if role == "ingress":
            self.port = port
            wait_for_port(port, process, log)
        return process

    @staticmethod
    def _is_ready(address):
        try:
            with urllib.request.urlopen(f"http://{address}/health/ready", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    @property
    def pids(self):
        return [process.pid for process in self.nodes.values() if process.poll() is None]

    def cpu(self):
        return sum(sum(tree(pid).values()) for pid in self.pids)

    def queue(self, name, *arguments):
        """A queue command, asked of that node, under way."""
        path = self.directory / name / "posthorn.yaml"
        return subprocess.Popen([self.binary, "queue", *arguments, "-c", path], stdout=subprocess.DEVNULL)

    def outcomes(self):
        """All events so far."""
        result = subprocess.run(
            ["kcat", "-C", "-b", self.bootstrap, "-t", f"{self.prefix}.outcomes", "-e", "-q", "-o", "beginning",
             "-X", "isolation.level=read_committed", "-f", "%s\n"],
            check=True, capture_output=True, text=True)
        return [json.loads(line) for line in result.stdout.splitlines() if line]

    def end(self, name, how=signal.SIGTERM):
        process = self.nodes[name]
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def stop(self):
        for name in self.nodes:
            self.end(name)


def source(port, count, size, is_kept, sessions=20, destination=DESTINATION):
    """Sends `count` messages and returns the seconds until the last one was accepted."""
    command = ["smtp-source", "-s", str(sessions), "-m", str(count), "-l", str(size), "-f", SENDER, "-t", destination]
    started = time.monotonic()
    subprocess.run(
        [*command, *(["-d"] if is_kept else []), f"127.0.0.1:{port}"], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def measure(relay, sink, count, size, is_kept):
    """One run: messages per second accepted and delivered, CPU per message in microseconds."""
    before, cpu = sink.count(), relay.cpu()
    started = time.monotonic()
    accepted = source(relay.port, count, size, is_kept)
    delivered = sink.wait(before + count, 60) - started
    # The last group of records, the last queue files: they belong to these messages.
    time.sleep(0.4)
    return {
        "accepted": count / accepted,
        "delivered": count / delivered,
        "cpu": (relay.cpu() - cpu) / count * 1e6,
    }


class Client:
    """An SMTP client that waits for each reply and takes no other than the one it expects."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def expect(self, code):
        while True:
            line = await self.reader.readline()
            if line[3:4] != b"-":
                break
        if line[:3] != code:
            raise RuntimeError(f"{code.decode()} expected: {line.decode().strip()}")

    async def command(self, text, code):
        self.writer.write(text)
        await self.expect(code)

    async def send(self, recipient, content):
        """One message; returns how many seconds the reply to its end of data takes."""
        await self.command(f"MAIL FROM:<{SENDER}>\r\n".encode(), b"250")
        await self.command(f"RCPT TO:<{recipient}>\r\n".encode(), b"250")
        await self.command(b"DATA\r\n", b"354")
        sent = time.monotonic()
        await self.command(content, b"250")
        return time.monotonic() - sent


@contextlib.asynccontextmanager
async def client(port):
    """A client that has been greeted; it quits at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connected = Client(reader, writer)
    await asyncio.wait_for(connected.expect(b"220"), 10)
    await connected.command(b"EHLO client.example\r\n", b"250")
    yield connected
    await connected.command(b"QUIT\r\n", b"221")
    writer.close()


def latency(relay, sink, rate, seconds, sessions=50):
    """From end of data to 250 (milliseconds) while messages of 4 KiB fall due at the rate, and the rate that was reached."""
    content = b"Subject: paced\r\n\r\n" + (b"x" * 70 + b"\r\n") * 56 + b".\r\n"
    latencies = []

    async def session(due):
        async with client(relay.port) as connected:
            for instant in due:
                await asyncio.sleep(max(0, instant - time.monotonic()))
                latencies.append(await connected.send(DESTINATION, content))

    async def pace():
        start = time.monotonic() + 0.5
        await asyncio.gather(*(
            session([start + index / rate for index in range(number, rate * seconds, sessions)])
            for number in range(sessions)))
        return len(latencies) / (time.monotonic() - start)

    before = sink.count()
    achieved = asyncio.run(pace())
    sink.wait(before + len(latencies), 120)
    latencies.sort()
    return {
        "p50": latencies[len(latencies) // 2] * 1e3,
        "p99": latencies[len(latencies) * 99 // 100] * 1e3,
        "achieved": achieved,
    }


def mib(octets):
    return f"{octets / (1 << 20):.0f} MiB"


def machine():
    model = "unknown"
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{os.cpu_count()} cores of {model}, {pages / (1 << 30):.0f} GiB, Linux {os.uname().release}"
