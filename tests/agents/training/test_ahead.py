"""Batches that are asked for one iteration before they are learnt from."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch
from rich.console import Console

from agents.engines.start import make_engine
from agents.engines.vllm_server import VLLMServerEngine
from agents.policies.llm import response_hidden
from agents.records.folder import RunFolder
from agents.rollouts.collect import collect, draw_examples
from agents.training.loop import train
from agents.training.trainer import Trainer
from cory_env import RewardError
from tests.agents.engines.test_engines import (
    FLOAT32,
    fake,  # noqa: F401
    server_config,  # noqa: F401
    tiny_folder,  # noqa: F401
    url,  # noqa: F401
)
from tests.agents.training.test_trainer import (
    assert_resuming_is_exact,
    assert_same_state,
    final_state,
)
from tests.trajectories import timeless

QUIET = Console(quiet=True)
FAST = {"learning_rate": 0.05, "batch_size": 16, "minibatch_size": 8}
"""Weights that move so far in one iteration that a batch shows whose it is."""


def weights_of(trainer: Trainer) -> dict[str, dict[str, torch.Tensor]]:
    return {
        name: {key: p.detach().clone() for key, p in policy.parameters().items()}
        for name, policy in trainer.policies.items()
    }


@torch.no_grad()
def give(trainer: Trainer, weights) -> None:
    for name, policy in trainer.policies.items():
        for key, parameter in policy.parameters().items():
            parameter.copy_(weights[name][key])


def lagging(trainer: Trainer, iterations: int) -> None:
    """Train by hand with batches of the weights of one iteration before, without any `Order`."""
    games, config = trainer.games, trainer.config

    def drawn(iteration):
        seats = trainer.assign(iteration)
        examples = draw_examples(
            games.rules.task, trainer.queries, config.batch_size, config.algorithm_config.group_size
        )
        shape = config.batch_size, games.rules.max_new_tokens
        uniforms = {
            role: torch.rand(*shape, dtype=torch.float64, generator=trainer.generators[name])
            for role, name in seats.items()
        }
        return seats, examples, uniforms, weights_of(trainer)

    wanted = drawn(0)
    for iteration in range(iterations):
        seats, examples, uniforms, then = wanted
        now = weights_of(trainer)
        give(trainer, then)
        players = {role: trainer.policies[name] for role, name in seats.items()}
        rollout = collect(games, players, uniforms, examples=examples)
        explored = trainer.explore(rollout, iteration)
        give(trainer, now)
        wanted = drawn(iteration + 1)
        prepared = trainer.prepare(rollout, explored)
        trainer.steer(
            rollout, trainer.row(rollout, prepared, trainer.learn(rollout, prepared, iteration))
        )


@pytest.mark.parametrize(
    "options",
    [
        {"adapter": "lora", "handover": "value", "epochs": 2},
        {"algorithm": "grpo", "group_size": 4, "kl_target": 1.0},
        {"algorithm": "vine", "segment": "tokens:1", "k": 2},
    ],
    ids=lambda options: options.get("algorithm", "mappo"),
)
def test_a_batch_is_of_the_weights_of_one_iteration_before(toy_config, options):
    config = toy_config(**FAST, **options, rollout_ahead=1, importance_cap=1.5)
    found, expected = Trainer(config), Trainer(config)
    for iteration in range(3):
        found.iterate(iteration)
    lagging(expected, 3)
    for name, weights in weights_of(expected).items():
        for key, tensor in weights.items():
            assert torch.equal(tensor, found.policies[name].parameters()[key].detach()), key


@torch.no_grad()
def log_probs(policy, tokens) -> torch.Tensor:
    """The log-probs of responses, by the whole distribution of every position."""
    hidden = response_hidden(policy.backbone, policy.adapter, tokens)
    every = policy.backbone.logits(policy.adapter, hidden).double().log_softmax(-1)
    return every.gather(-1, tokens.response_ids[..., None])[..., 0]


def test_tokens_weigh_the_present_probability_over_that_of_then_up_to_the_cap(toy_config):
    trainer = Trainer(toy_config(**FAST, rollout_ahead=1))
    learnt, capped = [], 0
    prepare = trainer.prepare
    trainer.prepare = lambda *given: learnt.append((given[0], prepare(*given))) or learnt[-1][1]
    before = weights_of(trainer)
    for iteration in range(4):
        now = weights_of(trainer)
        trainer.iterate(iteration)
        after = weights_of(trainer)
        rollout, turns = learnt[-1]
        for turn, prepared in zip(rollout.turns, turns, strict=True):
            policy, mask = trainer.policies[turn.policy], turn.tokens.response_mask
            give(trainer, now)
            present = log_probs(policy, turn.tokens)
            give(trainer, before)
            past = log_probs(policy, turn.tokens)
            expected = (present - past).exp().clamp(max=2.0).float()
            found = prepared.batch.weights
            # a difference of two sums in float32, exponentiated
            torch.testing.assert_close(found[mask], expected[mask], atol=1e-4, rtol=1e-4)
            capped += int((found[mask] == 2.0).sum())
            if iteration < 1:  # nobody has learnt in between
                assert float((found[mask] - 1).abs().max()) < 1e-4
            else:
                assert float((found[mask] - 1).abs().max()) > 0.05
        give(trainer, after)
        before = now
    assert capped, "no token has met the cap"


def test_the_cap_is_two_unless_something_else_is_said(toy_config):
    assert toy_config(rollout_ahead=1).algorithm_config.importance_cap == 2.0
    assert toy_config(rollout_ahead=1, importance_cap=4.0).algorithm_config.importance_cap == 4.0
    assert toy_config().algorithm_config.importance_cap is None
    with pytest.raises(ValueError, match="rollout_ahead to be between 0 and 1, got 2"):
        toy_config(rollout_ahead=2)


@pytest.mark.parametrize(
    "options",
    [
        {"adapter": "lora", "swap": "merge"},
        {"algorithm": "expert_iteration", "group_size": 4},
        {"algorithm": "vine", "segment": "tokens:1", "partners": "pool:2", "solo_share": 0.5},
    ],
    ids=["merge", "expert_iteration", "vine-pool"],
)
def test_resuming_is_exact(toy_config, tmp_path, options):
    assert_resuming_is_exact(toy_config, tmp_path, rollout_ahead=1, **options)


def test_an_interrupt_saves_what_was_asked_and_resumes_to_the_same_end(
    toy_config, tmp_path, monkeypatch
):
    whole = toy_config(out=str(tmp_path / "whole"), rollout_ahead=1, iterations=3)
    train(whole, console=QUIET)
    cut = toy_config(out=str(tmp_path / "cut"), rollout_ahead=1, iterations=3)
    learn = Trainer.learn

    def interrupted(self, rollout, prepared, iteration):
        if iteration == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return learn(self, rollout, prepared, iteration)

    monkeypatch.setattr(Trainer, "learn", interrupted)
    assert train(cut, console=QUIET).interrupted
    monkeypatch.setattr(Trainer, "learn", learn)
    assert not train(cut, resume=True, console=QUIET).interrupted
    assert_same_state(final_state(cut), final_state(whole))


def test_a_reward_that_fails_saves_what_was_asked_and_resumes_to_the_same_end(
    toy_config, tmp_path, monkeypatch
):
    whole = toy_config(out=str(tmp_path / "whole"), rollout_ahead=1, iterations=3)
    train(whole, console=QUIET)
    cut = toy_config(out=str(tmp_path / "cut"), rollout_ahead=1, iterations=3)
    prepare = Trainer.play

    def failing(self, iteration):
        if iteration == 2:
            raise RewardError("the reward has failed")
        return prepare(self, iteration)

    monkeypatch.setattr(Trainer, "play", failing)
    with pytest.raises(RewardError):
        train(cut, console=QUIET)
    monkeypatch.setattr(Trainer, "play", prepare)
    train(cut, resume=True, console=QUIET)
    assert_same_state(final_state(cut), final_state(whole))


# --- an engine that generates aside ---------------------------------------------------------------


def start(config) -> Trainer:
    trainer = Trainer(config)
    trainer.engine = make_engine(trainer.config, trainer.policies, trainer.games.rules, rank=0)
    return trainer


def test_the_engine_generates_while_the_learner_learns(server_config, fake):  # noqa: F811
    trainer = start(server_config(rollout_ahead=1))
    learning, generated, learn = threading.Event(), threading.Event(), trainer.learn
    trainer.iterate(0)
    assert trainer.ahead.answers.result()

    def fault(path: str, count: int) -> None:
        if path == "/v1/completions":
            assert learning.wait(60), "nobody learns while the server is asked"
            generated.set()

    def learnt(*given):
        learning.set()
        assert generated.wait(60), "the server is not asked while somebody learns"
        return learn(*given)

    fake.fault, trainer.learn = fault, learnt
    trainer.iterate(1)
    trainer.close()


def test_aside_or_not_the_same_is_learnt(server_config, fake, monkeypatch, tmp_path):  # noqa: F811
    configs = [server_config(rollout_ahead=1, out=str(tmp_path / name)) for name in "ab"]
    train(configs[0], console=QUIET)
    asked = len(fake.bodies("/v1/completions"))
    monkeypatch.setattr(VLLMServerEngine, "aside", False)
    train(configs[1], console=QUIET)
    assert_same_state(final_state(configs[1]), final_state(configs[0]))
    # the last batch of a run is for nobody, and is not generated
    assert asked == 4 * 8 * 2 == len(fake.bodies("/v1/completions")) - asked
    assert fake.present == {}


def test_what_is_sampled_aside_is_of_the_weights_it_was_asked_for(server_config):  # noqa: F811
    trainer = start(server_config(rollout_ahead=1))
    then = weights_of(trainer)
    trainer.iterate(0)
    rollout, _ = trainer.play(1)
    give(trainer, then)
    for turn in rollout.turns:
        found = log_probs(trainer.policies[turn.policy], turn.tokens).float()
        mask = turn.tokens.response_mask
        gaps = (found - turn.tokens.sampled_log_probs)[mask].abs()
        assert float(gaps.max()) < FLOAT32


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/load_lora_adapter"])
def test_a_server_that_dies_aside_ends_the_run_saved_and_it_goes_on_to_the_same_end(
    server_config,  # noqa: F811
    fake,  # noqa: F811
    tmp_path,
    path,
):
    options = {"rollout_ahead": 1, "iterations": 3, "save_every": 100}
    whole = server_config(out=str(tmp_path / "whole"), **options)
    parts = server_config(out=str(tmp_path / "parts"), **options)
    train(whole, console=QUIET)
    # in the second batch, while the first is learnt from; or when the third is asked for
    last = len(fake.bodies(path)) + (24 if path == "/v1/completions" else 5)

    def dies(at: str, count: int) -> None:
        if len(fake.bodies(path)) > last:
            raise ConnectionResetError

    fake.fault = dies
    with pytest.raises(Exception, match="Expected a vLLM server at"):
        train(parts, console=QUIET)
    assert [p.name for p in RunFolder(parts.run_folder).checkpoints()] == ["step_1"]
    fake.fault = lambda path, count: None
    train(parts, resume=True, console=QUIET)
    assert_same_state(final_state(parts), final_state(whole))


def test_a_batch_is_paid_for_by_the_iteration_that_learns_from_it(server_config):  # noqa: F811
    rows = [
        train(
            config.replace(rollout_ahead=ahead, out=f"{config.out}{ahead}"), console=QUIET
        ).metrics
        for ahead, config in enumerate([server_config(iterations=3)] * 2)
    ]
    for name in ("responses_total", "reward_calls_total"):
        assert [row[name] for row in rows[1]] == [16, 32, 48] == [row[name] for row in rows[0]]
    for count, row in enumerate(rows[1], start=1):
        lengths = [timeless(r)[f"llm_{n}/response_length"] for r in rows[1][:count] for n in (0, 1)]
        assert row["tokens_total"] == pytest.approx(8 * sum(lengths))
