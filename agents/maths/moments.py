"""Running mean and variance of everything seen so far; they follow the policy, or the critic."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(slots=True)
class Moments:
    """Mean and variance of all values taken in, merged batch by batch.

    Source: Chan, Golub & LeVeque 1979, "Updating Formulae and a Pairwise Algorithm", eq. 2.1.
    """

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared differences to the mean."""

    def update(self, values: Tensor) -> None:
        """Take in a batch of values of any shape."""
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
        """Return the values with mean 0 and variance 1, as far as they are like those seen."""
        return (values - self.mean) / self.std

    def restored(self, values: Tensor) -> Tensor:
        """Return normalised values as they were."""
        return values * self.std + self.mean
