"""A weighted sum of rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from agents.types import Costly, Described, Detailed
from cory_env.game import score
from cory_env.types import Example, Float64Array, Reward


class RewardSum:
    """Pays the weighted sum of what several rewards pay.

    A weight of 0 pays nothing, and has its reward logged beside the others.

    Args:
        parts: weight and reward by name.
    """

    def __init__(self, parts: Mapping[str, tuple[float, Reward]]):
        self.parts = dict(parts)
        self.details: dict[str, Float64Array] = {}
        """Of the last call: (B,) of each reward by itself, and what that has to say."""
        self.description = " + ".join(
            f"{weight:g} * {reward.description if isinstance(reward, Described) else name}"
            for name, (weight, reward) in self.parts.items()
        )
        """What is paid, for people to read."""

    def __call__(self, examples: Sequence[Example], responses: Sequence[str]) -> Float64Array:
        """Return (B,) sums.

        Args:
            examples: (B,) what was asked.
            responses: (B,) the texts.

        Raises:
            RewardError: if one of the rewards fails.
        """
        total = np.zeros(len(responses))
        self.details = {}
        for name, (weight, reward) in self.parts.items():
            scores = score(reward, examples, responses)
            total += weight * scores
            self.details[f"reward {name}"] = scores
            if isinstance(reward, Detailed):
                self.details |= reward.details
        return total

    def spent(self) -> int:
        """Return the tokens that judges have read and written since this was last asked."""
        rewards = [reward for _, reward in self.parts.values()]
        return sum(reward.spent() for reward in rewards if isinstance(reward, Costly))
