"""A judge behind an endpoint: what it is asked, what its answers are worth, and how it fails."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agents.cli.main import main
from agents.records.checkpoint import load_checkpoint
from agents.records.folder import RunFolder
from agents.records.rows import read_metrics
from agents.rewards.rubric import Rubric, RubricReward
from agents.training.loop import train
from cory_env import RewardError
from cory_env.types import Example
from tests.agents.training.test_trainer import QUIET

KEY = "sk-very-secret"


class Judge:
    """A judge that counts what it is asked, and answers by the letters of the response."""

    def __init__(self):
        self.bodies: list[dict] = []
        self.keys: list[str | None] = []
        self.statuses: list[int] = []
        """Sent for the next requests, instead of an answer."""
        self.answer = lambda response: f"Score: {len(response) % 11}"
        self.reply = lambda text: {
            "choices": [{"message": {"content": text}}],
            "usage": {"total_tokens": 7},
        }

    @contextmanager
    def serving(self):
        judge, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    judge.bodies.append(body)
                    judge.keys.append(self.headers.get("Authorization"))
                    status = judge.statuses.pop(0) if judge.statuses else 200
                asked = body["messages"][1]["content"]
                response = asked.split("<response>\n")[1].removesuffix("\n</response>")
                data = json.dumps(judge.reply(judge.answer(response))).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            server.server_close()


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """Serve a judge, and return it with the file of its rubric."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    found = Judge()
    with found.serving() as url:
        yield found, write(tmp_path / "fun.toml", url=url)


def write(path: Path, **changes) -> Path:
    values = {"url": "http://127.0.0.1:9/v1", "model": "m", "rubric": "Is it fun?", **changes}
    path.write_text("\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items()))
    return path


def scores(reward, *responses: str) -> list[float]:
    return reward([Example("Say something.")] * len(responses), responses).tolist()


def test_a_judge_is_asked_once_for_each_text_whatever_the_order(judge):
    server, file = judge
    reward = RubricReward(file)
    assert scores(reward, "aaaa", "bb", "aaaa") == [0.4, 0.2, 0.4]
    assert len(server.bodies) == 2
    assert reward.spent() == 14
    assert reward.spent() == 0
    body = server.bodies[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0, 16)
    assert body["messages"][0]["content"].startswith("Is it fun?\n")
    assert "from 0 (worst) to 10 (best)" in body["messages"][0]["content"]
    assert "Say something." in body["messages"][1]["content"]
    again = RubricReward(file)  # another run
    assert scores(again, "bb", "aaaa") == [0.2, 0.4]
    assert (len(server.bodies), again.spent()) == (2, 0)


def test_another_rubric_or_model_is_asked_anew_and_a_cut_line_too(judge, tmp_path):
    server, file = judge
    scores(RubricReward(file), "aaaa", "bb")
    url = Rubric.read(file).url
    scores(RubricReward(write(tmp_path / "b.toml", url=url, rubric="Is it sad?")), "aaaa")
    scores(RubricReward(write(tmp_path / "c.toml", url=url, model="n")), "aaaa")
    assert len(server.bodies) == 4
    for cache in (tmp_path / "cache" / "cory" / "judges").iterdir():
        cache.write_text(cache.read_text()[:-20])
    assert scores(RubricReward(file), "aaaa", "bb") == [0.4, 0.2]
    assert len(server.bodies) == 5


@pytest.mark.parametrize(
    ("answer", "score", "nonsense"),
    [
        ("7", 0.7, 0), ("Score: 7/10", 0.7, 0), (" 2.5\n", 0.25, 0), ("0", 0.0, 0), ("10", 1.0, 0),
        ("11", 0.0, 1), ("-1", 0.0, 1), ("seven", 0.0, 1), ("", 0.0, 1), ("v2x", 0.0, 1),
    ],
)  # fmt: skip
def test_an_answer_is_a_score_on_the_scale_or_nonsense(judge, answer, score, nonsense):
    server, file = judge
    server.answer = lambda _: answer
    reward = RubricReward(file)
    assert scores(reward, "text") == [score]
    assert reward.details["nonsense"].tolist() == [nonsense]
    assert scores(reward, "text") == [score]
    assert reward.details["nonsense"].tolist() == [nonsense], "from the cache, too"


def test_an_empty_answer_is_nonsense_and_an_uncounted_one_free(judge):
    server, file = judge
    server.reply = lambda text: {"choices": [{"message": {"content": None}}]}
    reward = RubricReward(file)
    assert scores(reward, "text") == [0.0]
    assert reward.details["nonsense"].tolist() == [1]
    assert reward.spent() == 0


def test_a_scale_of_ones_own(judge, tmp_path):
    server, file = judge
    url = Rubric.read(file).url
    server.answer = lambda _: "-1"
    reward = RubricReward(write(tmp_path / "b.toml", url=url, lowest=-3, highest=5))
    assert scores(reward, "x") == [0.25]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_judge_is_asked_again(judge, status):
    server, file = judge
    server.statuses = [status]
    assert scores(RubricReward(file), "aaaa") == [0.4]
    assert len(server.bodies) == 2


def test_a_judge_that_refuses_is_not_asked_again(judge):
    server, file = judge
    server.statuses = [401]
    with pytest.raises(ConnectionError, match="HTTP 401; OPENAI_API_KEY is not set"):
        scores(RubricReward(file), "aaaa")
    assert len(server.bodies) == 1


def test_what_is_no_chat_completion_is_refused(judge):
    server, file = judge
    server.reply = lambda text: {"error": "no"}
    with pytest.raises(ConnectionError, match="not with a chat completion"):
        scores(RubricReward(file), "aaaa")


def test_the_key_is_sent_and_written_nowhere(judge, tmp_path, toy_config, monkeypatch, capfd):
    server, file = judge
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    config = toy_config(reward=f"1*match+0*rubric:{file}", iterations=2)
    train(config, console=QUIET)
    assert set(server.keys) == {f"Bearer {KEY}"}
    server.statuses = [400] * 99
    with pytest.raises(RewardError) as caught:
        train(config.replace(iterations=4, temperature=1.0), resume=True, console=QUIET)
    assert KEY not in str(caught.value)
    assert "HTTP 400" in str(caught.value)
    shown = capfd.readouterr()
    assert KEY not in shown.out + shown.err
    for path in [p for p in tmp_path.rglob("*") if p.is_file()]:
        assert KEY.encode() not in path.read_bytes(), path


def test_a_judge_that_is_down_stops_a_run_that_then_goes_on(judge, toy_config, tmp_path):
    server, file = judge
    name = f"1*match+0*rubric:{file}"
    alone = {"algorithm": "rloo", "group_size": 2, "observers": 0, "iterations": 2}
    whole = toy_config(reward=name, out=str(tmp_path / "whole"), **alone)
    train(whole, console=QUIET)
    for cache in (tmp_path / "cache" / "cory" / "judges").iterdir():
        cache.unlink()
    parts = whole.replace(out=str(tmp_path / "parts"))
    train(parts.replace(iterations=1), console=QUIET)
    for cache in (tmp_path / "cache" / "cory" / "judges").iterdir():
        cache.unlink()
    server.statuses = [403] * 99
    with pytest.raises(RewardError, match="HTTP 403"):
        train(parts, resume=True, console=QUIET)
    folder = RunFolder(parts.run_folder)
    assert load_checkpoint(folder.checkpoints()[-1])[1]["queries"]
    server.statuses = []
    train(parts, resume=True, console=QUIET)
    rows = [read_metrics(c.run_folder / "metrics.jsonl") for c in (parts, whole)]
    for row, other in zip(*rows, strict=True):
        for key in ("llm_0/task_reward", "llm_0/nonsense", "llm_0/kl"):
            assert row[key] == other[key]
    assert rows[1][-1]["judge_tokens_total"] > rows[1][0]["judge_tokens_total"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "localhost"}, "url in .* to begin with http, got 'localhost'"),
        ({"url": "http://me:word@host/v1"}, "without a name, a password or a query"),
        ({"url": "http://host/v1?key=x"}, "without a name, a password or a query"),
        ({"modl": "x"}, "got 'modl': did you mean model"),
        ({"model": ""}, "Expected model in the rubric .*, got none"),
        ({"model": 3}, "Expected model in .* to be str, got 3"),
        ({"lowest": 10}, "lowest below highest"),
        ({"retries": -1}, "retries in .* at least 0"),
        ({"timeout": 0}, "timeout in .* above 0"),
        ({"key": "sk-very-secret"}, "name of an environment variable"),
    ],
)
def test_a_file_that_is_no_rubric_is_refused_in_one_line(tmp_path, changes, message):
    file = write(tmp_path / "bad.toml", **changes)
    with pytest.raises(ValueError, match=message) as caught:
        RubricReward(file)
    assert "very-secret" not in str(caught.value)


def test_the_command_line_refuses_what_is_no_toml(tmp_path, capsys):
    file = tmp_path / "bad.toml"
    file.write_text("what?")
    assert main(["train", "toy", "--model", "tiny", "--reward", f"rubric:{file}"]) == 2
    assert "got no TOML" in capsys.readouterr().err
