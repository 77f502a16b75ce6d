"""The plan of `benchmarks/deciding.py`: rows, tasks, and the runs that they take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.console import Console

from agents.config.train import TrainConfig
from agents.maths.frontier import Scores
from agents.records.folder import RunFolder
from agents.records.objects import read_object, write_json
from agents.records.rows import costs
from agents.studies.variants import individual, ppo, value_handover
from agents.terminal.interrupts import exit_code
from agents.training.loop import train

LAST, AVERAGED, MERGED = "last", "averaged", "merged"

AVERAGE = 0.25
"""Share of the iterations, at the end, whose weights are averaged: in every row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a row is trained, and what of it is deployed."""

    name: str
    fields: Mapping[str, Any]
    deployed: tuple[str, ...]
    """Each policy as its last iteration left it, or its average, or the mean of all averages; the
    first is what it is tuned for."""
    runs: int = 1
    """Runs, with other seeds, that share the responses."""
    batches: int = 1
    """Times the batch of the study."""


RECIPES = (
    Recipe(name="ppo", fields=ppo(), deployed=(AVERAGED, LAST)),
    Recipe(name="ppo-batch", fields=ppo(), deployed=(AVERAGED, LAST), batches=2),
    Recipe(name="two-ppo", fields=ppo(), deployed=(MERGED,), runs=2),
    Recipe(name="individual", fields=individual(), deployed=(MERGED, AVERAGED, LAST)),
    Recipe(name="value-handover", fields=value_handover(), deployed=(MERGED, AVERAGED, LAST)),
    Recipe(
        name="practice-all",
        fields={**value_handover(), "practice": "all"},
        deployed=(MERGED, AVERAGED, LAST),
    ),
)
SINGLE = ("ppo averaged", "ppo-batch averaged", "two-ppo merged")
"""Rows without a second agent: a pair has to be above the best of them."""
CLAIMS = {"practice-all": "practice-all merged", "value-handover": "value-handover merged"}
"""The two contrasts: what is said to be above `SINGLE`. All else is exploratory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What is run of one task."""

    task: str
    iterations: int
    """Of a pair."""
    batch_size: int
    kl_coefs: tuple[float, ...]
    tuned_at: float
    """The η of the tuning."""
    minibatch_size: int = 32
    seeds: tuple[int, ...] = tuple(range(10))
    tuning_seeds: tuple[int, ...] = (100, 101, 102)
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    schedules: tuple[str, ...] = ("constant", "linear")
    queries: int = 1024
    samples: int = 4

    @property
    def responses(self) -> int:
        """What every row generates in training."""
        return 2 * self.iterations * self.batch_size


STUDIES = {
    "imdb": Study(
        task="imdb",
        iterations=48,
        batch_size=64,
        kl_coefs=(0.07, 0.14, 0.28, 0.56),
        tuned_at=0.28,
    ),
    "arithmetic": Study(
        task="arithmetic",
        iterations=48,
        batch_size=128,
        kl_coefs=(0.01, 0.05, 0.1, 0.2),
        tuned_at=0.05,
    ),
}
SHORT: dict[str, Any] = {
    **{"iterations": 4, "batch_size": 8, "minibatch_size": 4, "seeds": (0, 1)},
    **{"kl_coefs": (1e-3, 10.0), "tuned_at": 1.0, "tuning_seeds": (100,)},
    **{"rates": (2e-3, 1e-2), "schedules": ("constant",), "queries": 16, "samples": 2},
}
"""What `--short` changes: every step of the way, and no figure worth reading. So far apart, even a
few iterations come to KLs that all rows have in common."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One row of one task at one η and seed, with its learning rate."""

    study: Study
    recipe: Recipe
    kl_coef: float
    seed: int
    rate: float
    schedule: str
    folder: Path

    def configs(self) -> list[TrainConfig]:
        """Return its runs."""
        study, recipe = self.study, self.recipe
        batch = study.batch_size * recipe.batches
        agents = recipe.fields.get("observers", 1) + 1
        iterations, rest = divmod(study.responses, recipe.runs * batch * agents)
        if rest:
            raise ValueError(f"Expected {recipe.name} to divide {study.responses} responses.")
        return [
            TrainConfig(
                **recipe.fields,
                task=study.task,
                iterations=iterations,
                batch_size=batch,
                minibatch_size=study.minibatch_size,
                kl_coef=self.kl_coef,
                learning_rate=self.rate,
                schedule=self.schedule,
                # Other seeds than those of any other cell.
                seed=self.seed + 1000 * part,
                average=AVERAGE,
                dtype="float32",
                evaluation_queries=0,
                keep=1,
                out=str(self.folder / f"run_{part}"),
            )
            for part in range(recipe.runs)
        ]

    def scores_path(self, deployed: str) -> Path:
        """Where the scores of what it deploys lie."""
        return self.folder / f"{deployed}.npz"

    def num_policies(self, deployed: str) -> int:
        """How many policies are scored of what it deploys."""
        recipe = self.recipe
        return 1 if deployed == MERGED else recipe.runs * (recipe.fields.get("observers", 1) + 1)

    @property
    def is_scored(self) -> bool:
        """Whether there is nothing left to do."""
        return all(self.scores_path(deployed).is_file() for deployed in self.recipe.deployed)

    def train(self) -> None:
        """Train what is not trained.

        Raises:
            ValueError: if it has not generated what every row does.
        """
        spent = 0
        for config in self.configs():
            folder = RunFolder(config.run_folder)
            begun = folder.config_path.exists() and folder.has_progress()
            run = train(config, resume=begun, console=Console(quiet=True))
            if run.interrupted:
                raise SystemExit(exit_code(run.stopped_by))
            found = costs(run.metrics)
            spent += found.responses if found else 0
        if spent != self.study.responses:
            raise ValueError(
                f"Expected {self.study.responses} responses in {self.folder}, got {spent}."
            )

    def read(self, deployed: str) -> Scores:
        """Read the scores of what it deploys."""
        return read_scores(self.scores_path(deployed))


def read_scores(path: Path) -> Scores:
    """Read scores by query: means over policies and samples."""
    with np.load(path) as file:
        return Scores(rewards=file["rewards"].mean((0, 1)), kls=file["kls"].mean((0, 1)))


def tuning(study: Study, out: Path) -> list[Cell]:
    """Return what is trained to choose learning rates and schedules."""
    return [
        Cell(
            **{"study": study, "kl_coef": study.tuned_at, "seed": seed},
            recipe=replace(recipe, deployed=recipe.deployed[:1]),
            **{"rate": rate, "schedule": schedule},
            folder=out / study.task / "tuning" / recipe.name / f"{rate:g},{schedule}" / str(seed),
        )
        for seed in study.tuning_seeds
        for recipe in RECIPES
        for rate in study.rates
        for schedule in study.schedules
    ]


def tuned(study: Study, out: Path) -> dict[str, dict[str, Any]]:
    """Return the rate and schedule of each recipe: the best J over seeds, chosen once and kept.

    Raises:
        ValueError: if not all of the tuning is done.
    """
    path = out / study.task / "tuned.json"
    if not path.is_file():
        found: dict[str, dict[tuple[float, str], list[float]]] = {}
        for cell in tuning(study, out):
            if not cell.is_scored:
                raise ValueError(f"Expected all of the tuning, got none in {cell.folder} yet.")
            scores = cell.read(cell.recipe.deployed[0])
            j = float((scores.rewards - cell.kl_coef * scores.kls).mean())
            tried = found.setdefault(cell.recipe.name, {})
            tried.setdefault((cell.rate, cell.schedule), []).append(j)
        write_json(path, {name: _best(tried) for name, tried in found.items()})
    return cast("dict[str, dict[str, Any]]", read_object(path))


def _best(tried: Mapping[tuple[float, str], Sequence[float]]) -> dict[str, Any]:
    means = {setting: float(np.mean(js)) for setting, js in tried.items()}
    rate, schedule = max(means, key=lambda setting: means[setting])
    by_name = {f"{rate:g},{schedule}": j for (rate, schedule), j in means.items()}
    return {"rate": rate, "schedule": schedule, "j": by_name}


def grid(study: Study, chosen: Mapping[str, Mapping[str, Any]], out: Path) -> list[Cell]:
    """Return what is tested, seed by seed."""
    return [
        Cell(
            **{"study": study, "recipe": recipe, "kl_coef": kl_coef, "seed": seed},
            **{key: chosen[recipe.name][key] for key in ("rate", "schedule")},
            folder=out / study.task / "test" / recipe.name / f"{kl_coef:g}" / str(seed),
        )
        for seed in study.seeds
        for recipe in RECIPES
        for kl_coef in study.kl_coefs
    ]


def by_row(cells: Sequence[Cell]) -> Iterator[tuple[str, str, list[Cell]]]:
    """Yield each row, what it deploys, and its cells."""
    for recipe in RECIPES:
        own = [cell for cell in cells if cell.recipe.name == recipe.name]
        for deployed in recipe.deployed:
            yield f"{recipe.name} {deployed}", deployed, own
