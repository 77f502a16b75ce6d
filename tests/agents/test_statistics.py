"""Statistics over seeds, against numbers worked out by hand."""

import numpy as np
import pytest

from agents.statistics import bootstrap_interval, hypervolume, sign_flip_p


def test_hypervolume_of_a_staircase():
    # 1 x (4 - 1) + 1 x (4 - 2); (1, 3) is dominated, (5, 9) is past the reference.
    assert hypervolume([(2, 2), (1, 1), (1, 3), (5, 9)], (0, 4)) == pytest.approx(5.0)


def test_hypervolume_matches_counted_cells():
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = [tuple(p) for p in rng.integers(0, 8, size=(5, 2)).tolist()]
        cells = sum(
            any(x < reward and y >= kl for reward, kl in points) for x in range(8) for y in range(8)
        )
        assert hypervolume(points, (0, 8)) == cells


def test_sign_flip_counts_patterns():
    assert sign_flip_p([1, 2, 3], [0, 0, 0]) == 2 / 8
    assert sign_flip_p([1, 1, -1], [0, 0, 0]) == 1.0
    assert sign_flip_p([1.0] * 12, [0.0] * 12) < 0.01


def test_bootstrap_of_equal_values_is_a_point_and_of_others_holds_the_mean():
    assert bootstrap_interval([2.0, 2.0]) == (2.0, 2.0)
    # Of two seeds a quarter of the resamples is twice the same seed, more than 2.5 %.
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)
