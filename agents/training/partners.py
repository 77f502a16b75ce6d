"""Partners of the past: policies that play as one of their earlier snapshots.

Whoever learns beside a partner that changes as fast as it does fits its last partner only. Source:
fictitious co-play (Strouse et al. 2021, arXiv 2110.08176), with one run's own past.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
from torch import Tensor

from agents.distributed.sharding import spread_like
from agents.policies.base import Policy
from agents.policies.weights import Weights, copied, playing_as


class PartnerPool:
    """The last snapshots of each policy.

    Attributes:
        snapshots: by policy, the oldest first. They are replaced, never written to.
    """

    def __init__(
        self, policies: Mapping[str, Policy], learners: Sequence[str], *, size: int, seed: int
    ):
        """Begin with no snapshots.

        Args:
            policies: by name.
            learners: who takes turns in playing as it is.
            size: snapshots to keep of each; 0 for no pool.
            seed: of who plays as which snapshot.
        """
        self.policies, self.learners = policies, learners
        self.size, self.seed = size, seed
        self.snapshots: dict[str, list[Weights]] = {name: [] for name in policies if size}

    def keep(self) -> None:
        """Make a snapshot of each policy; the oldest beyond the size goes."""
        for name, kept in self.snapshots.items():
            self.snapshots[name] = [*kept, copied(self.policies[name])][-self.size :]

    def absent(self, iteration: int) -> list[str]:
        """Return who plays as a snapshot: all that have one but whoever's turn it is."""
        current = self.learners[iteration % len(self.learners)]
        return [name for name, kept in self.snapshots.items() if name != current and kept]

    def playing(self, iteration: int) -> AbstractContextManager[None]:
        """Give all but one policy the weights of a snapshot, and back what they had.

        Policies without a snapshot play as they are.
        """
        generator = np.random.default_rng([self.seed, iteration, 2])
        absent = [(name, self.snapshots[name]) for name in self.absent(iteration)]
        drawn = {name: kept[generator.integers(len(kept))] for name, kept in absent}
        return playing_as(self.policies, drawn)

    def tensors(self) -> dict[str, Tensor]:
        """Return the snapshots by `policy/place/parameter`."""
        return {
            f"{name}/{place}/{key}": tensor
            for name, kept in self.snapshots.items()
            for place, weights in enumerate(kept)
            for key, tensor in weights.items()
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to what `tensors` returned."""
        for name in self.snapshots:
            found: dict[int, Weights] = {}
            parameters = self.policies[name].parameters()
            for path, tensor in tensors.items():
                owner, place, key = path.split("/", 2)
                if owner == name:
                    found.setdefault(int(place), {})[key] = spread_like(parameters[key], tensor)
            self.snapshots[name] = [found[place] for place in sorted(found)]
