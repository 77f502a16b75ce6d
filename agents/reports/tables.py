"""Tables of figures: rows of an evaluation, means with their intervals, what a run has cost.

Texts here are as they are; the templates escape them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from agents.records.rows import costs, number

EVALUATION_COLUMNS = (
    ("reward", "Task reward"),
    ("kl", "KL, nats"),
    ("combined", "Combined"),
    ("length", "Length"),
    ("distinct_2", "Distinct-2"),
)


RATE_COLUMNS = (
    ("positive", "Share above 0"),
    ("greedy", "Greedy"),
    ("gap", "With partner − alone"),
)


def evaluation_rows(evaluation: Mapping[str, object]) -> list[dict[str, object]]:
    """Return the rows of an evaluation.json, with `pass@k` and `majority@k` as columns.

    Raises:
        ValueError: There are none.
    """
    rows = evaluation.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            "Expected evaluation.json to hold a list of objects as `rows`, got "
            f"{type(rows).__name__}. Run `python -m agents evaluate DIR` again."
        )
    return [{**row, **_rates(row)} for row in rows]


def rate_columns(rows: Sequence[Mapping[str, object]]) -> list[tuple[str, str]]:
    """Return key and title of the columns that only some evaluations have."""
    keys = dict.fromkeys(key for row in rows for key in row if key.partition("@")[1])
    columns = [(key, key) for key in keys]
    return columns + [(key, title) for key, title in RATE_COLUMNS if any(key in r for r in rows)]


def _rates(row: Mapping[str, object]) -> dict[str, object]:
    rates: dict[str, object] = {}
    for name in ("pass", "majority"):
        sizes = row.get(f"{name}_at")
        if isinstance(sizes, dict):
            rates |= {f"{name}@{k}": interval for k, interval in sizes.items()}
    return rates


def interval_of(row: Mapping[str, object], key: str) -> tuple[float, float, float]:
    """A mean and the ends of its interval; NaN what is not there."""
    value = row.get(key)
    parts = cast("list[object]", value) if isinstance(value, list) else []
    mean, low, high = [*(number({"": part}, "") for part in parts), *[math.nan] * 3][:3]
    return mean, low, high


def column_scale(triples: Iterable[tuple[float, float, float]]) -> tuple[float, float]:
    """The lowest and the highest value of a column."""
    finite = [value for triple in triples for value in triple if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else (0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell of a table; one with a heading is shown below it on a narrow screen."""

    text: str
    bounds: str = ""
    """Both ends of its interval."""
    at: tuple[float, float, float] | None = None
    """Where mean, low and high lie on the scale of the column, in per cent."""
    heading: str = ""

    @classmethod
    def interval(
        cls, triple: tuple[float, float, float], scale: tuple[float, float], heading: str = ""
    ) -> Cell:
        """Return a mean and its interval, to be drawn to the scale of its column."""
        mean, low, high = triple
        if math.isnan(mean) or math.isnan(low) or math.isnan(high):
            return cls(text=rounded(mean), heading=heading)
        span = (scale[1] - scale[0]) or 1.0
        at = tuple(round(4 + 92 * (value - scale[0]) / span, 1) for value in triple)
        return cls(
            text=rounded(mean),
            bounds=f"{rounded(low)} to {rounded(high)}",
            at=cast("tuple[float, float, float]", at),
            heading=heading,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of a table."""

    name: str
    cells: Sequence[Cell]
    note: str = ""
    """What stands below the name."""
    colour: int | None = None
    """Number of its colour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of figures under their headings."""

    headings: Sequence[str]
    rows: Sequence[Row]


def evaluation_table(
    rows: Iterable[tuple[Mapping[str, object], str, str, int | None]],
    columns: Sequence[tuple[str, str]],
) -> Table:
    """Return rows of evaluations, each column with a scale of its own.

    Args:
        rows: the row, its name, what stands below that, and the number of its colour.
        columns: key and title.
    """
    known = list(rows)
    scales = {key: column_scale(interval_of(row, key) for row, *_ in known) for key, _ in columns}
    return Table(
        headings=[title for _, title in columns],
        rows=[
            Row(
                name=name,
                note=note,
                colour=colour,
                cells=[Cell.interval(interval_of(row, key), scales[key]) for key, _ in columns],
            )
            for row, name, note, colour in known
        ],
    )


def value_text(value: object) -> str:
    """Return a value of a configuration as it is written in JSON, texts without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def cost_facts(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Say what a run has cost up to its last row, seconds left out."""
    spent = costs(rows)
    if spent is None:
        return ["costs unknown: made by a version that did not count them"]
    return [
        f"{spent.responses:,} responses of {spent.tokens:,} tokens",
        f"{spent.reward_calls:,} rewards",
        f"{spent.update_tokens:,} tokens in updates",
    ]


def rounded(value: float) -> str:
    """Two decimals, two digits below 0.1, with a true minus sign; a dash for NaN."""
    if math.isnan(value):
        return "–"
    digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}"
    if 0 < abs(value) < 0.1:
        digits = f"{value:.2g}"
    return digits.replace("-", "−")
