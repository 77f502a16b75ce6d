"""A run folder as it is read: configuration, rows, samples, evaluation, provenance."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.config.archives import RESOLVED
from agents.config.train import TrainConfig
from agents.records.folder import RunFolder
from agents.records.provenance import Entry
from agents.records.rows import HistogramRow, MetricRow, SampleRow


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """What a run folder holds; empty what it does not hold (yet)."""

    folder: RunFolder
    config: dict[str, object]
    """As this version writes it, with what it left to others as it came out; as it stands in the
    file, of a run that is no longer read."""
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
        config=_fields(folder.read_config_values()),
        rows=folder.read_metrics(),
        samples=folder.read_samples(),
        histograms=folder.read_histograms(),
        evaluation=folder.read_evaluation(),
        provenance=folder.read_provenance(),
    )


def _fields(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a run as this version writes them, whichever version wrote them.

    Pages show them beside those of other runs. What only a plug-in knows, which is not imported
    for a page, stands as it is in the file.
    """
    resolved = values.get(RESOLVED)
    with suppress(ValueError):
        values = TrainConfig.from_json(values).to_json()
    return {**values, **(resolved if isinstance(resolved, dict) else {})}
