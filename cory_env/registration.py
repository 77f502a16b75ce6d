"""The names under which Gymnasium and PettingZoo make the built-in games.

`gymnasium.make("cory_env/Imdb-v0")` is a seat, `pettingzoo.make("aec", "cory_env/imdb_v0")` and
`pettingzoo.make("parallel", "cory_env/imdb_v0")` are the games. All take the keyword arguments of
the classes they make. The version is that of the rules: see `cory_env.raw_env`.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import pettingzoo  # pyright: ignore[reportMissingTypeStubs] # it ships none

from cory_env.registry import TASKS

VERSION = 0


def register_games() -> None:
    """Register every built-in task with both libraries."""
    for task in TASKS:
        options: dict[str, Any] = {"task": task}
        gymnasium.register(  # pyright: ignore[reportUnknownMemberType]
            f"cory_env/{task.capitalize()}-v{VERSION}",
            entry_point="cory_env.seat:gym_env",
            kwargs=options,
        )
        name = f"cory_env/{task}_v{VERSION}"
        pettingzoo.register("aec", name, "cory_env.aec:env", kwargs=options)
        pettingzoo.register("parallel", name, "cory_env.parallel:parallel_env", kwargs=options)
