"""Whole commands: who reads them may go away, and who ends them gets a saved run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agents.records.folder import RunFolder
from agents.records.rows import read_metrics

ROOT = Path(__file__).parents[2]
SMALL = (
    *("--batch-size", "8", "--minibatch-size", "8", "--dtype", "float32", "--device", "cpu"),
    *("--sample-every", "1000", "--save-every", "1000"),
)
posix = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="POSIX signals and shells")


def command(*argv: str) -> list[str]:
    return [sys.executable, "-m", "agents", *argv]


def train(out: Path, iterations: int, *more: str) -> list[str]:
    argv = ("train", "toy", *SMALL, "--iterations", str(iterations), "--out", str(out))
    return command(*argv, *("--evaluation-queries", "0", *more))


def start(argv: list[str], **options) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(argv, cwd=ROOT, text=True, **pipes)


def wait_for_rows(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    metrics = out / "metrics.jsonl"
    until = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= count):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


def saved(out: Path) -> str:
    return RunFolder(out).checkpoints()[-1].name


def test_a_run_outlives_its_reader_and_its_report_is_written_unread(tmp_path):
    out = tmp_path / "run"
    process = start(train(out, 5))
    assert process.stdout is not None
    assert process.stdout.readline().startswith("1/5")
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    assert process.wait(timeout=120) == 0, errors
    assert errors == "The output is not read any more: going on without it.\n"
    assert len(read_metrics(out / "metrics.jsonl")) == 5
    assert saved(out) == "step_5"
    assert (out / "final" / "llm_1" / "README.md").is_file()

    (out / "report.html").unlink()
    process = start(command("report", str(out)))
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait(timeout=120)) == ("", 141)
    assert (out / "report.html").is_file()


@posix
def test_a_run_with_closed_streams_is_a_run(tmp_path):
    out = tmp_path / "run"
    line = subprocess.list2cmdline(train(out, 1))
    assert subprocess.call(f"{line} <&- >&- 2>&-", shell=True, cwd=ROOT) == 0
    assert saved(out) == "step_1"
    line = subprocess.list2cmdline(command("play", "toy", "--seed", "0"))
    played = subprocess.run(f"{line} <&-", shell=True, cwd=ROOT, capture_output=True, text=True)
    assert (played.returncode, played.stderr) == (0, "")


def test_a_stream_that_cannot_encode_costs_nothing(tmp_path):
    out = tmp_path / "run"
    plain = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    argv = train(out, 1, "--evaluation-queries", "4")
    run = subprocess.run(argv, cwd=ROOT, env=plain, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert "?" in run.stdout, "of ±"
    assert json.loads((out / "evaluation.json").read_text())["num_queries"] == 4
    assert (out / "report.html").is_file()
    assert (out / "final" / "llm_0" / "README.md").is_file()
    argv = command("evaluate", str(out), "--queries", "4")
    again = subprocess.run(argv, cwd=ROOT, env=plain, capture_output=True, text=True)
    assert (again.returncode, again.stderr) == (0, "")


@posix
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_that_ends_a_process_saves_its_run(tmp_path, name, code):
    out = tmp_path / "run"
    process = start(train(out, 100_000))
    wait_for_rows(out, 2, process)
    process.send_signal(signal.Signals[name])
    shown, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (code, "")
    done = len(read_metrics(out / "metrics.jsonl"))
    assert f"Interrupted after {done} iterations, saved; go on with --resume." in shown
    assert saved(out) == f"step_{done}"


@posix
def test_under_nohup_a_terminal_that_hangs_up_is_nothing(tmp_path):
    out = tmp_path / "run"
    process = start(["nohup", *train(out, 12)])
    wait_for_rows(out, 2, process)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=120)
    assert (process.returncode, saved(out)) == (0, "step_12")


@posix
def test_a_comparison_that_is_ended_saves_its_runs(tmp_path):
    out = tmp_path / "compared"
    argv = command("compare", "toy", *SMALL, "--variants", "ppo", "--seeds", "1", "--iterations",
                   "100000", "--evaluation-queries", "4", "--out", str(out))  # fmt: skip
    process = start(argv)
    run = out / "runs" / "ppo" / "base" / "0"
    wait_for_rows(run, 2, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (143, "interrupted\n")
    assert saved(run) == f"step_{len(read_metrics(run / 'metrics.jsonl'))}"
