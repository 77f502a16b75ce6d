"""A run folder as it is read: configuration, rows, samples, evaluation, provenance."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from agents.records.provenance import Entry, read_provenance
from agents.records.rows import (
    HistogramRow,
    MetricRow,
    SampleRow,
    read_histograms,
    read_metrics,
    read_samples,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """What a run folder holds; empty what it does not hold (yet)."""

    name: str
    config: dict[str, object]
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
    config_path, metrics_path = run / "config.json", run / "metrics.jsonl"
    if not config_path.is_file() and not metrics_path.is_file():
        found = (
            "an empty folder" if run.is_dir() else "a file" if run.exists() else "no such folder"
        )
        if run.is_dir() and any(run.iterdir()):
            found = "a folder with neither"
        raise ValueError(
            f"Expected a run folder with config.json and metrics.jsonl at {run}, got {found}. "
            "Give the folder that `python -m agents train TASK --out DIR` wrote to."
        )
    samples_path, evaluation_path = run / "samples.jsonl", run / "evaluation.json"
    histograms_path = run / "histograms.jsonl"
    return RunFiles(
        name=run.resolve().name,
        config=read_object(config_path) if config_path.is_file() else {},
        rows=read_metrics(metrics_path) if metrics_path.is_file() else [],
        samples=read_samples(samples_path) if samples_path.is_file() else [],
        histograms=read_histograms(histograms_path) if histograms_path.is_file() else [],
        evaluation=read_object(evaluation_path) if evaluation_path.is_file() else {},
        provenance=read_provenance(run),
    )


def read_object(path: Path) -> dict[str, object]:
    """Read a JSON object.

    Raises:
        ValueError: The file holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"Expected a JSON object in {path}, got {error}. Mend or remove that file."
        ) from error
    if not isinstance(value, dict):
        raise ValueError(
            f"Expected a JSON object in {path}, got {type(value).__name__}. "
            "Mend or remove that file."
        )
    return value
