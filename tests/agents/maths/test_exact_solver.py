"""The oracle of an enumerable game, against numbers worked out by hand and random policies."""

import math
from dataclasses import replace

import numpy as np
import pytest

from agents.maths.exact_solver import Game, frontier, play_exactly, solve, solve_alone, upper_bound


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def random_game(rng, *, hidden=False):
    return Game(
        pioneer_log_probs=log_softmax(rng.normal(size=(2, 3))),
        observer_log_probs=log_softmax(rng.normal(size=(1 if hidden else 2, 3, 4))),
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
            assert play_exactly(game, pioneer, observer, eta).value <= solution.value + 1e-9


@pytest.mark.parametrize("eta", [0.0, -1.0])
def test_eta_must_be_positive(eta):
    with pytest.raises(ValueError, match="eta > 0"):
        solve(hand_game(), eta)
    with pytest.raises(ValueError, match="eta > 0"):
        upper_bound(hand_game(), eta)


def ascended(game, eta, rng):
    """Climb the value over softmax tables by finite differences, from a random start."""
    shapes = [(2, 3), (1, 3, 4)]
    x = np.concatenate([rng.normal(size=int(np.prod(shape))) for shape in shapes])

    def value(x):
        pioneer, observer = (
            log_softmax(part.reshape(shape))
            for part, shape in zip(np.split(x, [6]), shapes, strict=True)
        )
        return play_exactly(game, pioneer, observer, eta).value

    step = 1e-5
    for _ in range(400):
        eye = np.eye(len(x)) * step
        x = x + 4 * np.array([(value(x + e) - value(x - e)) / (2 * step) for e in eye])
    return value(x)


def test_gradient_ascent_climbs_no_higher_and_as_high_where_the_query_is_hidden():
    rng = np.random.default_rng(1)
    game = random_game(rng, hidden=True)
    assert game.hides_query
    found = solve(game, 0.7)
    climbed = max(ascended(game, 0.7, rng) for _ in range(2))
    assert found.value - 1e-3 < climbed <= found.value + 1e-9  # 400 steps end just below
    assert found.value < upper_bound(game, 0.7) - 1e-3  # here it costs not to see the query


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("after_any", [False, True])
@pytest.mark.parametrize("eta", [0.02, 0.7])
def test_the_bound_is_what_a_team_earns_whose_observer_sees_each_query(hidden, after_any, eta):
    game = random_game(np.random.default_rng(3), hidden=hidden)
    if after_any:  # the observer's reward does not depend on what the pioneer answered
        game = replace(game, observer_rewards=game.observer_rewards[:, :1])
    values = []
    for q in range(2):
        one = Game(
            pioneer_log_probs=game.pioneer_log_probs[q : q + 1],
            observer_log_probs=game.observer_log_probs[0 if hidden else q][None],
            pioneer_rewards=game.pioneer_rewards[q : q + 1],
            observer_rewards=game.observer_rewards[q : q + 1],
        )
        values.append(solve(one, eta).value)
    assert upper_bound(game, eta) == pytest.approx(np.mean(values), rel=1e-12)


def test_the_bound_by_hand():
    # After the pioneer's second response the observer earns log((1 + 3) / 2) = log 2 at η 1, else
    # 0; so the pioneer earns log((1 + 2) / 2).
    assert upper_bound(hand_game(), 1.0) == pytest.approx(math.log(1.5))


def test_the_bound_of_a_response_that_the_reference_cannot_give_is_finite():
    never = np.array([[0.0, -800.0]])
    game = Game(
        pioneer_log_probs=never,
        observer_log_probs=never[None],
        pioneer_rewards=np.array([[0.0, 0.0]]),
        observer_rewards=np.array([[[0.0, 1.0]]]),
    )
    assert 0 <= upper_bound(game, 1e-3) < 1


def test_an_observer_that_reads_the_query_off_the_answer_loses_nothing():
    """Two queries, a pioneer that is paid for naming them, and an observer paid for repeating."""
    half = np.log(np.full((2, 2), 0.5))
    game = Game(
        pioneer_log_probs=half,
        observer_log_probs=half[None],
        pioneer_rewards=np.eye(2),
        observer_rewards=np.eye(2)[:, None],
    )
    solution = solve(game, 0.02)
    assert solution.rewards == pytest.approx((1.0, 1.0))
    assert solution.kl == pytest.approx((math.log(2), math.log(2)))
    assert solution.value == pytest.approx(upper_bound(game, 0.02))


def test_a_single_agent_by_hand():
    # η 1, two equal responses, rewards 0 and log 3: probabilities 1/4 and 3/4.
    reward, kl = solve_alone(np.log([[0.5, 0.5]]), np.array([[0.0, math.log(3)]]), 1.0)
    assert reward == pytest.approx(0.75 * math.log(3))
    assert kl == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))


@pytest.mark.parametrize("hidden", [False, True])
def test_neither_seat_can_gain_by_changing_its_answer_alone(hidden):
    rng = np.random.default_rng(2)
    game = random_game(rng, hidden=hidden)
    for payer in ("team", "own"):
        best = solve(game, 0.5, payer=payer)

        def paid(solution, seat, payer=payer):
            kl = sum(solution.kl) if payer == "team" else solution.kl[seat]
            return sum(solution.rewards) - 0.5 * kl

        for _ in range(200):
            noise = 0.3 * rng.normal(size=best.pioneer.shape)
            other = play_exactly(game, log_softmax(best.pioneer + noise), best.observer, 0.5)
            assert paid(other, 0) <= paid(best, 0) + 1e-9
            noise = 0.3 * rng.normal(size=best.observer.shape)
            other = play_exactly(game, best.pioneer, log_softmax(best.observer + noise), 0.5)
            assert paid(other, 1) <= paid(best, 1) + 1e-9
