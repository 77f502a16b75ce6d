"""What came out of a comparison: one row per run, a table over seeds, figures.

A run counts with the mean of its policies, each alone on held-out queries: as it would be used. The
policies of one run are not independent, so intervals and tests are over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypedDict

import numpy as np
from rich.console import Console

from agents.maths.statistics import bootstrap_interval, hypervolume, sign_flip_p
from agents.records.rows import (
    REFERENCE,
    MetricRow,
    costs,
    is_reference,
    number,
    policy_names,
)
from agents.studies.plan import Job
from agents.terminal.tables import Column, stacked

COLLAPSED_DISTINCT_2 = 0.5
"""Share of the reference's distinct-2 below which a policy has collapsed."""


COLLAPSED_LENGTH = 1.5
"""Times the reference's length from which on a policy has collapsed: its end tokens are gone."""


BLOCK = 5
"""Iterations to a point of a path: 64 responses each leave a standard error of about 0.1."""


FIGURES = ("reward", "kl", "combined", "length", "distinct_2")


class Outcome(TypedDict):
    """One run of `results.json`."""

    variant: str
    setting: str
    seed: int
    policies: dict[str, dict[str, float]]
    """Each policy alone, by figure."""
    reference: dict[str, float]
    collapsed: list[str]
    """Policies that have."""
    path: list[tuple[float, float]]
    """(reward, KL) of each policy along training, while it was the pioneer: where it would have
    been had it stopped early. Means of so many iterations in a row as `BLOCK`."""
    costs: dict[str, float] | None
    """Totals of the run by the names of `agents.ledger.Costs`; None if it was made by a version
    that did not count them."""


def read_outcome(job: Job) -> Outcome:
    """Read what a finished run has come to."""
    alone = {
        row["name"]: {figure: float(row[figure][0]) for figure in FIGURES}
        for row in job.folder.read_evaluation()["rows"]
        if " after " not in row["name"]
    }
    reference = next(figures for name, figures in alone.items() if is_reference(name))
    policies = {name: figures for name, figures in alone.items() if not is_reference(name)}
    rows = job.folder.read_metrics()
    return Outcome(
        variant=job.variant,
        setting=job.setting,
        seed=job.config.seed,
        policies=policies,
        reference=reference,
        collapsed=[name for name, figures in policies.items() if _collapsed(figures, reference)],
        path=training_path(rows),
        costs=asdict(spent) if (spent := costs(rows)) else None,
    )


def training_path(rows: Sequence[MetricRow]) -> list[tuple[float, float]]:
    """Return the path of a run's policies over (reward, KL), policy by policy."""
    path = []
    for name in policy_names(rows):
        led = [row for row in rows if row[f"{name}/role"] == "pioneer_0"]
        blocks = [led[start : start + BLOCK] for start in range(0, len(led) - BLOCK + 1, BLOCK)]
        for block in blocks:
            means = [
                float(np.mean([number(row, f"{name}/{key}") for row in block]))
                for key in ("task_reward", "kl")
            ]
            path.append((means[0], means[1]))
    return path


def _collapsed(figures: Mapping[str, float], reference: Mapping[str, float]) -> bool:
    return (
        figures["distinct_2"] < COLLAPSED_DISTINCT_2 * reference["distinct_2"]
        or figures["length"] > COLLAPSED_LENGTH * reference["length"]
    )


def run_mean(outcome: Outcome, figure: str) -> float:
    """Mean of a figure over the policies of a run."""
    return float(np.mean([figures[figure] for figures in outcome["policies"].values()]))


def summary(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return one row per variant and setting: means, intervals over seeds, and a paired test.

    The test asks whether the combined reward differs from the first variant's in the same setting,
    seed by seed; None for that variant itself, and where seeds are missing.
    """
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome["variant"], outcome["setting"]), []).append(outcome)
    first = next(iter(groups), ("", ""))[0]
    rows = []
    for (variant, setting), runs in groups.items():
        figures = {figure: [run_mean(run, figure) for run in runs] for figure in FIGURES}
        against = groups.get((first, setting), [])
        seeds, other_seeds = ([run["seed"] for run in part] for part in (runs, against))
        paired = variant != first and seeds == other_seeds
        rows.append(
            {
                "variant": variant,
                "setting": setting,
                "runs": len(runs),
                **{figure: _interval(values) for figure, values in figures.items()},
                "collapsed": sum(len(run["collapsed"]) for run in runs),
                "policies": sum(len(run["policies"]) for run in runs),
                "p": (
                    sign_flip_p(figures["combined"], [run_mean(r, "combined") for r in against])
                    if paired
                    else None
                ),
            }
        )
    return rows


def hypervolumes(outcomes: Sequence[Outcome], *, early: bool = False) -> dict[str, list[float]]:
    """Return, by variant and for each of its seeds, the area its runs dominate.

    Better is more reward at less KL. The area reaches from the reference's reward up, and from the
    largest KL of all runs down.

    Args:
        outcomes: all runs of a comparison.
        early: let the points along training count, too, as if every run had stopped there.
    """
    ceiling = max(run_mean(outcome, "kl") for outcome in outcomes)
    floor = float(np.mean([outcome["reference"]["reward"] for outcome in outcomes]))
    areas: dict[str, list[float]] = {}
    for variant in dict.fromkeys(outcome["variant"] for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome["variant"] == variant]
        areas[variant] = [
            hypervolume(
                [
                    point
                    for o in own
                    if o["seed"] == seed
                    for point in (
                        (run_mean(o, "reward"), run_mean(o, "kl")),
                        *(o["path"] if early else ()),
                    )
                ],
                (floor, ceiling),
            )
            for seed in sorted({outcome["seed"] for outcome in own})
        ]
    return areas


def print_summary(outcomes: Sequence[Outcome], console: Console) -> None:
    """Print the table of a comparison, and the areas where there is a grid."""
    settings = len({outcome["setting"] for outcome in outcomes}) > 1
    reference = {f: (float(np.mean([o["reference"][f] for o in outcomes])),) * 3 for f in FIGURES}
    rows = [{"variant": REFERENCE, "setting": "", "runs": "", **reference, "p": None}]
    lines = [_summary_cells(row, settings=settings) for row in [*rows, *summary(outcomes)]]
    headings = ("variant", "n", "reward", "KL, nats", "reward − η KL", "dist-2", "lost", "p")
    columns = [
        Column(heading, [line[place] for line in lines], "right" if place else "left")
        for place, heading in enumerate(headings)
    ]
    title = "Policies alone, means over seeds, ± half the 95 % interval"
    console.print(title, style="italic", highlight=False)
    for table in stacked(columns, console.width):
        console.print(table)
    console.print(
        "n: runs; dist-2: share of different word pairs; lost: policies that have collapsed; "
        "p: of reward − η KL against the first variant",
        style="dim",
        highlight=False,
    )
    if settings:
        for line in area_lines(outcomes):
            console.print(line, highlight=False)


def _summary_cells(row: Mapping[str, Any], *, settings: bool) -> list[str]:
    figures = [
        f"{row[f][0]:.{digits}f} ±{(row[f][2] - row[f][1]) / 2:.{digits}f}"
        for f, digits in zip(FIGURES[:3], (2, 1, 2), strict=True)
    ]
    if row["variant"] == REFERENCE:
        figures = [cell.split(" ")[0] for cell in figures]
    short = row["setting"].replace("kl_coef=", "η ").replace("learning_rate=", "lr ")
    name = f"{row['variant']} {short}" if settings else row["variant"]
    lost = f"{row['collapsed']}/{row['policies']}" if "policies" in row else ""
    p = "" if row["p"] is None else f"{row['p']:.3f}"
    return [name, str(row["runs"]), *figures, f"{row['distinct_2'][0]:.2f}", lost, p]


def _interval(over_seeds: Sequence[float]) -> tuple[float, float, float]:
    """A mean over seeds and its interval; seeds are few, so many resamples cost nothing."""
    return bootstrap_interval(over_seeds, resamples=10_000)


def area_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Return, for each variant, its areas and a paired test against the first variant's."""
    lines, first = [], ""
    final, early = hypervolumes(outcomes), hypervolumes(outcomes, early=True)
    # Of rewards between 0 and 1 the areas are small, too.
    digits = 2 if max(area for areas in early.values() for area in areas) >= 1 else 3
    for variant in final:
        first = first or variant
        parts = []
        for areas, title in ((final, "area of the frontier"), (early, "with early stops")):
            mean, low, high = (f"{v:.{digits}f}" for v in _interval(areas[variant]))
            text = f"{title} {mean} [{low}, {high}]"
            if variant != first and len(areas[variant]) == len(areas[first]):
                text += f" p {sign_flip_p(areas[variant], areas[first]):.3f}"
            parts.append(text)
        lines.append(f"{variant}: {', '.join(parts)}")
    return lines
