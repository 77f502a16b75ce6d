"""The experiment that decides whether a pair earns its keep: by a plan that is fixed beforehand.

    python -m benchmarks.deciding imdb arithmetic --out runs/deciding
    python -m benchmarks.deciding imdb arithmetic --dry-run      # counts what there is to do
    python -m benchmarks.deciding imdb --short --out runs/short  # all of it, in minutes

Every row generates as many responses in training, which is checked against what its runs have
counted. For each row learning rate and schedule are tuned on training queries and seeds of their
own, and then kept (`tuned.json`). Then every η and seed is trained, and what a row deploys answers
the same held-out queries with common random numbers, in float32. Frontiers, contrasts and verdicts
are those of `agents/maths/frontier.py`; rows and tasks stand in `benchmarks/deciding_plan.py`.

A second call goes on where the first was cut. `--part 0/2` and `--part 1/2`, side by side, share
what there is to train and score; give each `OMP_NUM_THREADS=1`. Run all of it from one commit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from agents.terminal.hush import hushed
from benchmarks.deciding_plan import RECIPES, SHORT, STUDIES, Cell, Study, grid, tuned, tuning
from benchmarks.deciding_scores import score
from benchmarks.deciding_tables import write_tables


def count(study: Study, out: Path) -> str:
    """Say what there is to do."""
    any_rate = {recipe.name: {"rate": 1e-3, "schedule": "constant"} for recipe in RECIPES}
    cells = [*tuning(study, out), *grid(study, any_rate, out)]
    left = [cell for cell in cells if not cell.is_scored]
    policies = sum(cell.num_policies(d) for cell in left for d in cell.recipe.deployed)
    return (
        f"{study.task}: {len(left)} of {len(cells)} cells are left, with "
        f"{sum(cell.recipe.runs for cell in left)} runs of {study.responses * len(left):,} "
        f"responses together, and {policies * study.queries * study.samples:,} to score."
    )


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to do."""

    tasks: tyro.conf.Positional[tuple[Literal["imdb", "arithmetic"], ...]]
    out: Path = Path("runs/deciding")
    part: str = "0/1"
    """Which share of the cells this call trains and scores, such as 1/2: the second of two."""
    short: bool = False
    """Four iterations, two seeds and 16 queries: every step, and no figure worth reading."""
    dry_run: bool = False
    """Only count."""


def _share(part: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", part)
    if not found or int(found[1]) >= int(found[2]):
        raise SystemExit(f"Expected --part to be K/N with K < N, got {part}: try 0/2, and 1/2.")
    return int(found[1]), int(found[2])


def run(arguments: Arguments, console: Console) -> None:
    """Tune, train, score, and write the tables once everything is there."""
    studies = [STUDIES[task] for task in arguments.tasks]
    if arguments.short:
        studies = [replace(study, **SHORT) for study in studies]
    if arguments.dry_run:
        for study in studies:
            console.print(count(study, arguments.out), highlight=False, soft_wrap=True)
        return
    first, parts = _share(arguments.part)
    tests: dict[str, list[Cell]] = {}
    for study in studies:
        tuned_path = arguments.out / study.task / "tuned.json"
        if not tuned_path.is_file():
            _do(tuning(study, arguments.out)[first::parts], "train", console)
        try:
            tests[study.task] = grid(study, tuned(study, arguments.out), arguments.out)
        except ValueError as error:
            console.print(f"{error} Call again once the other parts are done.", highlight=False)
            return
        _do(tests[study.task][first::parts], "test", console)
    if all(cell.is_scored for cells in tests.values() for cell in cells):
        write_tables(tests, arguments.out, console)


def _do(cells: Sequence[Cell], split: str, console: Console) -> None:
    for place, cell in enumerate(cells, start=1):
        if cell.is_scored:
            continue
        cell.train()
        for deployed in cell.recipe.deployed:
            score(cell, deployed, split)
        console.print(f"{place}/{len(cells)} {cell.folder}", highlight=False, soft_wrap=True)


@hushed()
def main() -> None:
    """Run the command line."""
    run(tyro.cli(Arguments, description=__doc__), Console())


if __name__ == "__main__":
    main()
