"""Reward–KL frontiers: reward at equal KL, averaged over log KL, and how sure a difference is.

A *frontier* is the curve of one row of a comparison and one seed: piecewise linear in KL through
(0, reward of the reference) and the points of its runs, one for each η. Beyond its last point there
is none. A mean over log KL weighs every factor of KL alike. Its range is fixed by the data of *all*
rows and seeds, whatever two are compared: from the largest of their smallest KLs to the smallest of
their largest. Nothing is extrapolated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from agents.maths.statistics import sign_flip_p

Points = NDArray[np.float64]
"""(P, 2) KL and reward of the runs of one row and seed, one for each η."""

GROUPS = 32
"""Parts of the queries that the jackknife leaves out one after the other."""

MARGIN = 0.05
"""Share of the baseline's reward at equal KL below which a gain is none."""

LEVEL = 0.05
"""Chance of an error that a verdict may have, and the share of cases an interval misses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean with the ends of its interval."""

    mean: float
    low: float
    high: float


def shared_range(frontiers: Sequence[Points]) -> tuple[float, float]:
    """Return the KLs, in nats, between which every frontier has points on both sides.

    Raises:
        ValueError: if there are none.
    """
    low = max(float(points[:, 0].min()) for points in frontiers)
    high = min(float(points[:, 0].max()) for points in frontiers)
    if not 0 < low < high:
        raise ValueError(
            f"Expected frontiers with KLs in common, got none between {low:.3g} and {high:.3g} "
            "nats: compare at more values of --kl-coefs."
        )
    return low, high


def mean_over_log_kl(points: Points, reference: float, kls: tuple[float, float]) -> float:
    """Return the mean reward of a frontier over the logarithm of KL.

    1 / log(high / low) ∫ f(k) dk / k, with f(k) = a + b k on every segment:
    a log(k2 / k1) + b (k2 − k1).

    Args:
        points: of the runs; those of one KL count with their mean.
        reference: reward at KL 0.
        kls: low and high, with 0 < low < high <= the largest KL of the points.
    """
    low, high = kls
    knots, rewards = _knots(points, reference)
    ends = np.concatenate([[low], knots[(knots > low) & (knots < high)], [high]])
    values = np.interp(ends, knots, rewards)
    slopes = np.diff(values) / np.diff(ends)
    heights = values[:-1] - slopes * ends[:-1]
    area = heights @ np.diff(np.log(ends)) + slopes @ np.diff(ends)
    return float(area / np.log(high / low))


def _knots(points: Points, reference: float) -> tuple[Any, Any]:
    """Return the KLs of a frontier, in order and each once, and the rewards there."""
    knots, place = np.unique(np.append(0.0, points[:, 0]), return_inverse=True)
    return knots, np.bincount(place, np.append(reference, points[:, 1])) / np.bincount(place)


def t_interval(values: Sequence[float], extra_variance: float = 0.0) -> Interval:
    """Return the mean over seeds and its 95 % interval by Student's t; NaN ends of a single one.

    Args:
        values: one for each seed.
        extra_variance: of the mean, from what all seeds share.
    """
    sample = np.asarray(values, dtype=np.float64)
    mean, count = float(sample.mean()), len(sample)
    if count < 2:
        return Interval(mean=mean, low=float("nan"), high=float("nan"))
    error = np.sqrt(sample.var(ddof=1) / count + extra_variance)
    half = float(stats.t.ppf(1 - LEVEL / 2, count - 1) * error)
    return Interval(mean=mean, low=mean - half, high=mean + half)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p values corrected for their number (Holm 1979)."""
    corrected: dict[str, float] = {}
    least = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[name]))
        corrected[name] = least
    return {name: corrected[name] for name in p_values}


def probability_of_improvement(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return how often a run of one row is above one of the other; ties count half.

    Source: Agarwal et al. 2021, arXiv 2108.13264, section 4.3: Mann and Whitney's U over all pairs.
    """
    gaps = np.subtract.outer(np.asarray(ours), np.asarray(theirs))
    return float((gaps > 0).mean() + (gaps == 0).mean() / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a policy earned on the same N queries as all others: means over its responses."""

    rewards: NDArray[np.float64]
    """(N,)"""
    kls: NDArray[np.float64]
    """(N,) nats."""

    def point(self, kept: NDArray[np.bool_] | slice) -> tuple[float, float]:
        """Return KL and reward over some of the queries."""
        return float(self.kls[kept].mean()), float(self.rewards[kept].mean())


Row = Sequence[Sequence[Scores]]
"""By seed, by η."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of a comparison on one task, all scored on the same queries."""

    rows: Mapping[str, Row]
    reference: Scores

    @property
    def num_queries(self) -> int:
        """N."""
        return len(self.reference.rewards)

    def kls(self) -> tuple[float, float]:
        """Return the range that all rows and seeds share.

        Raises:
            ValueError: if there is none.
        """
        return shared_range([f for row in self._points(slice(None)).values() for f in row])

    def frontiers(self, kls: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return by row the rewards of its seeds at some KLs, (seeds, KLs), for a figure."""
        reference = float(self.reference.rewards.mean())
        return {
            name: np.array([np.interp(kls, *_knots(points, reference)) for points in row])
            for name, row in self._points(slice(None)).items()
        }

    def means(
        self, kls: tuple[float, float], kept: NDArray[np.bool_] | slice = slice(None)
    ) -> dict[str, NDArray[np.float64]]:
        """Return by row, and for each of its seeds, the mean reward over log KL.

        Args:
            kls: the range.
            kept: the queries that count.
        """
        reference = float(self.reference.rewards[kept].mean())
        return {
            name: np.array([mean_over_log_kl(points, reference, kls) for points in row])
            for name, row in self._points(kept).items()
        }

    def _points(self, kept: NDArray[np.bool_] | slice) -> dict[str, list[Points]]:
        return {
            name: [np.array([scores.point(kept) for scores in seed]) for seed in row]
            for name, row in self.rows.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """How far a row is above another one at equal KL."""

    ours: str
    theirs: str
    gaps: tuple[float, ...]
    """One for each seed."""
    interval: Interval
    """Of their mean, over seeds and queries."""
    p: float
    """Of the sign-flip test over seeds."""
    improvement: float
    """Probability that a run of ours is above one of theirs."""
    margin: float
    """5 % of their reward at equal KL."""


def contrast(table: Table, ours: str, theirs: str) -> Contrast:
    """Compare two rows, over seeds and queries.

    The variance of the mean gap is that over seeds, divided by their number, and, since all seeds
    answer the same queries, that over queries, by the jackknife over `GROUPS` parts of them (Tukey
    1958) with the seeds held. What a seed does on a query counts in both, so that intervals are
    rather too wide than too narrow. Student's t has the seeds' degrees of freedom. Scores of a
    single query, such as means over all of them, say nothing of queries.

    Raises:
        ValueError: if the rows have not the same number of seeds, or nothing in common.
    """
    kls = table.kls()
    means = table.means(kls)
    if len(means[ours]) != len(means[theirs]):
        raise ValueError(
            f"Expected as many seeds of {ours} as of {theirs}, got {len(means[ours])} and "
            f"{len(means[theirs])}: run those that are missing."
        )
    gaps = means[ours] - means[theirs]
    return Contrast(
        ours=ours,
        theirs=theirs,
        gaps=tuple(gaps.tolist()),
        interval=t_interval(gaps.tolist(), _variance_over_queries(table, ours, theirs, kls)),
        p=sign_flip_p(means[ours].tolist(), means[theirs].tolist()),
        improvement=probability_of_improvement(means[ours].tolist(), means[theirs].tolist()),
        margin=MARGIN * float(means[theirs].mean()),
    )


def _variance_over_queries(table: Table, ours: str, theirs: str, kls: tuple[float, float]) -> float:
    """Return the variance of the mean gap that comes from the queries, with the seeds held."""
    groups = min(GROUPS, table.num_queries)
    if groups < 2:
        return 0.0
    part = np.arange(table.num_queries) % groups
    left = np.empty(groups)
    for group in range(groups):
        means = table.means(kls, part != group)
        left[group] = (means[ours] - means[theirs]).mean()
    spread = left - left.mean()
    return float((groups - 1) / groups * spread @ spread)


def verdict(contrasts: Sequence[Contrast], p: float) -> str:
    """Judge a claim by its contrasts, one or more for each task, by a rule fixed beforehand.

    Args:
        contrasts: what has to be above, on every task.
        p: the largest of their p values, corrected for the number of claims.

    Returns:
        `holds` if every interval lies above 0 and p is below 5 %; `does not hold` if every interval
        ends below the margin; `not decided` otherwise.
    """
    if all(one.interval.low > 0 for one in contrasts) and p < LEVEL:
        return "holds"
    if all(one.interval.high < one.margin for one in contrasts):
        return "does not hold"
    return "not decided"
