"""Trackers: their protocol, a guard for when one fails, and what they share in reading rows.

The libraries are in `tensorboard.py`, `wandb.py` and `trackio.py`; `trackers.py` opens them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from rich.console import Console

from agents.config.train import TrainConfig
from agents.records.folder import RunFolder
from agents.records.rows import HistogramRow, MetricValue, SampleRow, number, printable

COLUMNS = ("policy", "role", "query", "response", "task_reward")
"""Of a table of samples."""


class Tracker(ABC):
    """Receives the rows of a run while it trains.

    `@register_tracker("mine")` makes a subclass known as `--trackers mine`.
    """

    package: ClassVar[str] = ""
    """What must be installed, as an import statement has it."""

    def __init__(self, config: TrainConfig, done: int):  # noqa: B027
        """Begin to track a run, or go on after `done` iterations."""

    @abstractmethod
    def log(self, row: Mapping[str, MetricValue], histograms: HistogramRow | None) -> None:
        """Take the metrics of one iteration."""

    @abstractmethod
    def samples(self, rows: Sequence[SampleRow]) -> None:
        """Take sample texts, all of the same iteration."""

    @abstractmethod
    def close(self) -> None:
        """Finish writing; nothing is taken afterwards."""


class GuardedTracker(Tracker):
    """A tracker that cannot end a run: it warns once and is silent from then on."""

    def __init__(
        self,
        make: Callable[[TrainConfig, int], Tracker],
        config: TrainConfig,
        done: int,
        console: Console,
    ):
        self._console = console
        self._tracker: Tracker | None = None
        self._attempt(make.__name__, lambda: self._open(make, config, done))

    def log(self, row: Mapping[str, MetricValue], histograms: HistogramRow | None) -> None:
        """Take the metrics of one iteration."""
        if tracker := self._tracker:
            self._attempt(type(tracker).__name__, lambda: tracker.log(row, histograms))

    def samples(self, rows: Sequence[SampleRow]) -> None:
        """Take sample texts."""
        if tracker := self._tracker:
            self._attempt(type(tracker).__name__, lambda: tracker.samples(rows))

    def close(self) -> None:
        """Finish writing."""
        if tracker := self._tracker:
            self._attempt(type(tracker).__name__, tracker.close)

    def _open(
        self, make: Callable[[TrainConfig, int], Tracker], config: TrainConfig, done: int
    ) -> None:
        self._tracker = make(config, done)

    def _attempt(self, name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever it is: three libraries, a network and a disk
            self._tracker = None
            reason = " ".join(str(error).split()) or type(error).__name__
            self._console.print(
                f"{name} failed and gets nothing more of this run; the run goes on: {reason}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )


def last_tracked(config: TrainConfig, done: int) -> int:
    """The last iteration that was tracked before a resumption, -1 for none.

    These trackers cannot forget. A resumed run repeats the iterations after its checkpoint exactly,
    so they are not told of them twice.
    """
    rows = RunFolder(config.run_folder).read_metrics() if done else []
    return int(number(rows[-1], "iteration")) if rows else -1


def project(config: TrainConfig) -> str:
    """What runs of one task are filed under."""
    return f"cory-{config.task}"


def step_of(row: Mapping[str, object]) -> int:
    """The iteration of a row of metrics."""
    return int(number(row, "iteration"))


def sample_step(rows: Sequence[SampleRow]) -> int:
    """The iteration after which texts were sampled: it goes or stays with its metrics."""
    return max(0, rows[0]["iteration"] - 1)


def table_name(rows: Sequence[SampleRow]) -> str:
    """What a table of samples is called."""
    return "samples" if rows[0]["iteration"] else "reference_samples"


def numbers(row: Mapping[str, MetricValue]) -> dict[str, float]:
    """What of a row is a number."""
    return {key: value for key, value in row.items() if isinstance(value, int | float)}


def histograms_of(row: HistogramRow | None) -> list[tuple[str, list[float], list[int]]]:
    """Key, edges and counts of every histogram."""
    if row is None:
        return []
    return [
        (key, row["edges"][key.rpartition("/")[2]], counts) for key, counts in row["counts"].items()
    ]


def sample_cells(row: SampleRow) -> list[Any]:
    """The cells of a sample, of `COLUMNS`, as a screen may show them."""
    values: Mapping[str, Any] = row
    return [printable(v) if isinstance(v := values[name], str) else v for name in COLUMNS]
