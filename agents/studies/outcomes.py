"""What came out of a comparison: one row per run, a table over seeds, figures.

A run counts with the mean over its policies, each alone on held-out queries: as it would be used.
The policies of one run are not independent, so intervals and tests are over seeds. The policy whose
update is the mean of a pair's has a row of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple
from typing import Any, TypedDict

import numpy as np
from rich.console import Console

from agents.ledger import COSTS
from agents.maths.figures import wall_time
from agents.maths.frontier import Contrast, Scores, Table, contrast, t_interval
from agents.records.rows import REFERENCE, TEAM, costs, is_policy, is_reference
from agents.studies.plan import Job
from agents.terminal.tables import Column, stacked

COLLAPSED_DISTINCT_2 = 0.5
"""Share of the reference's distinct-2 below which a policy has collapsed."""


COLLAPSED_LENGTH = 1.5
"""Times the reference's length from which on a policy has collapsed: its end tokens are gone."""


FIGURES = ("reward", "kl", "combined", "length", "distinct_2")


class Outcome(TypedDict):
    """One run of `results.json`."""

    variant: str
    setting: str
    seed: int
    policies: dict[str, dict[str, float]]
    """Each policy alone, by figure."""
    team: dict[str, float] | None
    """The mean of the policies as one policy, alone; None where there is none."""
    reference: dict[str, float]
    collapsed: list[str]
    """Policies that have."""
    costs: dict[str, float] | None
    """Totals of the run by the names of `agents.ledger.Costs`; None if it was made by a version
    that did not count them."""


def read_outcome(job: Job) -> Outcome:
    """Read what a finished run has come to."""
    scored = {
        row["name"]: {figure: float(row[figure][0]) for figure in FIGURES}
        for row in job.folder.read_evaluation()["rows"]
    }
    reference = next(figures for name, figures in scored.items() if is_reference(name))
    policies = {name: figures for name, figures in scored.items() if is_policy(name)}
    spent = costs(job.folder.read_metrics())
    return Outcome(
        variant=job.variant,
        setting=job.setting,
        seed=job.config.seed,
        policies=policies,
        team=scored.get(TEAM),
        reference=reference,
        collapsed=[name for name, figures in policies.items() if _collapsed(figures, reference)],
        costs=asdict(spent) if spent else None,
    )


def _collapsed(figures: Mapping[str, float], reference: Mapping[str, float]) -> bool:
    return (
        figures["distinct_2"] < COLLAPSED_DISTINCT_2 * reference["distinct_2"]
        or figures["length"] > COLLAPSED_LENGTH * reference["length"]
    )


def run_mean(outcome: Outcome, figure: str) -> float:
    """Mean of a figure over the policies of a run."""
    return float(np.mean([figures[figure] for figures in outcome["policies"].values()]))


def summary(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return one row per variant and setting, means and intervals over seeds, and one of its team.

    `gap` is how far the combined reward is above the first variant's in the same setting, seed by
    seed; None for that variant's own policies, and where seeds are missing.
    """
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome["variant"], outcome["setting"]), []).append(outcome)
    first = next(iter(groups), ("", ""))[0]
    rows = []
    for (variant, setting), runs in groups.items():
        against = groups.get((first, setting), [])
        own = {figure: [run_mean(run, figure) for run in runs] for figure in FIGURES}
        lost = {
            "collapsed": sum(len(run["collapsed"]) for run in runs),
            "policies": sum(len(run["policies"]) for run in runs),
        }
        gap = None if variant == first else _gap(runs, own["combined"], against)
        rows.append(_summary_row(runs, own, gap, team=False) | lost)
        teams = [run["team"] for run in runs if run["team"]]
        if len(teams) == len(runs):
            figures = {figure: [team[figure] for team in teams] for figure in FIGURES}
            gap = _gap(runs, figures["combined"], against)
            rows.append(_summary_row(runs, figures, gap, team=True))
    return rows


def _summary_row(
    runs: Sequence[Outcome],
    figures: Mapping[str, Sequence[float]],
    gap: tuple[float, float, float] | None,
    *,
    team: bool,
) -> dict[str, Any]:
    return {
        "variant": runs[0]["variant"],
        "setting": runs[0]["setting"],
        "team": team,
        "runs": len(runs),
        **{figure: _interval(values) for figure, values in figures.items()},
        "gap": gap,
    }


def _gap(
    runs: Sequence[Outcome], combined: Sequence[float], against: Sequence[Outcome]
) -> tuple[float, float, float] | None:
    if [run["seed"] for run in runs] != [run["seed"] for run in against]:
        return None
    pairs = zip(combined, against, strict=True)
    return _interval([ours - run_mean(theirs, "combined") for ours, theirs in pairs])


def contrasts(outcomes: Sequence[Outcome]) -> list[Contrast]:
    """Return how far every other variant is above the first one at equal KL, over seeds.

    Seeds without all settings do not count.

    Raises:
        ValueError: if the variants have not the same number of seeds, or no KL in common.
    """
    settings = {outcome["setting"] for outcome in outcomes}
    rows: dict[str, list[list[Scores]]] = {}
    for variant in dict.fromkeys(outcome["variant"] for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome["variant"] == variant]
        seeds = {run["seed"]: [r for r in own if r["seed"] == run["seed"]] for run in own}
        whole = [runs for runs in seeds.values() if len(runs) == len(settings)]
        rows[variant] = [[_scores(run) for run in runs] for runs in whole]
    floor = float(np.mean([outcome["reference"]["reward"] for outcome in outcomes]))
    table = Table(rows=rows, reference=Scores(rewards=np.array([floor]), kls=np.zeros(1)))
    first, *others = rows
    return [contrast(table, other, first) for other in others]


def _scores(outcome: Outcome) -> Scores:
    """What is kept of a run's queries: their mean."""
    reward, kl = (np.array([run_mean(outcome, figure)]) for figure in ("reward", "kl"))
    return Scores(rewards=reward, kls=kl)


def print_summary(outcomes: Sequence[Outcome], console: Console) -> None:
    """Print the table of a comparison, and gaps at equal KL where there are several η."""
    settings = len({outcome["setting"] for outcome in outcomes}) > 1
    reference = {f: (float(np.mean([o["reference"][f] for o in outcomes])),) * 3 for f in FIGURES}
    rows = [
        {"variant": REFERENCE, "setting": "", "team": False, "runs": "", **reference, "gap": None}
    ]
    lines = [_summary_cells(row, settings=settings) for row in [*rows, *summary(outcomes)]]
    headings = ("variant", "n", "reward", "KL, nats", "reward − η KL", "dist-2", "lost", "gap")
    columns = [
        Column(heading, [line[place] for line in lines], "right" if place else "left")
        for place, heading in enumerate(headings)
    ]
    title = "Policies alone, means over seeds, ± half the 95 % t interval"
    console.print(title, style="italic", highlight=False)
    for table in stacked(columns, console.width):
        console.print(table)
    console.print(
        "n: runs; dist-2: share of different word pairs; lost: policies that have collapsed; "
        "gap: of reward − η KL to the first variant; team: the mean of a run's policies as one",
        style="dim",
        highlight=False,
    )
    for line in (*frontier_lines(outcomes), *cost_lines(outcomes)):
        console.print(line, highlight=False)


def _summary_cells(row: Mapping[str, Any], *, settings: bool) -> list[str]:
    figures = [shown(row[f], digits) for f, digits in zip(FIGURES[:3], (2, 1, 2), strict=True)]
    if row["variant"] == REFERENCE:
        figures = [cell.split(" ")[0] for cell in figures]
    short = row["setting"].replace("kl_coef=", "η ").replace("learning_rate=", "lr ")
    name = f"{row['variant']} {short}" if settings else row["variant"]
    name += f", {TEAM}" if row["team"] else ""
    lost = f"{row['collapsed']}/{row['policies']}" if "policies" in row else ""
    gap = "" if row["gap"] is None else shown(row["gap"], 2)
    return [name, str(row["runs"]), *figures, f"{row['distinct_2'][0]:.2f}", lost, gap]


def _interval(over_seeds: Sequence[float]) -> tuple[float, float, float]:
    """A mean over seeds and its interval; of few seeds the percentile bootstrap's is too narrow."""
    return astuple(t_interval(over_seeds))


def frontier_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Say how far every other variant is above the first one at equal KL; nothing without η's."""
    settings = {outcome["setting"] for outcome in outcomes}
    if len(settings) < 2 or len({re.sub(r"kl_coef=[^,]+", "", s) for s in settings}) > 1:
        return []
    try:
        found = contrasts(outcomes)
    except ValueError as error:
        return [f"Frontiers: {error}"]
    # Of rewards between 0 and 1 the gaps are small, too.
    digits = 2 if any(one.margin >= 0.05 for one in found) else 3
    return [
        f"{one.ours}: reward less that of {one.theirs} at equal KL, mean over log KL: "
        f"{shown(astuple(one.interval), digits)} "
        f"({len(one.gaps)} seed{'s' * (len(one.gaps) > 1)}; "
        f"5 % of {one.theirs}: {one.margin:.{digits}f})"
        for one in found
    ]


def cost_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Say what a run of each variant has cost, on average; of those that counted."""
    lines: list[str] = []
    for variant in dict.fromkeys(outcome["variant"] for outcome in outcomes):
        known = [o["costs"] for o in outcomes if o["variant"] == variant and o["costs"]]
        if known:
            mean = {cost: float(np.mean([costs.get(cost, 0) for costs in known])) for cost in COSTS}
            lines.append(
                f"{variant}: {mean['responses']:,.0f} responses, {mean['tokens']:,.0f} tokens, "
                f"{mean['reward_calls']:,.0f} rewards, {mean['update_tokens']:,.0f} tokens in "
                f"updates, {wall_time(mean['seconds'])} a run"
            )
            if mean["judge_tokens"]:
                lines[-1] += f", {mean['judge_tokens']:,.0f} tokens of a judge"
    return lines


def shown(interval: tuple[float, float, float], digits: int) -> str:
    """Return a mean with half its interval, which a single seed has not."""
    mean, low, high = interval
    half = "" if math.isnan(low) else f" ±{(high - low) / 2:.{digits}f}"
    return f"{mean:.{digits}f}{half}"
