"""The run folder: what every file in it is called, and how far its run is.

Nobody else knows a name. What a run has done is its rows and its checkpoints, and whether it is
finished is asked of the files: no state is kept besides them. How a run is begun in a folder is
`start.py`; what rows, checkpoints and provenance look like are the files of these names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.config.archives import RESOLVED
from agents.config.environment import EnvConfig
from agents.config.fields import plain_value
from agents.config.plugins import import_remembered
from agents.config.train import TrainConfig
from agents.records.objects import read_object, write_json
from agents.records.provenance import Entry, read_provenance
from agents.records.rows import (
    HistogramRow,
    MetricRow,
    SampleRow,
    natural_order,
    read_histograms,
    read_metrics,
    read_samples,
)

CHECKPOINT_TENSORS = "state.safetensors"
"""In the folder of a checkpoint."""


_FINAL = "final"


_LAST = "last"


_STEP = re.compile(r"step_(\d+)")


_ADAPTERS = "adapters_"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run folder: `…_path` is where something lies, a method says what is there.

    What a run has not written (yet) is read as empty.
    """

    path: Path

    def __str__(self) -> str:
        """Return the path."""
        return str(self.path)

    @classmethod
    def of_final(cls, folder: Path) -> RunFolder | None:
        """Return the run whose `final/`, or the `last/` in it, a folder is; None for any other."""
        if folder.name == _LAST:
            folder = folder.parent
        return cls(folder.parent) if folder.name == _FINAL else None

    @classmethod
    def of_policy(cls, folder: Path) -> RunFolder | None:
        """Return the run that ended with a policy; None for any other folder."""
        return cls.of_final(folder.resolve().parent)

    @classmethod
    def of_checkpoint(cls, folder: Path) -> RunFolder | None:
        """Return the run of a checkpoint; None for any other folder."""
        is_checkpoint = _STEP.fullmatch(folder.name) and (folder / CHECKPOINT_TENSORS).is_file()
        return cls(folder.resolve().parent.parent) if is_checkpoint else None

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.path.resolve().name

    @property
    def config_path(self) -> Path:
        """The configuration, as JSON."""
        return self.path / "config.json"

    @property
    def provenance_path(self) -> Path:
        """Which code and which machine made it."""
        return self.path / "provenance.json"

    @property
    def metrics_path(self) -> Path:
        """One row an iteration."""
        return self.path / "metrics.jsonl"

    @property
    def samples_path(self) -> Path:
        """Sampled texts."""
        return self.path / "samples.jsonl"

    @property
    def histograms_path(self) -> Path:
        """How values are spread over the tokens, one row an iteration."""
        return self.path / "histograms.jsonl"

    @property
    def checkpoints_path(self) -> Path:
        """The folder of all checkpoints."""
        return self.path / "checkpoints"

    def checkpoint_path(self, step: int) -> Path:
        """The checkpoint after so many iterations."""
        return self.checkpoints_path / f"step_{step}"

    @property
    def final_path(self) -> Path:
        """The folder of the policies at the end."""
        return self.path / _FINAL

    @property
    def partial_final_path(self) -> Path:
        """Where `final_path` is written until it is whole."""
        return self.path / f".{_FINAL}.tmp"

    def policy_path(self, name: str) -> Path:
        """A policy at the end: its average, where the run has averaged."""
        return self.final_path / name

    @property
    def last_path(self) -> Path:
        """The folder of the last iterates, where the policies at the end are averages."""
        return self.final_path / _LAST

    def last_policy_path(self, name: str) -> Path:
        """The last iterate of a policy: beside its average, or the policy itself."""
        beside = self.last_path / name
        return beside if beside.is_dir() else self.policy_path(name)

    @property
    def evaluation_path(self) -> Path:
        """How the policies do on held-out queries."""
        return self.path / "evaluation.json"

    @property
    def report_path(self) -> Path:
        """The page of the run."""
        return self.path / "report.html"

    @property
    def log_path(self) -> Path:
        """Where `compare`, or a shell, sends what a run prints: known, but not ours to move."""
        return self.path / "log.txt"

    @property
    def tensorboard_path(self) -> Path:
        """The event files of TensorBoard."""
        return self.path / "tensorboard"

    @property
    def wandb_path(self) -> Path:
        """What Weights & Biases keeps."""
        return self.path / "wandb"

    @property
    def wandb_id_path(self) -> Path:
        """The id under which Weights & Biases knows the run."""
        return self.wandb_path / "run_id"

    @property
    def trackers_path(self) -> Path:
        """What trackers of the user's own write, each in a folder of its name."""
        return self.path / "tracked"

    def adapters_path(self, rank: int) -> Path:
        """Where one process pushes the adapters of its engine from."""
        return self.path / f"{_ADAPTERS}{rank}"

    @property
    def replaced_path(self) -> Path:
        """What a new run replaces, until it has a row of its own."""
        return self.path / ".replaced"

    @property
    def ending(self) -> list[Path]:
        """What is written of a run once it has ended; untrue when it goes on."""
        return [self.final_path, self.partial_final_path, self.evaluation_path, self.report_path]

    def entries(self) -> list[Path]:
        """Return what a run has written to its folder, `log_path` and `replaced_path` left out."""
        known = {
            *(self.config_path, self.provenance_path, self.checkpoints_path, *self.ending),
            *(self.metrics_path, self.samples_path, self.histograms_path),
            *(self.tensorboard_path, self.wandb_path, self.trackers_path),
            *self.path.glob(f"{_ADAPTERS}[0-9]*"),
            *self.cut_short(),
        }
        return [path for path in self.path.iterdir() if path in known]

    def cut_short(self) -> list[Path]:
        """Return files that were being written when their process was killed."""
        return list(self.path.glob(".*.tmp"))

    @property
    def plays_environment(self) -> bool:
        """Whether the run is one in somebody else's environment."""
        return "env" in self.read_config_values()

    def read_config(self) -> TrainConfig:
        """Read the configuration, once the plug-ins that the run was made with are imported.

        They bring fields of it. See `import_remembered` on what is imported, and what is refused.

        Raises:
            ValueError: if there is no run of our game in the folder, none that this version reads,
                or what it was made with is not there.
        """
        if self.plays_environment:
            env = self.read_config_values()["env"]
            raise ValueError(
                f"Expected a run of a task in {self}, got one in the environment {env}, which "
                "`train --env`, `evaluate`, `play` and `report` know."
            )
        return self.configuration(self._existing_values())

    def read_env_config(self) -> EnvConfig:
        """Read the configuration of a run in somebody else's environment, as `read_config` does.

        Raises:
            ValueError: if there is no such run there, or what it was made with is not.
        """
        values = self._existing_values()
        if not self.plays_environment:
            raise ValueError(f"Expected a run in an environment in {self}, got one of a task.")
        self._import(values)
        return EnvConfig.from_json(values)

    def _existing_values(self) -> dict[str, Any]:
        if not self.config_path.is_file():
            raise ValueError(f"Expected a run folder with a config.json, got {self}.")
        return self.read_config_values()

    def configuration(self, values: Mapping[str, Any]) -> TrainConfig:
        """Return the configuration that values of a config.json mean, once plug-ins are imported.

        Raises:
            ValueError: if this version does not read them, or a plug-in is not there.
        """
        self._import(values)
        return TrainConfig.from_json(values)

    def _import(self, values: Mapping[str, Any]) -> None:
        imports = plain_value("imports", tuple[str, ...], values.get("imports", ()))
        import_remembered(imports, self.path)

    def read_config_values(self) -> dict[str, Any]:
        """Read the configuration as it stands in the file, whichever version wrote it."""
        return read_object(self.config_path) if self.config_path.is_file() else {}

    def write_config(
        self, config: TrainConfig | EnvConfig, resolved: Mapping[str, Any] | None = None
    ) -> None:
        """Write the configuration, and what fields came to that leave it to others, if known."""
        more = {RESOLVED: dict(resolved)} if resolved else {}
        write_json(self.config_path, {**config.to_json(), **more})

    def read_metrics(self) -> list[MetricRow]:
        """Read the metrics of all iterations; they may be more than the checkpoints hold."""
        return read_metrics(self.metrics_path) if self.metrics_path.is_file() else []

    def read_samples(self) -> list[SampleRow]:
        """Read the sampled texts."""
        return read_samples(self.samples_path) if self.samples_path.is_file() else []

    def read_histograms(self) -> list[HistogramRow]:
        """Read the histograms of all iterations."""
        return read_histograms(self.histograms_path) if self.histograms_path.is_file() else []

    def read_evaluation(self) -> dict[str, Any]:
        """Read the evaluation."""
        return read_object(self.evaluation_path) if self.evaluation_path.is_file() else {}

    def write_evaluation(self, evaluation: Mapping[str, object]) -> None:
        """Write an evaluation."""
        write_json(self.evaluation_path, evaluation)

    def read_provenance(self) -> list[Entry]:
        """Read what made the run."""
        return read_provenance(self.provenance_path)

    def steps(self) -> list[int]:
        """Return how many iterations each whole checkpoint has behind it, in order."""
        found = [_STEP.fullmatch(path.name) for path in self.checkpoints_path.glob("*")]
        return sorted(int(step[1]) for step in found if step)

    def checkpoints(self) -> list[Path]:
        """Return the whole checkpoints, oldest first."""
        return [self.checkpoint_path(step) for step in self.steps()]

    def iterations_done(self) -> int:
        """Return how many iterations the last checkpoint has behind it; 0 without one."""
        return max(self.steps(), default=0)

    def final_policies(self) -> list[Path]:
        """Return the policies of a run that has ended, in turn order."""
        return _in_order(self.final_path)

    def last_policies(self) -> list[Path]:
        """Return the last iterates that lie beside their averages, in turn order."""
        return _in_order(self.last_path)

    def final_critics(self) -> list[Path]:
        """Return the critics of a run that has ended: one for all policies, or one each."""
        return sorted(self.final_path.glob("critic*"), key=lambda path: natural_order(path.name))

    def has_progress(self) -> bool:
        """Return whether there is anything of a run to lose."""
        return bool(self.steps() or self.read_metrics())

    def is_finished(self, config: TrainConfig | EnvConfig) -> bool:
        """Return whether the run of a configuration, in whichever folder, is here to its end.

        A run without weights is, too, if it has been evaluated and has all rows: only somebody who
        keeps the figures and not the weights leaves one, since no evaluation is without weights.
        """
        if self.steps():
            whole = self.final_path.is_dir() and self.report_path.is_file()
            done = self.iterations_done() if whole else 0
        else:
            done = len(self.read_metrics()) if self.evaluation_path.is_file() else 0
        evaluated = self.evaluation_path.is_file() or not config.is_evaluated
        if not done or not evaluated or not self.config_path.is_file():
            return False
        rows = self.read_metrics() if config.budget else []
        if done != config.planned(done, rows[done - 1] if done <= len(rows) else {}):
            return False
        return {**self.read_alike(config).to_json(), "out": ""} == {**config.to_json(), "out": ""}

    def read_alike(self, config: TrainConfig | EnvConfig) -> TrainConfig | EnvConfig:
        """Read the configuration of a run that is to be of the same kind as another."""
        return self.read_env_config() if isinstance(config, EnvConfig) else self.read_config()


def _in_order(folder: Path) -> list[Path]:
    """Return the policies in a folder, llm_10 after llm_2."""
    return sorted(folder.glob("llm_*"), key=lambda path: natural_order(path.name))
