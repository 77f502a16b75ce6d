"""Runs of several rounds: all algorithms, resuming, figures, evaluation, and what is refused."""

from __future__ import annotations

import pytest
from rich.console import Console

from agents.algorithms import ALGORITHMS
from agents.config.train import TrainConfig
from agents.evaluation.finished import evaluate
from agents.records.rows import number
from agents.training.loop import train
from agents.training.trainer import Trainer
from tests.agents.training.test_trainer import assert_resuming_is_exact, game_options

QUIET = Console(quiet=True)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_learns_two_rounds_or_says_why_not(toy_config, algorithm):
    options = {"rounds": 2, **game_options(algorithm)}
    if algorithm in ("vine", "archer"):
        with pytest.raises(ValueError, match=rf"^Expected one round with algorithm {algorithm}, "):
            toy_config(**options)
        return
    config = toy_config(**options)
    trainer = Trainer(config)
    row = trainer.iterate(0)
    for name in trainer.policies:
        assert row[f"{name}/role"].count("_") == 1
        first, second = (number(row, f"{name}/task_reward_{i}") for i in (1, 2))
        assert number(row, f"{name}/task_reward") == pytest.approx((first + second) / 2, abs=1e-6)
    turns = 2 * (config.observers + 1)
    assert number(row, "responses_total") == turns * config.batch_size
    assert number(row, "reward_calls_total") == turns * config.batch_size


@pytest.mark.parametrize(
    "options",
    [
        {"algorithm": "mappo", "reward_sharing": "last", "task": "lesson"},
        {"algorithm": "happo", "handover": "value", "swap": "random"},
        {"algorithm": "grpo", "group_size": 4, "shared_policy": True},
    ],
)
def test_resuming_is_exact(toy_config, tmp_path, options):
    assert_resuming_is_exact(toy_config, tmp_path, rounds=2, **options)


def test_one_round_is_logged_as_before(toy_config):
    assert not [key for key in Trainer(toy_config()).iterate(0) if "task_reward_" in key]


def test_an_evaluation_has_a_row_for_every_turn_of_the_team(toy_config, tmp_path):
    config = toy_config(rounds=2, iterations=1, out=str(tmp_path / "run"))
    train(config, console=QUIET)
    names = [row["name"] for row in evaluate(str(tmp_path / "run"), num_queries=8)["rows"]]
    for name in (
        "llm_1 after llm_0",
        "llm_0 after llm_0, llm_1",
        "llm_1 after llm_0, llm_1, llm_0",
    ):
        assert name in names
    alone = toy_config(
        rounds=3, iterations=1, observers=0, algorithm="ppo", out=str(tmp_path / "alone")
    )
    train(alone, console=QUIET)
    names = [row["name"] for row in evaluate(str(tmp_path / "alone"), num_queries=8)["rows"]]
    assert names[-3:] == ["llm_0", "llm_0 after llm_0", "llm_0 after llm_0, llm_0"]


@pytest.mark.parametrize(
    "options", [{"algorithm": "sft"}, {"algorithm": "expert_iteration"}, {"practice": "all"}]
)
def test_messages_are_not_learnt_as_answers(toy_config, options):
    with pytest.raises(ValueError, match="teacher's messages are no answers") as error:
        Trainer(toy_config(task="lesson", rounds=2, **options))
    assert "\n" not in str(error.value)


def test_prompts_that_grow_too_long_are_refused_before_anything_is_learnt(toy_config):
    with pytest.raises(ValueError, match="fewer --observers or --rounds"):
        Trainer(toy_config(rounds=9))


def test_distillation_has_one_round():
    with pytest.raises(ValueError, match=r"in a single round, got .* 2 rounds"):
        TrainConfig(task="arithmetic", verdict="wrong", distill_coef=0.1, rounds=2)
