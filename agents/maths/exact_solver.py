"""The exact optimum of a KL-regularised two-seat game whose responses can be enumerated.

Tables of reference log-probabilities and rewards in, optimal policies out; it knows neither tasks
nor models. A table has no shared weights, so its optimum is an upper bound for every learner.

Where the observer does not see the query, it learns of it from what the pioneer answers: its best
policy depends on the pioneer's, and the team's optimum has no closed form. Then `solve` lets the
two answer each other, which never lowers the value, and `upper_bound` says what a team would earn
whose observer sees all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


Payer = Literal["team", "own"]


_MAX_SWEEPS = 500


_STILL = 1e-12
"""Relative change of the value at which best responses have met."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """Q queries, N pioneer responses, M observer responses (after each pioneer response)."""

    pioneer_log_probs: Floats
    """(Q, N) nats, the reference's."""
    observer_log_probs: Floats
    """(Q, N, M) nats, the reference's; Q may be 1 where the observer does not see the query."""
    pioneer_rewards: Floats
    """(Q, N) the pioneer's own task reward."""
    observer_rewards: Floats
    """(Q, N, M) the observer's own task reward; N may be 1 where it does not depend on a1."""

    @property
    def hides_query(self) -> bool:
        """Whether the observer reads nothing but the pioneer's response."""
        return len(self.observer_log_probs) == 1 and len(self.pioneer_log_probs) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """A pair of policies and what it earns, averaged over the queries."""

    value: float
    """Sum of both rewards minus eta times the sum of both KLs."""
    rewards: tuple[float, float]
    """Own task reward of the pioneer and of the observer."""
    kl: tuple[float, float]
    """Nats per response, each seat against the reference on its own prompt."""
    pioneer: Floats
    """(Q, N) log-probabilities."""
    observer: Floats
    """(Q or 1, N, M) log-probabilities."""


def _log_normalised(logits: Floats) -> tuple[Floats, Floats]:
    top = logits.max(axis=-1, keepdims=True)
    total = top + np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    return logits - total, total[..., 0]


def _kl(log_probs: Floats, reference: Floats) -> Floats:
    probs = np.exp(log_probs)
    # A response the reference cannot give has probability 0 under any policy of finite KL.
    gap = np.where(probs > 0, log_probs - np.where(probs > 0, reference, 0.0), 0.0)
    return (probs * gap).sum(axis=-1)


def play_exactly(game: Game, pioneer: Floats, observer: Floats, eta: float) -> Solution:
    """Play a pair of policies exactly; log-probabilities (Q, N) and (Q or 1, N, M)."""
    first = np.exp(pioneer)
    observer_reward = _expected(observer, game.observer_rewards)
    rewards = (
        float((first * game.pioneer_rewards).sum(axis=-1).mean()),
        float((first * observer_reward).sum(axis=-1).mean()),
    )
    kl = (
        float(_kl(pioneer, game.pioneer_log_probs).mean()),
        float((first * _kl(observer, game.observer_log_probs)).sum(axis=-1).mean()),
    )
    value = sum(rewards) - eta * sum(kl)
    return Solution(value=value, rewards=rewards, kl=kl, pioneer=pioneer, observer=observer)


def solve(game: Game, eta: float, *, payer: Payer = "team") -> Solution:
    """Solve the game: each seat plays π0 · exp(value / η), the observer first, then the pioneer.

    `team` maximises E[r1 + r2] − η (KL1 + KL2): a1 is worth r1 + E[r2] − η KL2. `own` is the
    equilibrium where each seat pays only its own KL: a1 is worth r1 + E[r2]. The observer plays the
    same in both: the pioneer's reward and KL are constants of its state.

    With a hidden query this is the best of several local optima, a lower bound of the optimum.

    Raises:
        ValueError: If eta is not positive.
    """
    _check_price(eta)
    if not game.hides_query:
        observer = _answer_to(game, eta, None)
        return play_exactly(game, _lead(game, eta, observer, payer), observer, eta)
    selfish, _ = _log_normalised(game.pioneer_log_probs + game.pioneer_rewards / eta)
    starts = (game.pioneer_log_probs, selfish)
    ends = [_answer_each_other(game, eta, start, payer) for start in starts]
    return max(ends, key=lambda solution: solution.value)


def _check_price(eta: float) -> None:
    if not eta > 0:
        raise ValueError(f"Expected eta > 0, got {eta}.")


def upper_bound(game: Game, eta: float) -> float:
    """Return the value of a team whose observer sees the query: no team can do better.

    A seat that plays π0 · exp(v / η) earns η log Σ π0 exp(v / η), its KL paid, so that the bound
    needs neither policies nor sweeps.

    Raises:
        ValueError: If eta is not positive.
    """
    _check_price(eta)
    later = _best_value(game.observer_log_probs, game.observer_rewards, eta)
    return float(_best_value(game.pioneer_log_probs, game.pioneer_rewards + later, eta).mean())


def _best_value(log_probs: Floats, rewards: Floats, eta: float) -> Floats:
    """Return η log Σ π0 exp(r / η) over the last axis of tables that broadcast."""
    if not (len(log_probs) == 1 and rewards.ndim == 3 and rewards.shape[1] == 1):
        return eta * _log_normalised(log_probs + rewards / eta)[1]
    # One product instead of a table of Q · N · M.
    top = rewards[:, 0].max(axis=-1, keepdims=True)
    sums = np.exp((rewards[:, 0] - top) / eta) @ np.exp(log_probs[0]).T
    # Where all probability lies on responses that earn too little for a double: still a bound.
    return top + eta * np.log(np.maximum(sums, np.finfo(np.float64).tiny))


def solve_alone(log_probs: Floats, rewards: Floats, eta: float) -> tuple[float, float]:
    """Return reward and KL of the best single agent, π0 · exp(r / η), for tables (Q, N)."""
    policy, _ = _log_normalised(log_probs + rewards / eta)
    reward = float((np.exp(policy) * rewards).sum(axis=-1).mean())
    return reward, float(_kl(policy, log_probs).mean())


def _answer_each_other(game: Game, eta: float, pioneer: Floats, payer: Payer) -> Solution:
    """Let the seats play best responses in turn until the value stands still."""
    solution = play_exactly(game, pioneer, game.observer_log_probs, eta)
    for _ in range(_MAX_SWEEPS):
        before = solution.value
        observer = _answer_to(game, eta, pioneer)
        pioneer = _lead(game, eta, observer, payer)
        solution = play_exactly(game, pioneer, observer, eta)
        if abs(solution.value - before) <= _STILL * (1 + abs(before)):
            break
    return solution


def _answer_to(game: Game, eta: float, pioneer: Floats | None) -> Floats:
    """Return the observer's best response, (Q or 1, N, M), to a pioneer that it learns q from."""
    rewards = game.observer_rewards
    if pioneer is not None:
        # (Q, N) of each query once a1 is read; queries are equally frequent
        posterior = np.exp(pioneer - pioneer.max(axis=0))
        posterior /= posterior.sum(axis=0)
        if rewards.shape[1] == 1:
            rewards = (posterior.T @ rewards[:, 0])[None]
        else:
            rewards = np.einsum("qn,qnm->nm", posterior, rewards)[None]
    return _log_normalised(game.observer_log_probs + rewards / eta)[0]


def _lead(game: Game, eta: float, observer: Floats, payer: Payer) -> Floats:
    """Return the pioneer's best response, (Q, N), to an observer."""
    worth = game.pioneer_rewards + _expected(observer, game.observer_rewards)
    if payer == "team":
        worth = worth - eta * _kl(observer, game.observer_log_probs)
    return _log_normalised(game.pioneer_log_probs + worth / eta)[0]


def _expected(observer: Floats, rewards: Floats) -> Floats:
    """Return (Q, N) what the observer is expected to earn, without a table of Q · N · M."""
    probs = np.exp(observer)
    if len(observer) == 1 and rewards.shape[1] == 1:
        return rewards[:, 0] @ probs[0].T
    return (probs * rewards).sum(axis=-1)


def frontier(game: Game, etas: Sequence[float]) -> list[Solution]:
    """Return the team's reward–KL frontier: one solution for each price of a nat."""
    return [solve(game, eta) for eta in etas]
