"""What a run has cost: counted by hand, by what is asked of model and reward, and over its life."""

from __future__ import annotations

import json
from dataclasses import asdict
from io import StringIO

import pytest
import torch
from rich.console import Console

from agents.config.budget import Budget
from agents.ledger import Costs, Ledger, total_of
from agents.records.checkpoint import load_checkpoint, save_checkpoint
from agents.records.folder import RunFolder
from agents.records.rows import costs
from agents.training.loop import train
from agents.training.trainer import Trainer
from tests.trajectories import timeless

QUIET = Console(quiet=True)


def test_processes_add_up_and_the_slowest_gives_the_time():
    ledger = Ledger()
    ledger.settle([(8, 20, 8, 40, 0, 1.5), (8, 21, 8, 42, 0, 2.0)])
    ledger.settle([(1, 2, 3, 4, 0, 0.5), (0, 0, 0, 0, 0, 0.25)])
    expected = Costs(responses=17, tokens=43, reward_calls=19, update_tokens=86, seconds=2.5)
    assert ledger.totals == expected
    row = {total_of(name): value for name, value in asdict(expected).items()}
    assert ledger.row() == {name: value for name, value in row.items() if "judge" not in name}
    judged = Ledger()
    judged.settle([(0, 0, 0, 0, 5, 0.0), (0, 0, 0, 0, 2, 0.0)])
    assert judged.row()["judge_tokens_total"] == 7
    assert costs([{}, ledger.row()]) == expected
    assert costs([ledger.row(), {}]) is None
    assert costs([]) is None


def test_what_is_added_counts_once():
    ledger = Ledger()
    ledger.add(responses=2, tokens=5)
    ledger.add(tokens=1)
    for _ in range(2):
        ledger.settle([ledger.here])
    assert ledger.totals == Costs(responses=2, tokens=6)
    with pytest.raises(KeyError):
        ledger.add(response=1)


@pytest.mark.parametrize(("algorithm", "observers"), [("mappo", 1), ("grpo", 2), ("ppo", 0)])
def test_a_run_counts_what_is_asked_of_its_policies_and_of_the_reward(
    toy_config, algorithm, observers
):
    options = {"algorithm": algorithm, "observers": observers, "epochs": 3, "iterations": 2}
    trainer = Trainer(toy_config(**options))
    rules, scored, drawn = trainer.games.rules, [], []
    reward, prepare = rules.reward, trainer.prepare

    def counted_reward(examples, responses):
        scored.append(len(responses))
        return reward(examples, responses)

    def watched_prepare(rollout, explored):
        drawn.append(rollout)
        return prepare(rollout, explored)

    object.__setattr__(rules, "reward", counted_reward)
    trainer.prepare = watched_prepare
    rows = [trainer.iterate(iteration) for iteration in range(2)]
    tokens = [sum(int(t.tokens.response_mask.sum()) for t in rollout.turns) for rollout in drawn]
    agents = observers + 1
    for count, row in enumerate(rows, start=1):
        assert row["responses_total"] == count * 8 * agents
        assert row["tokens_total"] == sum(tokens[:count])
        assert row["update_tokens_total"] == 3 * sum(tokens[:count])  # three epochs
        assert row["seconds_total"] == pytest.approx(sum(r["seconds"] for r in rows[:count]))
    assert rows[-1]["reward_calls_total"] == sum(scored)


def test_a_step_kl_that_ends_an_update_early_costs_less(toy_config):
    row = Trainer(toy_config(epochs=3, max_step_kl=1e-12, learning_rate=0.1)).iterate(0)
    assert row["update_tokens_total"] == row["tokens_total"]


def test_evaluation_and_samples_are_not_of_training_and_a_resumption_goes_on(toy_config, tmp_path):
    plain = train(toy_config(), console=QUIET).metrics[-1]
    options = {"evaluation_queries": 16, "sample_every": 1, "out": str(tmp_path / "other")}
    train(toy_config(**options, iterations=3), console=QUIET)
    rows = train(toy_config(**options), resume=True, console=QUIET).metrics
    for name in ("responses", "tokens", "reward_calls", "update_tokens"):
        assert rows[-1][total_of(name)] == plain[total_of(name)] > 0
    assert rows[-1]["seconds_total"] == pytest.approx(sum(row["seconds"] for row in rows))
    assert "64 responses of " in (tmp_path / "other/report.html").read_text()
    assert "64 responses of " in (tmp_path / "other/final/llm_0/README.md").read_text()


def test_a_run_that_was_begun_without_a_ledger_goes_on_without_one(toy_config):
    config = toy_config(iterations=2)
    folder = RunFolder(train(config, console=QUIET).folder)
    tensors, meta = load_checkpoint(folder.checkpoints()[-1])
    del meta["ledger"]
    save_checkpoint(folder, 2, tensors, meta, 1)
    rows = train(config.replace(iterations=3), resume=True, console=QUIET).metrics
    assert rows[-1]["tokens_total"] is None
    assert costs(rows) is None
    assert "costs unknown" in folder.report_path.read_text()
    assert load_checkpoint(folder.checkpoints()[-1])[1]["ledger"] == {}
    assert json.loads(folder.metrics_path.read_text().splitlines()[-1])["seconds_total"] is None


def test_a_budget_plans_by_what_iterations_have_cost():
    budget = Budget.of("tokens=100")
    assert [budget.planned(3, {"tokens_total": spent}) for spent in (30, 99, 100, 130)] == [
        *(10, 4, 3, 3)
    ]
    assert Budget.of("seconds = 1e3") == Budget("seconds", 1000.0)
    # Iterations that all cost 7 end after ⌈100 / 7⌉ of them, as is known from the first one on.
    assert {budget.planned(done, {"tokens_total": 7 * done}) for done in range(1, 16)} == {15}
    for wrong in ("tokens", "tokens=", "tokens=0", "tokens=-1", "tokens=nan", "tokens=1=1", "x=1"):
        with pytest.raises(ValueError, match="Expected a budget"):
            Budget.of(wrong)


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_a_run_ends_with_the_iteration_that_spends_its_budget(toy_config, tmp_path, schedule):
    options = {"observers": 0, "algorithm": "ppo", "schedule": schedule}
    plain = toy_config(**options, iterations=3, out=str(tmp_path / "plain"))
    budgeted = toy_config(**options, iterations=99, budget="responses=20")
    runs = [train(config, console=QUIET) for config in (plain, budgeted)]
    assert [len(run.metrics) for run in runs] == [3, 3]  # of 8 responses each
    states = [load_checkpoint(RunFolder(run.folder).checkpoints()[-1]) for run in runs]
    assert timeless(states[0][1]) == timeless(states[1][1])
    assert all(torch.equal(states[0][0][key], states[1][0][key]) for key in states[0][0])
    folder = RunFolder(budgeted.run_folder)
    assert folder.is_finished(budgeted)
    assert "3 iterations" in folder.report_path.read_text()
    assert "of 99" not in folder.report_path.read_text()
    assert not folder.is_finished(budgeted.replace(budget="responses=25"))


def test_a_run_goes_on_with_a_larger_budget_as_if_it_had_been_there_from_the_start(
    toy_config, tmp_path
):
    whole = toy_config(budget="tokens=150", out=str(tmp_path / "whole"))
    rows = train(whole, console=QUIET).metrics
    assert rows[-1]["tokens_total"] >= 150 > rows[-2]["tokens_total"]
    parts = toy_config(budget="tokens=60")
    assert len(train(parts, console=QUIET).metrics) < len(rows)
    longer = train(parts.replace(budget="tokens=150"), resume=True, console=QUIET).metrics
    assert list(map(timeless, longer)) == list(map(timeless, rows))
    console = Console(record=True, quiet=False, width=200, file=StringIO())
    train(parts.replace(budget="tokens=150"), resume=True, console=console)
    assert "more --budget to go on" in console.export_text()


def test_a_run_that_has_not_counted_is_refused_a_budget(toy_config):
    config = toy_config(iterations=2)
    folder = RunFolder(train(config, console=QUIET).folder)
    tensors, meta = load_checkpoint(folder.checkpoints()[-1])
    save_checkpoint(folder, 2, tensors, {**meta, "ledger": {}}, 1)
    kept = [
        {key: value for key, value in row.items() if not key.endswith("_total")}
        for row in folder.read_metrics()
    ]
    folder.metrics_path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    with pytest.raises(ValueError, match="Expected a run that counts its tokens"):
        train(config.replace(budget="tokens=500"), resume=True, console=QUIET)
