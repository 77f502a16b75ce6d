"""The configuration of a training run: plain data, checked before any model is loaded.

Every field has one owner. The run's own stand in `RunConfig`; the algorithm and the engine that it
names bring theirs, a frozen dataclass each, beside their class (`agents/algorithms/configs.py`,
`agents/engines/`; an outsider's in the outsider's file). People see one flat list of
short names, in flags, presets, config.json and Python alike: `TrainConfig(algorithm="grpo",
group_size=4, seed=1)` gives each value to its owner, who checks type and range, and then what does
not go together (`Options.check`). A field that the algorithm or engine does not have is refused.
Defaults are real values of the owner; `None` means that there is none, or that somebody else
decides. `replace(algorithm=…)` leaves to the new owner what had not been changed. Readers ask the
owner: `config.algorithm_config.group_size`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agents.config.algorithm import AlgorithmConfig, LearningConfig
from agents.config.archives import FORMAT, current
from agents.config.named_models import NAMED_MODELS
from agents.config.options import (
    Options,
    changeable,
    field_names,
    having,
    options_of,
    values_of,
)
from agents.config.reward_terms import check_rewards
from agents.config.run import RunConfig
from agents.config.sources import check_source
from agents.registries import ALGORITHMS, ENGINES, TRACKERS
from cory_env.names import check_arguments, unknown_name
from cory_env.registry import TASKS

_MEND = "your own comes with --import FILE."


@dataclass(frozen=True, kw_only=True, init=False, repr=False)
class TrainConfig(RunConfig):
    """Everything that decides a run.

    Args:
        flat: fields of the run, of its algorithm and of its engine.

    Raises:
        TypeError: if nobody has such a field.
        ValueError: if a value is out of range, two do not go together, or the algorithm or the
            engine has no such field.
    """

    algorithm_config: LearningConfig
    """What the algorithm brings."""
    engine_config: Options
    """What the engine brings."""

    def __init__(self, **flat: Any) -> None:
        if "algorithm_config" in flat:
            raise TypeError("Expected config.replace(…), got dataclasses.replace(config, …).")
        self._take(flat)
        self.check_names()

    def __repr__(self) -> str:
        """Return what differs from the defaults."""
        changed = [f"{name}={value!r}" for name, value in self.changed().items()]
        return f"TrainConfig({', '.join(changed)})"

    def _take(self, flat: Mapping[str, Any]) -> None:
        """Give each value to its owner, and check them all."""
        run = RunConfig(**_part(RunConfig, flat))
        kinds = owners(run.algorithm, run.engine)
        for name in flat:
            if not any(name in field_names(kind) for kind in kinds):
                raise no_such_field(name, [run.algorithm], run.engine)
        algorithm, engine = _brought(run, flat)
        parts = {"algorithm_config": algorithm, "engine_config": engine}
        for name, value in {**values_of(run), **parts}.items():
            object.__setattr__(self, name, value)
        for part in (run, algorithm, engine):
            part.check(self)

    def check_names(self) -> None:
        """Check that what is looked up by its name is there, without loading or asking for it.

        Raises:
            ValueError: if a name is unknown; says which one was probably meant.
        """
        TASKS.check(self.task, _MEND)
        task = TASKS.find(self.task)
        option = f"an option of the task {self.task}"
        check_arguments(task, self.task_arguments, option, besides="split")
        for tracker in self.tracker_names:
            TRACKERS.check(tracker, _MEND)
        ENGINES.find(self.engine).check(self)
        for model in self.models:
            check_source("model", model, NAMED_MODELS)
        if self.reward:
            check_rewards(self.reward)

    def replace(self, **flat: Any) -> TrainConfig:
        """Return a configuration with other values.

        What differs from the defaults stays, as far as the algorithm and the engine have it.

        Raises:
            TypeError, ValueError: as the class does.
        """
        return TrainConfig(**{**fitting({**self.changed(), **_part(RunConfig, flat)}), **flat})

    def changeable(self) -> set[str]:
        """Return the names of the fields that a resumption may change."""
        return set[str]().union(*map(changeable, owners(self.algorithm, self.engine)))

    def changed(self) -> dict[str, Any]:
        """Return the fields that differ from the defaults of their owners."""
        algorithm, engine = _brought(self, {})
        defaults = {**values_of(RunConfig()), **values_of(algorithm), **values_of(engine)}
        return {name: value for name, value in self._flat().items() if value != defaults[name]}

    def _flat(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in field_names(RunConfig)}
        return {**own, **values_of(self.algorithm_config), **values_of(self.engine_config)}

    def to_json(self) -> dict[str, Any]:
        """Return a flat dictionary of plain values."""
        return {**self._flat(), "imports": list(self.imports), "format": FORMAT}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Build a configuration from `to_json`, of this version or an earlier one.

        Raises:
            ValueError: if there is no such field, a value is out of range, or this version can no
                longer do what it says. Names of tasks, rewards and models are not looked up:
                `check_names` does that.
        """
        config = object.__new__(cls)
        try:
            config._take(current(values))
        except TypeError as error:
            raise ValueError(str(error)) from None
        return config


def owners(algorithm: str, engine: str) -> list[Any]:
    """Return the dataclasses that the fields of a run are of: its own, algorithm's and engine's.

    Raises:
        ValueError: if a name is unknown, or two owners have a field of the same name.
    """
    ALGORITHMS.check(algorithm, _MEND)
    ENGINES.check(engine, _MEND)
    kinds: list[type[Options]] = [RunConfig]
    for registry, name in ((ALGORITHMS, algorithm), (ENGINES, engine)):
        brought = options_of(registry, name)
        for other in kinds:
            if twice := sorted({*field_names(brought)} & {*field_names(other)}):
                raise ValueError(
                    f"Expected the {registry.kind} {name} to have fields with names of their own, "
                    f"got {twice[0]}, which {other.__name__} has, too: give it another name."
                )
        kinds.append(brought)
    return kinds


def every_owner() -> list[type[Options]]:
    """Return the dataclasses that fields are of: the run's, all algorithms' and all engines'."""
    brought = [
        options_of(registry, entry) for registry in (ALGORITHMS, ENGINES) for entry in registry
    ]
    return list(dict.fromkeys([RunConfig, *brought]))


def every_field() -> list[str]:
    """Return the fields of the run and of all algorithms and engines that are known."""
    return list(dict.fromkeys(name for kind in every_owner() for name in field_names(kind)))


def fitting(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that a run with their algorithm and engine has fields for.

    Raises:
        ValueError: if nobody has a field of some name.
    """
    run = RunConfig(**_part(RunConfig, values))
    names = [name for kind in owners(run.algorithm, run.engine) for name in field_names(kind)]
    for name in values:
        if name not in names and name not in every_field():
            raise ValueError(str(no_such_field(name, [run.algorithm], run.engine)))
    return {name: value for name, value in values.items() if name in names}


def no_such_field(name: str, algorithms: Sequence[str], engine: str) -> ValueError | TypeError:
    """Return why runs with these algorithms and this engine have no such field.

    A ValueError if another algorithm or engine has it, a TypeError if nobody has.
    """
    for registry, chosen in ((ALGORITHMS, algorithms), (ENGINES, [engine])):
        if have := having(registry, name):
            return ValueError(
                f"Expected {name} with {registry.article} {registry.kind} that has it "
                f"({', '.join(have)}), got {', '.join(chosen)}: pass --{registry.kind} {have[0]}, "
                f"or leave out --{name.replace('_', '-')}."
            )
    listed = "`train --help` lists them"
    return TypeError(
        unknown_name("a field of the configuration", every_field(), name, listed=listed)
    )


def _part(kind: type[Options], flat: Mapping[str, Any]) -> dict[str, Any]:
    return {name: flat[name] for name in field_names(kind) if name in flat}


def _brought(run: RunConfig, flat: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return what the algorithm and the engine of a run make of flat values."""
    _, *kinds = owners(run.algorithm, run.engine)
    algorithm, engine = (kind(**_part(kind, flat)) for kind in kinds)
    if isinstance(algorithm, AlgorithmConfig) and algorithm.importance_cap is None:
        # Partners of a pool, and all in a batch that was asked for ahead, answer as they were:
        # their present weights are not what sampled.
        older = run.pool_size or run.rollout_ahead
        cap = ENGINES.find(run.engine).importance_cap or (2.0 if older else None)
        algorithm = replace(algorithm, importance_cap=cap)
    return algorithm, engine
