"""Figures of runs in the format that marl-eval reads: by environment, task, algorithm and run.

A run has one step, its end; `step_count` is the number of responses that it has generated. The same
values stand as its absolute metrics, which are those that are aggregated.

Source: Gorsane et al. 2022, arXiv 2209.10485; github.com/instadeepai/marl-eval, "Data Structure for
Raw Experiment data".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One run on one task."""

    task: str
    algorithm: str
    seed: int
    responses: int
    """Generated in training; 0 if they were not counted."""
    metrics: Mapping[str, float]


def marl_eval(environment: str, entries: Iterable[Entry]) -> dict[str, Any]:
    """Return the whole file; names lose commas and slashes, which mean something there."""
    tasks: dict[str, Any] = {}
    for entry in entries:
        values = {name: [value] for name, value in entry.metrics.items()}
        run = {
            "step_1": {"step_count": entry.responses, **values},
            "absolute_metrics": values,
        }
        name = entry.algorithm.replace(",", "").replace("/", "-")
        tasks.setdefault(entry.task, {}).setdefault(name, {})[f"seed_{entry.seed}"] = run
    return {environment: tasks}
