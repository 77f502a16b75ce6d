"""The life of a run folder: a start that fails changes nothing, and a record says what is there."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from agents.cli.main import main
from agents.records.rows import read_metrics
from agents.terminal.interrupts import Interrupted
from agents.training import loop as trainer
from agents.training.loop import train
from agents.training.trainer import Trainer
from cory_env import RewardError
from cory_env.registry import REWARDS

QUIET = Console(quiet=True)
SMALL = (
    *("--batch-size", "8", "--minibatch-size", "8", "--evaluation-queries", "0"),
    *("--dtype", "float32"),
)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def broken_reward(monkeypatch):
    """Register a reward that breaks in the first batch."""

    def breaks(examples, responses):
        raise ZeroDivisionError

    monkeypatch.setitem(REWARDS, "broken", lambda: breaks)


@pytest.fixture
def no_model(monkeypatch):
    def build(*args, **kwargs):
        raise AssertionError("a model was built")

    monkeypatch.setattr(Trainer, "__init__", build)


def test_a_start_that_fails_in_its_first_batch_leaves_nothing(toy_config, broken_reward, tmp_path):
    config = toy_config(reward="broken", out=str(tmp_path / "runs" / "first"))
    with pytest.raises(RewardError):
        train(config, console=QUIET)
    assert list(tmp_path.iterdir()) == []


def test_a_signal_before_the_first_iteration_leaves_nothing(toy_config, monkeypatch):
    sample = trainer._samples

    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        return sample(*args)

    monkeypatch.setattr(trainer, "_samples", interrupted)
    with pytest.raises(Interrupted) as error:
        train(toy_config(), console=QUIET)
    assert error.value.number == signal.SIGTERM
    assert not toy_config().run_folder.exists()


def test_a_start_that_was_killed_is_in_nobodys_way(toy_config):
    config = toy_config()
    train(config, console=QUIET)
    whole = [read_metrics(config.run_folder / "metrics.jsonl")[0]["llm_0/kl"]]
    for name in ("metrics.jsonl", "checkpoints", "final", "report.html"):
        path = config.run_folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (config.run_folder / ".metrics.jsonl.17.tmp").touch()
    train(toy_config(iterations=1), console=QUIET)
    assert whole == [r["llm_0/kl"] for r in read_metrics(config.run_folder / "metrics.jsonl")]
    names = {p.name for p in config.run_folder.iterdir()}
    assert not names & {".metrics.jsonl.17.tmp", ".replaced"}


def test_a_run_is_replaced_once_the_new_one_has_begun(toy_config, broken_reward):
    config = toy_config(iterations=2)
    folder = config.run_folder
    train(config, console=QUIET)
    before = contents(folder)
    with pytest.raises(ValueError, match="--overwrite"):
        train(config, console=QUIET)
    for bad in ({"reward": "broken"}, {"max_new_tokens": 500}):
        with pytest.raises((RewardError, ValueError)):
            train(toy_config(**bad), overwrite=True, console=QUIET)
        assert contents(folder) == before
    train(toy_config(iterations=1, kl_coef=0.7), overwrite=True, console=QUIET)
    assert json.loads((folder / "config.json").read_text())["kl_coef"] == 0.7
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step_1"]
    assert len(read_metrics(folder / "metrics.jsonl")) == 1
    assert not (folder / ".replaced").exists()


@pytest.mark.parametrize("beside", ["config.json", "notes.txt"])
def test_what_is_no_run_of_ours_is_never_replaced(toy_config, no_model, beside):
    folder = toy_config().run_folder
    folder.mkdir()
    for name in ("mine", beside):
        (folder / name).write_text("{}")
    with pytest.raises(ValueError, match="holds something else"):
        train(toy_config(), overwrite=True, console=QUIET)
    assert len(list(folder.iterdir())) == 2


def test_overwriting_asks_and_takes_yes(toy_config, capsys, monkeypatch):
    config = toy_config(iterations=1)
    train(config, console=QUIET)
    before = contents(config.run_folder)
    argv = ["train", "toy", *SMALL, "--iterations", "2", "--out", config.out]
    assert main([*argv, "--overwrite"]) == 2
    assert "Expected --yes with --overwrite" in capsys.readouterr().err
    assert main([*argv, "--yes"]) == 2
    assert main([*argv, "--overwrite", "--yes", "--resume"]) == 2
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda prompt: "")
    assert main([*argv, "--overwrite"]) == 1
    assert contents(config.run_folder) == before
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    assert main([*argv, "--overwrite"]) == 0
    assert len(read_metrics(config.run_folder / "metrics.jsonl")) == 2
    assert main([*argv, "--overwrite", "--yes", "--iterations", "1"]) == 0
    assert len(read_metrics(config.run_folder / "metrics.jsonl")) == 1


def test_a_finished_run_says_so_and_loads_nothing(toy_config, capsys, monkeypatch):
    config = toy_config(iterations=2, evaluation_queries=4)
    first = train(config, console=QUIET)
    before = contents(config.run_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "__init__", None)
        assert main(["train", "toy", "--resume", "--out", config.out]) == 0
        again = train(config, resume=True, console=QUIET)
    shown = " ".join(capsys.readouterr().out.split())
    assert "is finished: all 2 iterations are done. Pass --resume with more --iterations" in shown
    assert "report.html" in shown
    assert contents(config.run_folder) == before
    assert again.metrics == first.metrics
    assert again.evaluation == json.loads(json.dumps(first.evaluation))
    assert main(["train", "toy", "--resume", "--evaluation-queries", "8", "--out", config.out]) == 0
    evaluation = json.loads((config.run_folder / "evaluation.json").read_text())
    assert (evaluation["num_queries"], evaluation["iterations"]) == (8, 2)


def test_a_run_cannot_be_asked_for_less_than_it_has(toy_config, no_model, capsys):
    folder = toy_config().run_folder
    (folder / "checkpoints" / "step_4").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(toy_config(iterations=9).to_json()))
    argv = ["train", "toy", "--resume", "--out", str(folder), "--iterations"]
    before = contents(folder)
    assert main([*argv, "1"]) == 2
    assert "Expected at least 4 iterations, which the run has, got 1" in capsys.readouterr().err
    assert contents(folder) == before


def test_a_run_that_goes_on_has_no_end_of_a_shorter_one(toy_config, monkeypatch):
    config = toy_config(iterations=2, evaluation_queries=4, save_every=1)
    folder = config.run_folder
    train(config, console=QUIET)
    ends = ("final", "evaluation.json", "report.html")
    iterate = Trainer.iterate

    def fails_in(bad: int):
        def fail(self, iteration):
            if iteration == bad:
                raise RewardError("broken")
            return iterate(self, iteration)

        return fail

    longer = toy_config(iterations=5, evaluation_queries=4, save_every=1)
    monkeypatch.setattr(Trainer, "iterate", fails_in(2))
    with pytest.raises(RewardError):
        train(longer, resume=True, console=QUIET)
    assert all((folder / name).exists() for name in ends), "it has not gone on yet"
    monkeypatch.setattr(Trainer, "iterate", fails_in(4))
    with pytest.raises(RewardError):
        train(longer, resume=True, console=QUIET)
    assert not any((folder / name).exists() for name in ends)
    monkeypatch.setattr(Trainer, "iterate", iterate)
    train(longer, resume=True, console=QUIET)
    assert all((folder / name).exists() for name in ends)
    assert json.loads((folder / "evaluation.json").read_text())["iterations"] == 5


def test_a_preset_on_resume_is_held_to_like_its_flags(toy_config, no_model, capsys):
    folder = toy_config().run_folder
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(toy_config(task="imdb").to_json()))
    argv = ["train", "imdb", "--resume", "--out", str(folder), "--preset"]
    assert main([*argv, "nosuch"]) == 2
    assert "'nosuch'" in capsys.readouterr().err
    assert main([*argv, "imdb-handover"]) == 2
    assert "Expected handover='sampled' as in the run to resume, got 'value'" in (
        capsys.readouterr().err
    )
    with pytest.raises(AssertionError, match="a model was built"):
        main([*argv, "imdb"])


def test_learning_rates_are_in_the_rows_and_a_schedule_that_moves_is_said(toy_config, capsys):
    config = toy_config(iterations=4, schedule="linear", learning_rate=0.004)
    train(config, console=QUIET)
    argv = ["train", "toy", "--resume", "--out", config.out, "--iterations"]
    assert main([*argv, "8"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "linear schedule ends at iteration 8 now, not at 4: the learning rate goes on" in shown
    assert "at 0.002 instead of 0." in shown
    rows = read_metrics(config.run_folder / "metrics.jsonl")
    rates = [[row[f"llm_{i}/learning_rate"] for row in rows] for i in (0, 1)]
    expected = 0.004 * np.array([1, 3 / 4, 1 / 2, 1 / 4, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert rates == [pytest.approx(expected)] * 2
    critic = [row["llm_0/critic_learning_rate"] for row in rows]
    assert critic == pytest.approx(expected / 4)
