"""The oracle of an enumerable game, against numbers worked out by hand and random policies."""

import math

import numpy as np
import pytest

from agents.oracle import Game, evaluate_policies, frontier, solve


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def random_game(rng):
    return Game(
        pioneer_log_probs=log_softmax(rng.normal(size=(2, 3))),
        observer_log_probs=log_softmax(rng.normal(size=(1, 3, 4))),
        pioneer_rewards=rng.normal(size=(2, 3)),
        observer_rewards=rng.normal(size=(2, 3, 4)),
    )


def hand_game():
    # The observer earns log 3 for its second response, only after the pioneer's second one.
    half = math.log(0.5)
    rewards = np.array([[[0.0, 0.0], [0.0, math.log(3)]]])
    return Game(
        pioneer_log_probs=np.full((1, 2), half),
        observer_log_probs=np.full((1, 2, 2), half),
        pioneer_rewards=np.zeros((1, 2)),
        observer_rewards=rewards,
    )


def test_two_responses_by_hand():
    # η 1: observer (1/4, 3/4), soft value log 2, pioneer 1 : 2, value log(1/2 + 1/2 · 2).
    team = solve(hand_game(), 1.0)
    assert np.exp(team.observer[0, 1]) == pytest.approx([0.25, 0.75])
    assert np.exp(team.pioneer[0]) == pytest.approx([1 / 3, 2 / 3])
    assert team.value == pytest.approx(math.log(1.5))
    # Each its own KL: the pioneer counts E[r2] = 3/4 · log 3, so its odds are 3 ** 0.75.
    own = solve(hand_game(), 1.0, payer="own")
    assert np.exp(own.pioneer[0, 1] - own.pioneer[0, 0]) == pytest.approx(3**0.75)
    assert own.value < team.value


def test_no_random_policy_lies_above_the_frontier():
    rng = np.random.default_rng(0)
    game = random_game(rng)
    best = frontier(game, [0.1, 0.3, 1.0, 3.0])
    for _ in range(300):
        scale = rng.uniform(0.1, 5)
        pioneer = log_softmax(scale * rng.normal(size=(2, 3)))
        observer = log_softmax(scale * rng.normal(size=(2, 3, 4)))
        for eta, solution in zip([0.1, 0.3, 1.0, 3.0], best, strict=True):
            # 1e-9: rounding of sums of a dozen float64 terms.
            assert evaluate_policies(game, pioneer, observer, eta).value <= solution.value + 1e-9


@pytest.mark.parametrize("eta", [0.0, -1.0])
def test_eta_must_be_positive(eta):
    with pytest.raises(ValueError, match="eta > 0"):
        solve(hand_game(), eta)
