"""What a chart draws: lines over iterations, thinned where there are more than a screen shows.

The same lines go into the drawing for print (`svg.py`) and, as JSON, into the one that the page
makes of them (`report.js`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from agents.maths.figures import moving_mean, smoothing_window
from agents.records.rows import MetricRow, number, policy_names, role_swaps

MOST_POINTS = 1000
"""Iterations of a chart; of longer runs the extreme ones of every stretch are drawn."""


MOST_SWAPS = 100
"""With more of them neither swaps nor roles are drawn: lines would touch."""


_FEWEST_STRETCHES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a chart: values for all iterations of the chart, NaN where there is none."""

    name: str
    colour: int
    """Number of the colour."""
    bold: Sequence[float]
    """Smoothed, or the mean of several runs."""
    faint: Sequence[float] = ()
    """Every iteration's value."""
    low: Sequence[float] = ()
    """The lowest run."""
    high: Sequence[float] = ()
    """The highest run."""
    style: int = 0
    """Number of the line style."""

    def at(self, places: Sequence[int]) -> Line:
        """Return the line with the values of some places."""
        parts = {name: [getattr(self, name)[i] for i in places] for name in _parts(self)}
        return replace(self, **parts)

    def to_json(self) -> dict[str, object]:
        """Return plain values, in five digits; None for NaN."""
        parts = {name: list(map(_short, getattr(self, name))) for name in _parts(self)}
        return {"name": self.name, "colour": self.colour, "style": self.style, **parts}


def _parts(line: Line) -> list[str]:
    return [name for name in ("bold", "faint", "low", "high") if len(getattr(line, name))]


@dataclass(frozen=True, slots=True)
class Curves:
    """The lines of one chart."""

    iterations: Sequence[int]
    lines: Sequence[Line]

    def thinned(self) -> Curves:
        """Return at most some `MOST_POINTS` iterations, each as it was.

        Of every stretch of iterations those stay in which a line is at its lowest and at its
        highest, so that no peak is lost.
        """
        if len(self.iterations) <= MOST_POINTS:
            return self
        drawn = [line.faint or line.bold for line in self.lines]
        kept = thin(drawn, len(self.iterations), MOST_POINTS)
        return Curves([self.iterations[i] for i in kept], [line.at(kept) for line in self.lines])

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        return {"x": list(self.iterations), "lines": [line.to_json() for line in self.lines]}


def thin(columns: Sequence[Sequence[float]], length: int, most: int) -> list[int]:
    """Return places of which no extreme of a stretch is left out, the ends among them.

    Args:
        columns: of that length; NaN is no extreme.
        length: how many places there are.
        most: about how many are wanted; many columns have more, two for each of 50 stretches.
    """
    stretches = max(_FEWEST_STRETCHES, most // (2 * max(1, len(columns))))
    kept = {0, length - 1}
    for part in np.array_split(np.arange(length), min(stretches, length)):
        for column in columns:
            values = np.asarray([column[i] for i in part], dtype=np.float64)
            if np.isfinite(values).any():
                kept |= {int(part[np.nanargmin(values)]), int(part[np.nanargmax(values)])}
    return sorted(kept)


def metric_curves(
    rows: Sequence[MetricRow], metric: str, names: Mapping[str, int], labels: Iterable[str] = ()
) -> Curves:
    """Return one metric over the iterations of a run, smoothed and as it was.

    Args:
        rows: at least one metrics row.
        metric: the part of the key after the name, e.g. `task_reward`.
        names: of policies or roles, with the numbers of their colours.
        labels: what they are called instead.
    """
    window = smoothing_window(len(rows))
    lines: list[Line] = []
    for (name, colour), label in zip(names.items(), labels or names, strict=True):
        values = [number(row, f"{name}/{metric}") for row in rows]
        bold = moving_mean(values, window)
        lines.append(Line(name=label, colour=colour, bold=bold, faint=values))
    return Curves([int(number(row, "iteration")) for row in rows], lines).thinned()


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Runs of one configuration, to be drawn as a mean with the range around it."""

    name: str
    colour: int
    """Number of the colour."""
    runs: Sequence[Mapping[int, float]]
    """Per run, value by iteration."""
    style: int = 0
    """Number of the line style."""


def group_curves(groups: Sequence[Group]) -> Curves:
    """Return the mean of each configuration's smoothed runs, and the lowest and highest run."""
    iterations = sorted({i for group in groups for run in group.runs for i in run})
    lines: list[Line] = []
    for group in groups:
        if not group.runs:
            continue
        own = sorted(set().union(*group.runs))
        window = smoothing_window(len(own))
        smoothed = [moving_mean([run.get(i, math.nan) for i in own], window) for run in group.runs]
        known = {i: list(values) for i, *values in zip(own, *smoothed, strict=True)}
        at = [[v for v in known.get(i, ()) if math.isfinite(v)] for i in iterations]
        several = len(group.runs) > 1
        lines.append(
            Line(
                name=group.name,
                colour=group.colour,
                style=group.style,
                bold=[sum(v) / len(v) if v else math.nan for v in at],
                low=[min(v, default=math.nan) for v in at] if several else (),
                high=[max(v, default=math.nan) for v in at] if several else (),
            )
        )
    return Curves(iterations, lines).thinned()


@dataclass(frozen=True, slots=True)
class Stage:
    """Who had which role when; nothing where it changes too often to be drawn."""

    swaps: Sequence[int]
    """Iterations at which roles are others than before."""
    roles: Mapping[str, Sequence[tuple[int, int, float]]]
    """By policy: first and last iteration of a stretch in one role, and how opaque it is drawn."""

    @classmethod
    def of(cls, rows: Sequence[MetricRow]) -> Stage:
        """Return that of a run."""
        swaps, names = role_swaps(rows), policy_names(rows)
        if len(swaps) > MOST_SWAPS:
            return cls([], {})
        return cls(swaps, {name: _stretches(rows, f"{name}/role") for name in names})

    def to_json(self) -> dict[str, object]:
        """Return plain values, the policies in their order."""
        several = len(self.roles) > 1
        return {"swaps": list(self.swaps), "roles": list(self.roles.values()) if several else []}


def _stretches(rows: Sequence[MetricRow], key: str) -> list[tuple[int, int, float]]:
    stretches: list[tuple[int, int, float]] = []
    before = None
    for row in rows:
        iteration, role = int(number(row, "iteration")), str(row.get(key) or "")
        if stretches and role == before:
            stretches[-1] = (stretches[-1][0], iteration, stretches[-1][2])
        else:
            stretches.append((iteration, iteration, _opacity(role)))
        before = role
    return stretches


def _opacity(role: str) -> float:
    """Full for the pioneer; the later an observer speaks, the paler."""
    if not role.startswith("observer"):
        return 1.0
    seat = role.rpartition("_")[2]
    return 0.3 / (1 + int(seat)) if seat.isdecimal() else 0.3


def _short(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None
