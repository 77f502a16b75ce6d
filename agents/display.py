"""What a person sees of a run in the terminal: live table, plain lines, texts before and after.

Functions from rows to text or to Rich renderables. They keep no state and read no file:
`agents.loggers` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from agents.records import (
    MetricRow,
    SampleRow,
    is_reference,
    number,
    policy_names,
    printable,
)

_BARS = "▁▂▃▄▅▆▇█"
_TREND_CELLS = 20
_WIDE_COLUMNS = 100
"""Terminals narrower than this do without the trend and the secondary columns."""
_POLICY_STYLES = ("bright_blue", "yellow", "green", "magenta", "cyan", "red")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    done: int
    """Finished iterations, those before a resumption included."""
    total: int
    elapsed_s: float
    """Since this process began to train."""
    left_s: float
    """Estimate, NaN before the first iteration."""


def live_view(
    rows: Sequence[MetricRow],
    samples: Mapping[str, SampleRow],
    progress: Progress,
    columns: int,
) -> RenderableType:
    """The progress line, a table with a row per policy, and each policy's latest text."""
    parts: list[RenderableType] = [_progress_line(rows, progress)]
    if rows:
        parts.append(_policy_table(rows, wide=columns >= _WIDE_COLUMNS))
    if samples:
        parts.append(_latest_texts(samples))
    return Group(*parts)


def plain_line(row: MetricRow, progress: Progress) -> str:
    """One iteration as one line of ASCII; the columns stand where they stood in the line before."""
    total = str(progress.total)
    parts = [f"{progress.done:>{len(total)}}/{total}"]
    for name in policy_names([row]):
        role = str(row.get(f"{name}/role") or "-")
        parts.append(
            f"{name} {role:<10}"
            f" reward {_fixed(number(row, f'{name}/task_reward'))}"
            f" kl {_fixed(number(row, f'{name}/kl'))}"
            f" combined {_fixed(number(row, f'{name}/combined_reward'))}"
        )
    rate = number(row, "tokens_per_second")
    parts.append(f"{'-' if math.isnan(rate) else f'{rate:.0f}':>6} tok/s")
    parts.append(f"left {duration(progress.left_s):>8}")
    return " | ".join(parts)


def print_before_after(samples: Sequence[SampleRow], console: Console) -> None:
    """Print, per query, how the reference continues it and how each policy does in the end."""
    table = Table(
        box=box.SIMPLE_HEAD, title="Before and after", title_justify="left", pad_edge=False
    )
    table.add_column("policy", no_wrap=True)
    table.add_column("text", overflow="fold")
    table.add_column("reward", justify="right", no_wrap=True)
    for query, rows in _by_query(samples).items():
        table.add_row("", Text(_flat(query), style="bold"), "")
        for row in _reference_and_last(rows):
            label = Text(row["policy"], style="dim" if is_reference(row["policy"]) else "")
            if not is_reference(row["policy"]):
                label.append(f" {row['role']}", style="dim")
            table.add_row(label, Text(_flat(row["response"])), _short(number(row, "task_reward")))
        table.add_section()
    if table.row_count:
        console.print(table)


def sparkline(values: Sequence[float], cells: int = _TREND_CELLS) -> str:
    """Draw a series as block characters, one per equal share of it; a share of NaNs is a blank."""
    cells = min(cells, len(values))
    means: list[float] = []
    for cell in range(cells):
        share = values[cell * len(values) // cells : (cell + 1) * len(values) // cells]
        finite = [value for value in share if math.isfinite(value)]
        means.append(sum(finite) / len(finite) if finite else math.nan)
    known = [mean for mean in means if math.isfinite(mean)]
    if not known:
        return " " * cells
    low, span = min(known), max(known) - min(known)
    top = len(_BARS) - 1
    return "".join(
        " " if math.isnan(mean) else _BARS[round((mean - low) / span * top) if span else top // 2]
        for mean in means
    )


def duration(seconds: float) -> str:
    """Write seconds as `h:mm:ss`; dashes where they are not known."""
    if not math.isfinite(seconds):
        return "-:--:--"
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _progress_line(rows: Sequence[MetricRow], progress: Progress) -> RenderableType:
    rate = number(rows[-1], "tokens_per_second") if rows else math.nan
    line = Table.grid(padding=(0, 2))
    line.add_row(
        Text.assemble("iteration ", (f"{progress.done}/{progress.total}", "bold")),
        ProgressBar(total=max(progress.total, 1), completed=progress.done, width=24),
        Text("" if math.isnan(rate) else f"{rate:,.0f} tok/s"),
        Text(f"elapsed {duration(progress.elapsed_s)}", style="dim"),
        Text(f"left {duration(progress.left_s)}"),
    )
    return line


def _policy_table(rows: Sequence[MetricRow], *, wide: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("policy", no_wrap=True)
    table.add_column("role", no_wrap=True)
    for heading in ("reward", "since start", "KL", "combined"):
        table.add_column(heading, justify="right", no_wrap=True)
    if wide:
        for heading in ("entropy", "length", "distinct-2"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("combined over the run", no_wrap=True)
    for index, name in enumerate(policy_names(rows)):
        table.add_row(*_policy_cells(rows, name, index, wide=wide))
    return table


def _policy_cells(
    rows: Sequence[MetricRow], name: str, index: int, *, wide: bool
) -> list[RenderableType]:
    last, style = rows[-1], _policy_style(index)
    change = number(last, f"{name}/task_reward") - number(rows[0], f"{name}/task_reward")
    tone = "dim" if math.isnan(change) or change == 0 else "green" if change > 0 else "red"
    cells: list[RenderableType] = [
        Text(name, style=f"bold {style}"),
        Text(str(last.get(f"{name}/role") or "–")),
        Text(_short(number(last, f"{name}/task_reward")), style="bold"),
        Text(_short(change, sign="+"), style=tone),
        _short(number(last, f"{name}/kl")),
        _short(number(last, f"{name}/combined_reward")),
    ]
    if wide:
        cells.append(_short(number(last, f"{name}/entropy")))
        cells.append(_short(number(last, f"{name}/response_length"), digits=1))
        cells.append(_short(number(last, f"{name}/distinct_2")))
        trend = sparkline([number(row, f"{name}/combined_reward") for row in rows])
        cells.append(Text(trend, style=style))
    return cells


def _latest_texts(samples: Mapping[str, SampleRow]) -> RenderableType:
    names = sorted(samples)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, min_width=max((len(name) for name in names), default=0))
    grid.add_column(no_wrap=True, overflow="ellipsis")
    for index, name in enumerate(names):
        row = samples[name]
        text = Text(_flat(row["query"]), style="bold")
        text.append(_flat(row["response"]), style="not bold")
        grid.add_row(Text(name, style=_policy_style(index)), text)
    return grid


def _by_query(samples: Sequence[SampleRow]) -> dict[str, list[SampleRow]]:
    queries: dict[str, list[SampleRow]] = {}
    for row in samples:
        queries.setdefault(row["query"], []).append(row)
    return queries


def _reference_and_last(rows: Sequence[SampleRow]) -> list[SampleRow]:
    """The reference's text, then each policy's of its last iteration, one per role."""
    first = {row["policy"]: row for row in reversed(rows)}
    policies = sorted(policy for policy in first if not is_reference(policy))
    chosen = [first[policy] for policy in sorted(first) if is_reference(policy)]
    for policy in policies:
        own = [row for row in rows if row["policy"] == policy]
        last = max(row["iteration"] for row in own)
        chosen += [row for row in own if row["iteration"] == last]
    return chosen


def _policy_style(index: int) -> str:
    return _POLICY_STYLES[index % len(_POLICY_STYLES)]


def _flat(text: str) -> str:
    return printable(text).replace("\n", "⏎").replace("\t", " ")


def _short(value: float, *, digits: int = 3, sign: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:{sign}.{digits}f}"


def _fixed(value: float) -> str:
    """Eight characters, whatever the value."""
    if math.isnan(value):
        return f"{'-':>8}"
    return f"{value:8.3f}" if -1000 < value < 10000 else f"{value:8.1e}"
