"""What the end-to-end tests drive: a live node, destinations for its mail, and the clients and servers around it.

Everything listens on 127.0.0.2. Outgoing connections come from 127.0.0.1, so they never take a port that was chosen
for a listener.
"""

import base64
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

HOST = "127.0.0.2"
BINARY = pathlib.Path(
    os.environ.get("POSTHORN_TEST_BINARY")
    or pathlib.Path(__file__).resolve().parents[2] / ".build/debug/posthorn"
)
CONTENT = b"From: a@sender.example\r\nTo: b@rcpt.example\r\nSubject: test\r\n\r\nHello.\r\n"


GIVEN_PORTS = set()


def free_port(host=HOST):
    """A port nobody listens on, and that was not given out before: the system may choose one again that is free still."""
    while True:
        with socket.socket() as sock:
            sock.bind((host, 0))
            port = sock.getsockname()[1]
        if port not in GIVEN_PORTS:
            GIVEN_PORTS.add(port)
            return port


def wait_until(condition, what, timeout=20.0, interval=0.02):
    """Polls until `condition` gives something true, which it returns."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(interval)


def to_yaml(value, indent=0):
    """Block style for mappings, JSON for the rest, which is YAML too."""
    pad = "  " * indent
    if isinstance(value, dict) and value:
        lines = []
        for key, item in value.items():
            if isinstance(item, (dict, list)) and item:
                lines.append(f"{pad}{key}:\n{to_yaml(item, indent + 1)}")
            else:
                lines.append(f"{pad}{key}: {json.dumps(item)}")
        return "\n".join(lines)
    if isinstance(value, list) and value:
        return "\n".join(f"{pad}- {json.dumps(item)}" for item in value)
    return pad + json.dumps(value)


def merge(base, changes):
    """`changes` over `base`; mappings are merged, everything else replaces, None removes."""
    result = dict(base)
    for key, value in changes.items():
        key = key.replace("_", "-")
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merge(result[key], value)
        else:
            result[key] = value
    return result


# Processes


class Process:
    """A child that writes its output to a file, and that is ended by its own process id."""

    def __init__(self, arguments, output, **options):
        self.arguments = [str(argument) for argument in arguments]
        self.output = pathlib.Path(output)
        with open(self.output, "ab") as file:
            self.child = subprocess.Popen(
                self.arguments, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, **options
            )

    @property
    def text(self):
        return self.output.read_text(errors="replace")

    @property
    def is_running(self):
        return self.child.poll() is None

    def end(self, number=signal.SIGTERM, timeout=20):
        """Signals, waits, and returns the exit code; what does not end is killed, and that is an error."""
        if self.is_running:
            self.child.send_signal(number)
        try:
            return self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            raise AssertionError(f"{self.arguments[:2]} did not end within {timeout} s of signal {number}") from None

    def discard(self):
        """For the end of a test: gone, whatever it takes."""
        if self.is_running:
            self.child.kill()
            self.child.wait()


def run(*arguments, input=None, timeout=20, check=True, env=None):
    """Runs a command to its end, with its output as text."""
    result = subprocess.run(
        [str(argument) for argument in arguments], input=input, capture_output=True, timeout=timeout,
        text=not isinstance(input, bytes), env=env,
    )
    if check:
        assert result.returncode == 0, f"{arguments}: {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result


# The node


class Node:
    """`posthorn run` with a configuration of its own; can be stopped, killed and started again on the same data."""

    def __init__(self, directory, **changes):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.admin_port = free_port()
        self.config = merge(
            {
                "hostname": "relay.example",
                "data-directory": str(self.directory / "data"),
                "listeners": [{"kind": "relay", "address": HOST, "port": self.port}],
                "retry": {"tiers": ["1s", "2s"], "lifetime": "10m", "delay-notification-after": "5m"},
                "dns": {"forwarders": [f"{HOST}:1"], "timeout": "2s"},
                "admin": {"address": f"{HOST}:{self.admin_port}"},
                "logging": {"redact-addresses": False},
                "log": {"disk-reserve": "1MiB"},
            },
            changes,
        )
        self.config_file = self.directory / "posthorn.yaml"
        self.log_file = self.directory / "node.log"
        self.process = None
        self.connections = {}
        self.write_config()

    def write_config(self):
        self.config_file.write_text(to_yaml(self.config) + "\n")

    # Life

    def start(self, timeout=20):
        self.process = Process([BINARY, "run", "--config", self.config_file], self.log_file)
        wait_until(lambda: not self.process.is_running or self.is_ready, "the node is ready", timeout)
        assert self.process.is_running, f"the node did not start:\n{self.log[-4000:]}"
        return self

    def stop(self, timeout=20):
        """SIGTERM; returns the exit code."""
        return self.process.end(signal.SIGTERM, timeout)

    def kill(self):
        self.process.end(signal.SIGKILL)

    @property
    def log(self):
        return self.log_file.read_text(errors="replace")

    # Administration

    @property
    def token_file(self):
        """The admin listener's token: the configured one, or what the node made."""
        return pathlib.Path(
            self.config["admin"].get("token-file") or pathlib.Path(self.config["data-directory"]) / "admin-token"
        )

    def get(self, path, timeout=5, has_token=True):
        """The status and body of a GET to the admin listener; None when nobody answers."""
        request = urllib.request.Request(f"http://{HOST}:{self.admin_port}{path}")
        if has_token and self.token_file.exists():
            request.add_header("Authorization", f"Bearer {self.token_file.read_text().strip()}")
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except (urllib.error.URLError, OSError):
            return None

    @property
    def is_ready(self):
        answer = self.get("/health/ready")
        return answer is not None and answer[0] == 200

    def metrics(self):
        return parse_metrics(self.get("/metrics")[1])

    def metric(self, name, **labels):
        """The sum of a metric's samples that have these labels."""
        return sum(
            value
            for (sample, pairs), value in self.metrics().samples.items()
            if sample == name and set(labels.items()) <= set(pairs)
        )

    def outcome_count(self, kind):
        return int(self.metric("posthorn_outcomes_total", outcome=kind))

    def wait_for_outcomes(self, timeout=20, flush=False, **counts):
        """Waits for so many outcomes since the node's start, by kind; `flush` keeps asking for attempts meanwhile."""

        def is_reached():
            if all(self.outcome_count(kind) >= count for kind, count in counts.items()):
                return True
            if flush:
                self.queue("flush", "--all")
            return False

        wait_until(is_reached, f"outcomes {counts}", timeout, interval=0.2 if flush else 0.02)

    def queue(self, command, *arguments, check=True):
        """`posthorn queue ... --json`, decoded."""
        result = run(BINARY, "queue", command, "--config", self.config_file, "--json", *arguments, check=check)
        return json.loads(result.stdout) if check else result

    def queue_is_empty(self):
        return self.queue("summary")["messages"] == 0

    def wait_until_empty(self, timeout=20):
        """Waits for the queue to be worked off."""
        wait_until(self.queue_is_empty, "the queue is empty", timeout, interval=0.1)

    def outcomes(self):
        """Every event of posthorn.outcomes, read from the log's files: for a node that was stopped."""
        events = []
        topics = {}
        files = sorted((pathlib.Path(self.config["data-directory"]) / "log").glob("*.db"))
        for file in files:
            with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
                tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
                if "topic" in tables:
                    topics.update(database.execute("SELECT name, id FROM topic"))
        topic = topics["posthorn.outcomes"]
        for file in files:
            with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
                tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
                if "record" in tables:
                    rows = database.execute("SELECT tp, off, value FROM record WHERE tp >> 16 = ?", (topic,))
                    events += [((tp, off), json.loads(value)) for tp, off, value in rows]
        # A segment and the history made of it may both hold a record.
        return list(dict(events).values())

    # Mail

    def client(self, port=None, **options):
        return Client(port or self.port, **options)

    def send(self, sender, recipients, content=CONTENT, port=None, mail="", rcpt=""):
        """One message by SMTP, octets as given; returns its id."""
        with self.client(port) as client:
            return client.send(sender, recipients, content, mail=mail, rcpt=rcpt)


# SMTP by hand


class SMTPFailure(Exception):
    def __init__(self, reply):
        super().__init__(str(reply))
        self.reply = reply


@dataclasses.dataclass
class Reply:
    code: int
    lines: list

    @property
    def text(self):
        return "\n".join(self.lines)


class Client:
    """An SMTP client that sends exactly what it is told to."""

    def __init__(self, port, host=HOST, hello="client.example", preamble=b"", tls=None, source=None, timeout=20):
        self.socket = socket.create_connection((host, port), timeout=timeout, source_address=source and (source, 0))
        self.input = b""
        self.extensions = {}
        if preamble:
            self.socket.sendall(preamble)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.greeting = self.reply()
        if hello and self.greeting.code == 220:
            self.hello(hello)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if error is None:
            with contextlib.suppress(OSError, EOFError):
                self.command("QUIT")
        self.socket.close()

    def hello(self, name="client.example"):
        reply = self.expect(250, f"EHLO {name}")
        self.extensions = {
            line.split()[0].upper(): line.split()[1:] for line in reply.lines[1:] if line.split()
        }
        return reply

    def starttls(self, context, name="client.example"):
        self.expect(220, "STARTTLS")
        self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self.hello(name)

    def write(self, octets):
        self.socket.sendall(octets)

    def reply(self):
        lines = []
        while True:
            while b"\n" not in self.input:
                octets = self.socket.recv(65536)
                if not octets:
                    raise EOFError("the server closed the connection")
                self.input += octets
            line, self.input = self.input.split(b"\n", 1)
            line = line.rstrip(b"\r").decode("utf-8", "replace")
            lines.append(line[4:])
            if line[3:4] != "-":
                return Reply(int(line[:3]), lines)

    def command(self, text):
        self.write(text.encode() + b"\r\n")
        return self.reply()

    def expect(self, code, text):
        reply = self.command(text)
        if reply.code != code:
            raise SMTPFailure(reply)
        return reply

    def data(self, content):
        """DATA with `content` dot-stuffed; a final CRLF is added when there is none, as RFC 5321 §4.1.1.4 says."""
        self.expect(354, "DATA")
        stuffed = re.sub(rb"(?m)^\.", b"..", content)
        if stuffed and not stuffed.endswith(b"\r\n"):
            stuffed += b"\r\n"
        self.write(stuffed + b".\r\n")
        return self.reply()

    def send(self, sender, recipients, content=CONTENT, mail="", rcpt=""):
        self.expect(250, f"MAIL FROM:<{sender}>{mail and ' ' + mail}")
        for recipient in [recipients] if isinstance(recipients, str) else recipients:
            self.expect(250, f"RCPT TO:<{recipient}>{rcpt and ' ' + rcpt}")
        reply = self.data(content)
        if reply.code != 250:
            raise SMTPFailure(reply)
        return message_id(reply)


def message_id(reply):
    match = re.search(r"queued as ([0-9A-Z]{26})\b", reply.text)
    assert match, reply
    return match.group(1)


# Destinations


@dataclasses.dataclass
class Delivery:
    """A message as a destination got it."""

    sender: str
    recipients: list
    content: bytes
    mail: str
    rcpt: list
    hello: str
    is_tls: bool
    # As OpenSSL calls it; None in the clear.
    cipher: str
    time: float

    @property
    def body(self):
        """Without the Received field that the node put in front."""
        match = re.match(rb"Received:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*", self.content)
        assert match, self.content[:200]
        return self.content[match.end():]

    @property
    def received(self):
        return self.content[: len(self.content) - len(self.body)].decode()


class Drop:
    """What a script returns to hang up."""


DROP = Drop()


class Server:
    """An SMTP destination in this process that keeps what it gets and does what a script says.

    `script(phase, server_session)` is asked at connect, ehlo, mail, rcpt, data and dot; it returns None for the usual
    reply, a reply, or DROP. At rcpt, `session.recipient` is the one in question.
    """

    EXTENSIONS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE 52428800", "DSN", "ENHANCEDSTATUSCODES")

    def __init__(self, host=HOST, port=0, script=None, extensions=EXTENSIONS, tls=None,
                 is_implicit_tls=False, name="mx.example"):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.create_server((host, port), family=family, backlog=256)
        self.host, self.port = self.listener.getsockname()[:2]
        self.script = script
        self.extensions = list(extensions)
        self.tls = tls
        self.is_implicit_tls = is_implicit_tls
        self.name = name
        self.lock = threading.Lock()
        self.deliveries = []
        self.session_count = 0
        self.tls_failures = 0
        # By user; who authenticated, in order.
        self.passwords = {}
        self.identities = []
        self.sockets = set()
        self.is_closed = False
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    @property
    def address(self):
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                if self.is_closed:
                    connection.close()
                    return
                self.session_count += 1
                session = Session(self, connection, self.session_count)
                self.sockets.add(connection)
                thread = threading.Thread(target=session.run, daemon=True)
                self.threads.append(thread)
            thread.start()

    def wait_for(self, count, timeout=20):
        """The deliveries, once there are at least so many."""
        wait_until(lambda: len(self.deliveries) >= count, f"{count} deliveries at {self.address}", timeout)
        return list(self.deliveries)

    def close(self):
        with self.lock:
            self.is_closed = True
            sockets = list(self.sockets)
        for each in [self.listener, *sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self.threads:
            thread.join(5)


class Session:
    """One connection to a `Server`."""

    def __init__(self, server, connection, number):
        self.server = server
        self.socket = connection
        self.number = number
        self.input = b""
        self.hello = ""
        self.is_tls = False
        self.reset()

    def reset(self):
        self.sender = None
        self.mail = ""
        self.recipients = []
        self.rcpt = []
        self.recipient = None
        self.content = b""

    def run(self):
        try:
            self.serve()
        except (OSError, EOFError, ValueError):
            pass
        finally:
            self.socket.close()
            with self.server.lock:
                self.server.sockets.discard(self.socket)

    def line(self):
        while b"\r\n" not in self.input:
            octets = self.socket.recv(1 << 18)
            if not octets:
                raise EOFError
            self.input += octets
        line, self.input = self.input.split(b"\r\n", 1)
        return line.decode("utf-8", "surrogateescape")

    def say(self, text):
        self.socket.sendall(text.encode() + b"\r\n")

    def answer(self, phase, usual):
        """Replies as the script wants; true when that was a success."""
        wanted = self.server.script(phase, self) if self.server.script else None
        if wanted is DROP:
            raise EOFError
        self.say(wanted or usual)
        if (wanted or usual).startswith("421"):
            raise EOFError
        return (wanted or usual)[0] in "23"

    def secure(self):
        try:
            self.socket = self.server.tls.wrap_socket(self.socket, server_side=True)
        except OSError:
            self.server.tls_failures += 1
            raise
        self.is_tls = True
        self.input = b""

    def serve(self):
        if self.server.is_implicit_tls:
            self.secure()
        if not self.answer("connect", f"220 {self.server.name} ESMTP"):
            return
        while True:
            line = self.line()
            verb = line.split(" ")[0].upper()
            path = re.search(r"<(.*?)>(.*)", line)
            if verb in ("EHLO", "HELO"):
                self.hello = line[5:]
                extensions = self.server.extensions + (["STARTTLS"] if self.server.tls and not self.is_tls else [])
                words = [self.server.name] + (extensions if verb == "EHLO" else [])
                lines = [f"250{'-' if index < len(words) - 1 else ' '}{word}" for index, word in enumerate(words)]
                self.answer("ehlo", "\r\n".join(lines))
            elif verb == "STARTTLS" and self.server.tls:
                self.say("220 Go ahead")
                self.secure()
            elif verb == "AUTH":
                self.authenticate(line.split(" "))
            elif verb == "MAIL":
                if self.answer("mail", "250 2.1.0 Fine"):
                    self.sender, self.mail = path.group(1), path.group(2).strip()
            elif verb == "RCPT":
                self.recipient = path.group(1)
                if self.answer("rcpt", "250 2.1.5 Fine"):
                    self.recipients.append(path.group(1))
                    self.rcpt.append(path.group(2).strip())
            elif verb == "DATA":
                if not self.recipients:
                    self.say("554 5.5.1 No valid recipients")
                elif self.answer("data", "354 Go ahead"):
                    self.read_content()
            elif verb == "RSET":
                self.reset()
                self.say("250 2.0.0 Forgotten")
            elif verb == "NOOP":
                self.say("250 2.0.0 Fine")
            elif verb == "QUIT":
                self.say("221 2.0.0 Bye")
                return
            else:
                self.say("502 5.5.1 Not known")

    def authenticate(self, words):
        if words[1].upper() != "PLAIN":
            return self.say("504 5.5.4 PLAIN only")
        if len(words) < 3:
            self.say("334 ")
            words.append(self.line())
        _, user, password = base64.b64decode(words[2]).decode().split("\0")
        if self.server.passwords.get(user) != password:
            return self.say("535 5.7.8 Wrong")
        self.server.identities.append(user)
        return self.say("235 2.7.0 Welcome")

    def read_content(self):
        octets = bytearray(b"\r\n" + self.input)
        at = 0
        while (end := octets.find(b"\r\n.\r\n", at)) < 0:
            at = max(0, len(octets) - 4)
            more = self.socket.recv(1 << 18)
            if not more:
                raise EOFError
            octets += more
        self.input = bytes(octets[end + 5:])
        self.content = bytes(octets[: end + 2]).replace(b"\r\n.", b"\r\n")[2:]
        delivery = Delivery(
            self.sender, list(self.recipients), self.content, self.mail, list(self.rcpt), self.hello, self.is_tls,
            self.socket.cipher()[0] if self.is_tls else None, time.monotonic(),
        )
        if self.answer("dot", "250 2.0.0 Taken"):
            with self.server.lock:
                self.server.deliveries.append(delivery)
        self.reset()


class Sink:
    """`posthorn sink`: for loads, and for failures by share."""

    def __init__(self, directory, *options, port=None):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.record_file = self.directory / "record"
        self.options = options
        self.process = None

    @property
    def address(self):
        return f"{HOST}:{self.port}"

    def start(self):
        self.process = Process(
            [BINARY, "sink", "--listen", self.address, "--record", self.record_file, "--json", *self.options],
            self.directory / "sink.log",
        )
        wait_until(
            lambda: not self.process.is_running or "listening on" in self.process.text, "the sink listens"
        )
        assert self.process.is_running, self.process.text
        return self

    def records(self):
        """The (id, recipient) of each accepted recipient, as often as it was accepted."""
        if not self.record_file.exists():
            return []
        text = self.record_file.read_text()
        return [tuple(line.split("\t")) for line in text[: text.rfind("\n") + 1].splitlines()]

    def stop(self):
        """Ends the sink; returns its summary."""
        self.process.end()
        return json.loads(self.process.text.splitlines()[-1])


class BlackHole:
    """Accepts connections and never says a word."""

    def __init__(self):
        self.listener = socket.create_server((HOST, 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        self.address = f"{HOST}:{self.port}"

    def close(self):
        self.listener.close()


# Other servers


class Postfix:
    """A Postfix of its own: configuration, queue and mailboxes in a directory that its daemons may enter."""

    SERVICES = """
smtp inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""

    def __init__(self, **settings):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="posthorn-postfix-"))
        self.directory.chmod(0o755)
        self.port = free_port()
        for name in ("etc", "queue", "data", "mail"):
            (self.directory / name).mkdir()
        shutil.chown(self.directory / "data", "postfix")
        shutil.chown(self.directory / "mail", "nobody")
        values = {
            "compatibility_level": "3.6",
            "queue_directory": self.directory / "queue",
            "data_directory": self.directory / "data",
            "command_directory": "/usr/sbin",
            "daemon_directory": "/usr/lib/postfix/sbin",
            "mail_owner": "postfix",
            "setgid_group": "postdrop",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "myhostname": "postfix.example",
            "mydestination": "",
            "mynetworks": "127.0.0.0/8",
            "maillog_file": self.directory / "maillog",
            "maillog_file_prefixes": f"/var, {tempfile.gettempdir()}",
            "smtp_dns_support_level": "disabled",
            "smtp_host_lookup": "native",
            "smtputf8_enable": "yes",
            "disable_vrfy_command": "no",
            "local_transport": "error:nobody here",
            "alias_maps": "",
            "alias_database": "",
            **settings,
        }
        (self.directory / "etc/main.cf").write_text("".join(f"{key} = {value}\n" for key, value in values.items()))
        (self.directory / "etc/master.cf").write_text(
            self.SERVICES.replace("smtp inet", f"{HOST}:{self.port} inet").strip() + "\n"
        )

    def command(self, *arguments, check=True):
        return run("/usr/sbin/postfix", "-c", self.directory / "etc", *arguments, check=check)

    def start(self):
        self.command("start")
        wait_until(self.is_listening, "Postfix listens")
        return self

    def is_listening(self):
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1) as sock:
            return sock.recv(100).startswith(b"220")
        return False

    @property
    def log(self):
        file = self.directory / "maillog"
        return file.read_text(errors="replace") if file.exists() else ""

    def mailbox(self, name):
        """The messages of a Maildir below the mail directory."""
        return [file.read_bytes() for file in sorted((self.directory / "mail" / name / "new").glob("*"))]

    def close(self):
        self.command("stop", check=False)
        shutil.rmtree(self.directory, ignore_errors=True)


class Unbound:
    """A name server that knows the zone `.example` as given, and nothing else of the world."""

    def __init__(self, directory, *data):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        lines = "".join(f"  local-data: '{entry}'\n" for entry in data)
        (self.directory / "unbound.conf").write_text(
            f"""
server:
  interface: {HOST}
  port: {self.port}
  do-daemonize: no
  use-syslog: no
  logfile: ""
  chroot: ""
  username: ""
  directory: "{self.directory}"
  pidfile: ""
  do-ip6: no
  module-config: "iterator"
  access-control: 127.0.0.0/8 allow
  local-zone: "." static
  local-zone: "example." static
{lines}
remote-control:
  control-enable: no
"""
        )
        self.process = Process(
            ["/usr/sbin/unbound", "-c", self.directory / "unbound.conf"], self.directory / "unbound.log"
        )
        wait_until(self.answers, "unbound answers")

    def answers(self):
        query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x00\x00\x06\x00\x01"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.5)
            with contextlib.suppress(OSError):
                sock.sendto(query, (HOST, self.port))
                return sock.recv(512)[:2] == b"\x12\x34"
        return False


# Metrics


@dataclasses.dataclass
class Metrics:
    types: dict
    helps: dict
    # By name and sorted label pairs.
    samples: dict


METRIC_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)')


def parse_metrics(text):
    """Prometheus text format 0.0.4, strictly."""
    assert text.endswith("\n")
    metrics = Metrics({}, {}, {})
    for line in text[:-1].split("\n"):
        if not line:
            continue
        if match := re.fullmatch(rf"# HELP ({METRIC_NAME}) (.*)", line):
            assert match.group(1) not in metrics.helps, line
            metrics.helps[match.group(1)] = match.group(2)
            continue
        if match := re.fullmatch(rf"# TYPE ({METRIC_NAME}) (counter|gauge|histogram|summary|untyped)", line):
            assert match.group(1) not in metrics.types, line
            metrics.types[match.group(1)] = match.group(2)
            continue
        if line.startswith("#"):
            continue
        match = re.fullmatch(rf"({METRIC_NAME})(?:\{{(.*)\}})? (\S+)(?: (-?\d+))?", line)
        assert match, f"not a sample: {line!r}"
        labels = []
        rest = match.group(2) or ""
        while rest:
            label = LABEL.match(rest)
            assert label, f"not labels: {line!r}"
            labels.append((label.group(1), label.group(2)))
            rest = rest[label.end():]
        key = (match.group(1), tuple(sorted(labels)))
        assert key not in metrics.samples, f"twice: {line!r}"
        metrics.samples[key] = float(match.group(3).replace("Inf", "inf").replace("NaN", "nan"))
    return metrics
