"""HTML that all pages about runs share: the frame, panels, cells and intervals.

A page is one file of HTML without scripts that needs no network. All text is escaped: what a model
wrote is shown, never obeyed. Curves are in `svg.py`, and run folders are read in `agents.records`.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from agents.records.rows import costs, number, printable
from agents.reports.svg import NUM_COLOURS

_STYLESHEET = Path(__file__).with_name("report.css")


EVALUATION_COLUMNS = (
    ("reward", "Task reward"),
    ("kl", "KL, nats"),
    ("combined", "Combined"),
    ("length", "Length"),
    ("distinct_2", "Distinct-2"),
)


RATE_COLUMNS = (("greedy", "Greedy"), ("gap", "With partner − alone"))


def document(title: str, sections: Iterable[str]) -> str:
    """Return a whole page; empty sections are left out."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escaped(title)}</title>\n"
        f"<style>\n{_STYLESHEET.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + "\n</main>\n</body>\n</html>\n"
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
    columns = [(key, escaped(key)) for key in keys]
    return columns + [(key, title) for key, title in RATE_COLUMNS if any(key in r for r in rows)]


def _rates(row: Mapping[str, object]) -> dict[str, object]:
    rates: dict[str, object] = {}
    for name in ("pass", "majority"):
        sizes = row.get(f"{name}_at")
        if isinstance(sizes, dict):
            rates |= {f"{name}@{k}": interval for k, interval in sizes.items()}
    return rates


def panel(title: str, caption: str, svg: str) -> str:
    """Return a figure with its title and caption."""
    return (
        f'<figure class="panel"><figcaption><h3>{title}</h3><p>{caption}</p></figcaption>\n'
        f"{svg}</figure>\n"
    )


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


def cell(text: str, heading: str = "") -> str:
    """Return a table cell; one with a heading is shown below it on a narrow screen."""
    return f'<td data-label="{heading}">{text}</td>' if heading else f"<td>{text}</td>"


def interval_cell(
    triple: tuple[float, float, float], scale: tuple[float, float], heading: str = ""
) -> str:
    """Return a table cell with a mean and its interval, drawn to the scale of its column."""
    mean, low, high = triple
    if math.isnan(mean):
        return cell("–", heading)
    if math.isnan(low) or math.isnan(high):
        return cell(f"<strong>{rounded(mean)}</strong>", heading)
    span = (scale[1] - scale[0]) or 1.0
    at = [4 + 92 * (value - scale[0]) / span for value in (mean, low, high)]
    return cell(
        f'<strong>{rounded(mean)}</strong> <span class="interval">{rounded(low)} to '
        f'{rounded(high)}</span><svg class="whisker" viewBox="0 0 100 8" aria-hidden="true">'
        f'<line x1="4" x2="96" y1="4" y2="4" class="rail"/>'
        f'<line x1="{at[1]:.1f}" x2="{at[2]:.1f}" y1="4" y2="4" class="range"/>'
        f'<circle cx="{at[0]:.1f}" cy="4" r="3"/></svg>',
        heading,
    )


def escaped(value: object) -> str:
    """Return a value as text that a page shows and never obeys."""
    return html.escape(printable(str(value)), quote=True)


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


def colour_class(index: int) -> str:
    """Return the CSS class of the n-th policy or run."""
    return f"policy-{index % NUM_COLOURS}"
