"""OpenEnv's own client plays what its own server serves, at the pinned version."""

import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import cory_env

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


@contextmanager
def server(*flags):
    """Yield the port of `python -m cory_env.adapters.openenv`, once it listens."""
    port = free_port()
    command = [sys.executable, "-m", "cory_env.adapters.openenv", *flags, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + START_S
        while not can_connect("127.0.0.1", port):
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < end, "the server does not listen"
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


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
