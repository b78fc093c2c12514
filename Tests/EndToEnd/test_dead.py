"""Records that nobody can read: they go to posthorn.dead, block nobody, and can be put back. `posthorn dead`."""

import contextlib
import json
import pathlib
import sqlite3
import subprocess
import tempfile
import time

from cluster import delivery_count, finals, needs_brokers, routed
from support import BINARY, run, wait_until


def dead(node, command, *arguments, code=0):
    """`posthorn dead ... --json`, decoded."""
    result = run(BINARY, "dead", command, "--config", node.config_file, "--json", *arguments, check=False, timeout=60)
    assert result.returncode == code, f"{command} {arguments}: {result.returncode}\n{result.stdout}\n{result.stderr}"
    return json.loads(result.stdout) if result.stdout else None


def rewrite(node, topic_prefix, old, new):
    """Replaces octets in the headers of the records of some topics, in the files of a node that was stopped."""
    count = 0
    for file in (pathlib.Path(node.config["data-directory"]) / "log").glob("*.db"):
        with contextlib.closing(sqlite3.connect(file)) as database:
            tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
            if not {"topic", "record"} <= tables:
                continue
            ids = [row[0] for row in database.execute(
                "SELECT id FROM topic WHERE name LIKE ?", (topic_prefix + "%",))]
            for number in ids:
                rows = database.execute("SELECT seq, headers FROM record WHERE tp >> 16 = ?", (number,)).fetchall()
                for seq, headers in rows:
                    if old in headers:
                        database.execute(
                            "UPDATE record SET headers = ? WHERE seq = ?", (headers.replace(old, new), seq))
                        count += 1
            database.commit()
    return count


def test_a_damaged_record_is_buried_and_put_back_once_it_is_mended(make_node, make_server, tmp_path):
    """One machine: the envelope of a message that waits is damaged on disk. Other mail goes on, `dead` tells of it, a
    replay is refused while it is as it is, and delivers it when it was mended."""
    is_busy = True

    def script(phase, session):
        return "451 4.3.0 Busy" if is_busy and phase == "rcpt" and "waits@" in session.recipient else None

    server = make_server(script=script)
    node = make_node(routes=[{"match": "*", "via": f"smtp {server.address}"}])
    message = node.send("a@sender.example", "waits@rcpt.example", b"Subject: precious\r\n\r\nhello\r\n")
    node.wait_for_outcomes(deferred=1)
    assert node.stop() == 0
    assert rewrite(node, "posthorn.deferred.", b"posthorn-envelope", b"posthorn-envelopX") >= 1
    node.start()
    node.send("a@sender.example", "other@rcpt.example")
    node.wait_for_outcomes(delivered=1)
    wait_until(lambda: dead(node, "list")["records"], "the damaged record is dead")
    (record,) = dead(node, "list")["records"]
    assert record["reason"] == "no header posthorn-envelope"
    assert record["topic"].startswith("posthorn.deferred.") and "message" not in record
    assert node.metric("posthorn_dead_records_total") == 1
    position = record["position"]
    detail = dead(node, "show", position)
    assert "posthorn-envelopX" in [header["name"] for header in detail["headers"]]
    text = run(BINARY, "dead", "list", "--config", node.config_file).stdout
    assert position in text and "no header posthorn-envelope" in text
    assert dead(node, "list", "--topic", "accepted")["records"] == []
    refused = dead(node, "replay", position, code=1)
    assert "still cannot be used" in refused["items"][0]["refusal"]
    assert node.stop() == 0

    is_busy = False
    assert rewrite(node, "posthorn.dead", b"posthorn-envelopX", b"posthorn-envelope") == 1
    node.start()
    (record,) = dead(node, "list")["records"]
    assert record["message"] == message
    detail = dead(node, "show", position)
    assert detail["envelope"]["recipients"] == ["waits@rcpt.example"]
    value = tmp_path / "value"
    dead(node, "show", position, "--value", value)
    assert value.read_bytes() == b"", "what waits names its content, it does not have it"
    answer = dead(node, "replay", "--all", "--yes")
    assert [item["position"] for item in answer["items"]] == [position]
    server.wait_for(2)
    assert b"Subject: precious" in server.deliveries[-1].content
    (record,) = dead(node, "list")["records"]
    assert record["replayed"] >= record["buried"]
    assert "replayed before" in dead(node, "replay", position, code=1)["items"][0]["refusal"]
    assert dead(node, "replay", "--all", "--yes")["items"] == []
    assert node.metric("posthorn_dead_replayed_total") == 1


def test_what_makes_no_sense_is_refused_with_words(node):
    assert dead(node, "list")["records"] == []
    assert "Nothing is dead" in run(BINARY, "dead", "--config", node.config_file).stdout
    dead(node, "show", "0@5", code=1)
    for arguments in (["replay"], ["replay", "5"], ["replay", "--all", "0@5"], ["list", "--since", "yesterday"],
                      ["replay", "0@5", "--topic", "held"]):
        result = run(BINARY, "dead", *arguments, "--config", node.config_file, check=False)
        assert result.returncode == 64 and result.stderr, arguments
    result = run(BINARY, "dead", "replay", "--all", "--config", node.config_file, input="no\n", check=False)
    assert "nothing to put back" in result.stdout


# Over Kafka


def produce(kafka, topic, partition, value, headers=(), key="k"):
    """One record from outside, as kcat writes it."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(value)
        file.flush()
        arguments = ["kcat", "-P", "-b", kafka.bootstrap, "-t", topic, "-p", str(partition), "-k", key]
        for name, header in headers:
            arguments += ["-H", name.encode() + b"=" + header]
        subprocess.run([*arguments, file.name], check=True, timeout=30, capture_output=True)


def events(cluster):
    """The outcomes that are some."""
    lines = cluster.kafka.read(f"{cluster.prefix}.outcomes")
    return [json.loads(line) for line in lines if line.startswith('{"kind"')]


def field(number, value):
    """A field of a protobuf message: octets or a number."""

    def varint(number):
        octets = b""
        while number > 0x7f:
            octets += bytes([number & 0x7f | 0x80])
            number >>= 7
        return octets + bytes([number])

    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def envelope(local, domain, size):
    """The header of a record in accepted, written by hand from envelope.proto; without octets of value 0."""
    identity = b"\x11" + b"\x01\x02\x03\x04\x05\x06\x07\x08" + b"\x19" + b"\x11\x12\x13\x14\x15\x16\x17\x18"
    recipient = field(1, local) + field(2, domain)
    return (
        field(1, 1) + identity + field(4, b"a") + field(5, b"sender.example") + field(6, recipient)
        + field(11, int(time.time() * 1000) | 1) + field(12, size)
    )


def test_garbage_in_every_topic_stops_nobody(make_cluster, make_sink, kafka):
    """Somebody else writes to our topics: nobody stops, good mail goes on, each record is told of with its reason; a
    record that is whole is put back and delivered."""
    sink = make_sink()
    cluster = make_cluster(**routed(sink.address))
    cluster.start(ingress=1, delivery=delivery_count(kafka), bounce=1, metrics=1)

    def name(topic):
        return f"{cluster.prefix}.{topic}"

    nonsense = b"\x07\xff\xfenonsense"
    for topic in ("accepted", "deferred.0s", "deferred.1s", "held", "outcomes", "control"):
        for partition in range(4):
            produce(kafka, name(topic), partition, b"garbage")
        produce(kafka, name(topic), 1, b"{}", [("posthorn-envelope", nonsense), ("ce_type", b"nonsense")])
        # As large as the brokers take: what is added to it must not make it too large for posthorn.dead.
        produce(kafka, name(topic), 2, b"x" * 990_000)
    produce(kafka, name("control"), 0, b'{"id":"x","marks":[]}', key="command/x/posthorn.accepted/0")
    # An address that would break out of its SMTP command.
    produce(kafka, name("accepted"), 3, b"x", [("posthorn-envelope", envelope(b"b>\r\nDATA", b"rcpt.example", 9))])

    ingress = cluster.of("ingress")[0]
    for number in range(20):
        ingress.send("a@sender.example", f"b{number}@d{number}.example", b"X-Test-Id: n%d\r\n\r\nhello\r\n" % number)
    wait_until(lambda: len({i for i, _ in sink.records()}) >= 20, "good mail arrives", 60)
    wait_until(lambda: len(finals(events(cluster))) >= 20, "all outcomes are there", 60, 1.0)

    # Any node tells; of control, garbage is nobody's loss.
    wanted = {"accepted": 7, "deferred.0s": 6, "deferred.1s": 6, "held": 6, "outcomes": 6}
    for node in (ingress, cluster.of("delivery")[0]):
        wait_until(lambda: len(dead(node, "list")["records"]) >= 31, "all garbage is told of", 60, 0.5)
        records = dead(node, "list", "--limit", "5000")["records"]
        origins = {record["from"]: record for record in records}
        for topic, count in wanted.items():
            mine = [record for record in origins.values() if record["topic"] == f"posthorn.{topic}"]
            assert len(mine) == count, (topic, mine)
            assert sum("originalSize" in record for record in mine) == 1, mine
            assert all(record["key"] == "k" for record in mine)
    reasons = {record["reason"].split(":")[0] for record in origins.values()}
    assert reasons == {
        "no header posthorn-envelope", "the envelope cannot be decoded", "it is no outcome",
        "an envelope with control characters in an address",
    }, reasons
    counted = sum(node.metric("posthorn_dead_records_total") for node in cluster.of("delivery"))
    assert counted >= 25 and cluster.of("bounce")[0].metric("posthorn_bounce_dead_total") >= 6
    for node in cluster.nodes:
        assert node.is_ready and node.process.is_running, node.log[-2000:]

    # What cannot be read comes back when it is forced; what is whole is delivered.
    # (In whatever order the nodes came to them; of the large one only a part was kept, which is another refusal.)
    accepted = [
        record for record in records if record["topic"] == "posthorn.accepted" and "originalSize" not in record
    ]
    refused = dead(ingress, "replay", accepted[0]["position"], code=1)
    assert "still cannot be used" in refused["items"][0]["refusal"]
    content = b"X-Test-Id: repaired\r\n\r\nhello\r\n"
    partition = accepted[0]["position"].split("@")[0]
    produce(
        kafka, name("dead"), partition, content, key="posthorn.accepted",
        headers=[
            ("posthorn-envelope", envelope(b"repaired", b"rcpt.example", len(content))),
            ("posthorn-dead-reason", b"mended by hand"), ("posthorn-dead-position", b"posthorn.accepted/0@1"),
            ("posthorn-dead-key", b"rcpt.example"),
        ],
    )
    whole = dead(ingress, "list", "--limit", "1")["records"][0]
    assert whole["reason"] == "mended by hand" and "message" in whole
    answer = dead(ingress, "replay", "--all", "--yes", "--topic", "accepted", code=1)
    put_back = [item["position"] for item in answer["items"] if "to" in item]
    assert put_back == [whole["position"]], answer
    wait_until(lambda: "repaired" in {i for i, _ in sink.records()}, "the mended message arrives", 60)
    assert "replayed" in dead(ingress, "list", "--limit", "1")["records"][0]
    assert "replayed before" in dead(ingress, "replay", whole["position"], code=1)["items"][0]["refusal"]


# Trimming


def test_what_is_done_is_trimmed_and_a_restart_finds_no_loss(make_cluster, make_sink, kafka):
    """Real brokers alone, since the mock has no admin API: the log's start moves behind the watermark, what waits stays,
    and a delivery node that starts anew raises no alarm."""
    needs_brokers(kafka)
    sink = make_sink()
    cluster = make_cluster(partitions=1, **routed(sink.address))
    cluster.config["kafka"]["trim-after"] = "2s"
    cluster.start(ingress=1, delivery=1)
    (ingress,), (delivery,) = cluster.of("ingress"), cluster.of("delivery")

    def send(first, count):
        for number in range(first, first + count):
            ingress.send("a@sender.example", f"b{number}@d.example", b"X-Test-Id: n%d\r\n\r\nhello\r\n" % number)
        wait_until(lambda: len({i for i, _ in sink.records()}) >= first + count, "all arrive", 60)

    def start():
        result = run("kcat", "-Q", "-b", kafka.bootstrap, "-t", f"{cluster.prefix}.accepted:0:-2")
        return int(result.stdout.split()[-1])

    send(0, 20)
    # Where the log began when it took over is not known to it: the first trim needs no gain.
    assert delivery.stop() == 0
    delivery.start(timeout=60)
    wait_until(lambda: start() >= 20, "what is done is trimmed", 60, 0.5)
    send(20, 1_100)
    wait_until(lambda: start() >= 1_020, "and again, once it is worth it", 60, 0.5)
    # The leader trims before it answers: the others have to follow.
    wait_until(lambda: delivery.metric("posthorn_trimmed_offsets_total") >= 1_000, "and counted", 10)
    assert delivery.metric("posthorn_trim_failures_total") == 0
    delivery.kill()
    delivery.start(timeout=60)
    send(1_120, 20)
    assert "Records were lost" not in delivery.log
    assert set(finals(cluster.outcomes()).values()) == {1}


def test_brokers_that_do_not_trim_are_told_of_once_and_mail_goes_on(make_cluster, make_sink, kafka):
    """The mock has no admin API."""
    if not kafka.is_mock:
        return
    sink = make_sink()
    cluster = make_cluster(**routed(sink.address))
    cluster.config["kafka"]["trim-after"] = "1s"
    cluster.start(ingress=1, delivery=1)
    (ingress,), (delivery,) = cluster.of("ingress"), cluster.of("delivery")
    ingress.send("a@sender.example", "b0@d.example", b"X-Test-Id: n0\r\n\r\nhello\r\n")
    wait_until(lambda: sink.records(), "it arrives", 60)
    delivery.stop()
    delivery.start(timeout=60)
    wait_until(lambda: delivery.metric("posthorn_trim_failures_total") >= 1, "trimming was tried", 60, 0.5)
    ingress.send("a@sender.example", "b1@d.example", b"X-Test-Id: n1\r\n\r\nhello\r\n")
    wait_until(lambda: len({i for i, _ in sink.records()}) >= 2, "mail goes on", 60)
    assert delivery.log.count("trimming failed") == 1
