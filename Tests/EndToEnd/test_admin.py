"""The admin listener: what monitoring and orchestration ask."""

import json
import math
import urllib.error
import urllib.request

import pytest

from support import BINARY, HOST, Node, parse_metrics, run, wait_until


def test_metrics(node, server):
    """/metrics is Prometheus text, its histograms add up, and it counts what happened."""
    for _ in range(3):
        node.send("a@sender.example", "b@rcpt.example")
    server.wait_for(3)
    node.wait_for_outcomes(delivered=3)
    with urllib.request.urlopen(f"http://{HOST}:{node.admin_port}/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        metrics = parse_metrics(answer.read().decode())
    families = set()
    for name, labels in metrics.samples:
        family = name
        for suffix in ("_bucket", "_sum", "_count"):
            if name.endswith(suffix) and metrics.types.get(name.removesuffix(suffix)) == "histogram":
                family = name.removesuffix(suffix)
        families.add(family)
        assert family in metrics.types, name
        assert metrics.helps.get(family), name
        if metrics.types[family] == "counter":
            assert name.endswith("_total"), name
        assert all(label.islower() for label, _ in labels if label != "le")
    assert {family for family in families if family.startswith("posthorn_")}
    for family in (name for name, kind in metrics.types.items() if kind == "histogram"):
        groups = {}
        for (name, labels), value in metrics.samples.items():
            if name == f"{family}_bucket":
                bound = float(dict(labels)["le"].replace("Inf", "inf"))
                groups.setdefault(tuple(pair for pair in labels if pair[0] != "le"), []).append((bound, value))
        for labels, buckets in groups.items():
            buckets.sort()
            assert buckets[-1][0] == math.inf
            assert [count for _, count in buckets] == sorted(count for _, count in buckets)
            assert buckets[-1][1] == metrics.samples[(f"{family}_count", labels)]
    assert node.metric("posthorn_ingress_messages_total") == 3
    assert node.metric("posthorn_outcomes_total", outcome="delivered") == 3
    assert node.metric("posthorn_delivery_seconds_count") == 3
    assert node.metric("process_start_time_seconds") > 0


def test_health(node):
    """Alive and ready, with the conditions by name."""
    status, body = node.get("/health/live")
    assert (status, json.loads(body)) == (200, {"live": True})
    status, body = node.get("/health/ready")
    assert (status, json.loads(body)) == (200, {"ready": True, "reasons": {}})
    assert node.get("/nothing")[0] == 404


def test_token(make_node, server, tmp_path):
    """With a token, the queue is for those who have it; metrics and health are for all."""
    (tmp_path / "token").write_text("s3cret\n")
    node = make_node(
        routes=[{"match": "*", "via": f"smtp {server.address}"}], admin={"token-file": str(tmp_path / "token")}
    )
    assert node.get("/queue/summary", has_token=False)[0] == 401
    assert node.get("/health/ready")[0] == 200
    assert node.get("/metrics")[0] == 200
    assert node.queue("summary")["messages"] == 0
    request = urllib.request.Request(
        f"http://{HOST}:{node.admin_port}/queue/summary", headers={"Authorization": "Bearer s3cret"}
    )
    with urllib.request.urlopen(request) as answer:
        assert json.load(answer)["messages"] == 0


def test_made_token(node, tmp_path):
    """Without a token file the node makes one, which its own user's commands read by themselves, and nobody else."""
    assert node.token_file == node.directory / "data" / "admin-token"
    assert node.token_file.stat().st_mode & 0o777 == 0o600
    token = node.token_file.read_text()
    assert len(token.strip()) == 44
    remove = urllib.request.Request(
        f"http://{HOST}:{node.admin_port}/queue/remove", b'{"all":true}', {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(remove)
    assert node.queue("summary")["messages"] == 0
    refused = run(BINARY, "queue", "--admin", f"{HOST}:{node.admin_port}", check=False)
    assert refused.returncode == 69 and "token" in refused.stderr
    run(BINARY, "queue", "--admin", f"{HOST}:{node.admin_port}", "--token-file", node.token_file)
    node.stop()
    node.start()
    assert node.token_file.read_text() == token

    other = Node(tmp_path / "other", admin={"token-file": "none"}).start()
    try:
        assert not other.token_file.exists()
        assert other.get("/queue/summary")[0] == 200
        assert json.loads(run(BINARY, "queue", "--config", other.config_file, "--json").stdout)["messages"] == 0
    finally:
        other.process.discard()


def test_second_node_on_the_same_data(node, tmp_path):
    """Two nodes never write one log: the second does not start, and says why."""
    other = Node(tmp_path / "other", **{"data-directory": node.config["data-directory"]})
    with pytest.raises(AssertionError, match="did not start"):
        other.start()
    assert other.process.child.returncode not in (0, -6, -4, -5, -11)
    assert node.is_ready


def test_taken_port(node, tmp_path):
    """A port that is taken ends the start with the address named, not with a crash."""
    other = Node(tmp_path / "other")
    other.config["listeners"][0]["port"] = node.port
    other.write_config()
    with pytest.raises(AssertionError, match="did not start"):
        other.start()
    wait_until(lambda: not other.process.is_running, "the second node ends")
    assert other.process.child.returncode not in (0, -6, -4, -5, -11)
    assert str(node.port) in other.log
