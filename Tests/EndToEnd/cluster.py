"""A cluster of nodes over Kafka: the one named by POSTHORN_TEST_KAFKA, or librdkafka's mock of three brokers.

The mock keeps what it gets in memory, forgets offsets that are committed in transactions (the nodes commit them a
second time there), and shows readers what an aborted transaction wrote: "exactly once" can only be asked of real
brokers, and the tests say where they do.
"""

import json
import os
import pathlib
import subprocess
import sys
import time
import uuid

import pytest

from support import BINARY, HOST, Node, Process, run, wait_until

# With the tiers that support.Node configures.
TOPICS = (
    "accepted content held outcomes reports control suppression dead deferred.0s deferred.1s deferred.2s".split()
)


class Kafka:
    """The brokers."""

    def __init__(self, directory):
        self.bootstrap = os.environ.get("POSTHORN_TEST_KAFKA")
        self.is_mock = not self.bootstrap
        self.process = None
        if self.is_mock:
            directory.mkdir(parents=True, exist_ok=True)
            self.process = subprocess.Popen(
                [sys.executable, pathlib.Path(__file__).parent / "mock_kafka.py", "3"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            )
            self.bootstrap = self.process.stdout.readline().strip().removeprefix("BROKERS=")

    def create(self, topics, partitions):
        """Topics of the mock, which has no admin API."""
        for topic in topics:
            self.tell("make", topic, partitions)

    def tell(self, command, *arguments):
        """The mock does what mock_kafka.py says of the command."""
        self.process.stdin.write(" ".join(str(each) for each in [command, *arguments]) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == f"DONE {command}\n"

    def discard(self):
        if self.process:
            self.process.kill()
            self.process.wait()

    def read(self, topic):
        """All committed records of a topic: values as text."""
        result = run(
            "kcat", "-C", "-b", self.bootstrap, "-t", topic, "-e", "-q", "-f", "%s\n",
            "-X", "isolation.level=read_committed", "-o", "beginning", timeout=60,
        )
        return [line for line in result.stdout.split("\n") if line]


class Cluster:
    """Nodes of one role each, all on one Kafka, under a prefix of their own."""

    def __init__(self, directory, kafka, partitions=4, **config):
        self.directory = directory
        self.kafka = kafka
        self.prefix = "t" + uuid.uuid4().hex[:8]
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "admin-token").write_text(f"{uuid.uuid4().hex}\n")
        self.config = {
            # All nodes share it: they ask each other.
            "admin": {"token-file": str(directory / "admin-token")},
            "kafka": {
                "bootstrap": kafka.bootstrap,
                "prefix": self.prefix,
                "partitions": partitions,
                "settings": ["topic.metadata.refresh.interval.ms=1000"],
                # Only what the mock cannot do is let off.
                **({"mock-cluster": True, "replication": 1, "in-sync-min": 1} if kafka.is_mock else {}),
            },
            **config,
        }
        self.nodes = []
        if kafka.is_mock:
            kafka.create([f"{self.prefix}.{name}" for name in TOPICS], partitions)
        else:
            tool = Node(directory / "topics", **self.config)
            run(BINARY, "topics", "apply", "--config", tool.config_file, timeout=60)

    def add(self, role, name=None, **changes):
        """A node of a role, not started."""
        count = sum(node.role == role for node in self.nodes)
        node = Node(self.directory / (name or f"{role}{count}"), roles=[role], **{**self.config, **changes})
        node.role = role
        self.nodes.append(node)
        return node

    def start(self, **counts):
        """So many nodes of each role; all at once, then all ready."""
        for role, count in counts.items():
            for _ in range(count):
                node = self.add(role)
                node.process = Process([BINARY, "run", "--config", node.config_file], node.log_file)
        for node in self.nodes:
            wait_until(lambda: node.is_ready or not node.process.is_running, f"{node.directory.name} is ready", 60)
            assert node.process.is_running, node.log[-3000:]
        return self

    def of(self, role):
        return [node for node in self.nodes if node.role == role]

    def outcomes(self):
        return [json.loads(line) for line in self.kafka.read(f"{self.prefix}.outcomes")]

    def discard(self):
        for node in self.nodes:
            if node.process:
                node.process.discard()

    def describe(self):
        return "\n".join(f"--- {node.directory.name}\n{node.log[-2500:]}" for node in self.nodes)


FINAL = ("delivered", "bounced", "expired", "suppressed", "removed")


def needs_brokers(kafka):
    """For groups of several members: about one in five times the mock's coordinator never ends their rebalance."""
    if kafka.is_mock:
        pytest.skip("needs real brokers: name them in POSTHORN_TEST_KAFKA")


def delivery_count(kafka):
    """Two members of one group, or one where the brokers are the mock."""
    return 1 if kafka.is_mock else 2


def routed(address, connections=8):
    return {"routes": [{"match": "*", "via": f"smtp {address}", "limits": {"connections": connections}}]}


def finals(outcomes):
    """How many final events each (message, recipient) has."""
    count = {}
    for each in outcomes:
        if each["kind"] in FINAL:
            key = (each["messageID"], each["recipient"])
            count[key] = count.get(key, 0) + 1
    return count


def settle(seconds):
    """Lets time pass where the passing is what is tested."""
    time.sleep(seconds)
