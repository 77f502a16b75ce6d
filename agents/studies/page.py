"""The files of a comparison: results.json, two pictures for print, and the page of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from agents.maths.figures import moving_mean, smoothing_window
from agents.records.objects import write_json
from agents.records.provenance import version_name, versions
from agents.records.rows import TEAM, MetricRow, number, policy_names
from agents.records.view import read_run
from agents.reports.page import drawing
from agents.reports.runs_page import Entry, Findings, Item, write_page
from agents.reports.svg import Bound, Cloud, clouds_svg
from agents.reports.tables import Cell, Row, Table, column_scale
from agents.studies import marl_eval as marl
from agents.studies.outcomes import FIGURES, Outcome, cost_lines, frontier_lines, run_mean, summary
from agents.studies.plan import Job

_PANELS = {"task_reward": "task reward", "kl": "KL, nats", "combined_reward": "combined reward"}


_FIGURES = {"reward": "Task reward", "kl": "KL, nats", "combined": "Combined"}


_MARKS = "osD^vP*X<>"


_BOUND = (
    "The line without marks, one for each seed's reference, is the exact optimum of one policy "
    "alone: above it is nothing but the noise of an evaluation."
)


_NAMED = 3
"""Runs of one version that are named."""


def write_findings(
    jobs: Sequence[Job],
    outcomes: Sequence[Outcome],
    folder: Path,
    bounds: Sequence[Bound] = (),
) -> Path:
    """Write `results.json`, two pictures, `compare.html` and `marl_eval.json`; return the page.

    Args:
        jobs: the runs.
        outcomes: of each.
        folder: of the comparison.
        bounds: lines in the plane of KL and reward that no run can pass.
    """
    write_json(folder / "results.json", list(outcomes))
    write_json(
        folder / "marl_eval.json", marl.marl_eval(jobs[0].config.task, map(_entry, outcomes))
    )
    _curves_png(jobs, folder / "curves.png")
    _plane_png(outcomes, folder / "plane.png", bounds)
    variants = list(dict.fromkeys(outcome["variant"] for outcome in outcomes))
    clouds = [
        _cloud(place, [outcome for outcome in outcomes if outcome["variant"] == variant])
        for place, variant in enumerate(variants)
    ]
    findings = Findings(
        table=_table(outcomes),
        notes=[*cost_lines(outcomes), *version_lines(jobs), *([_BOUND] if bounds else [])],
        variants=[Item(name=name, colour=place) for place, name in enumerate(variants)],
        plane=drawing(clouds_svg(clouds, bounds)),
        frontiers=frontier_lines(outcomes),
    )
    return write_page(_entries(jobs), folder / "compare.html", findings)


def _entry(outcome: Outcome) -> marl.Entry:
    return marl.Entry(
        task=outcome["setting"] or "base",
        algorithm=outcome["variant"],
        seed=outcome["seed"],
        responses=int(outcome["costs"]["responses"]) if outcome["costs"] else 0,
        metrics={figure: run_mean(outcome, figure) for figure in FIGURES},
    )


def _entries(jobs: Sequence[Job]) -> list[Entry]:
    """A colour for every variant, a line style for every setting."""
    variants = list(dict.fromkeys(job.variant for job in jobs))
    settings = list(dict.fromkeys(job.setting for job in jobs))
    return [
        Entry(
            run=read_run(job.folder.path),
            label=job.name,
            group=" ".join(filter(None, (job.variant, job.setting))),
            colour=variants.index(job.variant),
            style=settings.index(job.setting),
        )
        for job in sorted(jobs, key=lambda job: (variants.index(job.variant), job.setting))
    ]


def _table(outcomes: Sequence[Outcome]) -> Table:
    rows = summary(outcomes)
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    scales = {key: column_scale(row[key] for row in rows) for key in _FIGURES}
    gaps = column_scale(row["gap"] for row in rows if row["gap"])
    table_rows: list[Row] = []
    for row in rows:
        figures = [Cell.interval(row[key], scales[key], title) for key, title in _FIGURES.items()]
        gap = Cell.interval(row["gap"], gaps, "Gap") if row["gap"] else Cell(text="–")
        counts = [
            Cell(text=f"{row['distinct_2'][0]:.2f}", heading="Distinct-2"),
            Cell(text=_lost(row), heading="Collapsed"),
            Cell(text=str(row["runs"]), heading="Runs"),
        ]
        colour = variants.index(row["variant"])
        cells = [*figures, gap, *counts]
        name = f"{row['variant']}, {TEAM}" if row["team"] else row["variant"]
        table_rows.append(Row(name=name, note=row["setting"], colour=colour, cells=cells))
    headings = [*_FIGURES.values(), "Gap", "Distinct-2", "Collapsed", "Runs"]
    return Table(headings=headings, rows=table_rows)


def _lost(row: Mapping[str, Any]) -> str:
    return "–" if row["team"] else f"{row['collapsed']} of {row['policies']}"


def _cloud(colour: int, own: Sequence[Outcome]) -> Cloud:
    return Cloud(
        colour=colour,
        runs=[_point(outcome) for outcome in own],
        means=_setting_means(own),
    )


def _point(outcome: Outcome) -> tuple[float, float]:
    return run_mean(outcome, "kl"), run_mean(outcome, "reward")


def _setting_means(own: Sequence[Outcome]) -> list[tuple[float, float]]:
    means: list[tuple[float, float]] = []
    for setting in dict.fromkeys(outcome["setting"] for outcome in own):
        points = [_point(outcome) for outcome in own if outcome["setting"] == setting]
        kl, reward = np.mean(points, axis=0)
        means.append((float(kl), float(reward)))
    return means


def version_lines(jobs: Sequence[Job]) -> list[str]:
    """Return which versions of the code made the runs; nothing if it was one."""
    made: dict[tuple[str, ...], list[Job]] = {}
    for job in jobs:
        made.setdefault(versions(job.folder.read_provenance()), []).append(job)
    if len(made) == 1:
        return []
    lines = ["Several versions of the code made these runs:"]
    for some in made.values():
        more = f" and {len(some) - _NAMED} more" if len(some) > _NAMED else ""
        named = ", ".join(job.name for job in some[:_NAMED])
        name = version_name(some[0].folder.read_provenance())
        lines.append(f"{name}: {named}{more}")
    return lines


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _dress(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _plane_png(outcomes: Sequence[Outcome], path: Path, bounds: Sequence[Bound]) -> None:
    """Draw every run, and the line through the means of the settings, under the bounds."""
    figure = _figure(7, 4.5)
    axes = figure.subplots()
    for bound in bounds:
        axes.plot(*zip(*sorted(bound), strict=True), color="0.4", linewidth=1)
    for index, variant in enumerate(dict.fromkeys(o["variant"] for o in outcomes)):
        own = [outcome for outcome in outcomes if outcome["variant"] == variant]
        colour, mark = f"C{index % 10}", _MARKS[index % len(_MARKS)]
        points = [_point(outcome) for outcome in own]
        axes.scatter(*zip(*points, strict=True), s=14, color=colour, alpha=0.5, marker=mark)
        line = sorted(_setting_means(own))
        axes.plot(*zip(*line, strict=True), color=colour, marker=mark, label=variant)
    _dress(axes, "KL to the reference, nats", "task reward")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def _curves_png(jobs: Sequence[Job], path: Path) -> None:
    """Draw reward, KL and combined reward over iterations: all runs, and each variant's mean."""
    groups: dict[str, list[list[MetricRow]]] = {}
    for job in jobs:
        label = " ".join(filter(None, (job.variant, job.setting)))
        groups.setdefault(label, []).append(job.folder.read_metrics())
    figure = _figure(12, 3.6)
    for axes, (metric, title) in zip(figure.subplots(1, 3), _PANELS.items(), strict=True):
        for index, (label, runs) in enumerate(groups.items()):
            curves = [[_over_policies(row, metric) for row in rows] for rows in runs]
            for curve in curves:
                axes.plot(curve, color=f"C{index % 10}", linewidth=0.5, alpha=0.3)
            length = min(map(len, curves))
            mean = np.mean([curve[:length] for curve in curves], axis=0).tolist()
            smooth = moving_mean(mean, smoothing_window(length))
            axes.plot(smooth, color=f"C{index % 10}", label=label)
        _dress(axes, "iteration", title)
    figure.axes[-1].legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=120)


def _over_policies(row: MetricRow, metric: str) -> float:
    names = policy_names([row])
    return float(np.mean([number(row, f"{name}/{metric}") for name in names]))
