from __future__ import annotations

import math
import random

import pytest

from agents.maths.figures import moving_mean
from agents.reports.series import MOST_POINTS, MOST_SWAPS, Group, Stage, group_curves, thin
from agents.reports.series import metric_curves as curves
from tests.agents.reports.test_run_page import metrics_rows


def slow_moving_mean(values: list[float], window: int) -> list[float]:
    means = []
    for centre in range(len(values)):
        share = values[max(0, centre - window // 2) : centre + window // 2 + 1]
        finite = [value for value in share if math.isfinite(value)]
        means.append(sum(finite) / len(finite) if finite else math.nan)
    return means


@pytest.mark.parametrize("window", [1, 3, 9, 33])
def test_the_moving_mean_equals_its_slow_form_to_the_bit(window):
    rng = random.Random(window)
    values = [rng.choice([rng.gauss(0, 1e3), math.nan, 1e-9, math.inf]) for _ in range(100)]
    assert list(map(repr, moving_mean(values, window))) == list(
        map(repr, slow_moving_mean(values, window))
    )


def test_no_extreme_of_a_stretch_is_thinned_out():
    rng = random.Random(0)
    columns = [[rng.gauss(0, 1) for _ in range(5000)] for _ in range(3)]
    columns[0][1234], columns[2][4321], columns[1][77] = 99.0, -99.0, math.nan
    kept = thin(columns, 5000, 600)
    assert kept == sorted(set(kept))
    assert kept[0] == 0
    assert kept[-1] == 4999
    assert {1234, 4321} <= set(kept)
    assert len(kept) <= 600 + 2
    # Twin: 100 stretches of 50, in each every column's lowest and highest.
    for column in columns:
        for first in range(0, 5000, 50):
            part = [v for v in column[first : first + 50] if math.isfinite(v)]
            shown = [column[i] for i in kept if first <= i < first + 50]
            shown = [v for v in shown if math.isfinite(v)]
            assert (min(shown), max(shown)) == (min(part), max(part))


def test_columns_without_a_number_and_very_many_columns_are_thinned():
    assert thin([[math.nan] * 10], 10, 4) == [0, 9]
    many = [[float(i * j % 7) for i in range(2000)] for j in range(40)]
    assert len(thin(many, 2000, MOST_POINTS)) < 2000


def test_short_runs_are_drawn_whole_and_long_ones_row_for_row_as_they_were():
    names = {"llm_0": 0, "llm_1": 1}
    short = curves(metrics_rows(20), "kl", names)
    assert short.iterations == list(range(20))
    assert list(short.lines[0].faint)[:3] == [0.0, 0.2, 0.4]
    rows = metrics_rows(3000)
    long = curves(rows, "kl", names)
    assert len(long.iterations) <= MOST_POINTS + 2
    for place in (0, 17, len(long.iterations) - 1):
        assert long.lines[1].faint[place] == rows[long.iterations[place]]["llm_1/kl"]


def test_a_group_is_the_mean_and_the_range_of_its_runs():
    runs = [{0: 1.0, 1: 2.0, 2: 3.0}, {0: 3.0, 1: 6.0}]
    one = Group(name="b", colour=1, runs=[{5: 4.0}])
    lines = group_curves([Group(name="a", colour=0, runs=runs), one])
    assert lines.iterations == [0, 1, 2, 5]
    a, b = lines.lines
    assert list(a.bold)[:3] == [2.0, 4.0, 3.0]
    assert list(a.low)[:3] == [1.0, 2.0, 3.0]
    assert list(a.high)[:3] == [3.0, 6.0, 3.0]
    assert math.isnan(a.bold[3])
    assert (b.low, b.high, b.bold[3]) == ((), (), 4.0)
    assert b.to_json()["bold"] == [None, None, None, 4.0]


def test_roles_are_left_out_where_they_change_too_often():
    few = Stage.of(metrics_rows(20))
    assert list(few.swaps) == [4, 8, 12, 16]
    assert few.roles["llm_0"][:2] == [(0, 3, 1.0), (4, 7, 0.3)]
    many = Stage.of(metrics_rows(4 * (MOST_SWAPS + 2)))
    assert (many.swaps, many.roles) == ([], {})
