"""What an operator does about a queue, with the command line, against a site that is down."""

import json

import pytest

from support import BINARY, HOST, free_port, run, wait_until


@pytest.fixture
def down(make_node, server):
    return make_down(make_node, server)


def make_down(make_node, server, buckets=0):
    """A node with six messages that wait for two dead sites, and with `server` for the rest."""
    node = make_node(start=False, retry={"tiers": ["1s", "2s", "1h"], "schedule": ["1h"], "lifetime": "5h"})
    node.dead = free_port()
    node.deader = free_port()
    node.config["routes"] = [
        {"match": "dead.example", "via": f"smtp {HOST}:{node.dead}"},
        {"match": "deader.example", "via": f"smtp {HOST}:{node.deader}"},
        {"match": "*", "via": f"smtp {server.address}"},
    ]
    if buckets:
        names = ["dead.example", f"{HOST}:{node.dead}"]
        node.config["partitioning"] = {"buckets": [{"name": name, "count": buckets} for name in names]}
    node.write_config()
    node.start()
    node.ids = [node.send(f"a{number % 2}@sender.example", f"b{number}@dead.example") for number in range(4)]
    node.ids += [node.send("a0@sender.example", f"b{number}@deader.example") for number in range(2)]
    # The oldest of a site has had its attempt, the others are parked.
    wait_until(lambda: settled(node, 6), "all wait")
    return node


def settled(node, count):
    summary = node.queue("summary")
    return summary["recipients"] == count and sum(site["deferred"] for site in summary["sites"]) == count


def test_summary(down):
    """Counts, the fullest site first, and why it waits."""
    summary = down.queue("summary")
    assert (summary["messages"], summary["recipients"]) == (6, 6)
    assert summary["octets"] > 0 and summary["oldest"]
    sites = summary["sites"]
    assert [site["site"] for site in sites] == [f"{HOST}:{down.dead}", f"{HOST}:{down.deader}"]
    assert [site["deferred"] for site in sites] == [4, 2]
    assert all(site["lastError"] for site in sites)
    text = run(BINARY, "queue", "--config", down.config_file).stdout
    assert f"{HOST}:{down.dead}" in text


def test_list(down):
    """All of them, and by site, domain and sender."""
    listing = down.queue("list")
    assert {message["id"] for message in listing["messages"]} == set(down.ids)
    assert not listing["isTruncated"]

    def ids(*arguments):
        return {message["id"] for message in down.queue("list", *arguments)["messages"]}

    assert ids("--domain", "deader.example") == set(down.ids[4:])
    assert ids("--site", f"{HOST}:{down.dead}") == set(down.ids[:4])
    assert ids("--sender", "a1@sender.example") == {down.ids[1], down.ids[3]}
    limited = down.queue("list", "--limit", "2")
    assert len(limited["messages"]) == 2 and limited["isTruncated"]


def test_show(down):
    """One message with its recipients; an id nobody has is an error."""
    message = down.queue("show", down.ids[0])
    assert message["id"] == down.ids[0]
    assert message["sender"] == "a0@sender.example"
    assert [each["address"] for each in message["recipients"]] == ["b0@dead.example"]
    assert message["recipients"][0]["state"] == "deferred"
    assert message["recipients"][0]["nextAttempt"] > message["accepted"]
    assert message["expires"] > message["accepted"]
    assert down.queue("show", "0" * 26, check=False).returncode == 1


def test_flush(down, make_server):
    """Once the site is back, flush delivers at once what would have waited an hour; the other site's mail stays."""
    server = make_server(port=down.dead)
    assert down.queue("flush", "--domain", "dead.example")["matched"] == 4
    deliveries = server.wait_for(4)
    assert sorted(each.recipients[0] for each in deliveries) == [f"b{number}@dead.example" for number in range(4)]
    wait_until(lambda: down.queue("summary")["messages"] == 2, "two are left")


def test_buckets(make_node, server, make_server):
    """Mail that is spread over buckets is seen by its site, and found there by commands and when the site is back."""
    node = make_down(make_node, server, buckets=8)
    assert [site["site"] for site in node.queue("summary")["sites"]] == [f"{HOST}:{node.dead}", f"{HOST}:{node.deader}"]
    assert {each["id"] for each in node.queue("list", "--site", f"{HOST}:{node.dead}")["messages"]} == set(node.ids[:4])
    assert node.queue("hold", "--site", f"{HOST}:{node.dead}")["matched"] == 4
    wait_until(lambda: node.queue("summary")["sites"][0].get("held") == 4, "four are held")
    assert node.queue("release", "--site", f"{HOST}:{node.dead}")["matched"] == 4
    wait_until(lambda: settled(node, 6), "all wait again")
    deliveries = make_server(port=node.dead)
    assert node.queue("flush", "--site", f"{HOST}:{node.dead}")["matched"] == 4
    deliveries.wait_for(4)
    wait_until(lambda: node.queue("summary")["messages"] == 2, "two are left")
    node.stop()
    by_recipient = {}
    for each in node.outcomes():
        assert "#" not in each["site"]
        by_recipient.setdefault(each["recipient"], []).append(each["kind"])
    assert all("delivered" in kinds for name, kinds in by_recipient.items() if name.endswith("@dead.example"))


def test_flush_all(down, make_server):
    """--all is everything."""
    servers = [make_server(port=down.dead), make_server(port=down.deader)]
    assert down.queue("flush", "--all")["matched"] == 6
    servers[0].wait_for(4)
    servers[1].wait_for(2)
    down.wait_until_empty()


def test_remove(down, make_server):
    """What is removed is final, told to nobody, and never tried again."""
    assert down.queue("remove", "--recipient", "b1@dead.example")["matched"] == 1
    assert down.queue("remove", "--message", down.ids[4])["matched"] == 1
    down.wait_for_outcomes(removed=2)
    wait_until(lambda: down.queue("summary")["messages"] == 4, "four are left")
    server = make_server(port=down.dead)
    down.queue("flush", "--all")
    server.wait_for(3)
    assert down.queue("remove", "--all", "--yes")["matched"] == 1
    down.wait_until_empty()
    assert "b1@dead.example" not in [each.recipients[0] for each in server.deliveries]
    down.stop()
    final = {each["recipient"]: each["kind"] for each in down.outcomes() if each["kind"] not in ("deferred", "held")}
    assert [final[f"b{number}@dead.example"] for number in range(4)] == [
        "delivered", "removed", "delivered", "delivered",
    ]
    assert [final[f"b{number}@deader.example"] for number in range(2)] == ["removed", "removed"]


def test_remove_all_asks(down):
    """Without --yes, removing everything is asked back, and nothing happens without an answer."""
    result = run(BINARY, "queue", "remove", "--all", "--config", down.config_file, input="", check=False)
    assert result.returncode != 0
    assert down.queue("summary")["messages"] == 6


def test_hold_and_release(down, make_server):
    """Held mail is not tried, not even by flush; it survives a restart; released mail is."""
    assert down.queue("hold", "--domain", "dead.example")["matched"] == 4
    wait_until(lambda: sum(each["held"] for each in down.queue("summary")["sites"]) == 4, "four are held")
    server = make_server(port=down.dead)
    down.queue("flush", "--all")
    assert down.stop() == 0
    down.start()
    wait_until(lambda: sum(each["held"] for each in down.queue("summary")["sites"]) == 4, "four are held still")
    assert down.queue("show", down.ids[0])["recipients"][0]["state"] == "held"
    assert not server.deliveries
    assert down.queue("release", "--sender", "a0@sender.example")["matched"] == 2
    deliveries = server.wait_for(2)
    assert {each.sender for each in deliveries} == {"a0@sender.example"}
    down.queue("release", "--all")
    server.wait_for(4)
    wait_until(lambda: down.queue("summary")["messages"] == 2, "two are left")
    assert len(server.deliveries) == 4


def test_matching_nothing(down):
    """A command that matches nothing says so, and does nothing."""
    assert down.queue("remove", "--domain", "other.example")["matched"] == 0
    assert down.queue("flush", check=False).returncode == 64
    assert down.queue("summary")["messages"] == 6


def test_restart_keeps_the_queue(down):
    """The queue is the same after a restart."""
    before = {message["id"] for message in down.queue("list")["messages"]}
    assert down.stop() == 0
    down.start()
    wait_until(lambda: down.queue("summary")["messages"] == 6, "all are there")
    assert {message["id"] for message in down.queue("list")["messages"]} == before


def test_nobody_answers(down):
    """Without a node, the command says so and exits with EX_UNAVAILABLE."""
    down.stop()
    result = down.queue("summary", check=False)
    assert result.returncode == 69
    assert str(down.admin_port) in result.stderr


def test_flush_while_mail_is_being_deferred(make_node, make_sink):
    """An impatient operator loses nothing: flushing again and again while attempts fail, all is delivered, once."""
    sink = make_sink("--drop", "content=0.4")
    node = make_node(
        routes=[{"match": "*", "via": f"smtp {sink.address}", "limits": {"messages-per-connection": 1}}]
    )
    with node.client() as client:
        for number in range(60):
            client.send("a@sender.example", f"b{number}@rcpt.example")
    node.wait_for_outcomes(delivered=60, flush=True, timeout=25)
    node.wait_until_empty()
    recipients = [recipient for _, recipient in sink.records()]
    assert sorted(recipients) == sorted(f"b{number}@rcpt.example" for number in range(60))


@pytest.mark.parametrize("is_flushed", [False, True], ids=["tiers", "flush"])
def test_summary_counts_what_moves(make_node, make_server, is_flushed):
    """While mail goes from tier to tier, every summary has all of it, each message once."""
    server = make_server(script=lambda phase, session: "451 4.7.1 Later" if phase == "rcpt" else None)
    node = make_node(routes=[{"match": "*", "via": f"smtp {server.address}"}], retry={"tiers": ["1s"]})
    with node.client() as client:
        for number in range(40):
            client.send("a@sender.example", f"b{number}@rcpt.example")
    summaries = 0
    while node.outcome_count("deferred") < 200 or summaries < 100:
        for _ in range(20):
            summary = json.loads(node.get("/queue/summary")[1])
            assert (summary["messages"], summary["recipients"]) == (40, 40)
            summaries += 1
        if is_flushed:
            node.queue("flush", "--all")
