"""Weights & Biases: a run in the run folder, sent at once or later."""

from __future__ import annotations

import contextlib
import io
import netrc
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.config.train import TrainConfig
from agents.records.folder import RunFolder
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


class WandbTracker(Tracker):
    """A Weights & Biases run in `wandb/` of the run folder.

    Online if one is logged in, or as `WANDB_MODE` says; else offline, for `wandb sync` to send
    later. The entity is whatever the account's default is.
    """

    package = "wandb"

    def __init__(self, config: TrainConfig, done: int):
        """Begin a run, or go on with the one whose id is in the folder."""
        import wandb

        self._wandb = wandb
        self._tracked = last_tracked(config, done)
        folder = RunFolder(config.run_folder)
        folder.wandb_path.mkdir(parents=True, exist_ok=True)
        id_file = folder.wandb_id_path
        if not id_file.is_file():
            id_file.write_text(secrets.token_hex(4), encoding="utf-8")
        with contextlib.redirect_stderr(io.StringIO()):  # it advertises
            self._run = wandb.init(
                project=project(config),
                name=folder.path.absolute().name,
                id=id_file.read_text(encoding="utf-8").strip(),
                resume="allow",
                dir=str(folder.path),
                mode=wandb_mode(),
                config=config.to_json(),
                settings=wandb.Settings(silent=True, console="off"),
            )

    def log(self, row: Mapping[str, MetricValue], histograms: HistogramRow | None) -> None:
        """Log numbers and histograms under the iteration."""
        if step_of(row) <= self._tracked:
            return
        values: dict[str, Any] = numbers(row)
        for key, edges, counts in histograms_of(histograms):
            shares = np.array(counts), np.array(edges)
            values[f"{key}_histogram"] = self._wandb.Histogram(np_histogram=shares)
        self._run.log(values, step=step_of(row))

    def samples(self, rows: Sequence[SampleRow]) -> None:
        """Log one table."""
        if rows and sample_step(rows) > self._tracked:
            table = self._wandb.Table(
                columns=list(COLUMNS), data=[sample_cells(row) for row in rows]
            )
            self._run.log({table_name(rows): table}, step=sample_step(rows))

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def wandb_mode() -> Any:
    """As `WANDB_MODE` says, or else online for who is logged in."""
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return "online" if netrc.netrc().authenticators(host) else "offline"
    except (OSError, netrc.NetrcParseError):
        return "offline"
