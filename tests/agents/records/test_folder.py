"""The run folder: who knows its names, what is there, and a start that fails changes nothing."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from agents.cli.main import main
from agents.config.train import TrainConfig
from agents.records.folder import RunFolder
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


ROOT = Path(__file__).parents[3]
PATHS = [name for name, value in vars(RunFolder).items() if isinstance(value, property)]
NAMES = {
    part
    for name in PATHS
    if name.endswith("_path")
    for part in getattr(RunFolder(Path()), name).parts
}
WORDS = {"tensorboard", "wandb", "last"}
"""Of libraries, or of everybody: only as a part of a path are they the names of folders."""
OF_OTHERS = {
    ("agents/models/files.py", "config.json"),
    ("agents/config/sources.py", "config.json"),
    ("agents/studies/marl_eval.py", "step_1"),
}
"""What transformers calls the configuration of a model, and marl-eval a step of a run."""


def names_of_run_files(source: str) -> Iterator[str]:
    """Yield the literals in a module that name a file of a run, alone or as a part of a path."""
    tree = ast.parse(source)
    joined = {id(n.right) for n in ast.walk(tree) if isinstance(n, ast.BinOp)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        parts = node.value.split("/")
        is_path = id(node) in joined or len(parts) > 1
        names = NAMES if is_path else NAMES - WORDS
        numbered = any(re.fullmatch(r"\.?(step|adapters)_(\d+|\*)?", part) for part in parts)
        # In a sentence a name is for the reader.
        if not re.search(r"\s", node.value) and (numbered or names & {*parts}):
            yield node.value


def test_nobody_else_knows_what_a_file_of_a_run_is_called():
    assert {"config.json", "metrics.jsonl", "final", ".final.tmp", "wandb", "log.txt"} <= NAMES
    found = set()
    for path in sorted([*ROOT.glob("agents/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith("agents/records/"):
            found |= {(name, literal) for literal in names_of_run_files(path.read_text("utf-8"))}
    assert found == OF_OTHERS


@pytest.mark.parametrize(
    "source",
    [
        'folder / "metrics.jsonl"',
        'folder.name == "final"',
        'root.glob("runs/*/evaluation.json")',
        'f"{folder}/step_{n}"',
        'f"adapters_{rank}"',
        'folder / "wandb"',
        'path.name.removeprefix("step_")',
    ],
)
def test_a_name_in_a_literal_is_found(source):
    assert list(names_of_run_files(source))


@pytest.mark.parametrize("source", ['"wandb"', '"Expected a final/ in it"', 'f"step_size={x}"'])
def test_other_literals_are_left_alone(source):
    assert not list(names_of_run_files(source))


def folder_of(path: Path, config: TrainConfig, *, rows: int = 2, **there: bool) -> RunFolder:
    """Write a run folder by hand: `rows`, and what is asked for of the rest."""
    folder = RunFolder(path)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    folder.write_config(config)
    folder.metrics_path.write_text("".join(f'{{"iteration": {i}}}\n' for i in range(rows)))
    if there.get("checkpoint"):
        folder.checkpoint_path(2).mkdir(parents=True)
    if there.get("final"):
        folder.final_path.mkdir()
    if there.get("evaluation"):
        folder.write_evaluation({"rows": []})
    if there.get("report"):
        folder.report_path.touch()
    return folder


def test_a_run_is_finished_when_all_of_its_end_is_there(tmp_path):
    config = TrainConfig(task="toy", iterations=2, out="anywhere")
    end = {"checkpoint": True, "final": True, "evaluation": True, "report": True}
    path = tmp_path / "run"
    folder = folder_of(path, config, **end)
    assert folder.is_finished(config)
    assert folder.is_finished(config.replace(out="elsewhere"))
    assert not folder.is_finished(config.replace(iterations=3))
    assert not folder.is_finished(config.replace(kl_coef=0.7))
    for missing in ("final", "evaluation", "report"):
        assert not folder_of(path, config, **{**end, missing: False}).is_finished(config), missing
    folder_of(path, config, **end).config_path.unlink()
    assert not folder.is_finished(config)
    unasked = config.replace(evaluation_queries=0)
    assert folder_of(path, unasked, **{**end, "evaluation": False}).is_finished(unasked)


def test_of_a_run_whose_weights_were_not_kept_the_figures_say_whether_it_is_finished(tmp_path):
    config = TrainConfig(task="toy", iterations=2)
    path = tmp_path / "run"
    assert folder_of(path, config, evaluation=True).is_finished(config)
    assert not folder_of(path, config, rows=1, evaluation=True).is_finished(config)
    # Killed between its last row and its first checkpoint.
    assert not folder_of(path, config).is_finished(config)
    unasked = config.replace(evaluation_queries=0)
    assert not folder_of(path, unasked).is_finished(unasked)
    assert not RunFolder(tmp_path / "nothing").is_finished(config)


def test_a_run_without_its_weights_is_not_trained_again(tmp_path, no_model, capsys):
    config = TrainConfig(task="toy", iterations=2, evaluation_queries=4)
    path = folder_of(tmp_path / "run", config, evaluation=True).path
    before = contents(path)
    assert main(["train", "toy", "--resume", "--out", str(path)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "is finished: all 2 iterations are done." in shown
    assert f"`report {path}` writes its page" in shown
    assert contents(path) == before


def test_what_there_is_not_yet_is_empty(tmp_path):
    folder = RunFolder(tmp_path / "nothing")
    assert (folder.checkpoints(), folder.iterations_done(), folder.has_progress()) == ([], 0, False)
    assert folder.read_metrics() == folder.read_samples() == folder.read_histograms() == []
    assert folder.read_evaluation() == folder.read_config_values() == {}
    assert folder.read_provenance() == folder.final_policies() == []


def test_checkpoints_are_in_the_order_of_their_numbers(tmp_path):
    folder = RunFolder(tmp_path)
    for name in ("step_9", "step_10", ".step_11.tmp", "step_x", "other"):
        (folder.checkpoints_path / name).mkdir(parents=True)
    assert [path.name for path in folder.checkpoints()] == ["step_9", "step_10"]
    assert folder.iterations_done() == 10


def test_the_run_of_a_final_folder(tmp_path):
    folder = RunFolder(tmp_path)
    assert RunFolder.of_final(folder.final_path) == folder
    assert RunFolder.of_final(folder.policy_path("llm_0")) is None
    assert RunFolder.of_final(folder.last_path) == folder
    for policy in (folder.policy_path("llm_0"), folder.last_path / "llm_0"):
        assert RunFolder.of_policy(policy) == folder
    assert RunFolder.of_policy(tmp_path / "last" / "llm_0") is None


def test_policies_are_in_turn_order(tmp_path):
    folder, names = RunFolder(tmp_path), ["llm_0", "llm_1", "llm_2", "llm_10"]
    for name in names:
        (folder.last_path / name).mkdir(parents=True)
        (folder.policy_path(name)).mkdir()
    assert folder.final_policies() == [folder.policy_path(name) for name in names]
    assert folder.last_policies() == [folder.last_path / name for name in names]


def test_the_last_iterate_is_beside_the_average_or_the_policy_itself(tmp_path):
    folder = RunFolder(tmp_path)
    folder.policy_path("llm_0").mkdir(parents=True)
    assert folder.last_policy_path("llm_0") == folder.policy_path("llm_0")
    (folder.last_path / "llm_0").mkdir(parents=True)
    assert folder.last_policy_path("llm_0") == folder.last_path / "llm_0"


@pytest.mark.parametrize("content", [b"{", b"[3]", b"\xff"])
def test_a_damaged_configuration_is_named(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"Expected .* in .*config\.json, got"):
        RunFolder(tmp_path).read_config()


def test_every_file_of_a_run_is_known(toy_config):
    pytest.importorskip("tensorboard")
    config = toy_config(iterations=2, evaluation_queries=4, trackers="tensorboard")
    train(config, console=QUIET)
    folder = RunFolder(config.run_folder)
    assert {*folder.entries()} == {*config.run_folder.iterdir()}
    assert folder.tensorboard_path in folder.entries()


def test_what_a_tracker_of_the_users_writes_is_replaced_with_its_run(toy_config):
    config = toy_config(iterations=1)
    train(config, console=QUIET)
    table = RunFolder(config.run_folder).trackers_path / "csv" / "metrics.csv"
    table.parent.mkdir(parents=True)
    table.write_text("")
    train(config, overwrite=True, console=QUIET)
    assert not table.exists()


def test_adapters_that_a_killed_run_left_behind_are_replaced_with_it(toy_config):
    config = toy_config(iterations=1)
    train(config, console=QUIET)
    folder = RunFolder(config.run_folder)
    (folder.adapters_path(1) / "llm_0-1").mkdir(parents=True)
    train(config, overwrite=True, console=QUIET)
    assert not folder.adapters_path(1).exists()
    assert folder.is_finished(config)


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
    config = toy_config(task="imdb", handover="value")
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    argv = ["train", "imdb", "--resume", "--out", str(folder), "--preset"]
    assert main([*argv, "nosuch"]) == 2
    assert "'nosuch'" in capsys.readouterr().err
    assert main([*argv, "imdb-individual"]) == 2
    assert "Expected reward_sharing='collective' as in the run to resume, got 'individual'" in (
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
