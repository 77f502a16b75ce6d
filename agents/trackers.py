"""Trackers: TensorBoard, Weights & Biases and trackio get what the run folder gets.

The run folder is the record; a tracker is a way to look at it. So nothing is read back from one, a
tracker that fails is left behind with a warning, and all of them work without a network.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import netrc
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from rich.console import Console

from agents.config import TrainConfig
from agents.records import (
    HistogramRow,
    MetricValue,
    SampleRow,
    number,
    printable,
    read_metrics,
)

_COLUMNS = ("policy", "role", "query", "response", "task_reward")
"""Of a table of samples."""


class Tracker(Protocol):
    """What is told of a run as it goes."""

    def log(self, row: Mapping[str, MetricValue], histograms: HistogramRow | None) -> None:
        """Take the metrics of one iteration."""

    def samples(self, rows: Sequence[SampleRow]) -> None:
        """Take sample texts, all of the same iteration."""

    def close(self) -> None:
        """Finish writing; nothing is taken afterwards."""


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


class GuardedTracker:
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


class TensorBoardTracker:
    """Event files in `tensorboard/` of the run folder: `tensorboard --logdir runs`."""

    def __init__(self, config: TrainConfig, done: int):
        """Open the files; what came after the checkpoint is purged."""
        from torch.utils.tensorboard import SummaryWriter

        folder = config.run_folder / "tensorboard"
        self._writer = SummaryWriter(str(folder), purge_step=done, flush_secs=30)
        fields = json.dumps(config.to_json(), indent=2)
        self._writer.add_text("configuration", f"```json\n{fields}\n```", done)

    def log(self, row: Mapping[str, MetricValue], histograms: HistogramRow | None) -> None:
        """Add a scalar per number and a histogram per policy and quantity."""
        step = _step(row)
        for key, value in _numbers(row).items():
            self._writer.add_scalar(key, value, step)
        for key, edges, counts in _histograms(histograms):
            middles = [(low + high) / 2 for low, high in pairwise(edges)]
            self._writer.add_histogram_raw(
                f"{key}_histogram",
                min=edges[0],
                max=edges[-1],
                num=sum(counts),
                sum=sum(count * middle for count, middle in zip(counts, middles, strict=True)),
                sum_squares=sum(c * m * m for c, m in zip(counts, middles, strict=True)),
                bucket_limits=edges[1:],
                bucket_counts=counts,
                global_step=step,
            )

    def samples(self, rows: Sequence[SampleRow]) -> None:
        """Add one Markdown table per policy."""
        for policy in dict.fromkeys(row["policy"] for row in rows):
            cells = [_cells(row)[1:] for row in rows if row["policy"] == policy]
            lines = [_COLUMNS[1:], ["---"] * len(_COLUMNS[1:]), *cells]
            table = "\n".join("| " + " | ".join(map(_markdown, line)) + " |" for line in lines)
            self._writer.add_text(f"{policy}/samples", table, _sample_step(rows))

    def close(self) -> None:
        """Flush and close the files."""
        self._writer.close()


class WandbTracker:
    """A Weights & Biases run in `wandb/` of the run folder.

    Online if one is logged in, or as `WANDB_MODE` says; else offline, for `wandb sync` to send
    later. The entity is whatever the account's default is.
    """

    def __init__(self, config: TrainConfig, done: int):
        """Begin a run, or go on with the one whose id is in the folder."""
        import wandb

        self._wandb = wandb
        self._tracked = _last_tracked(config, done)
        folder = config.run_folder
        (folder / "wandb").mkdir(parents=True, exist_ok=True)
        id_file = folder / "wandb" / "run_id"
        if not id_file.is_file():
            id_file.write_text(secrets.token_hex(4), encoding="utf-8")
        with contextlib.redirect_stderr(io.StringIO()):  # it advertises
            self._run = wandb.init(
                project=_project(config),
                name=folder.absolute().name,
                id=id_file.read_text(encoding="utf-8").strip(),
                resume="allow",
                dir=str(folder),
                mode=_wandb_mode(),
                config=config.to_json(),
                settings=wandb.Settings(silent=True, console="off"),
            )

    def log(self, row: Mapping[str, MetricValue], histograms: HistogramRow | None) -> None:
        """Log numbers and histograms under the iteration."""
        if _step(row) <= self._tracked:
            return
        values: dict[str, Any] = _numbers(row)
        for key, edges, counts in _histograms(histograms):
            shares = np.array(counts), np.array(edges)
            values[f"{key}_histogram"] = self._wandb.Histogram(np_histogram=shares)
        self._run.log(values, step=_step(row))

    def samples(self, rows: Sequence[SampleRow]) -> None:
        """Log one table."""
        if rows and _sample_step(rows) > self._tracked:
            table = self._wandb.Table(columns=list(_COLUMNS), data=[_cells(row) for row in rows])
            self._run.log({_table_name(rows): table}, step=_sample_step(rows))

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class TrackioTracker:
    """A local trackio run, under the name of the run folder: `trackio show`."""

    def __init__(self, config: TrainConfig, done: int):
        """Begin a run, or go on with the latest of this name."""
        with contextlib.redirect_stdout(io.StringIO()):  # it greets with several lines
            import trackio  # type: ignore[import-not-found]

            self._trackio = trackio
            self._tracked = _last_tracked(config, done)
            self._run = trackio.init(
                project=_project(config),
                name=config.run_folder.absolute().name,
                config=config.to_json(),
                resume="allow" if done else "never",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, row: Mapping[str, MetricValue], histograms: HistogramRow | None) -> None:
        """Log numbers and histograms under the iteration."""
        if _step(row) <= self._tracked:
            return
        values: dict[str, Any] = _numbers(row)
        for key, edges, counts in _histograms(histograms):
            values[f"{key}_histogram"] = self._trackio.Histogram(np_histogram=(counts, edges))
        self._run.log(values, step=_step(row))

    def samples(self, rows: Sequence[SampleRow]) -> None:
        """Log one table."""
        if rows and _sample_step(rows) > self._tracked:
            table = self._trackio.Table(columns=list(_COLUMNS), data=[_cells(row) for row in rows])
            self._run.log({_table_name(rows): table}, step=_sample_step(rows))

    def close(self) -> None:
        """Finish the run."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()


def _last_tracked(config: TrainConfig, done: int) -> int:
    """The last iteration that was tracked before a resumption, -1 for none.

    These trackers cannot forget. A resumed run repeats the iterations after its checkpoint exactly,
    so they are not told of them twice.
    """
    path = config.run_folder / "metrics.jsonl"
    rows = read_metrics(path) if done and path.is_file() else []
    return int(number(rows[-1], "iteration")) if rows else -1


def _project(config: TrainConfig) -> str:
    return f"cory-{config.task}"


def _wandb_mode() -> Any:
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return "online" if netrc.netrc().authenticators(host) else "offline"
    except (OSError, netrc.NetrcParseError):
        return "offline"


def _step(row: Mapping[str, object]) -> int:
    return int(number(row, "iteration"))


def _sample_step(rows: Sequence[SampleRow]) -> int:
    """The iteration after which texts were sampled: it goes or stays with its metrics."""
    return max(0, rows[0]["iteration"] - 1)


def _table_name(rows: Sequence[SampleRow]) -> str:
    return "samples" if rows[0]["iteration"] else "reference_samples"


def _numbers(row: Mapping[str, MetricValue]) -> dict[str, float]:
    return {key: value for key, value in row.items() if isinstance(value, int | float)}


def _histograms(row: HistogramRow | None) -> list[tuple[str, list[float], list[int]]]:
    """Key, edges and counts of every histogram."""
    if row is None:
        return []
    return [
        (key, row["edges"][key.rpartition("/")[2]], counts) for key, counts in row["counts"].items()
    ]


def _cells(row: SampleRow) -> list[Any]:
    values: Mapping[str, Any] = row
    return [printable(v) if isinstance(v := values[name], str) else v for name in _COLUMNS]


def _markdown(cell: object) -> str:
    text = f"{cell:.3f}" if isinstance(cell, float) else str(cell)
    return " ".join(text.replace("|", "\\|").split())
