"""Algorithms by name: registering one enrols it in the smoke and learning tests."""

from __future__ import annotations

from agents.algorithms.base import Algorithm
from agents.algorithms.ppo import IPPO, MAPPO

ALGORITHMS: dict[str, type[Algorithm]] = {"mappo": MAPPO, "ippo": IPPO, "ppo": IPPO}
"""`ppo` is `ippo` on a game without observers: the baseline differs from CORY in nothing but the
game."""


def algorithm_class(name: str) -> type[Algorithm]:
    """Return a registered algorithm.

    Raises:
        ValueError: if there is none of this name.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"Expected an algorithm ({', '.join(ALGORITHMS)}), got {name!r}.")
    return ALGORITHMS[name]


__all__ = ["ALGORITHMS", "IPPO", "MAPPO", "Algorithm", "algorithm_class"]
