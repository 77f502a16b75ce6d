"""The tables of toy are what the reference says and the game pays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cory_env
from agents.evaluation.toy_tables import every_response, response_log_probs, toy_game
from agents.maths.exact_solver import play_exactly, solve, solve_alone, upper_bound
from agents.policies.llm import LLMPolicy
from cory_env.tasks.toy import ToyTask
from tests.agents.fakes import every_response as all_responses
from tests.agents.fakes import reference_hidden, tiny_backbone, token_batch

TASK = ToyTask(length=2, symbols=2)


@pytest.fixture(scope="module")
def reference() -> LLMPolicy:
    return LLMPolicy(name="reference", learns=False, backbone=tiny_backbone())


def test_all_responses_are_there():
    expected = all_responses(TASK.tokenizer.vocab_size, TASK.tokenizer.eos_token_id, 2)
    assert sorted(every_response(TASK)) == sorted(map(tuple, expected))
    assert len(every_response(ToyTask())) == 1 + 11 + 11**2 + 11**3


def test_their_log_probs_are_those_that_policies_are_scored_with(reference):
    prompts = ["ab>", "=", "a,b=", "bbb="]
    found = response_log_probs(reference, TASK, prompts)
    assert np.exp(found).sum(axis=1) == pytest.approx(1)
    for prompt, row in zip(prompts, found, strict=True):
        responses = [list(ids) for ids in every_response(TASK)]
        tokens = token_batch(reference.backbone, [prompt] * len(responses), responses)
        with torch.no_grad():
            scores = reference.score(tokens, reference_hidden(reference.backbone, tokens))
        # padding and batch differ: float32 rounding of sums of two log-probs
        assert scores.log_probs.sum(1).numpy() == pytest.approx(row, abs=1e-4)


def test_the_reference_earns_in_the_tables_what_it_earns_in_the_game(reference):
    game = toy_game(reference, TASK)
    assert game.hides_query
    same = play_exactly(game, game.pioneer_log_probs, game.observer_log_probs, 0.1)
    assert same.kl == pytest.approx((0, 0), abs=1e-9)
    games = cory_env.vector_env(20_000, TASK, tokenizer=reference.backbone.tokenizer)
    prompts = games.reset(seed=0)
    generator = torch.Generator().manual_seed(0)
    while prompts:
        prompts = games.step(
            reference.generate(prompts, max_new_tokens=2, generator=generator).texts
        )
    for role, expected in zip(("pioneer_0", "observer_0"), same.rewards, strict=True):
        # the standard error of a mean of 20,000 rewards in [0, 1] is at most 0.0035
        assert games.task_rewards[role].mean() == pytest.approx(expected, abs=0.012)


def test_a_team_that_pays_little_for_kl_reaches_the_known_optimum(reference):
    game = toy_game(reference, TASK)
    best = solve(game, 1e-3)
    assert best.rewards == pytest.approx((1.0, 1.0), abs=1e-3)
    assert best.value <= upper_bound(game, 1e-3) + 1e-9
    dear = solve(game, 10.0)
    assert sum(dear.kl) < 0.01 < sum(best.kl)
    reward, kl = solve_alone(game.pioneer_log_probs, game.pioneer_rewards, 1e-3)
    assert reward == pytest.approx(1.0, abs=1e-3)
    assert kl <= best.kl[0] + 1e-6
