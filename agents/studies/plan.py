"""What `compare` compares: named changes to one configuration, so that nothing else differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.config.budget import Budget
from agents.config.options import field_names
from agents.config.presets import named_fields
from agents.config.run import RunConfig
from agents.config.train import TrainConfig, fitting
from agents.ledger import COSTS
from agents.records.folder import RunFolder
from agents.registries import ALGORITHMS, VARIANTS
from cory_env.names import unknown_name

EPISODES = "episodes"
"""The budget by which every policy plays as many episodes in every variant."""

RESPONSES = "responses"
"""The budget by which every variant generates as many responses as the base configuration."""


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
    budget: str = EPISODES
    """`episodes`, `responses`, or COST=LIMIT."""


def plan(values: Mapping[str, Any], grid: Grid, out: Path) -> list[Job]:
    """Return the runs, seed by seed, so that what is finished first can be compared first.

    With the budget `episodes`, every policy plays as many episodes in every variant. With any other
    every variant ends with the iteration that spends as much: with `responses`, what the fields
    that all start from would generate.

    Args:
        values: fields that all variants start from, as far as their algorithms have them.
        grid: the variants, values and seeds.
        out: folder of the comparison.

    Raises:
        ValueError: if a variant or the budget is unknown, or does not go together with the rest.
    """
    for name in ("variants", "kl_coefs", "learning_rates"):
        several = getattr(grid, name)
        if len(set(several)) < len(several):
            raise ValueError(f"Expected each of {name} once, got {' '.join(map(str, several))}.")
    settings = [
        {n: value for n, value in (("kl_coef", kl), ("learning_rate", rate)) if value is not None}
        for kl in grid.kl_coefs or (None,)
        for rate in grid.learning_rates or (None,)
    ]
    jobs, base = [], RunConfig(**{n: values[n] for n in field_names(RunConfig) if n in values})
    for seed in range(base.seed, base.seed + grid.seeds):
        for variant in grid.variants:
            changes = variant_changes(variant)
            for setting in settings:
                label = ",".join(f"{name}={value:g}" for name, value in setting.items())
                folder = out / "runs" / variant / (label or "base") / str(seed)
                run = {"seed": seed, "out": str(folder)}
                fields = {**fitting({**values, **changes}), **changes, **setting, **run}
                config = _budgeted(TrainConfig(**fields), base, grid.budget)
                jobs.append(Job(variant=variant, setting=label, config=config))
    return jobs


def _budgeted(config: TrainConfig, base: RunConfig, budget: str) -> TrainConfig:
    """Return a configuration that stops where the budget says.

    Raises:
        ValueError: if there is no such budget.
    """
    episodes = base.iterations * base.batch_size
    if budget == EPISODES:
        return config.replace(iterations=max(1, round(episodes / config.batch_size)))
    if budget == RESPONSES:
        limit = episodes * (base.observers + 1)
        responses = config.batch_size * (config.observers + 1)
        return config.replace(budget=f"{RESPONSES}={limit}", iterations=-(-limit // responses))
    if "=" not in budget and budget not in COSTS:
        raise ValueError(unknown_name("a budget of", [EPISODES, *COSTS], budget))
    Budget.of(budget)
    return config.replace(budget=budget)


def evaluated_runs(out: Path) -> list[RunFolder]:
    """Return the runs in the folder of a comparison that have been evaluated, of any plan."""
    folders = [RunFolder(path) for path in sorted(out.glob("runs/*/*/*"))]
    return [folder for folder in folders if folder.evaluation_path.is_file()]


def check_effect(asked: Mapping[str, Any], jobs: Sequence[Job]) -> None:
    """Check that what was asked of all variants holds for one of them at least.

    Args:
        asked: fields that were given.
        jobs: the plan.

    Raises:
        ValueError: if every variant, or the grid, sets another value.
    """
    flat = [job.config.to_json() for job in jobs]
    for name in [name for name in asked if name not in ("out", "seed", "iterations", "imports")]:
        if all(values.get(name) != asked[name] for values in flat):
            raise ValueError(
                f"Expected fields that the variants leave as they are, got {name}={asked[name]!r}, "
                f"which each of {', '.join(dict.fromkeys(job.variant for job in jobs))} sets: "
                f"leave out --{name.replace('_', '-')}, or choose other variants or values."
            )


def algorithms_of(variants: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """Return the algorithms of variants, each once.

    Raises:
        ValueError: if a variant is unknown.
    """
    own = values.get("algorithm", RunConfig.algorithm)
    return list(dict.fromkeys(variant_changes(name).get("algorithm", own) for name in variants))


def variant_changes(name: str) -> Mapping[str, Any]:
    """Return the fields that a variant changes.

    Raises:
        ValueError: if there is no such variant.
    """
    if name in VARIANTS.known():
        return named_fields(VARIANTS, name)
    algorithms = ALGORITHMS.known()
    if name not in algorithms:
        known = list(dict.fromkeys([*VARIANTS.known(), *algorithms]))
        listed = "`compare --help` lists them"
        raise ValueError(unknown_name("a variant or an algorithm", known, name, listed=listed))
    return {"algorithm": name}
