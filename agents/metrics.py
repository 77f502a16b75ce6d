"""Figures about texts and samples."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def distinct_2(texts: Sequence[str]) -> float:
    """Share of different word pairs among all word pairs of the texts, in [0, 1]; 0 without any.

    Source: Li et al. 2016, arXiv 1510.03055, section 5.4. It falls as the number of texts grows:
        compare equal numbers.
    """
    pairs = [pair for text in texts for pair in pairwise(text.split())]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def bootstrap_interval(
    values: NDArray[np.float64], *, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean and 95 % percentile interval of the mean under resampling with replacement (Efron 1979).

    Args:
        values: (N,) independent figures.
        resamples: number of bootstrap samples.
        seed: of the resampling.

    Returns:
        Mean, lower and upper end.
    """
    rng = np.random.default_rng(seed)
    means = np.array(
        [values[rng.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)
