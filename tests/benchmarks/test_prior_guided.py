"""Soft values of a two-turn game, by hand, by search, and by what is needed to learn them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.prior_guided import (
    Arguments,
    Game,
    Plan,
    choose,
    episodes_needed,
    make_game,
    plan,
    worth,
)

SMALL = Game(
    first=np.array([0.5, 0.5]),
    second=np.array([[0.25, 0.75], [0.5, 0.5]]),
    means=np.array([[1.0, 0.0], [0.5, 0.5]]),
    eta=0.5,
)


def test_the_soft_optimum_of_a_small_game_is_that_by_hand():
    found = plan(SMALL, SMALL.means)
    # 0.5 ln(0.25 e^2 + 0.75) and 0.5 ln(e) = 0.5; then 0.5 ln(0.5 e^(2 V_0) + 0.5 e)
    assert found.values.tolist() == pytest.approx([0.477229, 0.5], abs=1e-5)
    assert found.value == pytest.approx(0.488744, abs=1e-5)
    assert found.second[0].tolist() == pytest.approx([0.711235, 0.288765], abs=1e-5)
    assert worth(SMALL, found) == pytest.approx(found.value, abs=1e-12)


def test_no_policy_is_worth_more_than_the_optimum():
    game = make_game("adversarial", 4, 0.2, 3)
    best = plan(game, game.means).value
    generator = np.random.default_rng(0)
    for _ in range(500):
        first, second = generator.dirichlet(np.ones(4)), generator.dirichlet(np.ones(4), 4)
        policy = Plan(value=0.0, values=np.zeros(4), first=first, second=second)
        assert worth(game, policy) < best


def test_values_from_above_and_below_enclose_the_truth():
    game = make_game("uniform", 5, 0.1, 1)
    widths = np.random.default_rng(0).random((5, 5))
    high, low = plan(game, game.means + widths), plan(game, game.means - widths)
    assert low.value < plan(game, game.means).value < high.value
    assert (low.values < high.values).all()


def test_the_next_episode_goes_where_probability_times_width_is_largest():
    widths = np.array([[0.01, 0.9], [0.1, 0.1]])
    assert choose(SMALL, SMALL.means, widths, "width", np.random.default_rng(0)) == (0, 1)
    assert choose(SMALL, SMALL.means, widths.T[::-1], "width", np.random.default_rng(0))[0] == 0
    sure = replace(SMALL, means=np.array([[1.0, 1.0], [0.5, 0.5]]))
    widths = np.array([[0.0, 0.0], [0.2, 0.2]])  # the first action is better, but nothing new
    assert choose(sure, sure.means, widths, "width", np.random.default_rng(0))[0] == 1
    widths = np.array([[0.01, 0.9], [0.1, 0.1]])
    draws = np.random.default_rng(0)
    played = [choose(SMALL, SMALL.means, widths, "prior", draws) for _ in range(4000)]
    shares = np.bincount([2 * a + b for a, b in played]) / len(played)
    # five standard errors of a share
    assert shares.tolist() == pytest.approx([0.125, 0.375, 0.25, 0.25], abs=0.04)


def test_a_prior_is_of_the_good_the_bad_or_neither():
    for prior, share in (("aligned", 0.9), ("uniform", 0.5), ("adversarial", 0.1)):
        game = make_game(prior, 6, 0.1, 0)
        good = game.means > np.median(game.means, axis=1, keepdims=True)
        assert (game.second * good).sum(1).tolist() == pytest.approx([share] * 6)
        assert game.first.sum() == pytest.approx(1)


def test_a_better_prior_needs_fewer_episodes():
    options = Arguments(episodes=3000)

    def mean(prior: str) -> float:
        games = [make_game(prior, 4, 0.1, seed) for seed in range(6)]
        return float(
            np.mean([episodes_needed(game, "width", options, i) for i, game in enumerate(games)])
        )

    assert mean("aligned") < mean("adversarial")
