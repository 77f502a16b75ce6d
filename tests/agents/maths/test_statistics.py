"""Statistics over queries and seeds, against numbers worked out by hand."""

import numpy as np
import pytest

from agents.maths.statistics import bootstrap_interval, sign_flip_p


def test_sign_flip_counts_patterns():
    assert sign_flip_p([1, 2, 3], [0, 0, 0]) == 2 / 8
    assert sign_flip_p([1, 1, -1], [0, 0, 0]) == 1.0
    assert sign_flip_p([1.0] * 12, [0.0] * 12) < 0.01


def test_bootstrap_of_equal_values_is_a_point_and_of_others_holds_the_mean():
    assert bootstrap_interval([2.0, 2.0]) == (2.0, 2.0, 2.0)
    # Of two seeds a quarter of the resamples is twice the same seed, more than 2.5 %.
    assert bootstrap_interval([0.0, 1.0]) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize("count", [1, 7, 3000])
def test_the_bootstrap_is_that_of_one_draw_after_the_other(count):
    values = np.random.default_rng(1).normal(size=count)
    rng = np.random.default_rng(3)
    means = [values[rng.integers(count, size=count)].mean() for _ in range(500)]
    expected = (values.mean(), *np.quantile(means, [0.025, 0.975]))
    assert bootstrap_interval(values, resamples=500, seed=3) == pytest.approx(expected, rel=1e-12)


def test_a_bootstrap_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_interval([])


def test_the_bootstrap_interval_is_about_two_standard_errors_each_way():
    values = np.random.default_rng(0).normal(size=400)
    mean, low, high = bootstrap_interval(values)
    error = values.std() / 20
    # 2000 resamples: the quantiles are off by about 0.06 standard errors.
    assert mean == pytest.approx(values.mean())
    assert (high - mean, mean - low) == pytest.approx((1.96 * error, 1.96 * error), abs=0.2 * error)


def test_bootstrap_interval_covers_the_mean_of_a_known_distribution():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        _, low, high = bootstrap_interval(rng.normal(3.0, 2.0, size=60), resamples=300, seed=seed)
        hits += low <= 3.0 <= high
    # 95 % of 200 is 190 with a standard deviation of 3; small samples cover a little less
    assert 176 <= hits <= 199
