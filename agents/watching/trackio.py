"""trackio: a local run under the name of the run folder."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from agents.config.train import TrainConfig
from agents.records.rows import HistogramRow, MetricValue, SampleRow
from agents.watching.tracker import (
    COLUMNS,
    Tracker,
    histograms_of,
    last_tracked,
    numbers,
    project,
    sample_cells,
    sample_step,
    step_of,
    table_name,
)


class TrackioTracker(Tracker):
    """A local trackio run, under the name of the run folder: `trackio show`."""

    package = "trackio"

    def __init__(self, config: TrainConfig, done: int):
        """Begin a run, or go on with the latest of this name."""
        with contextlib.redirect_stdout(io.StringIO()):  # it greets with several lines
            trackio: Any = import_module("trackio")

            self._trackio = trackio
            self._tracked = last_tracked(config, done)
            self._run = trackio.init(
                project=project(config),
                name=config.run_folder.absolute().name,
                config=config.to_json(),
                resume="allow" if done else "never",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, row: Mapping[str, MetricValue], histograms: HistogramRow | None) -> None:
        """Log numbers and histograms under the iteration."""
        if step_of(row) <= self._tracked:
            return
        values: dict[str, Any] = numbers(row)
        for key, edges, counts in histograms_of(histograms):
            values[f"{key}_histogram"] = self._trackio.Histogram(np_histogram=(counts, edges))
        self._run.log(values, step=step_of(row))

    def samples(self, rows: Sequence[SampleRow]) -> None:
        """Log one table."""
        if rows and sample_step(rows) > self._tracked:
            table = self._trackio.Table(
                columns=list(COLUMNS), data=[sample_cells(row) for row in rows]
            )
            self._run.log({table_name(rows): table}, step=sample_step(rows))

    def close(self) -> None:
        """Finish the run."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()
