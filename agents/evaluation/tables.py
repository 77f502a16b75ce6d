"""An evaluation as tables that fit a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, cast

from rich.console import Console

from agents.evaluation.rows import DISTINCT_GROUP, Evaluation, EvaluationRow, Interval, rates
from agents.records.rows import LAST, TEAM, is_last_iterate
from agents.terminal.tables import Column, stacked


class _Shown(dict[str, Any]):
    """An evaluation that a notebook shows as its tables."""

    def __repr__(self) -> str:
        text = io.StringIO()
        print_evaluation(cast("Evaluation", self), Console(file=text, width=_SHOWN_COLUMNS))
        return text.getvalue().rstrip()


_SHOWN_COLUMNS = 100
"""Of a notebook's cell."""


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the figures of an evaluation, and what their headings mean."""
    how = "greedy" if evaluation["greedy"] else "sampled"
    queries = f"{evaluation['num_queries']} {evaluation['split']} queries"
    if (samples := evaluation.get("samples", 1)) > 1:
        how += f" {samples} times"
    console.print(f"{queries}, {how}, ± half the 95 % interval", style="italic", highlight=False)
    columns = _columns(evaluation["rows"])
    for table in stacked(columns, console.width):
        console.print(table)
    named = [*(column.heading for column in columns), *(r["name"] for r in evaluation["rows"])]
    legend = _legend([*named, *(LAST for name in named if is_last_iterate(name))])
    console.print(legend, style="dim", highlight=False)
    if "exchange_loss" in evaluation:
        loss = _cell(evaluation["exchange_loss"], 3)
        console.print(f"Exchange loss {loss}: reward of the team, own seats less exchanged ones.")
    if evaluation.get("k") and not any("pass_at" in row for row in evaluation["rows"]):
        console.print("No pass@k: it counts right responses, and this reward is not 0 or 1.")


_FIGURES = {
    "reward": ("reward", 2),
    "KL, nats": ("kl", 2),
    "reward − η KL": ("combined", 2),
    "length": ("length", 1),
    "distinct-2": ("distinct_2", 2),
}
"""Headings, and the keys and decimal places of what every evaluation has."""


_MEANINGS = {
    "KL, nats": "how far a response is from the base model's, summed over its tokens",
    "reward − η KL": "what is learnt for, η being the price of a nat",
    "length": "tokens of a response",
    "distinct-2": f"share of different word pairs in {DISTINCT_GROUP} responses",
    "greedy": "reward of the most probable responses",
    "gap": "reward behind the partner less reward alone",
    TEAM: "the mean of the policies, alone",
    LAST: "weights after the last iteration, where the policy's are an average",
}


def _columns(rows: Sequence[EvaluationRow]) -> list[Column]:
    """Return the columns: one row per way to answer; figures that no row has are left out."""
    columns = [Column("policy", [row["name"] for row in rows], "left")]
    for heading, (key, places) in _FIGURES.items():
        columns.append(Column(heading, [_cell(row[key], places) for row in rows]))
    for heading in dict.fromkeys(heading for row in rows for heading in rates(row)):
        columns.append(Column(heading, [_cell(rates(row).get(heading), 3) for row in rows]))
    return columns


def _cell(interval: Interval | None, places: int) -> str:
    if interval is None:
        return ""
    mean, low, high = interval
    return f"{mean:.{places}f} ±{(high - low) / 2:.{places}f}"


def _legend(named: Sequence[str]) -> str:
    known = [name for name in dict.fromkeys(named) if name in _MEANINGS]
    return "; ".join(f"{name}: {_MEANINGS[name]}" for name in known)
