"""A full disk: said at once with 452, delivery goes on, and it passes."""

import contextlib
import os
import subprocess

import pytest

from support import wait_until

SIZE = 64 << 20


@pytest.fixture
def small_disk(tmp_path, at_end):
    """A file system of 64 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    mount = tmp_path / "disk"
    mount.mkdir()
    result = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "posthorn-test", str(mount)], capture_output=True, text=True
    )
    if result.returncode != 0:
        pytest.skip(f"tmpfs cannot be mounted here: {result.stderr.strip()}")
    at_end.callback(lambda: subprocess.run(["umount", "-l", str(mount)], check=True))
    return mount


def test_disk_full(small_disk, make_node, make_server):
    """Only the reserve is left: mail is refused with 452, what is queued leaves. With space, mail is taken again."""
    is_busy = True
    server = make_server(script=lambda phase, _: "451 4.3.0 Busy" if is_busy and phase == "rcpt" else None)
    node = make_node(
        **{"data-directory": str(small_disk / "data")},
        routes=[{"match": "*", "via": f"smtp {server.address}"}],
        log={"disk-reserve": "16MiB", "segment-size": "4MiB"},
    )
    accepted = [node.send("a@sender.example", f"b{number}@rcpt.example", b"z" * 990 + b"\r\n") for number in range(50)]
    node.wait_for_outcomes(deferred=50)
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
        space = os.statvfs(small_disk)
        file.write(b"\0" * (space.f_bavail * space.f_frsize - (8 << 20)))

    def refusal():
        with node.client(hello=None) as client:
            if client.greeting.code != 220:
                return client.greeting
            client.hello()
            reply = client.command("MAIL FROM:<a@sender.example>")
            return reply if reply.code != 250 else None

    reply = wait_until(refusal, "MAIL is refused", 15, interval=0.1)
    assert (reply.code, reply.lines[0][:5]) == (452, "4.3.1")
    wait_until(lambda: not node.is_ready, "the node is not ready")
    assert "log" in node.get("/health/ready")[1]
    assert node.get("/health/live")[0] == 200
    # Attempts and their outcomes go on, from the reserve.
    before = node.outcome_count("deferred")
    wait_until(lambda: node.outcome_count("deferred") > before, "attempts go on")
    is_busy = False
    server.wait_for(50)
    node.wait_for_outcomes(delivered=50)
    ballast.unlink()
    wait_until(lambda: node.is_ready, "the node is ready again", 15)
    node.send("a@sender.example", "last@rcpt.example")
    server.wait_for(51)
    node.wait_until_empty()
    assert len(server.deliveries) == 51
    assert node.stop() == 0
    final = [each["messageID"] for each in node.outcomes() if each["kind"] == "delivered"]
    assert len(final) == len(set(final)) == 51 and set(accepted) < set(final)
