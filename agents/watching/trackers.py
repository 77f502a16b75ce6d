"""Open the trackers that a run names: TensorBoard, Weights & Biases, trackio.

The run folder is the record; a tracker is a way to look at it. So nothing is read back from one, a
tracker that fails is left behind with a warning, and all of them work without a network.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from rich.console import Console

from agents.config.train import TrainConfig
from agents.watching.tensorboard import TensorBoardTracker
from agents.watching.tracker import GuardedTracker, Tracker
from agents.watching.trackio import TrackioTracker
from agents.watching.wandb import WandbTracker


def check_trackers(config: TrainConfig) -> None:
    """Check that the trackers of a run are installed, without importing them.

    Raises:
        ValueError: if one is not.
    """
    for name in config.tracker_names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"Expected {name} to be installed for --trackers {config.trackers}, found no such "
                f"package: pip install {name}, or leave it out."
            )


def open_trackers(config: TrainConfig, done: int, console: Console) -> list[Tracker]:
    """Open the trackers of a run; call it before the run folder forgets anything.

    Args:
        config: of the run.
        done: iterations before the first that will be tracked.
        console: where it is said if a tracker fails.
    """
    makers: dict[str, Callable[[TrainConfig, int], Tracker]] = {
        "tensorboard": TensorBoardTracker,
        "wandb": WandbTracker,
        "trackio": TrackioTracker,
    }
    return [GuardedTracker(makers[name], config, done, console) for name in config.tracker_names]
