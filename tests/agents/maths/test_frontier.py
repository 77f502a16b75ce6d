"""Frontiers at equal KL: numbers by hand, sums over a fine grid, and how often intervals hold."""

from __future__ import annotations

from dataclasses import replace
from math import log

import numpy as np
import pytest

from agents.maths.frontier import (
    Contrast,
    Interval,
    Scores,
    Table,
    contrast,
    holm,
    mean_over_log_kl,
    probability_of_improvement,
    shared_range,
    t_interval,
    verdict,
)


def test_the_mean_over_log_kl_by_hand():
    points = np.array([(2.0, 3.0), (1.0, 1.0)])
    # On [1, 2] it is 2k − 1, on [0, 1] it is k.
    assert mean_over_log_kl(points, 0.0, (1, 2)) == pytest.approx((2 - log(2)) / log(2))
    assert mean_over_log_kl(points, 0.0, (0.5, 2)) == pytest.approx((0.5 + 2 - log(2)) / log(4))
    # From a reference that earns 1 it is constant up to 1 nat.
    assert mean_over_log_kl(points, 1.0, (0.5, 1)) == pytest.approx(1.0)
    # Two runs of one KL count with their mean.
    twice = np.array([(2.0, 2.0), (1.0, 1.0), (2.0, 4.0)])
    assert mean_over_log_kl(twice, 0.0, (1, 2)) == pytest.approx(2 / log(2) - 1)


def test_the_mean_over_log_kl_is_that_of_a_fine_grid():
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = np.column_stack([rng.uniform(0.2, 30, 6), rng.normal(2, 2, 6)])
        low, high = np.sort(rng.uniform(0.1, points[:, 0].max(), 2))
        order = points[:, 0].argsort()
        knots, rewards = (np.append(start, points[order, axis]) for axis, start in ((0, 0), (1, 7)))
        edges = np.linspace(log(low), log(high), 20_001)
        middles = np.exp((edges[1:] + edges[:-1]) / 2)
        expected = np.interp(middles, knots, rewards).mean()
        # The midpoint rule errs by about (range / steps)² of the curvature, far below that.
        assert mean_over_log_kl(points, 7.0, (low, high)) == pytest.approx(expected, abs=1e-4)


def test_the_range_is_what_all_frontiers_reach():
    frontiers = [np.array([(1.0, 0), (9.0, 0)]), np.array([(8.0, 0), (0.5, 0), (2.0, 0)])]
    assert shared_range(frontiers) == (1.0, 8.0)
    with pytest.raises(ValueError, match="KLs in common"):
        shared_range([*frontiers, np.array([(0.1, 0), (0.9, 0)])])


def test_an_interval_by_hand():
    # t of 2 degrees of freedom: 4.3027; the standard error of 1, 2, 3 is 1 / √3.
    assert t_interval([1, 2, 3]).low == pytest.approx(2 - 4.302653 / 3**0.5, rel=1e-6)
    assert t_interval([1, 2, 3], 1.0).high == pytest.approx(2 + 4.302653 * (4 / 3) ** 0.5, rel=1e-6)
    assert np.isnan(t_interval([1]).low)


def test_intervals_over_five_seeds_hold_as_often_as_they_say():
    rng = np.random.default_rng(0)
    found = [t_interval(rng.normal(size=5).tolist()) for _ in range(2000)]
    # 95 % of 2,000, with a standard deviation of 0.5 %; the percentile bootstrap has 84 %.
    assert np.mean([one.low < 0 < one.high for one in found]) == pytest.approx(0.95, abs=0.02)


def table(rng: np.random.Generator, seeds: int, queries: int) -> Table:
    """Two rows of one frontier, with noise of seeds, of queries, and of both."""
    shared = rng.normal(size=(2, queries))  # what a row makes of a query, whatever the seed

    def scores(row: int, seed_effect: float, kl: float) -> Scores:
        rewards = kl + seed_effect + shared[row] + rng.normal(size=queries)
        return Scores(rewards=rewards, kls=np.full(queries, kl))

    rows = {}
    for row, name in enumerate("ab"):
        effects = rng.normal(scale=0.1, size=seeds)
        rows[name] = [[scores(row, effect, kl) for kl in (1.0, 4.0)] for effect in effects]
    return Table(rows=rows, reference=Scores(rewards=np.zeros(queries), kls=np.zeros(queries)))


def test_intervals_hold_over_other_seeds_and_other_queries():
    rng = np.random.default_rng(0)
    both = [contrast(table(rng, 6, 16), "a", "b") for _ in range(60)]
    covered = [one.interval.low < 0 < one.interval.high for one in both]
    # Too wide rather than too narrow: at least 95 % less two standard deviations of 2.8 %.
    assert np.mean(covered) > 0.89
    seeds_alone = [t_interval(one.gaps) for one in both]
    assert np.mean([one.low < 0 < one.high for one in seeds_alone]) < 0.75


def test_a_contrast_by_hand():
    def scores(kl: float, *rewards: float) -> Scores:
        return Scores(rewards=np.array(rewards), kls=np.full(2, kl))

    row = [[scores(2, 2, 2), scores(1, 1, 1)] for _ in range(3)]
    # Above by 0.5, 1, 1.5 at every KL, on both queries alike.
    ours = [
        [replace(s, rewards=s.rewards + gap) for s in seed]
        for seed, gap in zip(row, (0.5, 1.0, 1.5), strict=True)
    ]
    two = Table(rows={"ours": ours, "theirs": row}, reference=scores(0, 0, 0))
    found = contrast(two, "ours", "theirs")
    assert two.kls() == (1, 2)
    assert found.gaps == pytest.approx((0.5, 1, 1.5))
    assert found.interval.high == pytest.approx(1 + 4.302653 * 0.5 / 3**0.5, rel=1e-6)
    assert found.p == 2 / 8
    assert found.improvement == 1.0
    assert found.margin == pytest.approx(0.05 / log(2))  # k over log k: (2 − 1) / log 2
    itself = contrast(two, "theirs", "theirs")
    assert (itself.interval.mean, itself.p, itself.improvement) == (0, 1, 0.5)
    with pytest.raises(ValueError, match="as many seeds"):
        contrast(replace(two, rows={"ours": ours[:2], "theirs": row}), "ours", "theirs")


def test_a_gap_that_hangs_on_queries_is_not_sure():
    kls = np.full(3, 1.0)
    split = [Scores(rewards=np.array([0.0, 0.0, 3.0]), kls=kls * kl) for kl in (1, 2)]
    flat = [Scores(rewards=np.zeros(3), kls=kls * kl) for kl in (1, 2)]
    reference = Scores(rewards=np.zeros(3), kls=np.zeros(3))
    found = contrast(Table(rows={"a": [split] * 3, "b": [flat] * 3}, reference=reference), "a", "b")
    # Without one query the gap is 1.5, 1.5 or 0: the jackknife's variance is
    # 2 / 3 · (0.25 + 0.25 + 1) = 1; over seeds there is none.
    assert found.interval.low == pytest.approx(1 - 4.302653, rel=1e-6)


def test_p_values_are_corrected_by_hand():
    assert holm({"a": 0.04, "b": 0.01}) == {"a": 0.04, "b": 0.02}
    assert holm({"a": 0.03, "b": 0.04}) == {"a": 0.06, "b": 0.06}
    assert holm({"a": 0.9, "b": 0.8, "c": 0.001}) == pytest.approx({"a": 1, "b": 1, "c": 0.003})


def test_the_probability_of_improvement_counts_pairs():
    # Of 2 · 3 pairs: 3 > 1, 2 and 2 > 1; 2 = 2 and 3 = 3 count half.
    assert probability_of_improvement([2, 3], [1, 2, 3]) == (3 + 2 / 2) / 6


@pytest.mark.parametrize(
    ("intervals", "p", "expected"),
    [
        ([(0.1, 0.3), (0.01, 0.2)], 0.04, "holds"),
        ([(0.1, 0.3), (0.01, 0.2)], 0.06, "not decided"),
        ([(0.1, 0.3), (-0.01, 0.2)], 0.01, "not decided"),
        ([(-0.1, 0.04), (-0.2, 0.01)], 0.5, "does not hold"),
        ([(-0.1, 0.04), (-0.2, 0.06)], 0.5, "not decided"),
        ([(0.01, 0.04), (0.01, 0.03)], 0.04, "holds"),
        ([(-0.3, -0.1), (-0.2, -0.1)], 0.01, "does not hold"),
        ([(float("nan"), float("nan"))], 1.0, "not decided"),
    ],
)
def test_the_rule_of_the_verdict(intervals, p, expected):
    contrasts = [
        Contrast(
            ours="a",
            theirs="b",
            gaps=(),
            interval=Interval(mean=(low + high) / 2, low=low, high=high),
            p=p,
            improvement=0.5,
            margin=0.05,
        )
        for low, high in intervals
    ]
    assert verdict(contrasts, p) == expected
