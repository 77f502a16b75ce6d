"""Running mean and variance of a stream of values, which scale rewards and values.

A policy or a critic owns its moments and keeps them when roles are exchanged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(slots=True)
class Moments:
    """Mean and variance of all values so far, updated batch by batch.

    Source: Chan, Golub & LeVeque 1979, "Updating Formulae and a Pairwise Algorithm", eq. 2.1.
    """

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared differences to the mean."""

    def update(self, values: Tensor) -> None:
        """Add a batch of values of any shape."""
        values = values.double()
        count, mean = values.numel(), float(values.mean())
        total, difference = self.count + count, mean - self.mean
        self.squares += float(((values - mean) ** 2).sum())
        self.squares += difference**2 * self.count * count / total
        self.mean += difference * count / total
        self.count = total

    @property
    def std(self) -> float:
        """Standard deviation; 1 before the first value, and of values that are all the same."""
        std = math.sqrt(self.squares / self.count) if self.count else 0.0
        return std if std > 1e-6 else 1.0

    def normalized(self, values: Tensor) -> Tensor:
        """Return the values shifted by the mean and divided by the standard deviation so far."""
        return (values - self.mean) / self.std

    def restored(self, values: Tensor) -> Tensor:
        """Return the values that `normalized` was given."""
        return values * self.std + self.mean
