"""verifiers' own evaluation plays both seats against an endpoint of ours, at the pinned version."""

import json
import os
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

import cory_env

pytestmark = pytest.mark.trainer

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "trainers"
START_S = 180


@pytest.fixture(scope="module")
def endpoint():
    """Yield the address of `examples/trainers/endpoint.py` over the embedded model."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, str(EXAMPLES / "endpoint.py"), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + START_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, "the endpoint has ended"
            assert time.monotonic() < end, "the endpoint does not listen"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def evaluate(endpoint, folder, *flags):
    """Run `vf-eval cory_v1`, and return its episodes: of each, the traces by their seats."""
    command = [str(Path(sys.executable).parent / "vf-eval"), "cory_v1", "-m", "embedded"]
    command += ["--client.base-url", endpoint, "--sampling.max-tokens", "12", "-o", str(folder)]
    run = subprocess.run(
        [*command, "--no-push", "--no-rich", *flags],
        env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (file,) = folder.rglob("traces.jsonl")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [{trace["agent"]["name"]: trace for trace in row["traces"]} for row in rows]


def said(trace):
    """Return what a seat was asked, and what it answered."""
    messages = [node["message"] for node in trace["nodes"]]
    # A record leaves out what is empty, as an answer may be.
    texts = {message["role"]: message.get("content") or "" for message in messages}
    return texts["user"], texts["assistant"]


def paid(trace):
    """Return what a seat was paid, and its own task reward."""
    return trace["rewards"]["cory"]["score"], trace["metrics"]["task_reward"]


def test_both_seats_are_agents_and_are_paid_as_in_the_game(endpoint, tmp_path):
    flags = ("--env.taskset.game", "imdb", "--env.taskset.seed", "5", "--env.reward-sharing", "0.5")
    episodes = evaluate(endpoint, tmp_path, "-n", "3", *flags)
    queries = set()
    for episode in episodes:
        assert sorted(episode) == ["observer", "pioneer"]
        assert all(trace["ok"] for trace in episode.values())
        asked, answered = zip(
            *(said(episode[seat]) for seat in ("pioneer", "observer")), strict=True
        )
        queries.add(asked[0])
        games = cory_env.vector_env(1, "imdb", reward_sharing=0.5)
        games.reset(examples=[cory_env.Example(asked[0])])
        assert games.step([answered[0]]) == [asked[1]]
        games.step([answered[1]])
        for seat, agent in zip(("pioneer", "observer"), games.agents, strict=True):
            expected = games.rewards[agent][0], games.task_rewards[agent][0]
            np.testing.assert_allclose(paid(episode[seat]), expected, rtol=1e-12)
    games = cory_env.vector_env(1, "imdb")
    assert queries == {games.reset(seed=seed)[0] for seed in (5, 6, 7)}


def test_a_model_that_is_not_there_is_on_the_record(tmp_path):
    closed = "http://127.0.0.1:9/v1"
    (episode,) = evaluate(closed, tmp_path, "-n", "1", "--env.taskset.game", "toy")
    assert list(episode) == ["pioneer"]
    assert not episode["pioneer"]["ok"]
    assert not episode["pioneer"]["rewards"]


class Silent(BaseHTTPRequestHandler):
    """An endpoint of a model that says nothing."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": ""}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        answer = {"id": "a", "object": "chat.completion", "created": 0, "model": "silent"}
        body = json.dumps({**answer, "choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_an_empty_answer_is_one(tmp_path):
    with HTTPServer(("127.0.0.1", 0), Silent) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/v1"
        (episode,) = evaluate(address, tmp_path, "-n", "1", "--env.taskset.game", "toy")
        server.shutdown()
    assert said(episode["observer"]) == ("=", "")
    assert paid(episode["observer"]) == paid(episode["pioneer"]) == (0.0, 0.0)
