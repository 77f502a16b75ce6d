"""TensorBoard: event files in the run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise

from agents.config.train import TrainConfig
from agents.records.folder import RunFolder
from agents.records.rows import HistogramRow, MetricValue, SampleRow
from agents.watching.tracker import (
    COLUMNS,
    Tracker,
    histograms_of,
    numbers,
    sample_cells,
    sample_step,
    step_of,
)


class TensorBoardTracker(Tracker):
    """Event files in `tensorboard/` of the run folder: `tensorboard --logdir runs`."""

    package = "tensorboard"

    def __init__(self, config: TrainConfig, done: int):
        """Open the files; what came after the checkpoint is purged."""
        from torch.utils.tensorboard import SummaryWriter

        folder = RunFolder(config.run_folder).tensorboard_path
        self._writer = SummaryWriter(str(folder), purge_step=done, flush_secs=30)
        fields = json.dumps(config.to_json(), indent=2)
        self._writer.add_text("configuration", f"```json\n{fields}\n```", done)

    def log(self, row: Mapping[str, MetricValue], histograms: HistogramRow | None) -> None:
        """Add a scalar per number and a histogram per policy and quantity."""
        step = step_of(row)
        for key, value in numbers(row).items():
            self._writer.add_scalar(key, value, step)
        for key, edges, counts in histograms_of(histograms):
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
            cells = [sample_cells(row)[1:] for row in rows if row["policy"] == policy]
            lines = [COLUMNS[1:], ["---"] * len(COLUMNS[1:]), *cells]
            table = "\n".join("| " + " | ".join(map(_markdown, line)) + " |" for line in lines)
            self._writer.add_text(f"{policy}/samples", table, sample_step(rows))

    def close(self) -> None:
        """Flush and close the files."""
        self._writer.close()


def _markdown(cell: object) -> str:
    text = f"{cell:.3f}" if isinstance(cell, float) else str(cell)
    return " ".join(text.replace("|", "\\|").split())
