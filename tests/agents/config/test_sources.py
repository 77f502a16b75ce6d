"""The hub is asked once: a name that it has not, or a hub that is silent, costs no retries."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


class Hub(http.server.BaseHTTPRequestHandler):
    """Has the repository ORG/THERE, with a config.json, is busy with ORG/BUSY, and has no other."""

    asked: list[str]

    def do_HEAD(self):
        self.asked.append(self.path)
        there = self.path == "/ORG/THERE/resolve/main/config.json"
        self.send_response(200 if there else 503 if "BUSY" in self.path else 404)
        if there:
            self.send_header("ETag", '"1"')
            self.send_header("X-Repo-Commit", "0" * 40)
        elif "BUSY" not in self.path:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


def check(word: str, endpoint: str, folder: Path) -> str:
    """Return what a fresh process has to say of a word, and check that it loads no torch."""
    program = (
        "import sys\nfrom agents.config.sources import check_repository\n"
        "try:\n    check_repository('model', sys.argv[1])\n"
        "except ValueError as error:\n    print(error)\n"
        "assert 'torch' not in sys.modules"
    )
    env = {"HF_ENDPOINT": endpoint, "HF_HUB_ETAG_TIMEOUT": "1", "HF_HOME": str(folder)}
    env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", program, word],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "0", **env},
    )
    return done.stdout


@pytest.mark.parametrize(
    ("word", "says"),
    [("ORG/THERE", ""), ("ORG/BUSY", ""), ("ORG/THERE:file.gguf", ""), ("ORG/NONE", "has none")],
)
def test_the_hub_is_asked_once(tmp_path, word, says):
    asked: list[str] = []
    handler = type("Asked", (Hub,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said = check(word, f"http://127.0.0.1:{server.server_port}", tmp_path)
        server.shutdown()
    assert len(asked) == 1
    assert said.count("\n") == bool(says)
    assert says in said


def test_a_hub_that_refuses_or_is_silent_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert f"{endpoint} does not answer (ReadTimeout)" in check("qwen25", endpoint, tmp_path)
    assert f"{endpoint} does not answer (ConnectError)" in check("qwen25", endpoint, tmp_path)
