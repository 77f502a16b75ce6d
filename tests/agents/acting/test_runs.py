"""Runs in environments of others, as a user starts them: files, going on, evaluating, playing."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from agents.cli.main import main
from agents.records.folder import RunFolder
from tests.agents.environments import worlds

WORLDS = str(Path(worlds.__file__))
QUICK = ["--model", "tiny", "--adapter", "full", "--episodes", "4", "--minibatch-size", "8"]
QUICK += ["--epochs", "2", "--save-every", "2", "--sample-every", "2", "--evaluation-episodes", "4"]
MATCH = ["train", "--env", "gym:Match-v0", "--describe", WORLDS, "--actions", "a,b,c,d", *QUICK]
COUNT = ["train", "--env", f"pettingzoo:{WORLDS}", "--describe", WORLDS, "--actions", "one,two"]
COUNT += [*QUICK, "--swap-every", "1"]
ECHO = ["train", "--env", "gym:Echo-v0", "--import", WORLDS, "--max-new-tokens", "3", *QUICK]


@pytest.fixture(autouse=True)
def _own_state(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("agents.config.plugins._own", [])


def run(argv, out, *more) -> RunFolder:
    assert main([*argv, "--out", str(out), *more]) == 0
    return RunFolder(out)


def last_state(folder: RunFolder):
    path = folder.checkpoints()[-1]
    meta = json.loads((path / "state.json").read_text())
    del meta["ledger"]["seconds"]
    return load_file(path / "state.safetensors"), meta


POOL = [*COUNT, "--swap-every", "2", "--partners", "pool:2"]


@pytest.mark.parametrize(
    "argv", [MATCH, COUNT, ECHO, POOL], ids=["gym", "pettingzoo", "texts", "pool"]
)
def test_a_run_that_was_resumed_is_the_run_that_was_not(argv, tmp_path, capsys):
    whole = run(argv, tmp_path / "whole", "--iterations", "4")
    run(argv, tmp_path / "parts", "--iterations", "2")
    parts = run(argv, tmp_path / "parts", "--iterations", "4", "--resume")
    (tensors, meta), (again, meta_again) = last_state(whole), last_state(parts)
    assert meta == meta_again
    assert tensors.keys() == again.keys()
    assert all(torch.equal(tensor, again[key]) for key, tensor in tensors.items())
    rows, rows_again = whole.read_metrics(), parts.read_metrics()
    timed = ("seconds", "per_second", "seconds_total", "per_second_played")
    for row, other in zip(rows, rows_again, strict=True):
        assert {k: v for k, v in row.items() if not k.endswith(timed)} == {
            k: v for k, v in other.items() if not k.endswith(timed)
        }
    assert whole.read_samples() == parts.read_samples()
    evaluations = [f.read_evaluation() for f in (whole, parts)]
    assert evaluations[0] == evaluations[1]


def test_the_files_are_those_of_any_run(tmp_path, capsys):
    folder = run(COUNT, tmp_path / "count", "--iterations", "3")
    assert "Tokens of the actions: one 4, two 4." in capsys.readouterr().out
    config = folder.read_env_config()
    assert config.env == f"pettingzoo:{WORLDS}"
    assert "gym:ID" not in folder.config_path.read_text()
    rows = folder.read_metrics()
    assert [row["llm_0/role"] for row in rows] == ["agent_0", "agent_1", "agent_0"]
    for row in rows:
        for name in ("llm_0", "llm_1"):
            for key in ("task_reward", "kl", "entropy", "explained_variance", "positive"):
                assert isinstance(row[f"{name}/{key}"], float)
    steps = [sum(row[f"llm_{n}/response_length"] for n in range(2)) * 4 for row in rows]
    assert np.cumsum(steps).tolist() == [row["responses_total"] for row in rows]
    assert [p.name for p in folder.final_policies()] == ["llm_0", "llm_1"]
    names = [row["name"] for row in folder.read_evaluation()["rows"]]
    assert names[:2] == ["llm_0 as agent_0", "llm_0 as agent_1"]
    against = [f"llm_{n} as agent_{m}, against reference" for n in range(2) for m in range(2)]
    assert names[-6:-2] == against
    assert names[-2:] == ["llm_0 as agent_0, together", "llm_1 as agent_1, together"]
    page = folder.report_path.read_text()
    assert f"pettingzoo:{WORLDS}" in page
    assert "4 episodes a row" in page
    sample = folder.read_samples()[0]
    assert (sample["query"], sample["role"]) == ("5 left:", "agent_0")
    assert sample["response"] in ("one", "two")


def test_who_plays_as_a_snapshot_does_not_learn(tmp_path, capsys):
    folder = run(POOL, tmp_path / "pool", "--iterations", "6", "--save-every", "1", "--keep", "9")
    states = [load_file(path / "state.safetensors") for path in folder.checkpoints()]

    def moved(name: str, iteration: int) -> bool:
        before, after = states[iteration - 1], states[iteration]
        keys = [key for key in after if key.startswith(f"policy/{name}/")]
        return any(not torch.equal(before[key], after[key]) for key in keys)

    assert [moved("llm_0", n) for n in range(1, 6)] == [True, True, False, True, False]
    assert [moved("llm_1", n) for n in range(1, 6)] == [True, False, True, False, True]
    rows = folder.read_metrics()
    assert [row["llm_0/role"] for row in rows] == ["agent_0"] * 2 + ["agent_1"] * 2 + [
        "agent_0"
    ] * 2
    assert "llm_1/kl" not in rows[2]
    assert "llm_1/kl" in rows[3]
    kept = {key for key in states[-1] if key.startswith("partner/llm_0/")}
    assert {key.split("/")[2] for key in kept} == {"0", "1"}
    key = next(key.removeprefix("partner/llm_0/0/") for key in kept if "llm_0/0/" in key)
    # Of six iterations three snapshots were made, the last two of which are kept.
    for place, iteration in (("0", 3), ("1", 5)):
        snapshot = states[-1][f"partner/llm_0/{place}/{key}"]
        assert torch.equal(snapshot, states[iteration][f"policy/llm_0/{key}"])


def test_a_run_is_evaluated_again_and_its_page_written_again(tmp_path, capsys):
    folder = run(MATCH, tmp_path / "match", "--iterations", "2")
    first = folder.read_evaluation()
    assert main(["evaluate", str(folder), "--episodes", "4"]) == 0
    assert folder.read_evaluation() == first
    assert [row["name"] for row in first["rows"]] == ["llm_0", "reference", "random"]
    assert main(["evaluate", str(folder), "--episodes", "6", "--seed", "3"]) == 0
    assert folder.read_evaluation()["episodes"] == 6
    folder.report_path.unlink()
    assert main(["report", str(folder)]) == 0
    assert folder.report_path.is_file()


def test_help_lists_fields_and_what_to_do_with_a_run(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--env", "gym:X", "--help"])
    shown = capsys.readouterr().out
    assert all(flag in shown for flag in ("--describe", "--partners", "--resume", "--import"))


def test_a_person_takes_a_seat(tmp_path, capsys, monkeypatch):
    folder = run(COUNT, tmp_path / "count", "--iterations", "1")
    answers = "three\none\none\none\none\none\nq\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(answers))
    capsys.readouterr()
    assert main(["play", str(folder), "--seat", "agent_1", "--seed", "0"]) == 0
    shown = capsys.readouterr().out
    assert "You are agent_1" in shown
    assert "Expected an action (one, two), got 'three'" in shown
    assert "agent_0 has earned" in shown
    assert "on average" in shown


def test_actions_are_learnt(tmp_path, capsys):
    quick = ["--episodes", "32", "--minibatch-size", "48", "--epochs", "4", "--max-step-kl", "0.1"]
    quick += ["--learning-rate", "1e-2", "--evaluation-episodes", "0", "--iterations", "12"]
    for seed in ("0", "1"):
        folder = run(MATCH, tmp_path / seed, *quick, "--seed", seed)
        rewards = [row["llm_0/task_reward"] for row in folder.read_metrics()]
        assert rewards[0] < 1.5  # of 3; 0.75 by chance
        assert max(rewards[-3:]) > 2.5


def test_writing_is_learnt(tmp_path, capsys):
    quick = ["--episodes", "64", "--minibatch-size", "64", "--epochs", "4", "--max-step-kl", "0.2"]
    quick += ["--learning-rate", "1e-2", "--evaluation-episodes", "0", "--iterations", "20"]
    for seed in ("0", "1"):
        folder = run(ECHO, tmp_path / seed, *quick, "--max-new-tokens", "1", "--seed", seed)
        rewards = [row["llm_0/task_reward"] for row in folder.read_metrics()]
        assert rewards[0] < 0.2  # one of 97 characters is right
        assert max(rewards) > 0.45


def test_a_run_that_fails_is_saved_and_says_so_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(worlds.Match, "fault", "", raising=False)
    calls = []
    step = worlds.Match.step

    def failing(self, action):
        calls.append(action)
        if len(calls) > 4 * 3 * 3 + 5 + 6:  # in the fourth iteration; samples are of three actions
            raise RuntimeError("gone")
        return step(self, action)

    monkeypatch.setattr(worlds.Match, "step", failing)
    argv = [*MATCH, "--out", str(tmp_path / "run"), "--iterations", "9", "--save-every", "99"]
    assert main(argv) == 2
    assert capsys.readouterr().err == (
        "error: Expected gym:Match-v0 to play on, got RuntimeError: gone.\n"
    )
    folder = RunFolder(tmp_path / "run")
    assert folder.iterations_done() == len(folder.read_metrics()) == 3
    monkeypatch.setattr(worlds.Match, "step", step)
    run(argv, tmp_path / "run", "--resume")
    whole = run(MATCH, tmp_path / "whole", "--iterations", "9", "--save-every", "99")
    (tensors, _), (again, _) = last_state(folder), last_state(whole)
    assert all(torch.equal(tensor, again[key]) for key, tensor in tensors.items())


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["train", "--env", "gym:Match-v0", "--describ", "x"], "did you mean --describe?"),
        ([*MATCH, "--actions", "a,b"], "Expected 4 texts for the actions of gym:Match-v0, got 2"),
        ([*MATCH, "--max-steps", "0"], "Expected max_steps to be at least 1 or None, got 0."),
        ([*COUNT, "--partners", "pool:0"], "try --partners pool:5."),
        ([*COUNT, "--partners", "pool:2"], "swap_every of at least 2 with a pool, got 1"),
        ([*MATCH, "--model", "tinny"], "did you mean tiny?"),
        ([*MATCH, "--resume"], "to resume"),
        (["train", "toy", "--out", "{run}", "--resume"], "one in the environment gym:Match-v0"),
        (["play", "{run}", "--seat", "agent_7"], "Expected a --seat (agent_0), got 'agent_7'"),
        (["evaluate", "{run}", "--episodes", "0"], "Expected at least 1 episode, got 0."),
        ([*MATCH, "--out", "{run}"], "Expected a new folder, got the run"),
        ([*MATCH, "--out", "{run}", "--resume", "--gamma", "0.5"], "Expected gamma=0.99 as in the"),
    ],
)
def test_mistakes_cost_one_line(argv, line, tmp_path, capsys):
    made = tmp_path / "run"
    if any("{run}" in word for word in argv):
        run(MATCH, made, "--iterations", "1", "--evaluation-episodes", "0")
    argv = [word.replace("{run}", str(made)) for word in argv]
    before = sorted(tmp_path.rglob("*"))
    if "--out" not in argv and argv[0] == "train":
        argv += ["--out", str(tmp_path / "new")]
    assert main(argv) == 2
    found = capsys.readouterr().err
    assert line in found
    assert found.count("\n") == 1
    assert [p for p in sorted(tmp_path.rglob("*")) if "state" not in p.parts] == [
        p for p in before if "state" not in p.parts
    ]
