"""Verdicts are for training: who is evaluated is told none, and what they cost is counted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from agents.parts import build_games
from agents.training.trainer import Trainer
from cory_env.registry import TASKS
from tests.e2e.test_learning import Sums

SEATS = {"pioneer_0": "llm_0", "observer_0": "llm_1"}


class Judged(Sums):
    """Sums with a verdict of one symbol."""

    def verdict(self, reward: float) -> str:
        return "0" if reward < 1 else "1"

    def judged_prompt(self, query: str, responses: Sequence[str], verdicts: Sequence[str]) -> str:
        pairs = zip(responses, verdicts, strict=True)  # its tokenizer knows no space
        return self.observer_prompt(query, [response + verdict for response, verdict in pairs])


@pytest.fixture
def trainer(toy_config, monkeypatch):
    monkeypatch.setitem(TASKS, "judged", Judged)
    return Trainer(toy_config(task="judged", verdict="all"))


def test_observers_are_told_in_training_and_nowhere_else(trainer):
    rollout = trainer.collect(SEATS)
    first, second = rollout.turns
    for prompt, answer, reward, query in zip(
        second.prompts, first.responses, first.task_rewards.tolist(), rollout.queries, strict=True
    ):
        assert prompt == f"{answer}{int(reward)},{query}="
    games = build_games(
        trainer.config,
        trainer.parts.test_task,
        trainer.parts.reward,
        trainer.policies["llm_0"].backbone,
        num_envs=1,
        observers=1,
        rounds=1,
    )
    assert games.rules.verdict == "none"


def test_responses_that_are_judged_are_counted_as_rewards(trainer):
    row = trainer.iterate(0)
    assert row["responses_total"] == 16
    assert row["reward_calls_total"] == 24
