"""Statistics over queries and over seeds: plain numpy, no models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

EXACT_SEEDS = 10
"""Up to here the sign-flip test visits all 2 ** n sign patterns."""


_AT_A_TIME = 2**20
"""Draws of the bootstrap that are in memory together."""


def bootstrap_interval(
    values: Sequence[float] | NDArray[np.float64], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean and 95 % percentile interval of the mean under resampling with replacement (Efron 1979).

    Args:
        values: (N,) independent figures, at least one.
        resamples: number of bootstrap samples.
        seed: of the resampling.

    Returns:
        Mean, lower and upper end.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0:
        raise ValueError("Expected at least one value, got none.")
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    rows = max(1, _AT_A_TIME // sample.size)
    for start in range(0, resamples, rows):
        part = means[start : start + rows]
        part[:] = sample[rng.integers(sample.size, size=(len(part), sample.size))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(sample.mean()), float(low), float(high)


def sign_flip_p(
    first: Sequence[float], second: Sequence[float], *, resamples: int = 10_000, seed: int = 0
) -> float:
    """Return the two-sided p of the paired sign-flip test; exact up to `EXACT_SEEDS` pairs."""
    if len(first) != len(second) or not first:
        raise ValueError(f"Expected as many pairs, got {len(first)} and {len(second)} values.")
    gaps = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    exact = gaps.size <= EXACT_SEEDS
    if exact:
        signs = np.array(list(product([1, -1], repeat=gaps.size)))
    else:
        signs = np.random.default_rng(seed).choice([1, -1], size=(resamples, gaps.size))
    # Rounding must not hide ties with the observed pattern.
    extreme = np.abs(signs @ gaps) >= abs(gaps.sum()) - 1e-12 * np.abs(gaps).sum()
    return float(extreme.mean() if exact else (extreme.sum() + 1) / (resamples + 1))
