"""What a person sees of a run in the terminal: live table, plain lines, texts before and after.

Functions from rows to text or to Rich renderables. They keep no state and read no file:
`agents.watching.logger` does.
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

from agents.records.rows import MetricRow, SampleRow, is_reference, number, policy_names, printable
from agents.terminal.tables import Column, first_that_fits, fitting

_BARS = "▁▂▃▄▅▆▇█"


_TREND_CELLS = 20


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
    parts: list[RenderableType] = [_progress_line(rows, progress, columns)]
    if rows:
        table = _policy_table(rows, columns)
        parts += [table, _legend(table)]
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
            f" reward-eta*kl {_fixed(number(row, f'{name}/combined_reward'))}"
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
    table.add_column("policy", overflow="fold")
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


def _progress_line(rows: Sequence[MetricRow], progress: Progress, columns: int) -> RenderableType:
    """Return how far a run is; on a narrow terminal the parts that matter least are left out."""
    rate = number(rows[-1], "tokens_per_second") if rows else math.nan
    parts: list[tuple[int, RenderableType]] = [
        (0, Text.assemble("iteration ", (f"{progress.done}/{progress.total}", "bold"))),
        (2, ProgressBar(total=max(progress.total, 1), completed=progress.done, width=24)),
        (3, Text("" if math.isnan(rate) else f"{rate:,.0f} tok/s")),
        (4, Text(f"elapsed {duration(progress.elapsed_s)}", style="dim")),
        (1, Text(f"left {duration(progress.left_s)}")),
    ]
    lines: list[Table] = []
    for most in range(4, -1, -1):
        line = Table.grid(padding=(0, 2))
        line.add_row(*(part for rank, part in parts if rank <= most))
        lines.append(line)
    return first_that_fits(lines, columns)


def _policy_table(rows: Sequence[MetricRow], columns: int) -> Table:
    names, last = policy_names(rows), rows[-1]
    styles = [_policy_style(index) for index in range(len(names))]
    trends = [sparkline([number(row, f"{n}/combined_reward") for row in rows]) for n in names]

    def figures(heading: str, key: str, rank: int = 0, digits: int = 3) -> Column:
        cells = [_short(number(last, f"{name}/{key}"), digits=digits) for name in names]
        return Column(heading, cells, rank=rank)

    named = [Text(n, style=f"bold {style}") for n, style in zip(names, styles, strict=True)]
    roles = [str(last.get(f"{name}/role") or "–") for name in names]
    drawn = [Text(trend, style=style) for trend, style in zip(trends, styles, strict=True)]
    return fitting(
        [
            Column("policy", named, "left"),
            Column("role", roles, "left", rank=2),
            figures("reward", "task_reward"),
            Column("since start", [_change(rows, name) for name in names], rank=3),
            figures("KL", "kl"),
            figures("reward − η KL", "combined_reward", rank=1),
            figures("entropy", "entropy", rank=6),
            figures("length", "response_length", rank=5, digits=1),
            figures("distinct-2", "distinct_2", rank=4),
            Column("reward − η KL so far", drawn, "left", rank=7),
        ],
        columns,
    )


_MEANINGS = {
    "KL": "nats from the reference",
    "reward − η KL": "less η for each of them",
    "entropy": "nats a token",
    "length": "tokens",
    "distinct-2": "share of different word pairs",
}


def _legend(table: Table) -> Text:
    """Say what the headings of a table mean, those that it has room for."""
    headings = [str(column.header) for column in table.columns]
    said = [f"{name}: {meaning}" for name, meaning in _MEANINGS.items() if name in headings]
    return Text("; ".join(said), style="dim")


def _change(rows: Sequence[MetricRow], name: str) -> Text:
    change = number(rows[-1], f"{name}/task_reward") - number(rows[0], f"{name}/task_reward")
    tone = "dim" if math.isnan(change) or change == 0 else "green" if change > 0 else "red"
    return Text(_short(change, sign="+"), style=tone)


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
