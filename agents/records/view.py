"""A run folder as it is read: configuration, rows, samples, evaluation, provenance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agents.records.folder import RunFolder
from agents.records.provenance import Entry
from agents.records.rows import HistogramRow, MetricRow, SampleRow


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """What a run folder holds; empty what it does not hold (yet)."""

    folder: RunFolder
    config: dict[str, object]
    """As it stands in the file: of any version, or of a run that is no longer read."""
    rows: list[MetricRow]
    samples: list[SampleRow]
    histograms: list[HistogramRow]
    evaluation: dict[str, object]
    provenance: list[Entry]


def read_run(run: Path) -> RunFiles:
    """Read the files of a run, finished or not.

    Raises:
        ValueError: The folder holds no run, or a file in it is not what a run writes.
    """
    folder = RunFolder(run)
    if not folder.config_path.is_file() and not folder.metrics_path.is_file():
        found = (
            "an empty folder" if run.is_dir() else "a file" if run.exists() else "no such folder"
        )
        if run.is_dir() and any(run.iterdir()):
            found = "a folder with neither"
        raise ValueError(
            f"Expected a run folder with {folder.config_path.name} and "
            f"{folder.metrics_path.name} at {run}, got {found}. "
            "Give the folder that `python -m agents train TASK --out DIR` wrote to."
        )
    return RunFiles(
        folder=folder,
        config=folder.read_config_values(),
        rows=folder.read_metrics(),
        samples=folder.read_samples(),
        histograms=folder.read_histograms(),
        evaluation=folder.read_evaluation(),
        provenance=folder.read_provenance(),
    )
