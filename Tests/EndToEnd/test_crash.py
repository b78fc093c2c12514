"""`kill -9` under load: whatever got a 250 arrives, and has one final outcome."""

import bisect
import collections
import random
import socket
import threading

from support import Client, SMTPFailure, wait_until

MESSAGE_COUNT = 2000
CLIENT_COUNT = 16
KILL_COUNT = 3
CONNECTIONS = 8


class Load:
    """Clients that send messages with ids of their own; what got no 250 is not sent again."""

    def __init__(self, node):
        self.node = node
        self.lock = threading.Lock()
        self.numbers = iter(range(MESSAGE_COUNT))
        self.accepted = {}
        self.unknown = set()
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(CLIENT_COUNT)]
        self.stopped = threading.Event()

    def start(self):
        for thread in self.threads:
            thread.start()

    def join(self):
        for thread in self.threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self.threads)

    def run(self):
        client = None
        while not self.stopped.is_set():
            with self.lock:
                number = next(self.numbers, None)
            if number is None:
                break
            while not self.stopped.is_set():
                try:
                    client = client or Client(self.node.port)
                    if client.greeting.code != 220:
                        raise ConnectionError
                    break
                except (OSError, EOFError, SMTPFailure):
                    client = None
                    # The node is down: it comes back.
                    self.stopped.wait(0.05)
            identity = f"id-{number}"
            if client is None:
                break
            content = f"X-Test-Id: {identity}\r\nSubject: {identity}\r\n\r\n".encode() + b"x" * (number % 990)
            try:
                message = client.send("a@sender.example", f"b{number}@d{number % 7}.example", content)
                with self.lock:
                    self.accepted[identity] = message
            except (OSError, EOFError, SMTPFailure, socket.timeout):
                with self.lock:
                    self.unknown.add(identity)
                client = None
        if client:
            client.socket.close()


def test_kill_under_load(make_node, make_sink, at_end, report):
    """Three kills at random moments of 2,000 messages, to a destination that refuses a tenth for now."""
    sink = make_sink("--tempfail", "rcpt=0.1")
    node = make_node(
        routes=[{"match": "*", "via": f"smtp {sink.address}", "limits": {"connections": CONNECTIONS}}],
        retry={"tiers": ["1s", "2s"]},
    )
    load = Load(node)
    at_end.callback(load.stopped.set)
    load.start()
    moments = sorted(random.Random(20261124).sample(range(200, MESSAGE_COUNT - 300), KILL_COUNT))
    seen = []
    for moment in moments:
        wait_until(lambda: len(load.accepted) >= moment, f"{moment} messages are accepted", 60, interval=0.002)
        before = len(sink.records())
        node.kill()
        seen.append((len(load.accepted), before))
        node.start()
    load.join()
    wait_until(
        lambda: set(load.accepted) <= {identity for identity, _ in sink.records()}, "all arrive", 30, interval=0.2
    )
    node.wait_until_empty()
    assert node.stop() == 0

    arrived = collections.Counter(identity for identity, _ in sink.records())
    assert set(load.accepted) <= set(arrived)
    # What got no 250 may have become durable: the client could not know, and did not send it again.
    assert set(arrived) <= set(load.accepted) | load.unknown
    final = collections.Counter(
        each["messageID"] for each in node.outcomes() if each["kind"] not in ("deferred", "held")
    )
    without = set(load.accepted.values()) - set(final)
    assert not without, f"{len(without)} accepted messages have no final outcome"
    assert set(final.values()) == {1}
    twice = {identity: count for identity, count in arrived.items() if count > 1}
    total = sum(twice.values()) - len(twice)
    # message-life.md: at each kill the work of two commits of at most 100 ms, and one in doubt per connection.
    times = sorted(each["time"] for each in node.outcomes() if each["kind"] == "delivered")
    busiest = max(bisect.bisect_right(times, time + 200) - index for index, time in enumerate(times))
    bound = KILL_COUNT * (busiest + CONNECTIONS)
    report(
        f"kill -9 at (accepted, delivered) {seen}: {total} duplicates of {len(arrived)} arrived (bound {bound}), "
        f"{len(load.unknown)} without a reply"
    )
    assert total <= bound


def test_kill_while_deferred(make_node, make_server):
    """What waits in a tier is there after a kill, with its content and its count of attempts."""
    is_busy = True
    attempts = collections.Counter()

    def script(phase, session):
        if phase != "rcpt" or not is_busy:
            return None
        attempts[session.recipient] += 1
        return "451 4.3.0 Busy"

    server = make_server(script=script)
    node = make_node(routes=[{"match": "*", "via": f"smtp {server.address}"}])
    contents = {
        f"b{number}@rcpt.example": b"Subject: %d\r\n\r\n" % number + b"y\r\n" * number * 200 for number in range(20)
    }
    for recipient, content in contents.items():
        node.send("a@sender.example", recipient, content)
    # A second attempt proves that the first one's deferral is durable.
    wait_until(lambda: len(attempts) == 20 and min(attempts.values()) >= 2, "two attempts for each")
    for _ in range(2):
        node.kill()
        node.start()
    is_busy = False
    deliveries = server.wait_for(20)
    assert {each.recipients[0]: each.body for each in deliveries} == contents
    node.wait_until_empty()
    assert len(server.deliveries) == 20
    node.stop()
    assert all(each["attempt"] >= 2 for each in node.outcomes() if each["kind"] == "delivered")
