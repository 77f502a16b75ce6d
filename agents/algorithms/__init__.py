"""Algorithms by name: registering one enrols it in the smoke and learning tests."""

from __future__ import annotations

from collections.abc import Callable

from agents.algorithms.base import Algorithm
from agents.algorithms.dr_grpo import DrGRPO
from agents.algorithms.grpo import GRPO
from agents.algorithms.gspo import GSPO
from agents.algorithms.happo import HAPPO
from agents.algorithms.ippo import IPPO
from agents.algorithms.mappo import MAPPO
from agents.algorithms.reinforce_plus_plus import ReinforcePlusPlus
from agents.algorithms.rloo import RLOO

ALGORITHMS: dict[str, type[Algorithm]] = {
    "mappo": MAPPO,
    "ippo": IPPO,
    "ppo": IPPO,
    "happo": HAPPO,
    "reinforce++": ReinforcePlusPlus,
    "rloo": RLOO,
    "grpo": GRPO,
    "dr_grpo": DrGRPO,
    "gspo": GSPO,
}
"""`ppo` is `ippo` on a game without observers: the baseline differs from CORY in nothing but the
game."""


def register_algorithm(name: str) -> Callable[[type[Algorithm]], type[Algorithm]]:
    """Return a decorator that registers an algorithm under a new name."""
    if name in ALGORITHMS:
        raise ValueError(f"Expected a new algorithm name, got {name!r}, which is registered.")

    def add(algorithm: type[Algorithm]) -> type[Algorithm]:
        ALGORITHMS[name] = algorithm
        return algorithm

    return add


def algorithm_class(name: str) -> type[Algorithm]:
    """Return a registered algorithm.

    Raises:
        ValueError: if there is none of this name.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"Expected an algorithm ({', '.join(ALGORITHMS)}), got {name!r}.")
    return ALGORITHMS[name]


__all__ = ["ALGORITHMS", "IPPO", "MAPPO", "Algorithm", "algorithm_class", "register_algorithm"]
