"""Tables, figure and verdicts of `benchmarks/deciding.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from agents.maths.frontier import (
    Contrast,
    Interval,
    Table,
    contrast,
    holm,
    t_interval,
    verdict,
)
from agents.records.objects import write_json
from agents.records.rows import write_atomically
from agents.studies.marl_eval import Entry, marl_eval
from benchmarks.deciding_plan import CLAIMS, SINGLE, Cell, by_row, read_scores
from benchmarks.deciding_scores import score_reference

Tests = Mapping[str, Sequence[Cell]]
"""All cells of each task."""


def write_tables(tests: Tests, out: Path, console: Console) -> None:
    """Write `tables.md`, `results.json`, `marl_eval.json` and `frontiers.png`."""
    tables = {task: _table(cells, out) for task, cells in tests.items()}
    contrasts = {task: _contrasts(table) for task, table in tables.items()}
    verdicts = judge(contrasts)
    text = "\n\n".join([_verdict_text(verdicts, contrasts), *map(_rows_text, tests.values())])
    write_atomically(out / "tables.md", text + "\n")
    write_json(
        out / "results.json",
        {
            "verdicts": verdicts,
            "contrasts": {
                task: {claim: asdict(one) for claim, one in found.items()}
                for task, found in contrasts.items()
            },
            "range": {task: table.kls() for task, table in tables.items()},
            "rows": {
                task: {row: means.tolist() for row, means in table.means(table.kls()).items()}
                for task, table in tables.items()
            },
        },
    )
    write_json(out / "marl_eval.json", marl_eval("cory-env", _entries(tests)))
    _draw(tables, out / "frontiers.png")
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _table(cells: Sequence[Cell], out: Path) -> Table:
    study = cells[0].study
    reference = out / study.task / "reference.npz"
    score_reference(study, reference)
    rows = {
        name: [[cell.read(deployed) for cell in own if cell.seed == seed] for seed in study.seeds]
        for name, deployed, own in by_row(cells)
    }
    return Table(rows=rows, reference=read_scores(reference))


def _contrasts(table: Table) -> dict[str, Contrast]:
    """Compare the row of every claim with the best one of a single agent, by the mean over seeds.

    Which that is, is seen on the same scores, which is to the disadvantage of the claim.
    """
    means = table.means(table.kls())
    best = max(SINGLE, key=lambda row: float(means[row].mean()))
    return {claim: contrast(table, row, best) for claim, row in CLAIMS.items()}


def judge(contrasts: Mapping[str, Mapping[str, Contrast]]) -> dict[str, dict[str, Any]]:
    """Return the verdict of every claim over all tasks, with its p, corrected by Holm."""
    raw = {claim: max(found[claim].p for found in contrasts.values()) for claim in CLAIMS}
    corrected = holm(raw)
    return {
        claim: {
            "verdict": verdict([found[claim] for found in contrasts.values()], corrected[claim]),
            "p": corrected[claim],
        }
        for claim in CLAIMS
    }


def _verdict_text(
    verdicts: Mapping[str, Mapping[str, Any]], contrasts: Mapping[str, Mapping[str, Contrast]]
) -> str:
    lines = [
        "| claim | task | against | reward at equal KL, mean over log KL | margin | P(improvement) "
        "| p of sign flips | verdict (p after Holm) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for claim, judged in verdicts.items():
        for task, found in contrasts.items():
            one = found[claim]
            lines.append(
                f"| {one.ours} is ahead | {task} | {one.theirs} | {_shown(one.interval)} "
                f"| {one.margin:.3f} | {one.improvement:.2f} | {one.p:.3f} "
                f"| {judged['verdict']} ({judged['p']:.3f}) |"
            )
    return "\n".join(lines)


def _rows_text(cells: Sequence[Cell]) -> str:
    """Return J, reward and KL of every row by η: exploratory, over seeds alone."""
    study = cells[0].study
    heads = " | ".join(f"η {kl:g}: J | reward | KL" for kl in study.kl_coefs)
    lines = [
        f"{study.task}: {study.responses:,} responses in training, {len(study.seeds)} seeds, ± t",
        "",
        f"| row | {heads} |",
        "|---" * (1 + 3 * len(study.kl_coefs)) + "|",
    ]
    for name, deployed, own in by_row(cells):
        figures = []
        for kl_coef in study.kl_coefs:
            found = [cell.read(deployed) for cell in own if cell.kl_coef == kl_coef]
            rewards = [float(one.rewards.mean()) for one in found]
            kls = [float(one.kls.mean()) for one in found]
            js = [reward - kl_coef * kl for reward, kl in zip(rewards, kls, strict=True)]
            figures += [_shown(t_interval(values)) for values in (js, rewards, kls)]
        lines.append(f"| {name} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _shown(interval: Interval) -> str:
    return f"{interval.mean:.3f} ± {(interval.high - interval.low) / 2:.3f}"


def _entries(tests: Tests) -> list[Entry]:
    entries = []
    for task, cells in tests.items():
        for name, deployed, own in by_row(cells):
            for cell in own:
                found = cell.read(deployed)
                reward, kl = float(found.rewards.mean()), float(found.kls.mean())
                metrics = {"reward": reward, "kl": kl, "j": reward - cell.kl_coef * kl}
                entries.append(
                    Entry(
                        task=f"{task} eta {cell.kl_coef:g}",
                        algorithm=name,
                        seed=cell.seed,
                        responses=cell.study.responses,
                        metrics=metrics,
                    )
                )
    return entries


def _draw(tables: Mapping[str, Table], path: Path) -> None:
    """Draw the mean frontier of every row with its band over seeds, on the range that all share."""
    figure = Figure(figsize=(6.4 * len(tables), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = np.atleast_1d(figure.subplots(1, len(tables)))
    for axes, (task, table) in zip(all_axes, tables.items(), strict=True):
        kls = np.geomspace(*table.kls(), 60)
        for place, (name, seeds) in enumerate(table.frontiers(kls).items()):
            bands = [t_interval(column) for column in seeds.T.tolist()]
            colour = f"C{place % 10}"
            axes.plot(kls, [band.mean for band in bands], color=colour, label=name)
            ends = [band.low for band in bands], [band.high for band in bands]
            axes.fill_between(kls, *ends, color=colour, alpha=0.12, linewidth=0)
        axes.axhline(table.reference.rewards.mean(), color="grey", linewidth=0.8, linestyle=":")
        axes.set_xscale("log")
        axes.set_title(task)
        axes.set_xlabel("KL to the reference, nats")
        axes.set_ylabel("reward")
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=120)
