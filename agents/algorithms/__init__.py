"""Algorithms by name: those of the table are in the smoke and learning tests.

The names are known without loading torch; an algorithm's module is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from cory_env.registry import Registry

if TYPE_CHECKING:
    from agents.algorithms.base import Algorithm

_Class = TypeVar("_Class", bound="type[Algorithm]")

ALGORITHMS: Registry[type[Algorithm]] = Registry(
    "algorithm",
    {
        "mappo": "agents.algorithms.mappo:MAPPO",
        "ippo": "agents.algorithms.ippo:IPPO",
        "ppo": "agents.algorithms.ippo:IPPO",
        "happo": "agents.algorithms.happo:HAPPO",
        "reinforce++": "agents.algorithms.reinforce_plus_plus:ReinforcePlusPlus",
        "rloo": "agents.algorithms.rloo:RLOO",
        "grpo": "agents.algorithms.grpo:GRPO",
        "dr_grpo": "agents.algorithms.dr_grpo:DrGRPO",
        "gspo": "agents.algorithms.gspo:GSPO",
    },
)
"""`ppo` is `ippo` on a game without observers: the baseline differs from CORY in nothing but the
game."""


def register_algorithm(name: str) -> Callable[[_Class], _Class]:
    """Return a decorator that registers an algorithm.

    Raises:
        ValueError: in the decorator, if the name is taken.
    """

    def add(algorithm: _Class) -> _Class:
        ALGORITHMS.register(name, algorithm)
        return algorithm

    return add


def __getattr__(name: str) -> Any:
    if name != "Algorithm":
        raise AttributeError(f"module 'agents.algorithms' has no attribute {name!r}")
    from agents.algorithms.base import Algorithm

    return Algorithm


__all__ = ["ALGORITHMS", "Algorithm", "register_algorithm"]
