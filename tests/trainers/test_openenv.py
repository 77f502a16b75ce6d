"""OpenEnv's client plays what its server serves, at the pinned version, and a model learns it."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import cory_env
from agents.cli.main import main

pytestmark = pytest.mark.trainer

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "trainers" / "openenv"
START_S = 120


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def can_connect(host, port):
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


class Server:
    """A server that can be killed, and started again on its port."""

    def __init__(self, *command, cwd=None):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command, self._cwd = [*command, "--port", str(self.port)], cwd
        self.start()

    def start(self):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(self._command, cwd=self._cwd, **quiet)
        end = time.monotonic() + START_S
        while not can_connect("127.0.0.1", self.port):
            assert self._process.poll() is None, "the server has ended"
            assert time.monotonic() < end, "the server does not listen"
            time.sleep(0.1)

    def kill(self):
        self._process.kill()
        self._process.wait()


OURS = (sys.executable, "-m", "cory_env.adapters.openenv")


@contextmanager
def server(*flags):
    """Yield the port of `python -m cory_env.adapters.openenv`, once it listens."""
    started = Server(*OURS, *flags)
    try:
        yield started.port
    finally:
        started.kill()


@pytest.fixture(scope="module")
def tables():
    with server("--task", "toy", "--seat", "all") as port:
        yield port


@pytest.fixture(scope="module")
def alone():
    with server("--task", "toy", "--seat", "pioneer_0", "--observers", "0") as port:
        yield port


def client(port):
    from openenv.core import GenericEnvClient

    return GenericEnvClient(base_url=f"http://127.0.0.1:{port}").sync()


def play(port, seat, episode_id, answer, seed=None):
    with client(port) as env:
        asked = env.reset(seat=seat, episode_id=episode_id, seed=seed).observation
        return asked, env.step({"text": answer(asked["prompt"])}), env.state()


def test_one_seat_is_seeded_and_paid(alone):
    with client(alone) as env:
        prompts = [env.reset(seed=seed).observation["prompt"] for seed in (3, 4, 3)]
        assert prompts[0] == prompts[2] != prompts[1]
        assert prompts[0] == cory_env.vector_env(1, "toy", observers=0).reset(seed=3)[0]
        paid = env.step({"text": prompts[0].rstrip(">")[::-1]})
        assert (paid.reward, paid.done) == (1.0, True)
        assert paid.observation["role"] == "pioneer_0"
        assert env.state()["step_count"] == 1


def test_sessions_are_apart(alone):
    with client(alone) as one, client(alone) as other:
        first = one.reset(seed=1).observation["prompt"]
        second = other.reset(seed=2).observation["prompt"]
        assert first != second
        assert one.step({"text": first.rstrip(">")[::-1]}).reward == 1.0
        assert other.step({"text": second.rstrip(">")[::-1]}).reward == 1.0


def test_two_clients_play_one_game(tables):
    with ThreadPoolExecutor(8) as pool:
        observers = [
            pool.submit(play, tables, "observer_0", f"game {i}", lambda prompt: prompt.rstrip("="))
            for i in range(3)
        ]
        time.sleep(0.5)
        assert not any(observer.done() for observer in observers)
        pioneers = [
            pool.submit(play, tables, "pioneer_0", f"game {i}", lambda p: p[2::-1], seed=i)
            for i in range(3)
        ]
        for i, (pioneer, observer) in enumerate(zip(pioneers, observers, strict=True)):
            asked, paid, state = pioneer.result(60)
            assert asked["prompt"] == cory_env.vector_env(1, "toy").reset(seed=i)[0]
            query = asked["prompt"].rstrip(">")
            assert (paid.reward, paid.done) == (2.0, True)
            assert paid.observation["partner_texts"] == [query[::-1]]
            assert state == {"episode_id": f"game {i}", "step_count": 1}
            asked, paid, _ = observer.result(60)
            assert asked["prompt"] == f"{query[::-1]}="
            assert paid.reward == 2.0


def test_a_mistake_is_an_error_message_and_the_session_goes_on(tables):
    with client(tables) as env:
        with pytest.raises(RuntimeError, match="Expected an episode_id, got none"):
            env.reset(seat="pioneer_0")
        with pytest.raises(RuntimeError, match="Expected a seat"):
            env.reset(seat="observer_7", episode_id="x")
        with pytest.raises(RuntimeError, match=r"pioneer_0 to answer in 'x' within 0\.1 s"):
            env.reset(seat="observer_0", episode_id="x", timeout_s=0.1)
        assert env.reset(seat="pioneer_0", episode_id="y").observation["prompt"].endswith(">")


def test_it_listens_on_the_loopback_interface_alone(tables):
    assert can_connect("127.0.0.1", tables)
    assert not can_connect("127.0.0.2", tables)


def test_their_validation_passes(tables):
    commands = [["--url", f"http://127.0.0.1:{tables}"], [str(EXAMPLE), "--level", "static"]]
    validate = Path(sys.executable).parent / "openenv"
    for arguments in commands:
        run = subprocess.run(
            [validate, "validate", *arguments], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stdout + run.stderr
        assert "Verdict: PASS" in run.stdout


def test_the_application_of_the_example_is_the_observers_seat(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    from fastapi.testclient import TestClient
    from server.app import app

    asked = TestClient(app).post("/reset", json={"seed": 0}).json()["observation"]
    assert asked["role"] == "observer_0"
    assert asked["partner_texts"] == [" it was good, and it was good."]
    assert asked["partner_texts"][0] in asked["prompt"]


def test_a_wrong_flag_is_one_line():
    command = [sys.executable, "-m", "cory_env.adapters.openenv", "--task", "imbd"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith("error: Expected a task")


@pytest.fixture(scope="module")
def mortal():
    """One seat, alone, at a server that a test may kill, but starts again."""
    started = Server(*OURS, "--task", "toy", "--seat", "pioneer_0", "--observers", "0")
    yield started
    started.kill()


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    """The example that `openenv init` makes: it echoes, and its episodes never end."""
    folder = tmp_path_factory.mktemp("echo")
    make = [Path(sys.executable).parent / "openenv", "init", "echo_env"]
    # It asks uv for a lock file, which nobody needs here: the network is not asked.
    environment = {**os.environ, "PATH": str(Path(sys.executable).parent)}
    subprocess.run(make, cwd=folder, env=environment, check=True, capture_output=True)
    command = (sys.executable, "-m", "uvicorn", "server.app:app", "--host", "127.0.0.1")
    started = Server(*command, cwd=folder / "echo_env")
    yield started
    started.kill()


SAID = ("--actions", "abc,abd,cab,ddd")
"""The seat takes no other letters."""


def served(url, **options):
    from cory_env.adapters.openenv_client import ServedEnv

    return closing(ServedEnv(url, **options))


def train(folder, url, *flags):
    """Run `train --env openenv:URL`; return its exit code, and the rows but for their times."""
    command = ["train", "--env", f"openenv:{url}", "--model", "tiny", "--max-new-tokens", "4"]
    command += ["--episodes", "4", "--evaluation-episodes", "0", "--out", str(folder), *flags]
    code = main(command)
    path = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    timed = ("second", "seconds", "seconds_total", "played")
    return code, [{k: v for k, v in row.items() if not k.endswith(timed)} for row in rows]


def test_a_served_seat_is_played_as_an_environment_of_gymnasium(alone):
    with served(f"http://127.0.0.1:{alone}") as env:
        for _ in range(2):  # in one session
            observation, _ = env.reset(seed=3)
            prompt = cory_env.vector_env(1, "toy", observers=0).reset(seed=3)[0]
            assert observation["text"] == observation["prompt"] == prompt
            _, reward, done, cut, _ = env.step(prompt.rstrip(">")[::-1])
            assert (reward, done, cut) == (1.0, True, False)


def test_the_example_of_openenv_is_played(echo):
    with served(echo.url, action="message", read="echoed_message") as env:
        env.reset()
        observation, reward, done, _, _ = env.step("hello")
        assert (observation["text"], reward, done) == ("hello", 0.5, False)
    unknown = pytest.raises(ValueError, match=r"\(.*echoed_message.*\), got read=text")
    with served(echo.url, action="message", read="text") as env, unknown:
        env.reset()


def test_a_model_learns_of_the_example_in_one_session(echo, tmp_path):
    fields = ("--env-options", "action=message,read=echoed_message", "--max-steps", "2")
    one = ("--episodes", "1", "--evaluation-episodes", "2", "--iterations", "2")
    code, rows = train(tmp_path / "run", echo.url, *fields, *one)
    assert (code, len(rows)) == (0, 2)
    assert all(row["llm_0/response_length"] == 2.0 for row in rows)


def test_a_field_that_the_server_does_not_know_is_one_line(echo, tmp_path, capsys):
    fields = ("--env-options", "read=echoed_message", "--max-steps", "2", "--episodes", "1")
    code, rows = train(tmp_path / "run", echo.url, *fields)
    error = capsys.readouterr().err
    assert code != 0
    assert not rows
    assert re.search(r"RuntimeError: Server error: .*message", error)
    assert "Traceback" not in error


def test_a_server_that_dies_costs_nothing_but_time(mortal, tmp_path, monkeypatch, capsys):
    from cory_env.adapters.openenv_client import ServedEnv

    code, whole = train(tmp_path / "whole", mortal.url, *SAID, "--iterations", "3")
    assert code == 0
    steps, step = [], ServedEnv.step

    def dies(self, action):
        steps.append(action)
        if len(steps) == 6:  # in the second iteration, two of four rows have answered
            mortal.kill()
            threading.Timer(1.0, mortal.start).start()
        return step(self, action)

    monkeypatch.setattr(ServedEnv, "step", dies)
    code, parts = train(tmp_path / "parts", mortal.url, *SAID, "--iterations", "3")
    assert code == 0
    assert len(steps) > 12
    assert parts == whole


def test_a_server_that_stays_away_leaves_the_run_saved(mortal, tmp_path, monkeypatch, capsys):
    from cory_env.adapters.openenv_client import ServedEnv

    steps, step = [], ServedEnv.step

    def dies(self, action):
        steps.append(action)
        if len(steps) == 6:
            mortal.kill()
        return step(self, action)

    with monkeypatch.context() as patch:
        patch.setattr(ServedEnv, "step", dies)
        flags = (*SAID, "--env-options", "wait_s=0.5", "--iterations", "2")
        code, rows = train(tmp_path / "run", mortal.url, *flags)
    error = capsys.readouterr().err
    assert code != 0
    assert re.search(r"got ConnectionError: no server at \S+ within 0\.5 s", error)
    assert "Traceback" not in error
    assert len(rows) == 1
    mortal.start()
    code, rows = train(tmp_path / "run", mortal.url, "--resume", *flags)
    whole = train(tmp_path / "whole", mortal.url, *flags)
    assert (code, rows) == whole


def test_a_session_is_not_gone_on_with_in_another(mortal):
    with served(mortal.url) as env:
        env.reset(seed=0)
        mortal.kill()
        mortal.start()
        with pytest.raises(ConnectionError):
            env.step("a")
        assert env.reset(seed=0)[0]["text"]


def test_a_server_that_does_not_answer_is_not_waited_for_for_ever():
    from websockets.sync.server import serve

    with serve(lambda socket: time.sleep(3), "127.0.0.1", 0) as silent:
        threading.Thread(target=silent.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{silent.socket.getsockname()[1]}"
        line = r"no answer of \S+ within 0\.5 s"
        with served(url, timeout_s=0.5) as env, pytest.raises(TimeoutError, match=line):
            env.reset()


@pytest.mark.parametrize(
    ("url", "options", "line"),
    [
        ("127.0.0.1:8000", "", "a URL such as http://127.0.0.1:8000, got '127.0.0.1:8000'"),
        ("http://127.0.0.1:9", "", "no server at http://127.0.0.1:9"),
        ("http://127.0.0.1:9", "timeout=3", "did you mean timeout_s"),
    ],
)
def test_what_cannot_be_reached_is_one_line(url, options, line, tmp_path, capsys):
    flags = ("--env-options", options) if options else ()
    assert train(tmp_path / "run", url, *flags) == (2, [])
    error = capsys.readouterr().err
    assert line in error
    assert "Traceback" not in error
