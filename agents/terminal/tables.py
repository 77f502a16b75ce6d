"""Tables of figures that fit a terminal: what has no room goes below or is left out, uncut.

Callers write the figures, and say which columns may be left out.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

_NAME_CELLS = 18
"""Names longer than this take a second line before a figure goes to another table."""


_RULER = Console(file=io.StringIO(), width=10_000)


@dataclass(frozen=True, slots=True)
class Column:
    """A heading and its cells, row by row; a cell may be empty."""

    heading: str
    cells: Sequence[str | Text]
    justify: Literal["left", "right"] = "right"
    rank: int = 0
    """Columns of the highest rank are the first to be left out; those of rank 0 never are."""


def natural_width(renderable: RenderableType) -> int:
    """Return the width in columns that a renderable takes without wrapping."""
    return _RULER.measure(renderable).maximum


def first_that_fits(candidates: Iterable[Table], width: int) -> Table:
    """Return the first table that fits the width, or else the last."""
    ordered = list(candidates)
    return next((table for table in ordered if natural_width(table) <= width), ordered[-1])


def fitting(columns: Sequence[Column], width: int) -> Table:
    """Return a table of all columns that have room, those of the lowest rank first.

    Args:
        columns: names, then figures.
        width: of the terminal.
    """
    tables = (
        _table([column for column in columns if column.rank <= rank])
        for rank in sorted({column.rank for column in columns}, reverse=True)
    )
    return first_that_fits(tables, width)


def stacked(columns: Sequence[Column], width: int) -> list[Table]:
    """Return all columns, in as many tables as it takes; each begins with the names.

    Args:
        columns: names, then figures.
        width: of the terminal.
    """
    names, rest = columns[0], list(columns[1:])
    tables: list[Table] = []
    while rest:
        gap, count = _room([_folded(names), *rest], width)
        part = _without_empty_rows([names, *rest[:count]])
        if part[0].cells:
            tables.append(_table(part, gap=gap))
        del rest[:count]
    return tables


def _room(columns: Sequence[Column], width: int) -> tuple[int, int]:
    """Return how far apart columns can stand, and how many beside the names; at least 1."""
    for count in range(len(columns) - 1, 1, -1):
        # One blank between figures is enough if that keeps them all together.
        for gap in (2, 1) if count == len(columns) - 1 else (2,):
            if natural_width(_table(columns[: count + 1], gap=gap)) <= width:
                return gap, count
    return 1, 1


def _folded(names: Column) -> Column:
    """Return names of the length that they cannot do without."""
    return Column(names.heading, [cell[:_NAME_CELLS] for cell in names.cells], names.justify)


def _without_empty_rows(columns: Sequence[Column]) -> list[Column]:
    rows = range(len(columns[0].cells))
    kept = [i for i in rows if any(column.cells[i] for column in columns[1:])]
    return [
        Column(column.heading, [column.cells[i] for i in kept], column.justify)
        for column in columns
    ]


def _table(columns: Sequence[Column], *, gap: int = 2) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap - 1, 0, 0))
    names, *figures = columns
    table.add_column(names.heading, overflow="fold", vertical="bottom")
    for column in figures:
        table.add_column(column.heading, justify=column.justify, no_wrap=True, vertical="bottom")
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*cells)
    return table
