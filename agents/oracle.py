"""The exact optimum of a KL-regularised two-seat game whose responses can be enumerated.

Works on tables only: reference log-probabilities and rewards in, optimal policies out. It knows
neither tasks nor models.
A table has no shared weights, so its optimum is an upper bound for every learner.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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
    """(Q, N, M) the observer's own task reward; axes may be 1."""


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


def evaluate_policies(game: Game, pioneer: Floats, observer: Floats, eta: float) -> Solution:
    """Play a pair of policies exactly; log-probabilities (Q, N) and (Q or 1, N, M)."""
    first = np.exp(pioneer)
    observer_reward = (np.exp(observer) * game.observer_rewards).sum(axis=-1)
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


def solve(game: Game, eta: float, *, payer: Literal["team", "own"] = "team") -> Solution:
    """Solve the game: each seat plays π0 · exp(value / η), the observer first, then the pioneer.

    `team` maximises E[r1 + r2] − η (KL1 + KL2): a1 is worth r1 + η log E_π0[exp(r2 / η)].
    `own` is the equilibrium where each seat pays only its own KL: a1 is worth r1 + E_π2[r2].
    The observer plays the same in both: the pioneer's reward and KL are constants of its state.

    Raises:
        ValueError: If eta is not positive.
    """
    if not eta > 0:
        raise ValueError(f"Expected eta > 0, got {eta}.")
    observer, log_total = _log_normalised(game.observer_log_probs + game.observer_rewards / eta)
    if payer == "team":
        worth = eta * log_total
    else:
        worth = (np.exp(observer) * game.observer_rewards).sum(axis=-1)
    pioneer, _ = _log_normalised(game.pioneer_log_probs + (game.pioneer_rewards + worth) / eta)
    return evaluate_policies(game, pioneer, observer, eta)


def frontier(game: Game, etas: Sequence[float]) -> list[Solution]:
    """The team's reward-KL frontier: no policies earn more at the same sum of KLs."""
    return [solve(game, eta) for eta in etas]
