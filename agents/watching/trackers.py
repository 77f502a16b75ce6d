"""Open the trackers that a run names.

The run folder is the record; a tracker is a way to look at it. So nothing is read back from one, a
tracker that fails is left behind with a warning, and all of them work without a network.
"""

from __future__ import annotations

import importlib.util

from rich.console import Console

from agents import registries
from agents.config.train import TrainConfig
from agents.watching.tracker import GuardedTracker, Tracker
from cory_env.registry import Registry

TRACKERS: Registry[type[Tracker]] = registries.TRACKERS


def check_trackers(config: TrainConfig) -> None:
    """Check that the trackers of a run are installed, without importing their libraries.

    Raises:
        ValueError: if one is not.
    """
    for name in config.tracker_names:
        package = TRACKERS.find(name).package
        if package and importlib.util.find_spec(package) is None:
            raise ValueError(
                f"Expected {package} to be installed for --trackers {config.trackers}, found no "
                f"such package: pip install {package}, or leave it out."
            )


def open_trackers(config: TrainConfig, done: int, console: Console) -> list[Tracker]:
    """Open the trackers of a run; call it before the run folder forgets anything.

    Args:
        config: of the run.
        done: iterations before the first that will be tracked.
        console: where it is said if a tracker fails.
    """
    kinds = [TRACKERS.find(name) for name in config.tracker_names]
    return [GuardedTracker(kind, config, done, console) for kind in kinds]
