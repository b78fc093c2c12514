"""`posthorn health`: what a container engine runs in an image without a shell."""

import http.server
import json
import threading

import pytest

from support import BINARY, HOST, free_port, run


def health(*options):
    return run(BINARY, "health", *options, check=False)


def test_running_node(node):
    """Ready and alive, by the configuration or by address; gone once it stopped."""
    by_configuration = health("-c", node.config_file)
    assert (by_configuration.returncode, by_configuration.stdout) == (0, "ready\n")
    alive = health("--live", "--admin", f"{HOST}:{node.admin_port}")
    assert (alive.returncode, alive.stdout) == (0, "alive\n")
    node.stop()
    gone = health("-c", node.config_file)
    assert gone.returncode == 1
    assert "Is it running?" in gone.stderr


@pytest.fixture
def unready(at_end):
    """An admin listener of a node that is alive and not ready."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            is_live = self.path == "/health/live"
            reasons = {"log": "the log is not available", "disk": "only the reserve is left"}
            body = json.dumps({"live": True} if is_live else {"ready": False, "reasons": reasons}).encode()
            self.send_response(200 if is_live else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer((HOST, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    at_end.callback(server.shutdown)
    return f"{HOST}:{server.server_port}"


def test_not_ready(unready):
    """It says why, and still is alive."""
    result = health("--admin", unready)
    assert result.returncode == 1
    assert result.stderr == "not ready: disk: only the reserve is left; log: the log is not available\n"
    assert health("--admin", unready, "--live").returncode == 0


def test_silence(at_end):
    """A node that hangs is not healthy, and the answer comes in time."""
    import socket

    listener = socket.create_server((HOST, 0))
    at_end.callback(listener.close)
    result = health("--admin", f"{HOST}:{listener.getsockname()[1]}", "--timeout", "1")
    assert result.returncode == 1
    assert "did not answer in time" in result.stderr


def test_usage():
    assert health("--admin", f"{HOST}:{free_port()}").returncode == 1
    assert health("--admin", "nonsense:port").returncode == 64
    assert health("--timeout", "0").returncode == 64
