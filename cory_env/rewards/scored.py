"""The reward of tasks whose examples are scored by rules of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cory_env.types import Example, Float64Array, ScoredExample


class ScoredReward:
    """What the example itself says of a response; without a scorer, 1 for the very reference."""

    def __call__(self, examples: Sequence[Example], responses: Sequence[str], /) -> Float64Array:
        """Score each response.

        Returns:
            (B,) scores.

        Raises:
            ValueError: if an example has neither a scorer nor a reference.
        """
        return np.array(
            [_score(example, text) for example, text in zip(examples, responses, strict=True)],
            dtype=np.float64,
        )


def _score(example: Example, response: str) -> float:
    if isinstance(example, ScoredExample):
        return example.scorer(response)
    if example.reference is None:
        raise ValueError(f"Expected an example with a scorer or a reference, got {example}.")
    return float(response.strip() == example.reference.strip())
