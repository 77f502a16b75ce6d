"""A tracker of your own: a table of figures that any spreadsheet opens.

A tracker is told what the run folder gets, row by row. What it raises is said once, and the run
goes on without it.

    python examples/custom_tracker.py [--smoke]
    python -m agents train toy --import examples/custom_tracker.py --trackers csv
"""

import csv
import sys
from collections.abc import Mapping, Sequence

from agents import TrainConfig, train
from agents.config.presets import preset_values
from agents.records.folder import RunFolder
from agents.records.rows import HistogramRow, MetricValue, SampleRow
from agents.registries import register_tracker
from agents.watching.tracker import Tracker, numbers


@register_tracker("csv")
class CsvTracker(Tracker):
    """`tracked/csv/metrics.csv` of the run folder."""

    def __init__(self, config: TrainConfig, done: int):
        """Begin the table; a resumed run goes on behind the rows of what is done."""
        path = RunFolder(config.run_folder).trackers_path / "csv" / "metrics.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines(True)[: 1 + done] if done else []
        path.write_text("".join(lines), encoding="utf-8")
        self.file = path.open("a", newline="", encoding="utf-8")
        self.writer = csv.writer(self.file)
        self.has_header = bool(lines)

    def log(self, row: Mapping[str, MetricValue], histograms: HistogramRow | None) -> None:
        """Add a row, and before the first one the names of its columns."""
        figures = numbers(row)
        if not self.has_header:
            self.writer.writerow(figures)
            self.has_header = True
        self.writer.writerow(figures.values())
        self.file.flush()

    def samples(self, rows: Sequence[SampleRow]) -> None:
        """Leave texts out."""

    def close(self) -> None:
        """Close the file."""
        self.file.close()


if __name__ == "__main__":
    size = {"iterations": 2, "evaluation_queries": 8} if "--smoke" in sys.argv else {}
    values = {**preset_values("toy"), "trackers": "csv", "out": "runs/csv"}
    train(TrainConfig(**{**values, **size}))
