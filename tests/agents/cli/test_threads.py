"""How many threads a command computes with: quotas, load, launchers, and what the user says."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import joblib.externals.loky.backend.context as loky
import pytest

from agents.cli import threads
from agents.cli.main import main
from agents.cli.threads import WAITING, use_threads


@pytest.fixture
def machine(monkeypatch):
    """Return a function that makes a machine; nothing is set, and torch is not there."""
    for name in (*WAITING, "OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")  # so that what is set is undone
        monkeypatch.delenv(name)
    monkeypatch.setattr(threads, "sys", SimpleNamespace(modules={}))

    def make(*, usable: int, busy: list[float], bound: list[int] | None = None, **variables: str):
        monkeypatch.setattr(threads, "cpu_count", lambda only_physical_cores: usable)
        percents = lambda interval, percpu: [100 * share for share in busy]  # noqa: E731
        monkeypatch.setattr(threads.psutil, "cpu_percent", percents)
        bound = list(range(len(busy))) if bound is None else bound
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(bound), raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return make


@pytest.mark.parametrize(
    ("usable", "busy", "expected"),
    [
        (2, [0.0, 0.0], 2),
        (2, [0.2, 0.2], 2),
        (2, [0.5, 0.6], 1),
        (2, [1.0, 1.0], 1),
        (8, [1.0] * 3 + [0.0] * 5, 5),
        # a container may use 2 of 8 cores: what keeps others busy elsewhere is no matter
        (2, [1.0] * 3 + [0.0] * 5, 2),
        (2, [1.0] * 7 + [0.0], 1),
    ],
)
def test_there_is_a_thread_for_every_core_that_is_free(machine, usable, busy, expected):
    machine(usable=usable, busy=busy)
    line = use_threads("auto")
    assert os.environ["OMP_NUM_THREADS"] == str(expected)
    assert line.startswith(f"{expected} thread")
    assert f"{sum(busy):.1f} of {len(busy)} are busy" in line


def test_cores_that_a_process_is_not_bound_to_are_no_matter(machine):
    machine(usable=2, busy=[0.0, 0.0, 1.0, 1.0], bound=[2, 3])
    use_threads("auto")
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_the_user_is_believed(machine):
    machine(usable=2, busy=[1.0, 1.0], OMP_NUM_THREADS="2")
    assert use_threads("auto") == ""
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert use_threads("1") == ""
    assert os.environ["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(("given", "expected"), [("", 3), ("1", 1), ("8", 3)])
def test_processes_of_a_machine_share_its_cores(machine, given, expected):
    variables = {"OMP_NUM_THREADS": given} if given else {}
    machine(usable=6, busy=[1.0] * 6, LOCAL_WORLD_SIZE="2", **variables)
    line = use_threads("auto")
    assert os.environ["OMP_NUM_THREADS"] == str(expected)
    assert ("2 processes share 6 cores" in line) == (expected == 3)


def test_threads_wait_asleep_unless_the_user_says_how(machine, monkeypatch):
    machine(usable=1, busy=[0.0])
    use_threads("auto")
    assert os.environ["GOMP_SPINCOUNT"] == threads.SPINS
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    use_threads("auto")
    assert "GOMP_SPINCOUNT" not in os.environ


def test_torch_that_a_plug_in_has_loaded_is_told(machine, monkeypatch):
    told: list[int] = []
    modules = {"torch": SimpleNamespace(set_num_threads=told.append)}
    machine(usable=3, busy=[0.0] * 3)
    monkeypatch.setattr(threads, "sys", SimpleNamespace(modules=modules))
    use_threads("auto")
    assert told == [3]


@pytest.mark.parametrize("asked", ["0", "-1", "two", "", "1.5"])
def test_what_is_no_number_is_one_line(capsys, asked):
    assert main(["train", "toy", f"--threads={asked}"]) == 2
    error = capsys.readouterr().err
    assert (
        error == f"error: Expected threads to be auto or a number of at least 1, got {asked!r}.\n"
    )


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
    ],
)
def test_the_library_reads_the_quota_of_a_container(monkeypatch, tmp_path, files, expected):
    """Both versions of control groups; a part of a core counts as a whole one."""
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def here(name: object) -> str:
        return str(name).replace("/sys/fs/cgroup", str(tmp_path))

    there, reading = os.path.exists, open
    monkeypatch.setattr(loky.os.path, "exists", lambda name: there(here(name)))
    monkeypatch.setattr(loky, "open", lambda name: reading(here(name)), raising=False)
    monkeypatch.setattr(loky.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(loky, "_cpu_count_affinity", lambda count: count)
    assert threads.cores() == expected


def test_what_is_chosen_is_what_torch_computes_with():
    code = (
        "from agents.cli.threads import use_threads\n"
        "use_threads('1')\n"
        "import torch\n"
        "print(torch.get_num_threads())"
    )
    variables = {**os.environ, "OMP_NUM_THREADS": "2"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True
    )
    assert found.stdout == "1\n"
