"""Figures: distinct-2, pass@k, majority@k, finite and moving means, wall time.

Plain Python without torch, numpy or Matplotlib. Intervals and tests are in `statistics.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from math import comb

_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai and Lao, Tibetan, Myanmar, Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
)
"""Characters of scripts that put no spaces between words."""


_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


_SMOOTHING_SHARE = 12
"""A smoothed point is the mean over about this fraction of the run."""


def distinct_2(texts: Sequence[str]) -> float:
    """Share of different word pairs among all word pairs of the texts, in [0, 1]; 0 without any.

    Words are what stands between spaces; in scripts without spaces (Chinese, Japanese, Thai, Lao,
    Khmer, Myanmar, Tibetan) every character counts as one.

    Source: Li et al. 2016, arXiv 1510.03055, section 5.4. It falls as the number of texts grows:
        compare equal numbers.
    """
    pairs = [pair for text in texts for pair in pairwise(_WORD.findall(text))]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def pass_at_k(count: int, correct: int, k: int) -> float:
    """Probability that at least one of k responses is correct, estimated without bias from more.

    1 − C(n − c, k) / C(n, k): the share of the k-subsets of the n responses with a correct one.

    Source: Chen et al. 2021, arXiv 2107.03374, eq. 1.

    Args:
        count: n, responses that were sampled.
        correct: c of them are correct, in [0, n].
        k: responses that may be given, in [1, n].

    Raises:
        ValueError: if a number is out of its range.
    """
    _expect_votes(count, correct, k)
    return 1 - comb(count - correct, k) / comb(count, k)


def majority_at_k(count: int, correct: int, others: tuple[int, ...], k: int) -> float:
    """Probability that the majority of k responses is correct, estimated without bias from more.

    The mean over all k-subsets of the n responses (self-consistency, Wang et al. 2022, arXiv
    2203.11171). In a subset the answer with the most votes is given; one of several with equally
    many by lot. A response without an answer has no vote, and without votes nothing is correct.

    Args:
        count: n, responses that were sampled.
        correct: c of them give the correct answer.
        others: how many give each of the wrong answers; the rest of the n gives none.
        k: responses that vote, in [1, n].

    Raises:
        ValueError: if a number is out of its range, or there are more votes than responses.
    """
    _expect_votes(count, correct + sum(others), k)
    return _majority(count, correct, tuple(sorted(others)), k)


@lru_cache(maxsize=65536)
def _majority(count: int, correct: int, others: tuple[int, ...], k: int) -> float:
    silent = count - correct - sum(others)
    won = 0.0
    for votes in range(1, min(correct, k) + 1):
        # Ways to draw the other votes, by how many they are and how many answers tie with ours.
        ways = {(0, 0): 1}
        for size in others:
            grown: dict[tuple[int, int], int] = {}
            for (drawn, ties), number in ways.items():
                for more in range(min(size, votes, k - votes - drawn) + 1):
                    key = (drawn + more, ties + (more == votes))
                    grown[key] = grown.get(key, 0) + number * comb(size, more)
            ways = grown
        won += comb(correct, votes) * sum(
            number * comb(silent, k - votes - drawn) / (1 + ties)
            for (drawn, ties), number in ways.items()
        )
    return won / comb(count, k)


def _expect_votes(count: int, votes: int, k: int) -> None:
    if not 1 <= k <= count:
        raise ValueError(f"Expected k to be between 1 and the {count} responses, got {k}.")
    if not 0 <= votes <= count:
        raise ValueError(f"Expected at most {count} votes of {count} responses, got {votes}.")


def finite_sum(values: Iterable[float]) -> float:
    """Add what is finite."""
    return sum(value for value in values if math.isfinite(value))


def finite_mean(values: Iterable[float]) -> float:
    """Average what is finite; NaN if nothing is."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def smoothing_window(num_rows: int) -> int:
    """The odd number of iterations over which curves of `num_rows` points are smoothed."""
    return 2 * (num_rows // (2 * _SMOOTHING_SHARE)) + 1


def moving_mean(values: Sequence[float], window: int) -> list[float]:
    """Average over a centred window, cut off at both ends; NaNs do not count."""
    known = [value if math.isfinite(value) else 0.0 for value in values]
    counts = [0, *accumulate(map(math.isfinite, values))]
    means: list[float] = []
    for centre in range(len(values)):
        first, end = max(0, centre - window // 2), min(centre + window // 2 + 1, len(values))
        count = counts[end] - counts[first]
        means.append(sum(known[first:end]) / count if count else math.nan)
    return means


def wall_time(seconds: float) -> str:
    """Return a duration as a person says it."""
    minutes, hours = round(seconds / 60), int(seconds // 3600)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{hours} h {minutes - 60 * hours} min" if hours else f"{minutes} min"
