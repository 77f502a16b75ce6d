"""Learning rules: what an algorithm is, and the names of those there are.

The names are known without loading torch; an algorithm's module is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agents import registries
from agents.registries import register_algorithm
from cory_env.registry import Registry

if TYPE_CHECKING:
    from agents.algorithms.base import Algorithm

ALGORITHMS: Registry[type[Algorithm]] = registries.ALGORITHMS


def __getattr__(name: str) -> Any:
    if name != "Algorithm":
        raise AttributeError(f"module 'agents.algorithms' has no attribute {name!r}")
    from agents.algorithms.base import Algorithm

    return Algorithm


__all__ = ["ALGORITHMS", "Algorithm", "register_algorithm"]
