"""Bad input: one clear line, exit code 2, and no file of the user is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from agents.cli.main import _patience, main
from agents.config.train import TrainConfig
from agents.distributed.agreement import PATIENCE
from cory_env import Example
from cory_env.registry import REWARDS, TASKS
from cory_env.tasks.imdb import ImdbTask

SMALL = [
    "--iterations",
    "2",
    "--batch-size",
    "8",
    "--minibatch-size",
    "4",
    "--evaluation-queries",
    "0",
]


def fails(capsys, argv: list[str], *parts: str) -> None:
    """Run a command and expect one line with these parts, and exit code 2."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1, captured.err
    for part in parts:
        assert part in captured.err


@pytest.fixture
def no_model(monkeypatch):
    """Fail if a model is loaded."""

    def load(*args, **kwargs):
        raise AssertionError("a model was loaded before the input was checked")

    monkeypatch.setattr("agents.parts.load_base", load)
    monkeypatch.setattr("agents.parts.tiny_model", load)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["nothing"], ["imdb", "toy", "'nothing'"]),
        (["imdb", "--preset", "big"], ["paper-imdb", "'big'"]),
        (["imdb", "--algorithm", "sac"], ["mappo, ippo, ppo", "'sac'"]),
        (["imdb", "--learnin-rate", "1"], ["--learnin-rate"]),
        (["imdb", "--iterations", "many"], ["--iterations", "many"]),
        (["imdb", "--iterations", "0"], ["iterations", "at least 1"]),
        (["imdb", "--kl", "k9"], ["'k9'", "exact"]),
        (["imdb", "--kl-coef", "-1"], ["kl_coef", "at least 0"]),
        (["imdb", "--top-p", "1.5"], ["top_p", "between 0 and 1"]),
        (
            ["imdb", "--batch-size", "100", "--minibatch-size", "64"],
            ["64 and 100", "--minibatch-size 50"],
        ),
        (["imdb", "--algorithm", "ppo"], ["--observers 0"]),
        (["imdb", "--handover", "value", "--reward-sharing", "individual"], ["--handover sampled"]),
        (["imdb", "--resume"], ["runs/imdb"]),
        (["arithmetic", "--task-options", "difficulty=9"], ["difficulty in (1, 2, 3)", "got 9"]),
        (
            ["arithmetic", "--task-options", "dificulty=1"],
            ["task arithmetic (difficulty, wording)", "did you mean difficulty?"],
        ),
        (["arithmetic", "--task-options", "difficulty"], ["NAME=VALUE", "'difficulty'"]),
        (["arithmetic", "--task-options", "split=addsub"], ["--test-split"]),
        (["arithmetic", "--test-split", "adsub"], ["addsub", "'adsub'"]),
        (["toy", "--task-options", "length=two"], ["length to be a whole number", "'two'"]),
        (["toy", "--device", "foo"], ["Expected a device", "cpu", "'foo'"]),
        (["toy", "--device", "meta"], ["Expected a device", "cpu", "'meta'"]),
        (["toy", "--device", "cuda:99"], ["device out of auto, cpu", "'cuda:99'"]),
        (["gsm8k", "--task-options", "longest=3"], ["longest", "got 3"]),
        ([], ["train TASK"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_before_any_model_is_loaded(
    capsys, tmp_path, monkeypatch, no_model, flags, parts
):
    monkeypatch.chdir(tmp_path)
    fails(capsys, ["train", *flags], *parts)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_command_names_the_known_ones(capsys):
    commands = "train, compare, evaluate, report, average, judge, merge, push, play, list, new-task"
    fails(capsys, ["trian"], commands, "'trian'")


def test_the_help_of_play_tells_what_a_person_needs(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["play", "--help"])
    out = capsys.readouterr().out
    assert "usage: python -m agents play [-h] [OPTIONS] TASK" in out
    for part in ("--seat", "pioneer_0", "--partner", "runs/imdb/final/llm_0", "Ctrl-D", "toy"):
        assert part in out


def test_an_out_that_is_a_file_or_holds_something_else_is_left_alone(capsys, tmp_path, no_model):
    file = tmp_path / "file"
    file.write_text("mine")
    fails(capsys, ["train", "imdb", "--out", str(file)], str(file), "another --out")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    fails(capsys, ["train", "imdb", "--out", str(folder)], str(folder), "something else")
    assert file.read_text() == (folder / "thesis.tex").read_text() == "mine"
    assert len(list(folder.iterdir())) == 1


def test_an_out_that_cannot_be_written_is_refused_at_once(capsys, no_model):
    fails(capsys, ["train", "imdb", "--out", "/proc/run"], "Expected a folder that can be written")


def test_a_finished_run_is_not_overwritten_and_a_changed_one_not_resumed(capsys, tmp_path):
    out = str(tmp_path / "run")
    assert main(["train", "toy", *SMALL, "--out", out]) == 0
    before = {p: p.read_bytes() for p in Path(out).rglob("*") if p.is_file()}
    capsys.readouterr()
    fails(capsys, ["train", "toy", *SMALL, "--out", out], "--resume", "another --out")
    fails(
        capsys,
        ["train", "toy", "--resume", "--kl-coef", "0.5", "--out", out],
        "kl_coef=0.03",
        "0.5",
    )
    fails(capsys, ["train", "imdb", "--resume", "--out", out], "task='toy'", "'imdb'")
    assert {p: p.read_bytes() for p in Path(out).rglob("*") if p.is_file()} == before


def test_resume_needs_no_flag_but_the_folder(capsys, tmp_path):
    out = str(tmp_path / "run")
    assert main(["train", "toy", *SMALL, "--out", out]) == 0
    assert main(["train", "toy", "--resume", "--iterations", "3", "--out", out]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["iterations"], config["batch_size"]) == (3, 8)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_checkpoint_that_is_cut_short_is_named(capsys, tmp_path):
    out = tmp_path / "run"
    assert main(["train", "toy", *SMALL, "--out", str(out)]) == 0
    capsys.readouterr()
    weights = out / "checkpoints" / "step_2" / "state.safetensors"
    os.truncate(weights, 1000)
    fails(capsys, ["train", "toy", "--resume", "--out", str(out)], "step_2", "damaged")
    fails(capsys, ["evaluate", str(out)], "step_2", "damaged")


def test_evaluate_and_report_of_no_run_say_so(capsys, tmp_path):
    fails(capsys, ["evaluate", str(tmp_path / "no")], "run folder", "no")
    fails(capsys, ["report", str(tmp_path / "no")], "no")


@pytest.mark.parametrize(
    ("reward", "parts"),
    [
        (lambda examples, responses: np.full(len(responses), np.nan), ["finite", "nan"]),
        (lambda examples, responses: np.zeros((len(responses), 2)), ["shape"]),
        (lambda examples, responses: {}["score"], ["KeyError"]),
    ],
    ids=["nan", "shape", "raises"],
)
def test_a_broken_reward_ends_the_run_in_one_line(capsys, tmp_path, monkeypatch, reward, parts):
    monkeypatch.setitem(REWARDS, "broken", lambda: reward)
    assert main(["train", "toy", *SMALL, "--reward", "broken", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert all(part in error for part in parts)


def test_a_reward_that_is_neither_registered_nor_a_classifier_is_named(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    argv = [
        "train",
        "toy",
        *SMALL,
        "--reward",
        str(tmp_path / "nothing"),
        "--out",
        str(tmp_path / "run"),
    ]
    fails(capsys, argv, "Expected a reward", "sentiment", "no such file or folder")


def test_a_model_that_does_not_exist_is_named(capsys, tmp_path):
    argv = [
        "train",
        "imdb",
        *SMALL,
        "--model",
        str(tmp_path / "nothing"),
        "--out",
        str(tmp_path / "run"),
    ]
    fails(capsys, argv, "Expected a model", "nothing", "no such file or folder")
    assert not (tmp_path / "run").exists()


def test_ctrl_c_saves_a_checkpoint_and_exits_with_130(tmp_path):
    out = tmp_path / "run"
    argv = ["train", "toy", "--iterations", "100000", *SMALL[2:], "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "agents", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "--resume" in output
    assert "Traceback" not in output
    done = len(metrics.read_text().splitlines())
    assert (out / "checkpoints" / f"step_{done}").is_dir()


def test_splits_and_options_of_a_task_are_those_of_the_run(capsys, tmp_path):
    out = str(tmp_path / "run")
    options = [
        "--task-options",
        "difficulty=1",
        "--test-split",
        "singleop",
        "--max-new-tokens",
        "4",
    ]
    assert main(["train", "arithmetic", *SMALL, *options, "--iterations", "1", "--out", out]) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["task_options"], config["test_split"]) == ("difficulty=1", "singleop")
    argv = ["evaluate", out, "--queries", "4", "--k", "1", "2", "--batch-size", "3"]
    for split, expected in ((None, "singleop"), ("multiarith", "multiarith"), ("test", "test")):
        assert main([*argv, *(["--split", split] if split else [])]) == 0
        evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
        assert (evaluation["split"], evaluation["k"]) == (expected, [1, 2])
        assert set(evaluation["rows"][0]) >= {"pass_at", "majority_at", "greedy"}
    assert "pass@2" in capsys.readouterr().out
    assert main(["report", out]) == 0
    assert "majority@2" in (tmp_path / "run" / "report.html").read_text()
    capsys.readouterr()
    fails(capsys, [*argv, "--split", "adsub"], "addsub", "'adsub'")
    fails(capsys, [*argv, "--samples", "1"], "at least 2, got 1")


def test_every_field_is_documented_and_every_preset_is_valid():
    from agents.registries import PRESETS

    for preset in PRESETS.values():
        TrainConfig(**preset())
    result = subprocess.run(
        [sys.executable, "-m", "agents", "train", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--import FILE" in result.stdout  # what the field `imports` is filled by
    for name in TrainConfig().to_json().keys() - {"imports", "format"}:
        assert "--" + name.replace("_", "-") in result.stdout


def test_a_query_longer_than_the_context_is_refused_with_both_lengths(
    capsys, tmp_path, monkeypatch
):
    class LongTask(ImdbTask):
        def __init__(self, split: str = "train"):
            self.examples = [Example("word " * 400)]

    monkeypatch.setitem(TASKS, "long", LongTask)
    argv = ["train", "long", *SMALL, "--out", str(tmp_path / "run")]
    fails(capsys, argv, "max_prompt_tokens=240", "got 40")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["toy", "--process-timeout", "5"], 5.0),
        (["toy", "--process_timeout=0.5", "--seed", "7"], 0.5),
        (["toy", "--process-timeout=1", "--process-timeout=2"], 2.0),
        (["toy", "--process-timeout", "soon"], PATIENCE),
        (["toy", "--process-timeout=-1"], PATIENCE),
        (["toy", "--process-timeout"], PATIENCE),
        (["toy"], PATIENCE),
    ],
)
def test_how_long_processes_wait_is_known_before_they_meet(argv, expected):
    assert _patience(argv) == expected
