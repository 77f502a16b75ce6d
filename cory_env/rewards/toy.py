"""The reward of the toy task: how much of the reference a response gets right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cory_env.types import Example, Float64Array


class MatchReward:
    """The share of positions that agree with the reference; 1 only for the very same string."""

    def __call__(self, examples: Sequence[Example], responses: Sequence[str], /) -> Float64Array:
        """Score each response.

        Returns:
            (B,) scores from 0 to 1.

        Raises:
            ValueError: if an example has no reference.
        """
        return np.array(
            [_match(example, text) for example, text in zip(examples, responses, strict=True)],
            dtype=np.float64,
        )


def _match(example: Example, response: str) -> float:
    if not example.reference:
        raise ValueError(f"Expected an example with a reference, got {example}.")
    same = sum(a == b for a, b in zip(example.reference, response, strict=False))
    return same / max(len(example.reference), len(response))
