"""What `compare` compares: named changes to one configuration, so that nothing else differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from agents.config.train import TrainConfig
from agents.records.folder import RunFolder
from agents.registries import ALGORITHMS, VARIANTS
from cory_env.names import unknown_name

Budget = Literal["episodes", "compute"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run of a comparison."""

    variant: str
    setting: str
    """The values of the grid, such as `kl_coef=0.1`; empty without one."""
    config: TrainConfig

    @property
    def folder(self) -> RunFolder:
        """Where it is written."""
        return RunFolder(self.config.run_folder)

    @property
    def is_finished(self) -> bool:
        """Whether it is there to its end, evaluation included."""
        return self.folder.is_finished(self.config)

    @property
    def name(self) -> str:
        """What a reader calls it."""
        return " ".join(filter(None, (self.variant, self.setting, f"seed {self.config.seed}")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What is run: every variant with every value and every seed."""

    variants: tuple[str, ...]
    seeds: int
    kl_coefs: tuple[float, ...] = ()
    learning_rates: tuple[float, ...] = ()
    budget: Budget = "episodes"


def plan(base: TrainConfig, grid: Grid, out: Path) -> list[Job]:
    """Return the runs, seed by seed, so that what is finished first can be compared first.

    With the budget `episodes`, every policy plays as many episodes in every variant. With `compute`
    every variant generates as many responses: a single agent gets twice the iterations of a pair.

    Args:
        base: what all variants start from.
        grid: the variants, values and seeds.
        out: folder of the comparison.

    Raises:
        ValueError: if a variant is unknown, or does not go together with the rest.
    """
    for name in ("variants", "kl_coefs", "learning_rates"):
        values = getattr(grid, name)
        if len(set(values)) < len(values):
            raise ValueError(f"Expected each of {name} once, got {' '.join(map(str, values))}.")
    settings = [
        {n: value for n, value in (("kl_coef", kl), ("learning_rate", rate)) if value is not None}
        for kl in grid.kl_coefs or (None,)
        for rate in grid.learning_rates or (None,)
    ]
    jobs = []
    for seed in range(base.seed, base.seed + grid.seeds):
        for variant in grid.variants:
            changes = variant_changes(variant)
            turns = changes.get("observers", base.observers) + 1
            scale = (base.observers + 1) / turns if grid.budget == "compute" else 1
            for setting in settings:
                label = ",".join(f"{name}={value:g}" for name, value in setting.items())
                folder = out / "runs" / variant / (label or "base") / str(seed)
                values = {**changes, **setting, "seed": seed, "out": str(folder)}
                iterations = max(1, round(base.iterations * scale))
                config = replace(base, **{**values, "iterations": iterations})
                jobs.append(Job(variant=variant, setting=label, config=config))
    return jobs


def evaluated_runs(out: Path) -> list[RunFolder]:
    """Return the runs in the folder of a comparison that have been evaluated, of any plan."""
    folders = [RunFolder(path) for path in sorted(out.glob("runs/*/*/*"))]
    return [folder for folder in folders if folder.evaluation_path.is_file()]


def check_effect(start: TrainConfig, base: TrainConfig, jobs: Sequence[Job]) -> None:
    """Check that what was asked of all variants holds for one of them at least.

    Args:
        start: before the flags.
        base: after them.
        jobs: the plan.

    Raises:
        ValueError: if every variant, or the grid, sets another value.
    """
    before = start.to_json()
    for name, value in base.to_json().items():
        if value == before[name] or name in ("out", "seed", "iterations"):
            continue
        if all(getattr(job.config, name) != value for job in jobs):
            raise ValueError(
                f"Expected fields that the variants leave as they are, got {name}={value!r}, which "
                f"each of {', '.join(dict.fromkeys(job.variant for job in jobs))} sets: leave out "
                f"--{name.replace('_', '-')}, or choose other variants or values."
            )


def variant_changes(name: str) -> Mapping[str, Any]:
    """Return the fields that a variant changes.

    Raises:
        ValueError: if there is no such variant.
    """
    if name in VARIANTS.known():
        return VARIANTS.find(name)()
    algorithms = ALGORITHMS.known()
    if name not in algorithms:
        known = list(dict.fromkeys([*VARIANTS.known(), *algorithms]))
        listed = "`compare --help` lists them"
        raise ValueError(unknown_name("a variant or an algorithm", known, name, listed=listed))
    return {"algorithm": name}
