"""The loop: deterministic, resumable to the bit, and it leaves a whole run folder."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from agents import load_policy
from agents.algorithms import ALGORITHMS
from agents.errors import DivergenceError
from agents.evaluation.finished import evaluate
from agents.parts import build_reward
from agents.records.checkpoint import load_checkpoint
from agents.records.folder import RunFolder
from agents.records.rows import read_metrics
from agents.training.loop import train
from agents.training.trainer import Trainer
from cory_env import RewardError
from tests.trajectories import timeless

QUIET = Console(quiet=True)
KEYS = (
    *("role", "task_reward", "kl", "combined_reward", "entropy", "response_length", "distinct_2"),
    *("clip_fraction", "approx_kl", "explained_variance", "kl_coef"),
)


def final_state(config):
    return load_checkpoint(RunFolder(config.run_folder).checkpoints()[-1])


def assert_same_state(found, expected):
    assert timeless(found[1]) == timeless(expected[1])
    assert found[0].keys() == expected[0].keys()
    differing = [key for key in found[0] if not torch.equal(found[0][key], expected[0][key])]
    assert not differing


def game_options(algorithm: str) -> dict:
    options = {"algorithm": algorithm, "observers": 0 if algorithm == "ppo" else 1}
    return {**options, **ALGORITHMS.find(algorithm).smoke}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_two_plus_resume_plus_two_iterations_equal_four_bit_for_bit(
    tmp_path, toy_config, algorithm, adapter
):
    options = {"adapter": adapter, "kl_target": 1.0, **game_options(algorithm)}
    parts, whole = assert_resuming_is_exact(toy_config, tmp_path, **options)
    rows, expected = (read_metrics(c.run_folder / "metrics.jsonl") for c in (parts, whole))
    assert list(map(timeless, rows)) == list(map(timeless, expected))


def assert_resuming_is_exact(toy_config, tmp_path, *, stop: int = 2, **options):
    """Run a configuration whole, and in two parts: the ends are the same to the bit."""
    whole = toy_config(out=str(tmp_path / "whole"), **options)
    parts = toy_config(out=str(tmp_path / "parts"), **options)
    train(whole, console=QUIET)
    train(parts.replace(iterations=stop), console=QUIET)
    train(parts, resume=True, console=QUIET)
    assert_same_state(final_state(parts), final_state(whole))
    return parts, whole


@pytest.mark.parametrize("body", ["policy", "own"])
@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize("algorithm", ["mappo", "ippo"])
def test_resuming_is_exact_whatever_the_critic_reads(
    tmp_path, toy_config, body, adapter, algorithm
):
    parts, _ = assert_resuming_is_exact(
        toy_config, tmp_path, adapter=adapter, critic_body=body, algorithm=algorithm
    )
    critics = {"mappo": {"critic"}, "ippo": {"critic_llm_0", "critic_llm_1"}}[algorithm]
    assert {p.name for p in (parts.run_folder / "final").iterdir()} == {"llm_0", "llm_1", *critics}


@pytest.mark.parametrize("algorithm", ["mappo", "ippo", "grpo", "reinforce++"])
@pytest.mark.parametrize("normalization", ["constant", "token", "sequence"])
def test_microbatches_change_nothing_but_rounding(toy_config, algorithm, normalization):
    states = []
    for size in (None, 1, 3):
        options = {"algorithm": algorithm, "normalization": normalization}
        trainer = Trainer(toy_config(microbatch_size=size, **options))
        trainer.iterate(0)
        states.append({key: tensor.clone() for key, tensor in trainer.state()[0].items()})
    learnt = [key for key in states[0] if key.startswith(("policy/", "critic/"))]
    for other in states[1:]:
        for key in learnt:
            # Adam's first step is the learning rate times the sign of the gradient: where that is
            # nothing but rounding, a weight may go the other way.
            differing = (other[key] - states[0][key]).abs() > 1e-6
            assert differing.float().mean() < 0.02, key


def test_another_seed_gives_another_run(toy_config):
    entropies = [Trainer(toy_config(seed=seed)).iterate(0)["llm_0/entropy"] for seed in (0, 0, 1)]
    assert entropies[0] == entropies[1] != entropies[2]


def test_global_random_state_is_neither_read_nor_written(toy_config):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = Trainer(toy_config()).iterate(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second = Trainer(toy_config()).iterate(0)
    assert first["llm_1/entropy"] == second["llm_1/entropy"]


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_a_run_folder_holds_what_it_should(toy_config, adapter):
    config = toy_config(adapter=adapter, evaluation_queries=16)
    run = train(config, console=QUIET)
    names = {p.name for p in run.folder.iterdir()}
    written = {
        "config.json",
        "metrics.jsonl",
        "samples.jsonl",
        "evaluation.json",
        "report.html",
    } | {"histograms.jsonl", "provenance.json"}
    assert names == written | {"checkpoints", "final"}
    assert [row["iteration"] for row in run.metrics] == [0, 1, 2, 3]
    assert {f"llm_{i}/{key}" for i in (0, 1) for key in KEYS} <= run.metrics[0].keys()
    assert run.metrics[2]["llm_0/combined_reward"] == pytest.approx(
        run.metrics[2]["llm_0/task_reward"] - 0.1 * run.metrics[2]["llm_0/kl"]
    )
    assert [p.name for p in RunFolder(run.folder).checkpoints()] == ["step_2", "step_4"]
    assert {p.name for p in (run.folder / "final").iterdir()} == {"llm_0", "llm_1", "critic"}
    names = [row["name"] for row in run.evaluation["rows"]]
    assert names[:4] == ["reference", "llm_0", "llm_1", "team"]
    assert names[4:] == ["llm_1 after llm_0", "llm_0 after llm_1"]
    assert run.evaluation["rows"][0]["kl"] == pytest.approx((0, 0, 0), abs=1e-5)


def test_a_run_can_be_evaluated_again_with_the_same_figures(toy_config):
    run = train(toy_config(evaluation_queries=16), console=QUIET)
    again = evaluate(run.folder, num_queries=16)
    for row, before in zip(again["rows"], run.evaluation["rows"], strict=True):
        # asked for by itself, it also says how the policy does greedily
        assert {key: row[key] for key in before} == before
    assert {**again, "rows": []} == {**run.evaluation, "rows": []}
    assert json.loads((run.folder / "evaluation.json").read_text())["num_queries"] == 16


def test_a_final_policy_answers_like_the_trained_one(toy_config):
    config = toy_config()
    run = train(config, console=QUIET)
    trainer = Trainer(config)
    trainer.load_state(*final_state(config))
    found = load_policy(run.folder / "final" / "llm_1", dtype="float32").generate(
        ["abc>", "hgf>"], max_new_tokens=3, greedy=True
    )
    expected = trainer.policies["llm_1"].generate(["abc>", "hgf>"], max_new_tokens=3, greedy=True)
    assert found.texts == expected.texts


def test_an_interrupt_finishes_the_iteration_saves_and_resumes_to_the_same_end(
    tmp_path, toy_config, monkeypatch
):
    whole = toy_config(out=str(tmp_path / "whole"))
    train(whole, console=QUIET)
    cut = toy_config(out=str(tmp_path / "cut"))
    original = Trainer.iterate

    def interrupted(self, iteration):
        if iteration == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, iteration)

    monkeypatch.setattr(Trainer, "iterate", interrupted)
    run = train(cut, console=QUIET)
    assert run.interrupted
    assert [p.name for p in RunFolder(cut.run_folder).checkpoints()] == [
        "step_2",
        "step_3",
    ]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.setattr(Trainer, "iterate", original)
    assert not train(cut, resume=True, console=QUIET).interrupted
    assert_same_state(final_state(cut), final_state(whole))


def test_mappo_with_one_seat_reads_what_ippo_reads(toy_config):
    rows = []
    for algorithm in ("mappo", "ippo"):
        trainer = Trainer(toy_config(algorithm=algorithm, observers=0))
        trainer.iterate(0)
        rows.append(trainer.iterate(1))
    assert timeless(rows[0]) == timeless(rows[1])


def test_a_failing_reward_stops_the_run_and_names_the_example(toy_config, monkeypatch):
    config = toy_config(iterations=3, save_every=1)
    trainer_type = Trainer.iterate

    def broken(examples, responses):
        raise ZeroDivisionError("no words")

    def iterate(self, iteration):
        if iteration == 1:
            object.__setattr__(self.games.rules, "reward", broken)
        return trainer_type(self, iteration)

    monkeypatch.setattr(Trainer, "iterate", iterate)
    with pytest.raises(RewardError, match=r"ZeroDivisionError.*Example\(query="):
        train(config, console=QUIET)
    assert [p.name for p in RunFolder(config.run_folder).checkpoints()] == ["step_1"]


def poisoned(trainer, policy="llm_0"):
    """Let a policy's loss be no number from now on."""
    loss = trainer.algorithm.loss

    def poison(name, batch, totals):
        output = loss(name, batch, totals)
        factor = float("nan") if name == policy else 1.0
        return replace(output, loss=output.loss * factor)

    trainer.algorithm.loss = poison


def test_an_update_without_a_finite_loss_is_skipped_and_counted(toy_config):
    trainer = Trainer(toy_config())
    trainer.iterate(0)
    poisoned(trainer)
    before = {key: t.clone() for key, t in trainer.policies["llm_0"].parameters().items()}
    row = trainer.iterate(1)
    assert (row["llm_0/skipped"], row["llm_1/skipped"]) == (1.0, 0.0)
    after = trainer.policies["llm_0"].parameters()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert trainer.learner.skipped_in_a_row == {"llm_0": 2, "llm_1": 0}


def test_ten_updates_in_a_row_without_one_stop_the_run_with_a_checkpoint(toy_config, monkeypatch):
    config = toy_config(iterations=50, save_every=100)
    build = Trainer.__init__

    def build_poisoned(self, config, world):
        build(self, config, world)
        poisoned(self)

    monkeypatch.setattr(Trainer, "__init__", build_poisoned)
    with pytest.raises(DivergenceError, match="10 updates in a row"):
        train(config, console=QUIET)
    # two updates an iteration
    assert [p.name for p in RunFolder(config.run_folder).checkpoints()] == ["step_5"]


@pytest.mark.parametrize("algorithm", ["mappo", "grpo"])
def test_a_run_stopped_by_its_reward_goes_on_where_it_was(tmp_path, toy_config, algorithm):
    whole = toy_config(out=str(tmp_path / "whole"), algorithm=algorithm)
    parts = toy_config(out=str(tmp_path / "parts"), algorithm=algorithm, save_every=100)
    train(whole, console=QUIET)
    calls = []

    def breaks(config, task):
        reward = build_reward(config, task)

        def score(examples, responses):
            calls.append(len(responses))
            if len(responses) == 2 * 8 and calls.count(16) == 3:
                raise ZeroDivisionError
            return reward(examples, responses)

        return score

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.parts.build_reward", breaks)
        with pytest.raises(RewardError, match="ZeroDivisionError"):
            train(parts, console=QUIET)
    train(parts, resume=True, console=QUIET)
    assert_same_state(final_state(parts), final_state(whole))


def test_a_checkpoint_of_another_model_is_refused(toy_config):
    small = Trainer(toy_config())
    tensors, meta = small.state()
    name = next(key for key in tensors if key.startswith("policy/"))
    with pytest.raises(ValueError, match="Expected a checkpoint of this model"):
        small.load_state({**tensors, name: torch.zeros(1)}, meta)


def steps_taken(trainer: Trainer, policy: str) -> int:
    states = trainer.learner.optimizers[policy].state.values()
    return max((int(state["step"]) for state in states), default=0)


def test_an_exchange_keeps_optimizers_coefficients_and_moments(toy_config):
    trainer = Trainer(toy_config(swap_every=2, kl_target=1e-9, reward_scaling="std"))
    counts = []
    for iteration in range(3):
        trainer.iterate(iteration)
        counts.append(steps_taken(trainer, "llm_0"))
    assert counts == [2, 4, 6]
    assert trainer.algorithm.reward_moments["llm_0"].count == 24, "8 episodes at a time"
    # There is no KL in the first iteration, and too much in all that follow.
    down, up = 1 - 0.2 * 8 / 10_000, 1 + 0.2 * 8 / 10_000
    assert trainer.controllers["llm_0"].coef == pytest.approx(0.1 * down * up**2, rel=1e-9)


def test_what_the_model_itself_samples_it_scores_alike(toy_config):
    run = train(toy_config(), console=QUIET)
    assert run.metrics[0]["llm_0/sampler_gap"] < 1e-5


def test_metrics_change_nothing_and_each_iteration_steps_the_kl_coefficient_once(toy_config):
    trainer = Trainer(toy_config(kl_target=1.0))
    rollout = trainer.collect(trainer.assign(0))
    prepared = trainer.prepare(rollout)
    learned = {name: {} for name in trainer.policies}
    first, second = (trainer.row(rollout, prepared, learned) for _ in range(2))
    assert first == second
    expected = {name: replace(c) for name, c in trainer.controllers.items()}
    row = trainer.iterate(0)
    for name, controller in expected.items():
        assert row[f"{name}/kl_coef"] == controller.coef  # what the iteration has learnt with
        controller.update(row[f"{name}/kl"], trainer.config.batch_size)
        assert trainer.controllers[name].coef == controller.coef != row[f"{name}/kl_coef"]
