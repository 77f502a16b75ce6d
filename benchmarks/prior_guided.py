"""Learning the values of a two-turn game by a language model's prior, after LINVIT.

    python -m benchmarks.prior_guided --seeds 20

LINVIT (Zhang et al. 2024, arXiv 2402.16181) plans in a game regularised towards a prior π₀, whose
optimum is π ∝ π₀ exp(Q/η) with V = η log Σ π₀ exp(Q/η), by values that are surely too high and
surely too low. What it adds to an estimate and when it stops are not published: here a reward is
its mean ± b/√n, and the next episode goes where probability times width is largest. The control
estimates in the same way, and plays what the prior says. What is counted are the episodes after
which the soft policy of the estimates stays within 5 % of the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

Floats = NDArray[np.float64]
Prior = Literal["aligned", "uniform", "adversarial"]
Explorer = Literal["width", "prior"]
PRIORS: tuple[Prior, ...] = ("aligned", "uniform", "adversarial")
EXPLORERS: tuple[Explorer, ...] = ("width", "prior")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to run."""

    seeds: int = 20
    """Games; >= 1."""
    actions: int = 6
    """In each of the two turns."""
    bonus: float = 0.25
    """b of the width b/√n."""
    episodes: int = 6000
    """After which a game is given up."""
    etas: tuple[float, ...] = (0.1, 0.3)
    """Prices of a nat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Game:
    """Two turns; the reward of both actions is 1 with a probability, or else 0."""

    first: Floats
    """(N,) prior of the first action."""
    second: Floats
    """(N, M) prior of the second one."""
    means: Floats
    """(N, M) probability of a reward."""
    eta: float
    """Price of a nat; > 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Soft values of a table of rewards, and the policy that is best for them."""

    value: float
    """η log Σ π₀ exp(V/η) of the first turn."""
    values: Floats
    """(N,) of the second turn."""
    first: Floats
    """(N,) probabilities."""
    second: Floats
    """(N, M) probabilities."""


def plan(game: Game, rewards: Floats) -> Plan:
    """Return the optimum of E[r − η KL(π ‖ π₀)] for rewards (N, M), backwards.

    Source: the fixed point of LINVIT, V = η log Σ π₀ exp(Q/η).
    """
    values, second = _soft(game.second, rewards, game.eta)
    value, first = _soft(game.first, values, game.eta)
    return Plan(value=float(value), values=values, first=first, second=second)


def _soft(prior: Floats, returns: Floats, eta: float) -> tuple[Floats, Floats]:
    top = returns.max(-1, keepdims=True)
    weights = prior * np.exp((returns - top) / eta)
    total = weights.sum(-1, keepdims=True)
    return (top + eta * np.log(total))[..., 0], weights / total


def worth(game: Game, policy: Plan) -> float:
    """Return E[r − η KL(π ‖ π₀)] of a policy, by the true means."""
    inner = policy.second * (game.means - game.eta * np.log(policy.second / game.second))
    first = policy.first * (inner.sum(-1) - game.eta * np.log(policy.first / game.first))
    return float(first.sum())


def make_game(prior: Prior, actions: int, eta: float, seed: int) -> Game:
    """Return a game with means drawn from [0, 1], and a prior that knows, ignores or dislikes them.

    The good half of the responses has nine tenths of an aligned prior, one tenth of an adversarial
    one.
    """
    means = np.random.default_rng([seed, 0]).random((actions, actions))
    share = {"aligned": 0.9, "uniform": 0.5, "adversarial": 0.1}[prior]

    def half(returns: Floats) -> Floats:
        good = returns > np.median(returns, axis=-1, keepdims=True)
        weights = np.where(good, share, 1 - share)
        return weights / weights.sum(-1, keepdims=True)

    return Game(first=half(means.max(-1)), second=half(means), means=means, eta=eta)


def choose(
    game: Game, estimates: Floats, widths: Floats, explorer: Explorer, draw: np.random.Generator
) -> tuple[int, int]:
    """Return the actions of the next episode.

    Args:
        game: whose priors count.
        estimates: (N, M) mean rewards so far.
        widths: (N, M) how far they may be off.
        explorer: `width`, or `prior` for the control.
        draw: of the control's actions.
    """
    if explorer == "prior":
        a = draw.choice(len(game.first), p=game.first)
        return int(a), int(draw.choice(game.second.shape[1], p=game.second[a]))
    high, low = plan(game, estimates + widths), plan(game, estimates - widths)
    a = int((high.first * (high.values - low.values)).argmax())
    return a, int((high.second[a] * widths[a]).argmax())


def episodes_needed(game: Game, explorer: Explorer, options: Arguments, seed: int) -> int:
    """Return after how many episodes the policy of the estimates is within 5 %, and stays so."""
    draw = np.random.default_rng([seed, 1])
    best = plan(game, game.means).value
    counts, sums = np.zeros_like(game.means), np.zeros_like(game.means)
    last = 0
    for episode in range(1, options.episodes + 1):
        # Nothing is known of what was never tried: anything from 0 to 1.
        tried = np.maximum(counts, 1)
        estimates = np.where(counts > 0, sums / tried, 0.5)
        widths = np.where(counts > 0, options.bonus / np.sqrt(tried), 0.5)
        a, b = choose(game, estimates, widths, explorer, draw)
        counts[a, b] += 1
        sums[a, b] += draw.random() < game.means[a, b]
        found = np.where(counts > 0, sums / np.maximum(counts, 1), 0.5)
        if worth(game, plan(game, found)) < best - 0.05 * abs(best):
            last = episode
    return last + 1


def main() -> None:
    """Print the table."""
    options = tyro.cli(Arguments, description=__doc__)
    table = Table("eta", "explores by", *PRIORS)
    for eta in options.etas:
        for explorer in EXPLORERS:
            cells = []
            for prior in PRIORS:
                needed = [
                    episodes_needed(
                        make_game(prior, options.actions, eta, seed), explorer, options, seed
                    )
                    for seed in range(options.seeds)
                ]
                error = np.std(needed) / np.sqrt(max(1, options.seeds - 1))
                cells.append(f"{np.mean(needed):,.0f} ± {error:,.0f}")
            table.add_row(f"{eta:g}", explorer, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
