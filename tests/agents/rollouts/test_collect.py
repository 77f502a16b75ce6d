"""Collected episodes: who is paid what, and that the batch is the game."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cory_env
from agents.policies.llm import LLMPolicy
from agents.policies.sampling import draw_uniforms
from agents.rollouts.collect import collect
from agents.rollouts.credit import split_credit
from cory_env.game import earnings, share
from cory_env.tasks.toy import ToyTask
from tests.agents.fakes import tiny_backbone

REWARDS = np.array([[1.0, 20.0, 300.0]])


@pytest.mark.parametrize(
    ("seat", "causal", "sharing", "now", "later"),
    [
        (0, True, "collective", 1, 320),
        (1, True, "collective", 20, 300),
        (2, True, "collective", 300, 0),
        (1, False, "collective", 21, 300),
        (1, True, "mean", 20 / 3, 100),
        (1, True, "individual", 20, 0),
        (1, False, "individual", 20, 0),
        (1, True, -0.5, 20, -150),
        (1, False, -0.5, 19.5, -150),
    ],
)
def test_credit_by_hand(seat, causal, sharing, now, later):
    found = split_credit(earnings(REWARDS, sharing), range(3), seat, causal=causal)
    assert [float(part[0]) for part in found] == pytest.approx([now, later])


@pytest.mark.parametrize("sharing", ["collective", "mean", "individual", 0.3])
def test_shared_credit_is_what_the_environment_pays(sharing):
    for seat in range(3):
        now, later = split_credit(earnings(REWARDS, sharing), range(3), seat, causal=False)
        assert now + later == pytest.approx(share(REWARDS, sharing)[:, seat])


def test_a_rollout_is_what_the_environment_saw():
    backbone = tiny_backbone(moved=0.2)
    task = ToyTask(length=2, symbols=2)
    games = cory_env.vector_env(5, task, tokenizer=backbone.tokenizer)
    games.reset(seed=0)
    policies = {
        role: LLMPolicy(name=name, backbone=backbone)
        for role, name in (("pioneer_0", "llm_1"), ("observer_0", "llm_0"))
    }
    uniforms = {
        role: draw_uniforms(5, games.rules.max_new_tokens, torch.Generator().manual_seed(i))
        for i, role in enumerate(policies)
    }
    rollout = collect(games, policies, uniforms)
    assert [turn.policy for turn in rollout.turns] == ["llm_1", "llm_0"]
    pioneer, observer = rollout.turns
    reward = cory_env.make_reward("match")
    for turn in rollout.turns:
        expected = reward(games.examples, turn.responses)
        np.testing.assert_allclose(turn.task_rewards.numpy(), expected, rtol=1e-6)
    for b, query in enumerate(rollout.queries):
        assert pioneer.prompts[b] == task.pioneer_prompt(query)
        assert observer.prompts[b] == task.observer_prompt(query, [pioneer.responses[b]])


def test_a_turn_of_the_reference_is_said_to_be_its():
    backbone = tiny_backbone()
    games = cory_env.vector_env(2, ToyTask(length=2, symbols=2), tokenizer=backbone.tokenizer)
    games.reset(seed=0)
    players = {
        "pioneer_0": LLMPolicy(name="reference", learns=False, backbone=backbone),
        "observer_0": LLMPolicy(name="llm_0", backbone=backbone),
    }
    uniforms = dict.fromkeys(players, draw_uniforms(2, games.rules.max_new_tokens))
    rollout = collect(games, players, uniforms)
    assert [turn.policy for turn in rollout.turns] == ["reference", "llm_0"]
